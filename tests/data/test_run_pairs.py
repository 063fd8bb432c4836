"""Oxford and Boreas: pickles that may lack something, tables by the same rules, tuples for training."""

import json
import pickle
import sys
import types

import numpy as np
import pytest
from miniatures import REGION, RUNS, lidar2image, oxford_locations, stamp

from vpr_lib.data.pickles import UnsafePickle
from vpr_lib.data.readers.pointnetvlad import (
    read_boreas,
    read_boreas_tuples,
    read_oxford,
    read_oxford_tuples,
    write_evaluation_pickles,
    write_training_pickle,
)
from vpr_lib.data.readers.submaps import (
    EVALUATION_RUNS,
    OXFORD_REGIONS,
    Regions,
    build_run_pairs,
    build_training_tuples,
    read_toy_runs,
    read_toy_tuples,
    run_folders,
)
from vpr_lib.data.run_pairs import RunPairs, make_run_pairs
from vpr_lib.data.tuples import TupleSet


def evaluation(root, change=None, prefix="oxford"):
    """Pickles as PointNetVLAD's script writes them, from the tables below `root`."""
    built = build_run_pairs(root, RUNS)
    databases, queries = [], []
    for run, manifest in enumerate(built.databases):
        entry = lambda row: {
            "query": row["cloud_path"], "northing": np.float64(row["utm_north"]), "easting": np.float64(row["utm_east"]),
        }  # fmt: skip
        rows = manifest.table.to_dict("records")
        databases.append({n: entry(row) for n, row in enumerate(rows)})
        queries.append({n: entry(rows[row]) for n, row in enumerate(built.query_rows[run])})
        for other in range(len(built.runs)):
            if other != run:
                for n, found in enumerate(built.positives[run, other]):
                    queries[run][n][other] = found.tolist()
    if change:
        change(databases, queries)
    for part, content in (("database", databases), ("query", queries)):
        (root / f"{prefix}_evaluation_{part}.pickle").write_bytes(pickle.dumps(content))
    return built


def test_databases_are_whole_runs_and_queries_stay_in_the_squares(tmp_path):
    found = build_run_pairs(oxford_locations(tmp_path), RUNS)
    assert [len(d) for d in found.databases] == [6, 6, 6]
    assert [rows.tolist() for rows in found.query_rows] == [[0, 1, 2]] * 3  # 90, 110 and 130 m north; 150 is outside
    assert found.positives[0, 1][0].tolist() == [0, 1] and found.positives[2, 0][1].tolist() == [0, 1, 2]
    assert len(list(found.pairs())) == 6 and found.counted[0, 1] == 3
    assert found.card.name == "oxford@pairs_25m" and found.card.denominator == "with_positive"
    first = found.databases[0].table.iloc[0]
    assert first["utm_north"] == REGION[0] + 90 and first["utm_east"] == REGION[1]  # the tables are northing first
    assert first["cloud_path"] == f"oxford/{RUNS[0]}/pointcloud_20m/{stamp(0, 0)}.bin" and first["run"] == RUNS[0]


def test_test_regions_are_open_squares():
    edges = np.array([[REGION[1] + 150.0, REGION[0]], [REGION[1] + 149.999, REGION[0]]])
    assert OXFORD_REGIONS.contain(edges).tolist() == [False, True]
    assert len(EVALUATION_RUNS) == 23 and len(EVALUATION_RUNS) * 22 == 506
    assert list(EVALUATION_RUNS) == sorted(set(EVALUATION_RUNS))


def test_the_nearest_image_in_time_belongs_to_a_cloud(tmp_path):
    lidar2image(oxford_locations(tmp_path) / "images/lidar2image_ndx.pickle")
    found = build_run_pairs(tmp_path, RUNS)
    assert found.databases[1].table["image_path"][2] == f"images/{RUNS[1]}/{stamp(1, 2) + 7}.png"
    lidar2image(tmp_path / "images/lidar2image_ndx.pickle", leave_out=[stamp(0, 3)])
    with pytest.raises(ValueError, match=r"1 of 6 clouds have no image .*made for other clouds"):
        build_run_pairs(tmp_path, RUNS)
    (tmp_path / "images/lidar2image_ndx.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="expected a dictionary from cloud times"):
        build_run_pairs(tmp_path, RUNS)


def test_pickles_say_what_the_tables_say(tmp_path):
    built = evaluation(oxford_locations(tmp_path))
    found = read_oxford(tmp_path)
    assert found.card == built.card and found.runs == RUNS
    assert found.queries(1).table["cloud_path"].tolist() == built.queries(1).table["cloud_path"].tolist()


def test_run_pairs_round_trip(tmp_path):
    made = build_run_pairs(oxford_locations(tmp_path), RUNS)
    loaded = RunPairs.load(made.save(tmp_path / "kept"))
    assert loaded.card == made.card and loaded.positives[2, 1].hash == made.positives[2, 1].hash
    made.databases[0].take([0, 1, 2, 3, 5, 4]).save(tmp_path / "kept/runs/000.parquet")
    with pytest.raises(ValueError, match="do not belong together"):
        RunPairs.load(tmp_path / "kept")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda db, q: q[1][2].pop(0),
            r"run 2014-11-18-13-20-12: 1 queries have no list of matches for run 0 .*query 2",
        ),
        (lambda db, q: q[0][0].update({1: [6]}), "point beyond the 6 database images"),
        (
            lambda db, q: q[0][0].update(query="oxford/2014-11-14-16-34-33/pointcloud_20m/1.bin"),
            "is not in the database of its run",
        ),
        (lambda db, q: db[0][0].pop("easting"), "an entry of run 0 lacks 'easting'"),
        (lambda db, q: db[0].update({99: db[0].pop(0)}), "keys 0 to n - 1"),
        (lambda db, q: db.pop(), "has 2 runs, oxford_evaluation_query.pickle 3"),
        (lambda db, q: db[0].update({0: db[1][0]}), "run 0 mixes 2014-11-18-13-20-12 with"),
        (lambda db, q: db[2][0].update(query="short/a/1.bin"), "run name of 19 characters"),
    ],
)
def test_what_evaluation_pickles_may_lack(tmp_path, change, message):
    evaluation(oxford_locations(tmp_path), change)
    with pytest.raises(ValueError, match=message):
        read_oxford(tmp_path)


def test_a_pickle_that_is_no_list_of_runs(tmp_path):
    evaluation(oxford_locations(tmp_path))
    (tmp_path / "oxford_evaluation_query.pickle").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="expected a list with one dictionary per run"):
        read_oxford(tmp_path)


def test_boreas_queries_are_its_database(tmp_path):
    runs = ("boreas-2021-01-26-11-22", "boreas-2021-02-02-14-07")
    entry = lambda run, n: {
        "query": f"boreas/{run}/lidar_1_4096_interval10/{n}.npy",
        "northing": 4848820.0 + n,
        "easting": 623423.0,
    }
    database = [{n: entry(run, n) for n in range(3)} for run in runs]
    query = [{n: entry(run, n) | {1 - r: [n]} for n in range(3)} for r, run in enumerate(runs)]
    for part, content in (("database", database), ("query", query)):
        (tmp_path / f"boreas_evaluation_{part}.pickle").write_bytes(pickle.dumps(content))
    (tmp_path / "boreas_lidar2image_ndx.pickle").write_bytes(pickle.dumps({n: [n + 1] for n in range(3)}))
    found = read_boreas(tmp_path)
    assert [rows.tolist() for rows in found.query_rows] == [[0, 1, 2]] * 2 and found.card.rule == "list"
    assert found.databases[0].table["image_path"][0] == f"boreas/{runs[0]}/camera_lidar_interval10/1.png"
    assert found.databases[0].table["cloud_format"][0] == "npy"


def training_pickle(root, module="datasets.oxford", file="training_queries_baseline.pickle", **change):
    """A training pickle whose class lived in the authors' module, which is not importable here."""
    importable = module.replace(".", "_")
    kind = type("TrainingTuple", (), {"__module__": importable})
    sys.modules[importable] = types.ModuleType(importable)
    sys.modules[importable].TrainingTuple = kind
    records = {}
    for index in range(3):
        record = kind()
        record.__dict__ |= dict(
            id=index, timestamp=stamp(0, index), positives=np.array([i for i in range(3) if abs(i - index) == 1]),
            rel_scan_filepath=f"oxford/{RUNS[0]}/pointcloud_20m_10overlap/{stamp(0, index)}.bin",
            non_negatives=np.arange(3), position=np.array([REGION[0] + 10.0 * index, REGION[1]]),
        )  # fmt: skip
        records[index] = record
    for key, value in change.items():
        if value is None:
            del records[1].__dict__[key]
        else:
            setattr(records[1], key, value)
    content = pickle.dumps(records, protocol=4)
    del sys.modules[importable]
    (root / file).write_bytes(content.replace(importable.encode(), module.encode()))
    return root


def test_training_tuples_without_the_authors_module(tmp_path):
    lidar2image(training_pickle(tmp_path) / "images/lidar2image_ndx.pickle")
    found = read_oxford_tuples(tmp_path, candidates=2)
    assert [row.tolist() for row in found.positives] == [[1], [0, 2], [1]]
    assert found.database.positions()[2].tolist() == [REGION[1], REGION[0] + 20.0]  # easting, northing
    nearest = found.database.table["image_candidates"][0]
    assert [image["dt_us"] for image in nearest] == [7, 90] and nearest[0]["path"].endswith(f"{stamp(0, 0) + 7}.png")
    loaded = TupleSet.load(found.save(tmp_path / "kept"))
    assert loaded.non_negatives.hash == found.non_negatives.hash and loaded.queries is loaded.database


def test_training_pickles_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"entry 1 lacks \['positives'\]"):
        read_oxford_tuples(training_pickle(tmp_path, positives=None))
    with pytest.raises(ValueError, match="could be drawn as negatives"):
        read_oxford_tuples(training_pickle(tmp_path, non_negatives=np.array([1])))
    with pytest.raises(UnsafePickle, match=r"some.other.TrainingTuple"):
        read_oxford_tuples(training_pickle(tmp_path, module="some.other"))


def test_training_tuples_from_tables_stay_outside_the_squares(tmp_path):
    oxford_locations(tmp_path, n=12)  # every 10 m from 90 m on: 90 to 140 are inside
    found = build_training_tuples(tmp_path, RUNS)
    assert len(found.database) == 3 * 6 and not OXFORD_REGIONS.contain(found.database.positions()).any()
    for query in range(len(found.database)):
        assert query not in found.positives[query] and query in found.non_negatives[query]
    with pytest.raises(ValueError, match="lie inside the test regions"):
        build_training_tuples(tmp_path, RUNS, Regions((REGION,), 1e6))


def test_what_the_tables_may_lack(tmp_path):
    oxford_locations(tmp_path)
    with pytest.raises(ValueError, match=r"3 runs have no submap inside.*exchanged"):
        build_run_pairs(tmp_path, RUNS, Regions((REGION[::-1],)))
    with pytest.raises(FileNotFoundError, match=r"pointcloud_locations_20m.csv"):
        read_oxford(tmp_path)  # all 23 runs are wanted
    assert run_folders(tmp_path) == list(RUNS)
    with pytest.raises(FileNotFoundError, match="No runs under"):
        run_folders(tmp_path / "images")
    found = build_run_pairs(tmp_path, RUNS)
    with pytest.raises(ValueError, match="need matches of 3 x 6, got nothing"):
        make_run_pairs(
            "x", list(RUNS), found.databases, found.query_rows, {}, {"name": "x", "dataset": "x", "rule": "list"}
        )


def test_boreas_tuples_are_the_same_class(tmp_path):
    clouds = dict(rel_scan_filepath="boreas/boreas-2021-01-26-11-22/lidar_1_4096_interval10/7.npy")
    with pytest.raises(ValueError, match="run name of 23 characters"):  # entries 0 and 2 still say Oxford
        read_boreas_tuples(training_pickle(tmp_path, file="boreas_training_queries_baseline.pickle", **clouds))


def test_the_toy_citys_drives(tmp_path):
    oxford_locations(tmp_path, n=12)
    regions = {"centres": [REGION], "half_width_m": 150.0}
    (tmp_path / "toycity.json").write_text(json.dumps({"test_regions": regions}))
    found = read_toy_runs(tmp_path)
    assert found.runs == RUNS and found.card.name == "toycity_runs@pairs_25m" and found.counted[1, 0] == 3
    assert len(read_toy_tuples(tmp_path).database) == 3 * 6


def test_a_hostile_evaluation_pickle(tmp_path):
    evaluation(oxford_locations(tmp_path))
    (tmp_path / "oxford_evaluation_query.pickle").write_bytes(b"cos\nsystem\n(S'echo harm'\ntR.")
    with pytest.raises(UnsafePickle, match=r"asks for os.system"):
        read_oxford(tmp_path)


def test_pickles_of_raw_runs_read_back_the_same(tmp_path):
    lidar2image(oxford_locations(tmp_path, n=12) / "images/lidar2image_ndx.pickle", n=12)
    built, tuples = build_run_pairs(tmp_path, RUNS), build_training_tuples(tmp_path, RUNS)
    write_evaluation_pickles(tmp_path, built)
    write_training_pickle(tmp_path, tuples)
    runs, read = read_oxford(tmp_path), read_oxford_tuples(tmp_path)
    assert runs.card == built.card and runs.databases[2].table.equals(built.databases[2].table)
    assert read.positives.hash == tuples.positives.hash and read.non_negatives.hash == tuples.non_negatives.hash
    assert read.database.table.equals(tuples.database.table)


def test_written_tuples_are_the_class_that_the_public_code_imports(tmp_path, monkeypatch):
    write_training_pickle(tmp_path, build_training_tuples(oxford_locations(tmp_path, n=12), RUNS))
    package, module = types.ModuleType("datasets"), types.ModuleType("datasets.oxford")
    module.TrainingTuple = type("TrainingTuple", (), {"__module__": "datasets.oxford"})
    package.oxford = module
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setitem(sys.modules, "datasets.oxford", module)
    records = pickle.loads((tmp_path / "training_queries_baseline.pickle").read_bytes())
    assert isinstance(records[0], module.TrainingTuple) and records[0].position[0] > 5e6 > records[0].position[1]
    assert 0 in records[0].non_negatives and 0 not in records[0].positives
