"""Every golden fixture of a folder against our code, built from the fixture's own config.

A system adds a module `golden_<system>.py` beside this file with `compute(fixture) -> dict | None`: all outputs by name,
or None when the fixture is not its own. A fixture that no module claims is skipped by name.
"""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from golden import Fixture, draw, fill  # noqa: E402
from goldtools import DEVIATIONS, on  # noqa: E402

SYSTEMS = [importlib.import_module(path.stem) for path in sorted(HERE.glob("golden_*.py"))]
WITHOUT_TORCH = ("golden_eval", "golden_totals")  # arrays in, arrays out
ON_THE_CPU = ("clusvpr_rerank",)  # says itself where it computes


def test_fill_rule_reads_as_documented():
    assert draw("input:image", (4,), 101).tolist() == pytest.approx(
        [-0.902714252, -1.38203347, -2.27317166, 0.732589781]
    )
    assert fill("layer.weight", (2, 2), 7).ravel().tolist() == pytest.approx(
        [0.352310628, -0.576644182, 0.559114635, 0.971283615]
    )


def computed(fixture, systems=SYSTEMS):
    return next((found for system in systems if (found := system.compute(fixture)) is not None), None)


@pytest.mark.gpu
def test_golden_on_cuda(fixture_path):
    """Within ten times the tolerances that hold for one CPU's sums and another's; what needs no network is left out."""
    if fixture_path.stem in ON_THE_CPU:
        pytest.skip("has a device of its own")
    fixture, where = Fixture(fixture_path), os.environ.get("VPR_CUDA_TESTS", "cuda")
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    with on(where):
        outputs = computed(fixture, [system for system in SYSTEMS if system.__name__ not in WITHOUT_TORCH])
    torch.backends.cudnn.allow_tf32 = before
    if outputs is None:
        pytest.skip(f"{fixture.system} ({fixture_path.stem}) has nothing to compute on a device")
    for name in fixture.outputs:
        fixture.compare(name, outputs[name], loosen=10)


def test_golden(fixture_path):
    fixture = Fixture(fixture_path)
    outputs = computed(fixture)
    if outputs is None:
        pytest.skip(f"{fixture.system} ({fixture_path.stem}) is not built yet")
    missing = [name for name in fixture.outputs if name not in outputs]
    assert not missing, f"outputs not computed: {missing}"
    ratios = {name: fixture.compare(name, outputs[name]) for name in fixture.outputs}
    DEVIATIONS[fixture_path.stem] = ratios
