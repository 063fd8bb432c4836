"""Measure what int8 costs on images that neither calibrated it nor chose what stays in float, and write docs/engines.md.

python tests/write_int8.py              # every network of NETWORKS, the table written at the end: about half an hour
python tests/write_int8.py places       # these networks only; the others' rows stay as they were
"""

import json
import platform
import re
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from vpr_lib.bench.measure import machine
from vpr_lib.data.catalogue import find, open_benchmark, open_dataset
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.readers.berton import read_berton
from vpr_lib.models.checkpoints import load_bundled
from vpr_lib.models.export import ShippedModel, export
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import cache_root
from vpr_lib.results.parity import calibration_images, recall_change, recall_lost
from vpr_lib.toycity.city import PRESETS
from vpr_lib.toycity.export import ensure
from vpr_lib.training.recipes import load_experiment, train

PAGE = Path(__file__).resolve().parent.parent / "docs" / "engines.md"
TABLE = re.compile(r"(?<=<!-- int8 -->\n).*?(?=<!-- /int8 -->)", re.DOTALL)
# network: (its weights, the city; pictures at 112 px for the toy network, 224 px for the others, resized to what each takes)
NETWORKS = {
    "mixvpr_toy_256": ("trained by recipe toy", "toycity"),
    "places": ("part of the package", "town"),
    "mixvpr_resnet50_4096": ("random", "town"),
    "mixvpr_resnet18_512": ("random", "town"),
    "lightmixvpr_mobilenet_v2_1024": ("random", "town"),
}
CALIBRATION = 128
HEAD = [
    "network",
    "weights",
    "R@1 fp32 %",
    "int8 %",
    "lost / gained",
    "cosine mean",
    "least",
    "in float",
    "arithmetic in int8 %",
]


def measure(name: str, weights: str, city: str) -> dict:
    """One row: calibrated on training places, layers chosen in another city, measured on the test streets of this one.

    A random network's recall is that of chance and chooses nothing: all of it is in int8, and the cosine is what counts.
    """
    model, places = network(name, weights), open_dataset(f"{city}_places")
    pictures = calibration_images(model, places, CALIBRATION)
    if weights == "random":
        take_statistics(model, pictures[:64])
    test, other = open_benchmark(city), another_city(city)
    judge = None if weights == "random" else recall_lost(model, other, np.array([], int))
    with tempfile.TemporaryDirectory() as folder:
        info = export(model, name, Path(folder), "openvino", "int8", pictures, judge)
        found = recall_change(model, ShippedModel(Path(folder)), test, (1,))
    return {
        "network": name, "weights": weights, "R@1 fp32 %": f"{100 * found['recall']['1']:.1f}",
        "int8 %": f"{100 * found['recall_exported']['1']:.1f}", "lost / gained": f"{found['only_before']} / {found['only_after']}",
        "cosine mean": f"{found['cosine_mean']:.4f}", "least": f"{found['cosine_min']:.4f}", "in float": info.kept_in_float,
        "arithmetic in int8 %": f"{100 * info.int8_share:.0f}",
        "images": f"{city}: {len(test.queries)} + {len(test.database)} measured, {len(other.queries)} + {len(other.database)} of another city chose",
    }  # fmt: skip


def another_city(city: str) -> Benchmark:
    """Twelve or more streets of the same make from another seed."""
    spec = replace(PRESETS[find(city).preset], seed=2)
    spec = replace(spec, test_streets=max(12, spec.test_streets), val_streets=1)
    return read_berton(ensure(spec, "benchmark"), "test", name=city)


def network(name: str, weights: str) -> torch.nn.Module:
    if weights == "trained by recipe toy":
        run = load_experiment("toy").model_copy(update={"model": name})
        return train(run, run.folder_in(cache_root() / "toy"), "cpu")[0]
    model = build_model(name, pretrained=weights != "random", seed=0).eval()
    if weights != "random":
        load_bundled(model, name)
    return model


@torch.no_grad()
def take_statistics(model: torch.nn.Module, pictures: np.ndarray) -> None:
    """Batch norms of a random network take those of these pictures: otherwise its maps grow from block to block."""
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for part in np.array_split(pictures, 4):
        model(model.input_spec.normalise(torch.from_numpy(part)))
    model.eval()


def main(names: list[str]) -> None:
    kept = cache_root() / "int8.json"
    rows = json.loads(kept.read_text()) if kept.is_file() else {}
    for name in names or NETWORKS:
        rows[name] = measure(name, *NETWORKS[name])
        kept.write_text(json.dumps(rows, indent=1))
        print(rows[name], flush=True)
    write_table(rows)


def write_table(rows: dict[str, dict]) -> None:
    about = machine()
    lines = [f"{about['cpu']}, {about['cores']} cores, Python {platform.python_version()}, torch {about['torch']}, {date.today()}; "
             f"calibrated on {CALIBRATION} images of training places. Images (queries + database): "
             + "; ".join(dict.fromkeys(row["images"] for row in rows.values())) + ".", ""]  # fmt: skip
    lines += ["| " + " | ".join(HEAD) + " |", "|---|---|--:|--:|--:|--:|--:|---|--:|"]
    lines += ["| " + " | ".join(rows[name][head] for head in HEAD) + " |" for name in NETWORKS if name in rows]
    PAGE.write_text(TABLE.sub(lambda _: "\n".join([*lines, ""]), PAGE.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
