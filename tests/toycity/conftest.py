"""A toy city small enough for tests, all its subsets rendered once per session."""

import pytest

from vpr_lib.toycity import SUBSETS, ToyCitySpec, ensure

TINY = ToyCitySpec(
    image_size=(32, 40), street_m=60.0, streets_per_city=1, places_per_street=2, views_per_place=6, start_streets=1,
    val_streets=1, test_streets=2, poses_per_street=3, query_conditions=("day", "night_rain"), traverse_frames=6,
    run_conditions=("day", "night", "winter"), runs_train_streets=1, runs_test_streets=1, run_street_m=40.0,
    run_image_size=(30, 40),
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """{subset: folder} of the tiny city."""
    root = tmp_path_factory.mktemp("toycity")
    return {subset: ensure(TINY, subset, root, workers=1) for subset in SUBSETS}
