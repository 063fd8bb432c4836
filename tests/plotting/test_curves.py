"""Curves and strips draw the numbers of their tables; right and wrong differ by sign and frame, not only in colour.

Covers curves, retrievals, strips, style.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vpr_lib.plotting.curves import plot_recall_at_n
from vpr_lib.plotting.results import picture_of_tests
from vpr_lib.plotting.retrievals import choose_queries, show_match
from vpr_lib.plotting.strips import Tile, draw_strip, verdict
from vpr_lib.plotting.style import RIGHT, RIGHT_SIGN, WRONG, WRONG_SIGN
from vpr_lib.results.records import Run


def records_of(model, first_hits):
    columns = dict(vars(Run(model, "MixVPR")))
    queries = np.arange(len(first_hits))
    return pd.DataFrame(columns, index=queries).assign(
        dataset="town", card="c", card_hash="c", protocol="p", query=queries, query_id=[f"q{q}" for q in queries],
        first_hit=np.asarray(first_hits, np.int32), counted=True, list_hash="l", n_database=50, rule="radius_m",
    )  # fmt: skip


def test_a_curve_is_the_share_found_among_the_first_n():
    ax = plot_recall_at_n(records_of("mixvpr", [1, 2, 6, 0]), (1, 2, 5, 10))
    assert ax.lines[0].get_ydata().tolist() == [25, 50, 50, 75]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "5", "10"]
    plt.close(ax.figure)


def test_the_matrix_counts_queries_that_one_model_alone_finds():
    good, bad = records_of("good", [1] * 10), records_of("bad", [1, 1] + [0] * 8)
    (ax,) = picture_of_tests(pd.concat([good, bad]), "town", level=0.01).figure.axes
    assert [text.get_text() for text in ax.texts] == ["–", "+8*", "-8*", "–"]
    plt.close(ax.figure)


def test_successes_come_first_and_half_of_the_rows_are_failures():
    chosen = choose_queries(np.array([1, 1, 1, 1, 0, 7]), np.array([True] * 5 + [False]), rows=4)
    assert len(chosen) == 4 and set(chosen[:3]) < {0, 1, 2, 3} and chosen[3] == 4  # one failure counts


@pytest.mark.parametrize(("correct", "sign", "colour"), [(True, RIGHT_SIGN, RIGHT), (False, WRONG_SIGN, WRONG)])
def test_a_match_carries_its_verdict(correct, sign, colour):
    ax = plt.subplots()[1]
    show_match(ax, np.zeros((4, 6, 3), np.uint8), correct, "7 m")
    frame = ax.patches[0]
    assert ax.get_title(loc="left") == f"{sign} 7 m" and verdict(correct) == (sign, colour)
    assert (frame.get_linestyle() not in ("-", "solid")) == (not correct)
    plt.close(ax.figure)


def test_a_strip_frames_wrong_matches_with_dashes():
    grey = Image.new("RGB", (120, 90), (90, 90, 90))
    strips = [np.asarray(draw_strip(Tile(grey), [Tile(grey, "1", correct)], height=60)) for correct in (True, False)]
    top = [strip[9, strip.shape[1] // 2 + 20 :] for strip in strips]  # the upper edge of the match's frame
    whole, dashed = ((edge != 255).any(1).mean() for edge in top)
    assert strips[0].shape == strips[1].shape and dashed < 0.7 * whole
