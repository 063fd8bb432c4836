"""What a profile asks for, read off its notebooks' parameters."""

import pytest

from vpr_lib.config import load_profile
from vpr_lib.workbook.run.needs import absent, needs_of
from vpr_lib.workbook.run.parameters import resolve
from vpr_lib.workbook.run.plan import load_workbook


def test_generated_profiles_need_no_data():
    for name, trunks in (("toy", {}), ("gpu", {}), ("city", {"resnet18": ("07_distilvpr",)})):
        needs = needs_of(name)
        assert not needs.data and not needs.weights and needs.trunks == trunks and needs.recipes


def test_light_needs_its_three_sets_and_one_trunk():
    needs = needs_of("light")
    assert set(needs.data) >= {"pitts30k_val", "msls_val", "gsv_cities_light"}
    assert needs.trunks == {"resnet50": ("02_mixvpr_training",)} and not needs.weights
    assert "mixvpr_paper+light_data" in needs.recipes


def test_registered_weights_take_the_place_of_trainings():
    profile = load_profile("light")
    settings = profile.notebooks["02_mixvpr_training"]
    changed = settings.model_copy(update={"parameters": settings.parameters | {"weights": "registered"}})
    needs = needs_of(profile.model_copy(update={"notebooks": {"02_mixvpr_training": changed}}))
    assert "mixvpr_resnet50_4096" in needs.weights and not needs.trunks and not needs.recipes


def test_released_asks_for_what_is_evaluated_only(tmp_path, monkeypatch):
    needs = needs_of("released")
    assert needs.trunks == {"dinov2_vitb14": ("05_dino_mix",)} and not needs.recipes
    assert not {"gsv_cities", "oxford_train"} & set(needs.data)
    monkeypatch.setenv("VPR_DATA", str(tmp_path))
    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "cache"))
    assert "pre-training" not in absent_of("released")["05_dino_mix"]  # it leaves a hole there


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"Known: .*light"):
        needs_of("nowhere")


def test_nothing_keeps_a_generated_profile_from_running(tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_DATA", str(tmp_path))
    for name in ("toy", "gpu", "distilvpr_table", "mixvpr_table"):
        assert not {notebook: why for notebook, why in absent_of(name).items() if why}
    light = absent_of("light")
    assert light["01_data_preparation"] == "not on this disk: pitts30k_val, msls_val: vpr data get NAME"
    assert "gsv_cities_light is not on this disk: vpr data get gsv_cities_light" in light["02_mixvpr_training"]
    released = absent_of("released")
    assert "no weights of mixvpr_resnet50_4096" in released["02_mixvpr_training"] and not released["08_results_tables"]
    assert "no weights of minklocpp_384" in released["07_distilvpr"]


def absent_of(name):
    profile, workbook = load_profile(name), load_workbook()
    given = {"profile": name, "run_id": "r"}
    return {
        notebook: absent(entry := workbook.find(notebook), resolve(entry.path, settings.parameters, {}, given))
        for notebook, settings in profile.notebooks.items()
    }
