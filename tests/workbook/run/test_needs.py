"""What a profile asks for, read off its notebooks' parameters."""

import pytest

from vpr_lib.config import load_profile
from vpr_lib.workbook.run.needs import needs_of


def test_generated_profiles_need_no_data():
    for name, trunks in (("toy", {}), ("city", {"resnet18": ("07_distilvpr",)})):
        needs = needs_of(name)
        assert not needs.data and not needs.weights and needs.trunks == trunks and needs.recipes


def test_light_needs_its_three_sets_and_one_trunk():
    needs = needs_of("light")
    assert set(needs.data) >= {"pitts30k_val", "msls_val", "gsv_cities_light"}
    assert needs.trunks == {"resnet50": ("02_mixvpr_training", "09_retrieval_explorer")} and not needs.weights
    assert "mixvpr_paper+light_data" in needs.recipes


def test_registered_weights_take_the_place_of_trainings():
    profile = load_profile("light")
    settings = profile.notebooks["02_mixvpr_training"]
    changed = settings.model_copy(update={"parameters": settings.parameters | {"weights": "registered"}})
    needs = needs_of(profile.model_copy(update={"notebooks": {"02_mixvpr_training": changed}}))
    assert "mixvpr_resnet50_4096" in needs.weights and not needs.trunks and not needs.recipes


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Known: .*light"):
        needs_of("nowhere")
