"""Run-pair recall by hand, its records and table, and submaps described by models of clouds and images."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.readers.submaps import run_card
from vpr_lib.data.run_pairs import make_run_pairs
from vpr_lib.models.minkloc import MinkLocConfig
from vpr_lib.models.zoo import build_model
from vpr_lib.results.records import Run, read_records, write_records
from vpr_lib.results.run_pairs import method_table, pair_records, run_pair_table
from vpr_lib.results.tables import compare
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.run_pairs import (
    describe_places,
    energy_maps,
    evaluate_run_pairs,
    one_percent_of,
    score_pairs,
)
from vpr_lib.retrieval.search import search


def angles(*degrees):
    """Unit rows at angles, stretched differently, so that cosine and Euclidean ranking disagree."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32) * np.linspace(1, 3, len(degrees))[:, None]


DATABASES = [angles(0, 30, 60, 90), angles(0, 30, 60)]
MATCHES = {(0, 1): Positives.from_lists([[1], [], [0], [2]], 3), (1, 0): Positives.from_lists([[0], [1, 3], [0]], 4)}


def test_recall_per_pair_counts_only_queries_with_a_positive():
    scores = score_pairs(DATABASES, DATABASES, MATCHES)
    assert scores.pairs == ((1, 0), (0, 1))  # by database run
    assert scores.first_hits[0, 1].tolist() == [2, 0, 3, 1]  # 0° finds itself before 30°, 60° finds 0° last
    assert scores.first_hits[1, 0].tolist() == [1, 1, 4]
    assert [scores.counted[pair].sum() for pair in scores.pairs] == [3, 3]
    assert scores.recall[1, :4].tolist() == pytest.approx([100 / 3, 200 / 3, 100, 100])
    assert scores.average_recall[0] == pytest.approx((200 / 3 + 100 / 3) / 2) == scores.average_one_percent
    assert scores.per_database_run[:, 0] == pytest.approx([200 / 3, 100 / 3]) and scores.skipped == []


def test_cosine_and_euclidean_differ_on_raw_rows():
    rows = [np.array([[1.0, 0.0]], np.float32), np.array([[5.0, 0.0], [1.0, 0.5]], np.float32)]
    matches = {(0, 1): Positives.from_lists([[0]], 2), (1, 0): Positives.from_lists([[0], [0]], 1)}
    order = {
        metric: score_pairs(rows, rows, matches, metric).rankings[0, 1].indices[0].tolist()
        for metric in ("cosine", "euclidean")
    }
    assert order == {"cosine": [0, 1], "euclidean": [1, 0]}


def test_pairs_without_positives_are_skipped_and_said(caplog):
    empty = MATCHES | {(0, 1): Positives.from_lists([[]] * 4, 3)}
    with caplog.at_level(logging.WARNING):
        scores = score_pairs(DATABASES, DATABASES, empty)
    assert scores.skipped == [(0, 1)] and "1 of 2 pairs of runs are skipped" in caplog.text
    assert "smallest database has 3 submaps" in caplog.text
    assert np.isnan(scores.recall[1]).all() and scores.average_recall[0] == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="No query has a positive in any of 2 pairs"):
        score_pairs(
            DATABASES,
            DATABASES,
            {pair: Positives.from_lists([[]] * len(m), m.n_database) for pair, m in MATCHES.items()},
        )
    with pytest.raises(ValueError, match="two runs or more, got 1"):
        score_pairs(DATABASES[:1], DATABASES[:1], {})


def test_one_percent_rounds_half_to_even():
    assert [one_percent_of(n) for n in (3, 40, 149, 150, 250, 350, 9000)] == [1, 1, 1, 2, 2, 4, 25]


def test_one_percent_is_of_the_database_that_is_searched():
    sizes = (250, 60)  # 1 % are two results and one
    rows = [angles(*np.linspace(0, 90, size)) for size in sizes]
    second = search(rows[0], rows[1][:1], 2).indices[0, 1]
    matches = {(1, 0): Positives.from_lists([[second]], 250), (0, 1): Positives.from_lists([[59]], 60)}
    scores = score_pairs(rows, [rows[0][-1:], rows[1][:1]], matches)
    assert scores.pairs == ((1, 0), (0, 1)) and scores.one_percent.tolist() == [100, 100]
    assert scores.recall[:, 0].tolist() == [0, 100]


def drives(root, runs=2, n=5):
    """Oxford-style run pairs with clouds and without images; submap i of one run is that of every other."""
    names = [f"2014-0{run + 1}-01-00-00-00" for run in range(runs)]
    manifests = []
    for run, name in enumerate(names):
        (root / name).mkdir()
        clouds = np.random.default_rng(0).normal(size=(n, 4096, 3)) * np.linspace(0.1, 0.5, n)[:, None, None]
        for i, cloud in enumerate(clouds):
            (root / name / f"{i}.bin").write_bytes((cloud + 1e-4 * run).astype("<f8").tobytes())
        columns = dict(cloud_path=[f"{name}/{i}.bin" for i in range(n)], cloud_format="bin_f64x3", run=name,
                       utm_east=np.arange(n) * 20.0, utm_north=np.zeros(n))  # fmt: skip
        manifests.append(build_manifest(root, "oxford", "test", "db", columns, position_kind="gps"))
    rows = [np.arange(0, n, 2)] * runs
    positives = {
        (q, d): Positives.from_lists([[row] for row in rows[q]], n) for q in range(runs) for d in range(runs) if q != d
    }
    return make_run_pairs("mini", names, tuple(manifests), tuple(rows), positives, run_card("mini", "oxford", 25.0))


@pytest.fixture(scope="module")
def model():
    config = MinkLocConfig(
        planes=(4, 8), layers=(1, 1), top_down=1, conv0_kernel=3, cloud_dim=16, image_dim=0, voxel_size=0.2
    )
    return build_model(config)


def test_from_clouds_to_records_and_table(tmp_path, model):
    runs = drives(tmp_path)
    scores = evaluate_run_pairs(model, runs, tmp_path / "cache", quiet=True)
    assert scores.average_recall[0] == 100  # the clouds of the runs are nearly equal
    records = pair_records(runs, scores, Run("mini", "MinkLoc++", model.dim))
    assert len(records) == 6 and records["query"].tolist() == list(range(6)) and records["query_id"].nunique() == 6
    assert records["top_distance_m"][1][0] == 0 and set(records["pair"]) == {
        f"{a} in {b}" for a, b in [runs.runs, runs.runs[::-1]]
    }
    write_records(tmp_path / "records", records)
    table = run_pair_table(read_records(tmp_path / "records")).iloc[0]
    assert (table["R@1"], table["R@1%"], table["pairs"], table["queries"]) == (100, 100, 2, 6)
    assert compare(records, "mini", "mini").p_value == 1


def test_table_is_the_mean_over_pairs_not_over_queries(tmp_path, model):
    runs = drives(tmp_path, runs=3)
    scores = evaluate_run_pairs(model, runs, quiet=True)
    records = pair_records(runs, scores, Run("mini"))
    first = records["pair"] == records["pair"][0]
    records.loc[first, "first_hit"] = np.array([0, 2, 1], np.int32)
    records.loc[first & (records["query_id"] == records["query_id"][0]), "counted"] = False
    table = run_pair_table(records, (1, 2)).iloc[0]
    assert table["R@1"] == pytest.approx(100 * (0.5 + 5) / 6) and table["R@2"] == 100
    assert table["R@1 low"] < table["R@1"] < table["R@1 high"] and table["queries"] == 9
    records.loc[first, "counted"] = False
    table = run_pair_table(records, (1,)).iloc[0]
    assert (table["R@1"], table["pairs"], table["pairs skipped"]) == (100, 5, 1)


def test_descriptions_are_kept_and_a_changed_cloud_is_described_again(tmp_path, model):
    manifest = drives(tmp_path).databases[0]
    first = describe(model, manifest, tmp_path / "cache", quiet=True)
    assert first.seconds > 0 and describe(model, manifest, tmp_path / "cache", quiet=True).seconds == 0
    again = np.array(first.array)
    path = tmp_path / manifest.table["cloud_path"][2]
    path.write_bytes(np.random.default_rng(9).normal(size=(4096, 3)).astype("<f8").tobytes())
    second = describe(model, manifest, tmp_path / "cache", quiet=True)
    changed = np.abs(second.array - again).max(1) > 1e-4
    assert changed.tolist() == [False, False, True, False, False]


def test_a_model_of_images_needs_images(tmp_path):
    manifest = drives(tmp_path).databases[0]
    with pytest.raises(ValueError, match="have no images"):
        describe(build_model("minklocpp_toy_96"), manifest, quiet=True)
    with pytest.raises(ValueError, match="have no images"):
        describe(build_model("distilvpr_toy_96"), manifest, quiet=True)
    assert torch.is_grad_enabled()


def test_gains_are_paired_by_query_drive_and_seed(tmp_path, model):
    runs = drives(tmp_path, runs=3)
    scores = evaluate_run_pairs(model, runs, quiet=True)
    alone, taught = ([pair_records(runs, scores, Run(name, seed=seed)) for seed in (1, 2)] for name in ("none", "SC"))
    for table in alone:
        table["first_hit"] = 1
        table.loc[table["query_id"] == table["query_id"][0], "first_hit"] = (
            2  # one submap of nine, missed in two drives
        )
    for table in taught:
        table["first_hit"] = 1
    table = method_table(pd.concat([*alone, *taught]), "none").set_index("model")
    assert table.loc["none", ["gain", "gain low", "gain high"]].tolist() == [0, 0, 0] and table.loc["SC", "AR@1"] == 100
    assert table.loc["SC", "gain"] == pytest.approx(100 / 9) == table.loc["SC", "lowest seed"]
    assert table.loc["SC", "gain low"] == 0 < table.loc["SC", "gain"] < table.loc["SC", "gain high"]
    with pytest.raises(ValueError, match=r"'SC' cannot be paired with 'none', which lacks seeds \[2\]"):
        method_table(pd.concat([alone[0], *taught]), "none")
    with pytest.raises(ValueError, match="No records of the baseline 'KD'"):
        method_table(pd.concat(alone), "KD")


def test_one_place_in_every_drive(tmp_path, model):
    runs = drives(tmp_path, runs=3)
    places = runs.same_places(2)
    assert places.tolist() == [[0, 0, 0], [4, 4, 4]] and len(runs.same_places(99)) == 3
    rows = describe_places(model, runs, places)
    whole = evaluate_run_pairs(model, runs, quiet=True)
    assert rows.shape == (6, model.dim) and whole.sizes == (5, 5, 5)
    expected = describe(model, runs.databases[1], quiet=True).array[4]
    assert np.allclose(rows[4], expected, atol=1e-5)  # place by place: the second place in the second drive


def test_energy_maps_lie_between_zero_and_one_and_find_the_bright_spot():
    student = build_model("distilvpr_toy_96")
    images = torch.full((2, 3, 90, 120), 90, dtype=torch.uint8)
    images[:, :, 60:80, 90:110] = torch.randint(0, 255, (2, 3, 20, 20), dtype=torch.uint8)
    maps = energy_maps(student, images)
    assert maps.shape == (2, 90, 120) and maps.min() == 0 and maps.max() == 1
    assert np.unravel_index(maps[0].argmax(), (90, 120)) >= (40, 70)
