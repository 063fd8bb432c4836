"""Geodesics obey the distance they are drawn for; the pictures show every point and matrix."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from vpr_lib.losses.relational import geodesic_distances
from vpr_lib.plotting.relations import (
    geodesic,
    picture_of_relations,
    plot_poincare_disc,
    plot_three_geometries,
    project_to_disc,
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def distance(x, y, c):
    return geodesic_distances(*(torch.from_numpy(p[None]) for p in (x, y)), c).item()


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_a_geodesic_is_the_shortest_way_and_evenly_walked(c):
    x, y = np.array([0.8, 0.1]) / np.sqrt(c), np.array([-0.2, 0.7]) / np.sqrt(c)
    path = geodesic(x, y, c, count=21)
    assert np.allclose(path[0], x) and np.allclose(path[-1], y, atol=1e-6)
    steps = [distance(a, b, c) for a, b in pairwise(path)]
    assert np.ptp(steps) < 0.02 * np.mean(steps) and sum(steps) == pytest.approx(distance(x, y, c), rel=1e-3)
    straight = np.linspace(x, y, 21)
    assert sum(distance(a, b, c) for a, b in pairwise(straight)) > sum(steps)
    assert np.allclose(geodesic(x, x, c), x)


def test_pictures_hold_what_they_are_given():
    rng = np.random.default_rng(0)
    agents = {name: 0.4 * rng.normal(size=(12, 2)) for name in ("teacher", "student")}
    ax = plot_poincare_disc(agents, np.repeat(np.arange(6), 2), 0.1, plt.subplots()[1], shown=2)
    drawn = np.concatenate([collection.get_offsets() for collection in ax.collections if len(collection.get_offsets())])
    assert len(drawn) == 24 and len(ax.lines) == 4  # a geodesic per submap of the two places in colour
    figure = plot_three_geometries(0.1)
    titles = [axis.get_title(loc="left") or axis.get_title() for axis in figure.axes]
    assert [title.split(":")[0] for title in titles] == ["Euclidean", "Spherical", "Hyperbolic"]
    random = lambda: {kind: torch.from_numpy(rng.random((4, 4))) for kind in ("cosine", "geodesic")}
    matrices = {name: random() for name in ("TT", "SS", "ST")}
    picture, alike = picture_of_relations(matrices, ["cosine", "geodesic"], (2, 2))
    figure = picture.figure
    assert alike["TT"] == pytest.approx(1) and abs(alike["SS"]) < 0.9
    images = [
        axis.images[0].get_array() for axis in figure.axes if axis.images and axis.images[0].get_array().shape == (4, 4)
    ]
    assert len(images) == 6 and np.array_equal(images[4], matrices["SS"]["geodesic"].numpy())


def test_projection_forgets_origin_and_length_and_stays_inside_the_disc():
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(10, 2)) @ rng.normal(size=(2, 6))  # lies in a plane: nothing is lost
    agents, share = project_to_disc({"teacher": 5 * flat + 3, "student": 0.1 * flat}, 0.1)
    assert np.allclose(agents["teacher"], agents["student"], atol=1e-6)
    assert np.linalg.norm(agents["teacher"], axis=1).max() < 1 / np.sqrt(0.1) and share == pytest.approx(1)
    _, share = project_to_disc({"teacher": rng.normal(size=(40, 30)), "student": rng.normal(size=(40, 30))}, 0.1)
    assert share < 0.4
