"""Foreign queries: numbers on paper, and a benchmark whose queries meet far pictures only."""

import numpy as np
import pytest
import torch
from pictures import picture, write_picture
from PIL import Image

from vpr_lib.data.readers.folders import folder_manifest, read_folders
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.foreign import against, calibrate, tell_foreign
from vpr_lib.retrieval.protocol import evaluate


def test_threshold_precision_and_auroc_on_paper():
    own, foreign = np.linspace(0.5, 0.99, 20), np.array([0.1, 0.51, 0.6, 0.2])
    found = tell_foreign(own, foreign)
    assert found.threshold == pytest.approx(0.6 - 0.15 * 0.09)  # 95 % of the way through four numbers
    assert found.kept == (own >= found.threshold).mean() == 16 / 20
    assert found.precision == 19 / 20  # 0.6 alone of the foreign ones reaches the second lowest of ours, 0.526
    pairs = [(a > b) + (a == b) / 2 for a in own for b in foreign]
    assert found.auroc == pytest.approx(np.mean(pairs))
    assert tell_foreign(np.ones(3), np.ones(2)).auroc == 0.5
    with pytest.raises(ValueError, match="got 3 of the map and 0 foreign"):
        tell_foreign(own[:3], foreign[:0])


def test_calibration_compares_the_own_place_with_far_ones(tmp_path):
    for index in range(6):
        write_picture(tmp_path / "db" / f"@{500_000 + 300 * index}@5400000@.png", index)
        noise = np.random.default_rng(index).integers(-9, 10, (48, 64, 3))
        path = tmp_path / "query" / f"@{500_005 + 300 * index}@5400000@.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((picture(index) + noise).clip(0, 255).astype(np.uint8)).save(path)
    torch.set_num_threads(1)
    found = calibrate(build_model("pixels"), read_folders(tmp_path / "db", tmp_path / "query"), quiet=True)
    assert found.auroc == found.precision == found.kept == 1


def test_own_queries_with_a_positive_against_those_of_elsewhere(tmp_path):
    for index in range(4):
        write_picture(tmp_path / "db" / f"@{500_000 + 300 * index}@5400000@.png", index)
        write_picture(tmp_path / "query" / f"@{500_010 + 300 * index}@5400000@.png", index)
    write_picture(tmp_path / "query" / "@510000@5400000@.png", 77)  # nothing of the map: neither own nor foreign
    write_picture(tmp_path / "foreign" / "a.png", 88)
    (tmp_path / "foreign" / "b.png").write_bytes(b"no picture")
    model, benchmark = build_model("pixels"), read_folders(tmp_path / "db", tmp_path / "query")
    result = evaluate(model, benchmark, None, (1,), quiet=True)
    strangers = folder_manifest(tmp_path / "foreign", "query", "x", "test")
    own, foreign = against(model, result, strangers, quiet=True)
    assert own == pytest.approx(np.ones(4), abs=1e-6) and len(foreign) == 1
    assert foreign[0] == pytest.approx(
        (result.database.array @ describe(model, strangers.take([0]), quiet=True).array[0]).max(), abs=1e-6
    )
