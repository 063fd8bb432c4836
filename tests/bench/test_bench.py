"""`vpr bench`: every row's two ways agree at small sizes; speed is never asserted."""

import itertools
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vpr_lib import cli
from vpr_lib.bench import gpu, gpu_ways, images, measure
from vpr_lib.bench.measure import PRODUCT, SIZES, Comparison, Size, Skipped, Way, bare_products, compare, sustained_rate
from vpr_lib.bench.ranking import same_ranking
from vpr_lib.bench.rows import ROWS
from vpr_lib.machine import cpu_has_bf16, keep_freed_memory, return_freed_memory
from vpr_lib.paths import bench_file

TINY = Size(
    images=2,
    gpu_images=2,
    gpu_places=3,
    gpu_steps=2,
    gpu_batch=2,
    queries=5,
    database=60,
    scored=20,
    clouds=2,
    repeats=1,
    toy=False,
)


def two_ways(peers, ours, same=True, target=2.0):
    return Comparison(
        "what", "size", Way("p", peers), Way("o", ours), lambda a, b: ({"a": a, "b": b}, same), target, "x"
    )


def test_the_ratio_is_that_of_the_medians_and_order_takes_turns():
    order = []
    ways = two_ways(lambda: (order.append("p"), time.sleep(0.03))[0], lambda: (order.append("o"), time.sleep(0.005))[0])
    found = compare(ways, 4)
    assert found["ratio"] == pytest.approx(found["peers_s"] / found["ours_s"])
    assert found["ratio_low"] <= found["ratio_high"] and found["repeats"] == 4
    assert found["reached"] == (found["ratio"] >= 2)
    assert order == list("po" + "op" + "po" + "op" + "po")


def test_a_ratio_without_parity_never_counts():
    for same in (True, False):
        found = compare(two_ways(lambda: time.sleep(0.02), lambda: None, same, target=0.0), 1)
        assert found["reached"] is same and found["same"] is same


@pytest.mark.parametrize("name", ["decode", "search_512", "scoring", "clouds"])
def test_rows_agree(name, tmp_path):
    found = compare(ROWS[name](TINY, tmp_path), 1)
    assert found["same"] and found["peers_s"] > 0 and found["parity"], found


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("gpu_") and name != "gpu_compile"])
def test_gpu_rows_agree_when_run_on_the_cpu(name, tmp_path, monkeypatch):
    for module in (gpu, gpu_ways):
        monkeypatch.setattr(module, "_gpu", lambda: "cpu")
        monkeypatch.setattr(module, "R50", "gem_toy_160")
        monkeypatch.setattr(module, "WORKERS", 0)
    monkeypatch.setattr(gpu_ways, "R18", "gem_toy_160")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert compare(ROWS[name](TINY, tmp_path), 1)["same"]


def test_a_failing_row_of_a_gpu_leaves_the_others(monkeypatch, tmp_path):
    cli._register()
    for name in [name for name in ROWS if name.startswith("gpu_")]:
        monkeypatch.delitem(ROWS, name)
    monkeypatch.setitem(ROWS, "gpu_bad", lambda size, folder: 1 / 0)
    monkeypatch.setitem(ROWS, "gpu_good", lambda size, folder: two_ways(lambda: 1, lambda: 1))
    done = CliRunner().invoke(cli.app, ["bench", "--gpu", "--json", str(tmp_path / "b.json")])
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert done.exit_code == 0 and list(rows) == ["gpu_bad", "gpu_good"]
    assert rows["gpu_bad"]["skipped"] == "failed: ZeroDivisionError: division by zero" and rows["gpu_good"]["same"]


def test_the_machine_s_own_rates_are_measured():
    products = bare_products()
    assert all(sustained_rate(product, 0.0) > 1 for product in products.values())
    assert "fp32" in products and ("bf16" in products) == cpu_has_bf16()
    found = compare(
        Comparison(
            "",
            "",
            Way("p", lambda: 1),
            Way("o", lambda: time.sleep(0.01)),
            lambda a, b: ({}, True),
            None,
            "x",
            gflop=2.0,
        ),
        1,
    )
    assert found["gflop_per_s"] == pytest.approx(2.0 / found["ours_s"]) and found["share"] is None


@pytest.mark.parametrize(("faster", "reached"), [(0.1, True), (3.0, False)])
def test_a_row_may_be_judged_by_its_share_of_the_bare_rate(monkeypatch, faster, reached):
    monkeypatch.setattr(measure, "sustained_rate", lambda product: product())
    row = replace(two_ways(lambda: 1, lambda: time.sleep(0.01), target=0.9), gflop=2.0, rate="bf16")
    rates = itertools.cycle([faster * 2.0 / 0.01, 3 * faster * 2.0 / 0.01])  # before and after: twice that in the mean
    found = compare(row, 1, {"fp32": lambda: 1.0, "bf16": lambda: next(rates)})
    assert found["share"] == pytest.approx(found["gflop_per_s"] / (400 * faster)) and found["reached"] is reached
    assert compare(row, 1, {"fp32": lambda: 1.0})["share"] is None


def test_the_sustained_rate_counts_its_calls():
    assert sustained_rate(lambda: time.sleep(0.01), 0.05) == pytest.approx(2e-9 * PRODUCT**3 / 0.01, rel=0.5)


def test_description_agrees(tmp_path):
    assert compare(images.describe_cpu(TINY, tmp_path, "gem_toy_160"), 1)["parity"]["cosine"] > 0.99999


def test_other_results_are_noticed(tmp_path):
    rows = np.eye(16, dtype=np.float32) - 0.01 * np.arange(16, dtype=np.float32)[:, None]
    parity, ranking = same_ranking(rows, np.ones((3, 16), np.float32)), np.arange(12).reshape(3, 4)
    assert parity(ranking, ranking[:, ::-1])[1] and not parity(ranking, ranking + 1)[1]
    rows[9] = rows[3]  # a tie: either may be last
    other = ranking.copy()
    other[0, 3] = 9
    found, same = same_ranking(rows, np.ones((3, 16), np.float32))(ranking, other)
    assert same and found == {
        "same top-25": pytest.approx(2 / 3),
        "same order": pytest.approx(2 / 3),
        "others worse by": 0.0,
    }
    assert not images.cosine_parity(0.999)(np.eye(2), np.ones((2, 2)))[1]


def test_what_this_machine_lacks_is_skipped_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "cpu_has_bf16", lambda: False)
    with pytest.raises(Skipped, match="no bf16"):
        ROWS["describe_r50_bf16"](SIZES["quick"], tmp_path)
    monkeypatch.setattr("vpr_lib.models.export.find_spec", lambda name: None)
    with pytest.raises(Skipped, match=r"openvino, nncf not installed"):
        ROWS["describe_int8"](SIZES["quick"], tmp_path)


def test_the_command_prints_writes_and_refuses(monkeypatch, tmp_path):
    cli._register()
    wrong = two_ways(lambda: 1, lambda: 2, same=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(
        cli.app, ["bench", "--quick", "--only", "scoring", "--only", "gpu_search", "--json", str(tmp_path / "b.json")]
    )
    assert done.exit_code == 0 and "not measured: no CUDA device" in done.output.replace("\n", " ")
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["rows"]["scoring"]["same"] and written["machine"]["threads"] == torch.get_num_threads()
    monkeypatch.setitem(ROWS, "wrong", lambda size, folder: wrong)
    done = CliRunner().invoke(cli.app, ["bench", "--quick", "--only", "wrong"])
    assert isinstance(done.exception, ValueError) and "Results differ in wrong" in str(done.exception)
    assert not bench_file().exists(), "a quick run is no measurement"
    for row in ("scoring", "gpu_search"):
        assert CliRunner().invoke(cli.app, ["bench", "--repeats", "1", "--only", row]).exit_code == 0
    kept = json.loads(bench_file().read_text())["rows"]
    assert list(kept) == ["scoring", "gpu_search"] and kept["scoring"]["ratio"] > 0 and kept["gpu_search"]["when"]
    done = CliRunner().invoke(cli.app, ["bench", "--quick", "--full"])
    assert "not both" in str(done.exception)
    done = CliRunner().invoke(cli.app, ["bench", "--only", "serch_512"])
    assert "Did you mean 'search_512'" in str(done.exception)


def test_the_allocator_can_be_switched_both_ways():
    assert keep_freed_memory() == return_freed_memory()
    assert keep_freed_memory() == keep_freed_memory()
