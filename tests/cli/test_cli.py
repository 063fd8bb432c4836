"""The commands a user types: results on disk, messages, exit codes.

Covers cli.common, cli.evaluate, cli.retrieve, cli.train.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from films import write_film, write_gpx
from pictures import write_picture

from vpr_lib.cli import main
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.indexes import INDEXES
from vpr_lib.retrieval.search import search


@pytest.fixture
def vpr(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "cache"))

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["vpr", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert (ended.value.code or 0) == code, printed.out + printed.err
        return printed.out if code == 0 else printed.err

    return run


def test_the_command_in_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "vpr_lib.cli", "evaluate", "nope", "--dataset", "x"], capture_output=True
    )
    assert done.returncode == 2 and b"error: Unknown model 'nope'" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize(("command", "code"), [("models", 0), ("data list", 0), ("weights list", 0), ("data get tokyo247", 1),
                                               ("retrieve --model pixels --query {q} --database {d} --out {out} --strips 1", 0)])  # fmt: skip
def test_no_command_dies_from_its_own_output(tmp_path, two_folders, command, code):
    database, queries = two_folders
    write_picture(queries / "ünï ▸.png", 2)
    (queries / "broken \u65e5\u672c.png").write_bytes(b"")
    words = [word.format(q=queries, d=database, out=tmp_path / "öut") for word in command.split()]
    plain = {
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "VPR_CACHE": str(tmp_path / "c"),
        "VPR_DATA": str(tmp_path / "d"),
    }
    done = subprocess.run([sys.executable, "-m", "vpr_lib.cli", *words], capture_output=True, env=os.environ | plain)
    assert done.returncode == code, done.stderr
    assert done.stdout.isascii() and not any(word in done.stderr + done.stdout for word in (b"Traceback", b"codec"))


def test_help_lists_the_commands(vpr):
    text = vpr("--help")
    assert all(command in text for command in ("run", "evaluate", "retrieve", "train", "weights", "models"))


def test_evaluate_on_real_images(vpr, tmp_path, real_data):
    vpr("evaluate", "pixels", "--dataset", "vpr_bench", "--root", real_data / "vpr_bench_corridor", "--json",
        tmp_path / "r.json", "--out", tmp_path / "out")  # fmt: skip
    result = json.loads((tmp_path / "r.json").read_text())
    protocol = result["protocols"][0]
    assert (result["queries"], protocol["queries_counted"]) == (111, 111)
    assert 0.1 < protocol["recall"]["1"] <= protocol["recall"]["5"] <= 1
    low, high = protocol["interval"]["1"]
    assert low < protocol["recall"]["1"] < high
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<section") == 111 and "http" not in page and "✓ correct" in page and "✗ wrong" in page
    assert len(list((tmp_path / "out/strips").glob("*.png"))) == 111


def test_records_say_that_pictures_were_read_as_stored(vpr, tmp_path, two_folders, caplog):
    np.save(tmp_path / "ground_truth_new.npy", np.array([[i, [2 * i]] for i in range(6)], object))
    for folder, name in zip(two_folders, ("ref", "query")):
        shutil.copytree(folder, tmp_path / "set" / name)
    shutil.move(tmp_path / "ground_truth_new.npy", tmp_path / "set")
    for flags in ([], ["--raw-frame"]):
        assert "are replaced" not in caplog.text
        vpr("evaluate", "pixels", "--dataset", "vpr_bench", "--root", tmp_path / "set", *flags, "--json",
            tmp_path / "r.json")  # fmt: skip
        assert json.loads((tmp_path / "r.json").read_text())["protocols"][0]["recall"]["1"] == 1
    assert "weights training-free are replaced by those with weights training-free, pictures as stored" in caplog.text


def test_retrieve_between_odd_folders(vpr, tmp_path, two_folders):
    database, queries = two_folders
    write_picture(database / "with space" / "ünï.png", 40)
    (queries / "broken.jpg").write_bytes(b"no image")
    out = vpr("retrieve", "--model", "pixels", "--query", queries, "--database", database, "--out", tmp_path / "out",
              "--top-k", 50, "--json", tmp_path / "r.json")  # fmt: skip
    assert "left out" in out and "broken.jpg" in out
    rows = list(csv.DictReader((tmp_path / "out/matches.csv").open(encoding="utf-8")))
    assert len(rows) == 6 * 13  # every readable query with the whole database: it is smaller than 50
    assert [r["database"] for r in rows if r["rank"] == "1"] == [f"{2 * i:02d}.png" for i in range(6)]
    assert json.loads((tmp_path / "r.json").read_text())["left_out"]
    (queries / "broken.jpg").unlink()
    again = [vpr("retrieve", "--model", "pixels", "--query", queries, "--database", database, "--out", tmp_path / "out2")
             for _ in range(2)]  # fmt: skip
    assert "described in 0.0 s" in again[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "nope", "--dataset", "toycity"), "Unknown model 'nope'"),
        (("evaluate", "pixels", "--dataset", "nope"), "Unknown data set 'nope'"),
        (("evaluate", "mixvpr_resnet50_4096", "--dataset", "toycity"), "No weights for 'mixvpr_resnet50_4096'"),
        (("evaluate", "gem_toy_160", "--dataset", "toycity", "--weights", "absent.ckpt"), "No checkpoint absent.ckpt"),
        (("evaluate", "pixels", "--weights", "absent.ckpt"), "--weights absent.ckpt would not be used: 'pixels' needs none"),
        (("evaluate", "gem_toy_160", "--untrained", "--weights", "absent.ckpt"), "would not be used: --untrained is given"),
        (("evaluate", "pixels", "--device", "gpu"), "Unknown device 'gpu'. Known here: auto, cpu"),
        (("retrieve", "--model", "pixels", "--query", "a", "--database", "b", "--device", "mps"), "Unknown device 'mps'"),
        (("export", "pixels", "--format", "tflite"), "Unknown format 'tflite'. Known: onnx, openvino"),
        (("train", "nope"), "Unknown recipe 'nope'"),
        (("train", "mixvpr_paper", "--set", "fit.epoch=3"), "has no field 'fit.epoch'"),
        (("train", "toy", "--set", "fit.epochs=!!python/object/apply:os.system [echo]"), "--set fit.epochs takes a plain value"),
        (("train", "toy", "--set", "fit.epochs=[1"), "--set fit.epochs takes a plain value"),
        (("retrieve", "--model", "pixels", "--query", "absent", "--database", "absent"), "No folder absent"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_message(vpr, arguments, message):
    text = vpr(*arguments, code=2)
    assert message in text and "Traceback" not in text and text.count("\n") == 1


@pytest.mark.parametrize("place", ["", "results"])
def test_results_are_not_written_among_the_images(vpr, two_folders, place):
    database, queries = two_folders
    for inside in (database, queries):
        common = ("retrieve", "--model", "pixels", "--query", queries, "--database", database)
        assert "its strips would be images of the next run" in vpr(*common, "--out", inside / place, code=2)


@pytest.mark.parametrize("folder", ["[b]x[", "a [/red] b", "[link=x]"])
def test_names_are_no_markup(vpr, tmp_path, two_folders, folder):
    place = tmp_path / folder.replace("/", "")
    for side in two_folders:
        (place / side.name).parent.mkdir(exist_ok=True)
        side.rename(place / side.name)
    write_picture(place / "query" / "[b]y[.png", 7)
    (place / "query" / folder).mkdir(parents=True)
    (place / "query" / folder / "broken].jpg").write_bytes(b"no picture")
    out = vpr(
        "retrieve", "--model", "pixels", "--query", place / "query", "--database", place / "db", "--out", place / "out"
    )
    assert str(place / "out/matches.csv") in out and f"{folder}/broken].jpg" in out
    rows = list(csv.DictReader((place / "out/matches.csv").open(encoding="utf-8")))
    assert [row["database"] for row in rows if (row["query"], row["rank"]) == ("[b]y[.png", "1")] == ["07.png"]


@pytest.fixture
def at_names(tmp_path):
    """30 database images and 5 queries with positions in their names, 100 m apart; pixels find all."""
    for number in range(30):
        write_picture(tmp_path / f"at/database/@{500000 + 100 * number}@4000000@.png", number)
    for number in range(5):
        write_picture(tmp_path / f"at/queries/@{500003 + 600 * number}@4000000@.png", 6 * number)
    return tmp_path / "at"


@pytest.mark.slow  # starts three Python processes
def test_evaluate_under_torchrun_is_the_same_and_printed_once(vpr, tmp_path, at_names):
    options = ["evaluate", "pixels", "--dataset", "berton", "--root", str(at_names), "--json", str(tmp_path / "r.json")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "vpr_lib.cli"]
    environment = os.environ | {
        "VPR_CACHE": str(tmp_path / "two"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([*launch, *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("R@1 ") == 1 and done.stderr.count("describing 15 of 30") == 2
    together = json.loads((tmp_path / "r.json").read_text())
    vpr(*options)
    alone = json.loads((tmp_path / "r.json").read_text())
    assert (
        together["protocols"][0]["recall"]
        == alone["protocols"][0]["recall"]
        == {"1": 1.0, "5": 1.0, "10": 1.0, "15": 1.0, "20": 1.0, "25": 1.0}
    )
    files = [sorted((folder / "descriptors").glob("*.npy")) for folder in (tmp_path / "two", tmp_path / "cache")]
    assert [file.name for file in files[0]] == [file.name for file in files[1]] and len(files[0]) == 2
    for one, other in zip(*files):
        np.testing.assert_array_equal(np.load(one), np.load(other))


def test_other_indexes_and_runtimes_are_refused_with_a_way_out(vpr, at_names, two_folders):
    common = ["evaluate", "pixels", "--dataset", "berton", "--root", at_names]
    assert "exact search is quick at that size" in vpr(*common, "--index", "ivfpq", code=2)
    assert "Did you mean 'ivfpq'" in vpr(*common, "--index", "ivfq", code=2)
    assert "vpr export pixels --format onnx" in vpr(*common, "--runtime", "onnx", code=2)
    sides = ["--model", "pixels", "--database", two_folders[0], "--query", two_folders[1]]
    assert "exact search is quick" in vpr("retrieve", *sides, "--index", "ivfpq", code=2)


def test_an_approximate_index_says_what_it_misses(vpr, tmp_path, at_names, two_folders, monkeypatch):
    def last_is_missed(database, queries, top_k):
        found = search(database, queries, top_k)
        found.indices[-1] = -1
        return found

    monkeypatch.setitem(INDEXES, "ivfpq", last_is_missed)
    out = vpr(
        "evaluate",
        "pixels",
        "--dataset",
        "berton",
        "--root",
        at_names,
        "--index",
        "ivfpq",
        "--json",
        tmp_path / "r.json",
    )
    assert (
        "pixels ivfpq" in out and "index ivfpq finds 80.0 % of the exact first 1, 80.0 % of the exact first 10" in out
    )
    assert json.loads((tmp_path / "r.json").read_text())["found_of_exact"]["1"] == 0.8
    sides = ["--model", "pixels", "--database", two_folders[0], "--query", two_folders[1], "--out", tmp_path / "out"]
    assert "index ivfpq finds" in vpr("retrieve", *sides, "--index", "ivfpq", "--strips", 0)


def test_empty_folder(vpr, tmp_path, two_folders):
    (tmp_path / "void").mkdir()
    assert "No image under" in vpr(
        "retrieve", "--model", "pixels", "--query", tmp_path / "void", "--database", two_folders[0], code=2
    )


def test_registered_weights_are_used_by_name(vpr, tmp_path, two_folders):
    torch.save({"state_dict": build_model("gem_toy_160", seed=5).state_dict()}, tmp_path / "official.ckpt")
    assert "fits gem_toy_160" in vpr(
        "weights", "add", tmp_path / "official.ckpt", "--as", "gem_toy_160", "--licence", "MIT"
    )
    about = json.loads((tmp_path / "cache/weights/gem_toy_160.json").read_text())
    assert about["licence"] == "MIT" and len(about["sha256"]) == 64
    database, queries = two_folders
    assert "cache/weights/gem_toy_160" in vpr("retrieve", "--model", "gem_toy_160", "--query", queries, "--database", database,
                                              "--out", tmp_path / "out", "--strips", 0)  # fmt: skip
    assert "does not fit this model" in vpr("weights", "add", tmp_path / "official.ckpt", "--as", "avg_toy_160", code=2)


def test_export_and_retrieve_with_it(vpr, tmp_path, two_folders):
    pytest.importorskip("nncf")
    database, queries = two_folders
    said = vpr("export", "mixvpr_toy_student", "--format", "openvino", "--images", database, "--untrained", "--seconds", 0,
               "--json", tmp_path / "e.json")  # fmt: skip
    about = json.loads((tmp_path / "e.json").read_text())
    beside = json.loads((tmp_path / "cache/exports/mixvpr_toy_student/openvino-int8/export.json").read_text())
    assert beside["parity"] == about["parity"] and about["precision"] == "int8" and about["calibration_images"] == 6
    assert (
        0 <= beside["lost"] <= 1 and "calibrated on 6 images" in said and "nearest images lost on other images" in said
    )
    refused = beside["lost"] > 0.01 or beside["int8_share"] < 0.5
    assert ("take --precision bf16 or fp32" in said) == refused
    assert "cosine to torch fp32" in said and about["parity"]["cosine_min"] > 0.98
    runners = {(row["runner"], row["batch"]) for row in about["parity"]["speed"]}
    assert runners == {(r, b) for r in ("torch, plain", "torch, ours", "openvino int8") for b in (1, 16)}
    arguments = ("retrieve", "--query", queries, "--database", database, "--strips", 0, "--out", tmp_path / "out")
    run = lambda *more: (
        vpr(*arguments, *more, "--json", tmp_path / "r.json") and json.loads((tmp_path / "r.json").read_text())
    )
    plain = run("--model", "mixvpr_toy_student", "--untrained")
    shipped = run("--model", "mixvpr_toy_student", "--runtime", "openvino")
    assert (
        plain["described"] == shipped["described"] == {"database": 12, "queries": 6}
    )  # nothing shared between the two
    again = run("--model", "mixvpr_toy_student", "--runtime", "openvino-int8")
    assert again["described"] == {"database": 0, "queries": 0} and again["precision"] == "openvino int8"
    assert "is an export of 'mixvpr_toy_student', not of 'gem_toy_160'" in vpr(
        *arguments, "--model", "gem_toy_160", "--runtime", about["folder"], code=2
    )
    assert "--weights goes with --runtime torch" in vpr(
        *arguments, "--model", "mixvpr_toy_student", "--runtime", "openvino", "--weights", "x", code=2
    )
    torch.save(build_model("mixvpr_toy_student", seed=5).state_dict(), tmp_path / "newer.ckpt")
    vpr("weights", "add", tmp_path / "newer.ckpt", "--as", "mixvpr_toy_student")
    assert "holds other weights than" in vpr(*arguments, "--model", "mixvpr_toy_student", "--runtime", "openvino")


def test_export_measures_the_change_of_recall(vpr, tmp_path, real_data):
    pytest.importorskip("onnxruntime")
    vpr("export", "mixvpr_toy_student", "--format", "onnx", "--dataset", "vpr_bench", "--root", real_data / "vpr_bench_corridor",
        "--precision", "fp32", "--untrained", "--seconds", 0, "--json", tmp_path / "e.json")  # fmt: skip
    parity = json.loads((tmp_path / "e.json").read_text())["parity"]
    assert parity["queries"] == 111 and parity["recall_change"]["1"] == pytest.approx(0, abs=0.02)
    assert parity["cosine_min"] > 0.9999 and parity["p_value"] > 0.2


def test_retrieve_says_what_it_cost(vpr, tmp_path, two_folders):
    database, queries = two_folders
    arguments = ("retrieve", "--model", "gem_toy_160", "--untrained", "--query", queries, "--database", database,
                 "--out", tmp_path / "out", "--json", tmp_path / "r.json")  # fmt: skip
    said = vpr(*arguments)
    about = json.loads((tmp_path / "r.json").read_text())
    assert "0.55 M parameters" in said and "queries: " in said and "ms per query" in said
    assert about["described"] == {"database": 12, "queries": 6} and about["per_image_ms"]["queries"] > 0
    rows = list(csv.DictReader((tmp_path / "out/matches.csv").open()))
    assert len(rows) == 6 * 10 and len(list((tmp_path / "out/strips").glob("*.png"))) == 6  # all ten, for every query
    write_picture(database / "03.png", 77)  # one image replaced: only it is described again
    vpr(*arguments)
    assert json.loads((tmp_path / "r.json").read_text())["described"] == {"database": 1, "queries": 0}


def test_a_published_file_needs_no_flag(vpr, tmp_path):
    """`weights add FILE` knows the model from the published name; `evaluate NAME` then finds weights and settings."""
    root = tmp_path / "set"
    for index in range(4):
        write_picture(root / "ref" / f"{index:07d}.jpg", index)
    for index in range(2):
        write_picture(root / "query" / f"{index:07d}.jpg", index)
    truth = np.empty((2, 2), object)
    truth[:, 0], truth[0, 1], truth[1, 1] = [0, 1], [0], [1]
    np.save(root / "ground_truth_new.npy", truth, allow_pickle=True)
    name = "kd_epoch79.ckpt"
    torch.save(build_model("lightmixvpr_kd_resnet18_512", seed=5).state_dict(), tmp_path / name)
    assert "fits lightmixvpr_kd_resnet18_512" in vpr("weights", "add", tmp_path / name)
    vpr("weights", "list", "--json", tmp_path / "w.json")
    about = json.loads((tmp_path / "w.json").read_text())["lightmixvpr_kd_resnet18_512"]
    assert about["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert (about["file"], about["licence"][:10]) == (name, "not stated") and "Lightweight" in about["source"]
    vpr(
        "evaluate",
        "lightmixvpr_kd_resnet18_512",
        "--dataset",
        "vpr_bench",
        "--root",
        root,
        "--json",
        tmp_path / "r.json",
    )
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["weights"].endswith("weights/lightmixvpr_kd_resnet18_512.safetensors")
    assert result["protocols"][0]["recall"]["1"] == 1.0  # the queries are copies of two database images
    (tmp_path / name).rename(tmp_path / "renamed.ckpt")
    assert "say which model it belongs to with --as NAME" in vpr("weights", "add", tmp_path / "renamed.ckpt", code=2)
    assert "[default: toycity]" in vpr("evaluate", "--help")


def test_evaluate_whitened_and_reranked(vpr, tmp_path, real_data, monkeypatch):
    from vpr_lib.data import catalogue

    root = real_data / "vpr_bench_corridor"
    corridor = catalogue.open_dataset("vpr_bench", root)
    options = ("evaluate", "pixels", "--dataset", "vpr_bench", "--root", root, "--json", tmp_path / "r.json")
    vpr(*options)
    plain = json.loads((tmp_path / "r.json").read_text())["protocols"][0]["recall"]
    vpr(*options, "--rerank")
    again = json.loads((tmp_path / "r.json").read_text())
    assert again["model"] == "pixels reranked" and again["protocols"][0]["recall"] != plain
    monkeypatch.setattr(catalogue, "open_dataset", lambda name, folder=None: corridor)
    vpr(*options, "--whiten-on", "pitts30k_train", "--whiten-to", 32)
    white = json.loads((tmp_path / "r.json").read_text())
    assert white["model"] == "pixels PCA 32" and 0.1 < white["protocols"][0]["recall"]["1"] < 1
    assert len(list((tmp_path / "cache/whitening").glob("pca_params_*.h5"))) == 1
    assert "Fit on more images" in vpr(*options, "--whiten-on", "x", "--whiten-to", 4096, code=2)


def test_evaluate_says_how_well_it_tells_foreign_queries(vpr, tmp_path, at_names, two_folders):
    common = ["evaluate", "pixels", "--dataset", "berton", "--root", at_names]
    for number in range(3):
        write_picture(tmp_path / "elsewhere" / f"{number}.png", 500 + number)
    said = vpr(*common, "--foreign", tmp_path / "elsewhere", "--json", tmp_path / "r.json")
    assert "5 queries of this map against 3 of" in said and "AUROC 1.000; precision 100.0 % where 95 %" in said
    assert "not in this map" not in said  # only a bundled model comes with a threshold
    about = json.loads((tmp_path / "r.json").read_text())["foreign"]
    assert about["numbers"] == [5, 3] and about["auroc"] == about["precision"] == about["kept"] == 1
    assert "leave --transform" in vpr(*common, "--foreign", tmp_path, "--rerank", code=2)
    assert "No folder nowhere" in vpr(*common, "--foreign", "nowhere", code=2)


def test_the_package_tells_corridor_from_gardens_point(vpr, tmp_path, real_data):
    """Sixty pictures of two real sets, each foreign to the other; nothing of them trained the model or its threshold."""
    sets = {}
    for name in ("vpr_bench_corridor", "gardens_point"):
        for side, step in (("ref", 8), ("query", 8)):
            (tmp_path / name / side).mkdir(parents=True)
            for row in range(0, 104, step):
                (tmp_path / name / side / f"{row // step:07d}.jpg").symlink_to(
                    real_data / name / side / f"{row:07d}.jpg"
                )
        truth = np.empty((13, 2), object)
        truth[:, 0], truth[:, 1] = list(range(13)), [[row] for row in range(13)]
        np.save(tmp_path / name / "ground_truth_new.npy", truth, allow_pickle=True)
    for name, other in (("vpr_bench_corridor", "gardens_point"), ("gardens_point", "vpr_bench_corridor")):
        said = vpr("evaluate", "places", "--dataset", "vpr_bench", "--root", tmp_path / name, "--foreign",
                   tmp_path / other / "query", "--json", tmp_path / "r.json")  # fmt: skip
        sets[name] = json.loads((tmp_path / "r.json").read_text())["foreign"]
        assert "'not in this map' under 0.560, as set in the generated city: keeps" in said
    assert all(found["auroc"] > 0.98 and found["precision"] > 0.9 for found in sets.values())
    assert all(found["kept_by_it"] > 0.9 and found["refused_by_it"] > 0.8 for found in sets.values())


def test_a_film_as_a_map(vpr, tmp_path):
    film = write_film(tmp_path / "walk.mp4")
    write_gpx(tmp_path / "walk.gpx", "2026-05-01T10:00:00Z", "2026-05-01T10:00:04Z")
    said = vpr("retrieve", "--model", "pixels", "--query", film, "--database", film, "--frames-per-second", 2, "--out",
               tmp_path / "out", "--top-k", 1)  # fmt: skip
    assert "walk_00000.50s.jpg → walk_00000.50s.jpg, similarity 1.000, 0.0 m away, 48.000125 8.000000" in said
    assert "8 queries against 8 database images" in said and (tmp_path / "out/found.gpx").is_file()
