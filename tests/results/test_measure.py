"""One door to a measured number, for images and for pairs of drives."""

import numpy as np
import pandas as pd
import pytest
from pictures import write_picture

from vpr_lib.config import Compute
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.readers.cards import radius_cards
from vpr_lib.models.zoo import build_model
from vpr_lib.results.measure import Variant, measure
from vpr_lib.results.records import Run


@pytest.fixture
def streets(tmp_path):
    """Queries are copies of the database images that stand at their place."""
    sides = []
    for role, count in (("db", 6), ("query", 3)):
        names = [f"{role}/{row}.png" for row in range(count)]
        for row, name in enumerate(names):
            write_picture(tmp_path / name, row)
        columns = {"image_path": names, "utm_east": np.arange(count) * 100.0, "utm_north": np.zeros(count)}
        sides.append(build_manifest(tmp_path, "streets", "test", role, columns, position_kind="gps", keep_order=True))
    return Benchmark("streets", *sides, radius_cards(*sides, "streets", "streets", 25.0))


def test_the_variant_is_in_the_name_and_the_weights_in_the_records(streets, tmp_path):
    run, pixels = Run("pixels", system="Raw pixels", weights="training-free"), build_model("pixels")
    plain = measure(pixels, streets, run, tmp_path / "records", Compute(quiet=True))
    (row,) = plain.rows()
    assert (row["model"], row["R@1"], row["dim"]) == ("pixels", 100.0, 1024) and "R@10" not in row
    assert pd.read_parquet(plain.files[0])["weights"].unique().tolist() == ["training-free"]
    variant = Variant(whiten_on=(streets.database,), whiten_to=4, rerank=True)
    white = measure(pixels, streets, run, tmp_path / "records", Compute(quiet=True), variant)
    assert white.run.model == "pixels PCA 4 reranked" and white.run.dim == 4
    assert {file.name for file in plain.files + white.files} == {
        "pixels__0.parquet",
        "pixels PCA 4 reranked__0.parquet",
    }
