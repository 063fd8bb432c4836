"""Every golden fixture of a folder against our code, built from the fixture's own config.

A system adds a module `golden_<system>.py` beside this file with `compute(fixture) -> dict | None`: all outputs by name,
or None when the fixture is not its own. A fixture that no module claims is skipped by name.
"""

import importlib
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from golden import Fixture, draw, fill  # noqa: E402
from goldtools import DEVIATIONS  # noqa: E402

SYSTEMS = [importlib.import_module(path.stem) for path in sorted(HERE.glob("golden_*.py"))]


def test_fill_rule_reads_as_documented():
    assert draw("input:image", (4,), 101).tolist() == pytest.approx(
        [-0.902714252, -1.38203347, -2.27317166, 0.732589781]
    )
    assert fill("layer.weight", (2, 2), 7).ravel().tolist() == pytest.approx(
        [0.352310628, -0.576644182, 0.559114635, 0.971283615]
    )


def test_golden(fixture_path):
    fixture = Fixture(fixture_path)
    outputs = next((found for system in SYSTEMS if (found := system.compute(fixture)) is not None), None)
    if outputs is None:
        pytest.skip(f"{fixture.system} ({fixture_path.stem}) is not built yet")
    missing = [name for name in fixture.outputs if name not in outputs]
    assert not missing, f"outputs not computed: {missing}"
    ratios = {name: fixture.compare(name, outputs[name]) for name in fixture.outputs}
    DEVIATIONS[fixture_path.stem] = ratios
