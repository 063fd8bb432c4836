import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from vpr_lib.plotting.attention import choose_views, jet, overlay, plot_attention, repeated_views


def test_jet_is_opencvs():
    """Ends and corners of OpenCV's table, as red, green, blue; spec dinomix §6.1."""
    table = jet()
    assert table.shape == (256, 3) and table.dtype == np.uint8
    known = {
        0: (0, 0, 128),
        32: (0, 0, 255),
        96: (2, 255, 254),
        159: (254, 255, 1),
        160: (255, 252, 0),
        255: (128, 0, 0),
    }
    assert {index: tuple(int(v) for v in table[index]) for index in known} == known


def test_overlay_by_hand():
    maps, images = np.zeros((1, 1, 2)), np.zeros((1, 1, 2, 3), np.uint8)
    maps[0, 0, 1], images[0, 0, 1] = 1.0, 255
    blend = overlay(maps, images)  # heat (0, 0, 128) over black; heat (128, 0, 0) over white, which is the largest sum
    assert blend[0, 0, 1].tolist() == [255, int(255 / (128 / 255 + 1)), int(255 / (128 / 255 + 1))]
    assert blend[0, 0, 0].tolist() == [0, 0, int(255 * (128 / 255) / (128 / 255 + 1))]
    as_floats = overlay(maps, images / 255.0)
    assert np.array_equal(blend, as_floats)


def test_each_picture_has_its_own_scale():
    rng = np.random.default_rng(1)
    maps, images = rng.random((3, 5, 6)), rng.integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
    assert np.array_equal(overlay(maps, images)[1:2], overlay(maps[1:2], images[1:2]))
    assert overlay(maps, images).max(axis=(1, 2, 3)).tolist() == [255, 255, 255]


def test_overlay_refuses():
    with pytest.raises(ValueError, match=r"need images \(1, 4, 4, 3\), got \(1, 5, 4, 3\)"):
        overlay(np.zeros((1, 4, 4)), np.zeros((1, 5, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="between 0 and 1, got 0 to 2"):
        overlay(np.linspace(0, 2, 16).reshape(1, 4, 4), np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="between 0 and 1, got nan"):
        overlay(np.full((1, 4, 4), np.nan), np.zeros((1, 4, 4, 3), np.uint8))


def test_the_grid_holds_images_and_overlays():
    images = np.random.default_rng(1).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    figure = plot_attention({"a": np.zeros((2, 28, 28)), "b": np.ones((2, 56, 56))}, images, ["night", "snow"])
    pictures = [ax.images[0].get_array() for ax in figure.axes if ax.images and ax.get_label() != "<colorbar>"]
    assert [picture.shape[:2] for picture in pictures] == [(28, 28), (28, 28), (56, 56)] * 2
    assert np.array_equal(pictures[0], images[0])
    assert np.array_equal(pictures[1], overlay(np.zeros((1, 28, 28)), images[:1])[0])
    plt.close(figure)


def test_pictures_are_drawn_as_they_are():
    images, colours = np.zeros((1, 8, 8, 3), np.uint8), np.random.default_rng(1).random((1, 2, 2, 3))
    figure = plot_attention({"tokens": colours}, images, ["day"])
    assert len(figure.axes) == 2 and np.array_equal(figure.axes[1].images[0].get_array(), colours[0])  # no colour bar
    plt.close(figure)


def test_views_of_one_place_under_the_conditions():
    words = [["day"], ["night"], ["day"], ["night", "rain"], ["night"], ["winter"], ["occluded", "day"]]
    east = [0, 0, 5, 5, 5, 5, 9]
    table = pd.DataFrame({"conditions": words, "utm_east": east, "utm_north": 0})
    for seed in range(3):
        rows, names = choose_views(table, ["day", "night", "winter", "occluded"], seed)
        assert rows == [2, 4, 5, 6] and names == ["day", "night", "winter", "day occluded"]
    assert choose_views(table, ["fog", "day"], 1)[1] == ["day"]
    both = pd.DataFrame(
        {"conditions": [["day", "occluded"], ["fog", "occluded"], ["day"]], "utm_east": [1, 1, 2], "utm_north": 0}
    )
    assert choose_views(both, ["day", "occluded"], 1)[1] == ["day", "fog occluded"]  # not the same picture twice
    plain = choose_views(table[["utm_east"]], ["day", "night"], 1)
    assert len(set(plain[0])) == 2 and plain == choose_views(table[["utm_east"]], ["day", "night"], 1)


def test_repeated_views():
    table = pd.DataFrame({
        "utm_east": [0, 0, 5, 5, 9], "utm_north": 0, "heading_deg": 90,
        "conditions": [["day"], ["night"], ["day"], ["night"], ["fog"]],
    })  # fmt: skip
    same, other = repeated_views(table)
    assert same.tolist() == [1, 0, 3, 2, -1] and other.tolist() == [2, 3, 0, 1, -1]
