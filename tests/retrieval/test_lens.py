import numpy as np
import pandas as pd
import pytest

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.manifest import Manifest
from vpr_lib.retrieval.lens import recall_by_radius, recall_by_window
from vpr_lib.retrieval.protocol import Evaluation, score


def on_a_line(role, metres, path):
    n = len(metres)
    table = pd.DataFrame({"uid": range(n), "sample_id": [f"{role}{i}" for i in range(n)],
                          "image_path": [f"{role}{i}.jpg" for i in range(n)], "utm_east": np.asarray(metres, float),
                          "utm_north": np.zeros(n), "position_kind": "gps"})  # fmt: skip
    return Manifest(table, path)


@pytest.fixture
def evaluation(tmp_path):
    database, queries = on_a_line("d", [0, 10, 30, 100], tmp_path), on_a_line("q", [0, 12, 500, 101], tmp_path)
    protocol = make_protocol(
        database, queries, Positives.from_lists([[0], [1], [], [3]], 4), name="t@1", dataset="t", rule="list"
    )
    ranking = np.array([[0, 1, 2, 3], [0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 1, 0]])
    benchmark = Benchmark("t", database, queries, (protocol,))
    return Evaluation(benchmark, None, None, None, (score(ranking, protocol, (1,)),))


def test_recall_grows_with_the_radius_and_the_denominators_differ(evaluation):
    table = recall_by_radius(evaluation, (1, 5, 20, 1000)).set_index("rule")
    assert table["all"].tolist() == [0.25, 0.25, 0.5, 1.0]  # q1's best match is 12 m off, q3's 71 m
    assert table["matched"].tolist() == [2, 3, 3, 4]
    assert table["with_positive"].tolist() == pytest.approx([1 / 2, 1 / 3, 2 / 3, 1.0])


def test_windows_of_a_traverse(evaluation):
    table = recall_by_window(evaluation, (0, 1, 3))
    assert table["all"].tolist() == [0.25, 1.0, 1.0]  # the first matches are 0, 1, 1 and 1 frames off


def test_what_does_not_fit_is_refused(evaluation):
    short = Benchmark("t", evaluation.benchmark.database.take([0, 1]), evaluation.benchmark.queries)
    with pytest.raises(ValueError, match="no aligned traverse"):
        recall_by_window(Evaluation(short, None, None, None, evaluation.scores), (1,))
