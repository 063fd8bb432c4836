"""Pictures: reproducible, and different where the conditions say so.

Covers toycity.buildings, toycity.canvas, toycity.clutter, toycity.columns, toycity.facade_tiles, toycity.furniture,
toycity.ground, toycity.prop_tiles, toycity.sky, toycity.textures, toycity.walls.
"""

import numpy as np
import pytest

from vpr_lib.toycity import contact_sheet
from vpr_lib.toycity.atlas import RipAtlas, fractal_noise
from vpr_lib.toycity.conditions import CONDITIONS, SEASONS, TIMES, WEATHERS, Condition, Visit, random_condition
from vpr_lib.toycity.looks import LOOKS
from vpr_lib.toycity.render import render
from vpr_lib.toycity.street import Street
from vpr_lib.toycity.view import Pose

POSE, SIZE = Pose(60.0, -0.5, 4.0), (64, 80)


@pytest.fixture(scope="module")
def street():
    return Street(5, 1, 120.0)


def shoot(street, condition, seed=7, **options):
    visit = Visit.sample(condition, seed)
    return render(street, visit, POSE, SIZE, 1, **options).astype(np.float64)


def test_equal_arguments_give_equal_pictures(street):
    again = Street(5, 1, 120.0)
    for name in ("day", "night_rain"):
        assert (shoot(street, CONDITIONS[name]) == shoot(again, CONDITIONS[name])).all()
    assert (again.prisms == street.prisms).all()


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("weather", WEATHERS)
def test_every_condition_renders(street, time, weather):
    for season in SEASONS:
        image = shoot(street, Condition(time, weather, season))
        assert image.shape == (*SIZE, 3) and image.std() > 8


@pytest.mark.parametrize("kind", range(12))
def test_streets_of_all_kinds_and_both_directions_render(kind):
    street = Street(100 + kind, 2, 50.0)
    for yaw, occluded in ((0, True), (180, False), (90, False), (-75, True)):
        visit = Visit.sample(random_condition(np.random.default_rng(kind)), kind)
        image = render(street, visit, Pose(25.0, 0.0, yaw), (24, 32), 0, occluded)
        assert image.dtype == np.uint8 and image.std() > 3


def test_there_is_a_street_of_every_type():
    assert {Street(seed, 3, 10.0).kind for seed in range(40)} == set(LOOKS.streets)


def test_night_is_darker_and_fog_is_flatter(street):
    day, night, fog = (np.mean([shoot(street, CONDITIONS[n], s) for s in range(4)], 0) for n in ("day", "night", "fog"))
    assert night.mean() < 0.8 * day.mean()
    far = (slice(20, 36), slice(30, 50))  # towards the vanishing point
    assert fog[far].std() < 0.6 * day[far].std()


def test_winter_covers_the_ground_and_dusk_reddens_the_sky(street):
    overcast, winter, dusk = (
        shoot(street, Condition(*c)) for c in (("day", "overcast"), ("day", "overcast", "winter"), ("dusk",))
    )
    assert winter[-16:].mean() > overcast[-16:].mean() + 25
    sky = dusk[18:30, 36:44]
    assert sky[..., 0].mean() > sky[..., 2].mean() + 15


def test_visits_differ_by_their_clutter_and_an_occluder_hides_the_middle(street):
    plain = shoot(street, CONDITIONS["overcast"])
    assert (plain != shoot(street, CONDITIONS["overcast"], seed=8)).mean() > 0.3
    assert np.abs(shoot(street, CONDITIONS["overcast"], occluded=True) - plain)[20:50, 20:60].mean() > 10


def test_supersampling_keeps_the_picture_and_softens_it(street):
    plain, fine = (shoot(street, CONDITIONS["overcast"], supersampling=n) for n in (1, 2))
    assert plain.shape == fine.shape and np.abs(plain.mean((0, 1)) - fine.mean((0, 1))).max() < 6


def test_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match="'noon' is not one of day, dusk, night"):
        Condition(time="noon")


def test_contact_sheet_has_a_row_per_place(tiny):
    sheet = contact_sheet(tiny, "test", places=3, conditions=("day", "night"), image_size=(20, 30))
    assert sheet.shape == (60, 60, 3) and sheet[:, :30].mean() > sheet[:, 30:].mean()


def test_reductions_average_the_tile():
    tiles = np.random.default_rng(0).random((2, 8, 8, 1)).astype(np.float32)
    atlas = RipAtlas(tiles)
    zero = np.zeros(1, np.int64)
    whole = atlas.sample(zero + 1, np.array([0.3]), np.array([0.9]), zero + 3, zero + 3)
    assert whole[0, 0] == pytest.approx(tiles[1].mean(), abs=0.01)
    row = atlas.sample(zero, np.array([0.5]), np.array([2.5 / 8]), zero + 3, zero)  # all of row 2 from below
    assert row[0, 0] == pytest.approx(tiles[0, 2].mean(), abs=0.01)
    texel = atlas.sample(zero, np.array([5.5 / 8]), np.array([2.5 / 8]), zero, zero)
    assert texel[0, 0] == pytest.approx(tiles[0, 2, 5, 0], abs=0.01)


def test_noise_is_tileable():
    noise = fractal_noise(64, 1, 2.0)
    seam, inside = np.abs(noise[:, 0] - noise[:, -1]).mean(), np.abs(np.diff(noise, axis=1)).mean()
    assert seam < 1.5 * inside and noise.std() == pytest.approx(1, abs=1e-3)
