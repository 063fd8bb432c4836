from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import write_picture

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import Manifest
from vpr_lib.results.records import Run, query_records
from vpr_lib.retrieval.protocol import score
from vpr_lib.widgets.explorer import Explorer


def manifest(role: str, n: int, root: Path, files: int, spacing: float = 30.0, **size: int) -> Manifest:
    """`n` rows on a line, `spacing` metres apart, with `files` different pictures."""
    for index in range(files):
        write_picture(root / f"{role}{index}.jpg", index, **size)
    table = pd.DataFrame({"uid": range(n), "sample_id": [f"{role}{i}" for i in range(n)],
                          "image_path": [f"{role}{i % files}.jpg" for i in range(n)], "position_kind": "gps",
                          "utm_east": spacing * np.arange(n), "utm_north": np.zeros(n),
                          "conditions": [["night"] if i % 2 else ["day"] for i in range(n)]})  # fmt: skip
    return Manifest(table, root)


def records_of(benchmark: Benchmark, rankings: dict[str, np.ndarray]) -> pd.DataFrame:
    tables = [query_records(benchmark, score(np.array(ranking), benchmark.protocol, (1,)), np.zeros((len(ranking), len(ranking[0]))), Run(name))
              for name, ranking in rankings.items()]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="session")
def benchmark(tmp_path_factory):
    root = tmp_path_factory.mktemp("explorer")
    database, queries = manifest("d", 6, root, 6), manifest("q", 4, root, 4)
    positives = Positives.from_lists([[0], [1], [2], [3]], 6)
    protocol = make_protocol(database, queries, positives, name="s@25m", dataset="s", rule="radius_m", threshold=25.0)
    return Benchmark("s", database, queries, (protocol,))


@pytest.fixture(scope="session")
def records(benchmark):
    return records_of(benchmark, {"a": [[0, 1, 2], [1, 0, 2], [3, 2, 1], [5, 0, 1]],
                                  "b": [[0, 1, 2], [5, 0, 2], [2, 3, 1], [3, 0, 1]]})  # fmt: skip


@pytest.fixture(scope="session")
def explorer(benchmark, records):
    return Explorer(benchmark, records)


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """10,000 queries in front of 20,000 database images of 640 x 480, 250 different pictures of each."""
    root, n, size = tmp_path_factory.mktemp("large"), 10_000, dict(height=480, width=640)
    database, queries = manifest("d", 2 * n, root, 250, 15.0, **size), manifest("q", n, root, 250, 30.0, **size)
    positives = Positives.from_lists([[2 * i] for i in range(n)], 2 * n)
    protocol = make_protocol(database, queries, positives, name="l@25m", dataset="l", rule="radius_m", threshold=25.0)
    rng = np.random.default_rng(0)
    rankings = {}
    for name in ("a", "b"):
        rankings[name] = rng.integers(0, 2 * n, (n, 10))
        right = rng.random(n) < 0.8
        rankings[name][right, 0] = 2 * np.flatnonzero(right)
    benchmark = Benchmark("l", database, queries, (protocol,))
    return Explorer(benchmark, records_of(benchmark, rankings))
