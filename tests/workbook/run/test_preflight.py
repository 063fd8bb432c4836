"""`vpr check`: what is here and what is not, hours from a measured speed, time-outs that follow from them."""

import json

import pytest
import small
from typer.testing import CliRunner

from vpr_lib.cli import _register, app
from vpr_lib.config import load_profile
from vpr_lib.workbook.run import preflight, steps
from vpr_lib.workbook.run.preflight import in_words, look_ahead, trainings


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk with Pitts30k-val and one checkpoint, on a machine that describes ten images a second."""
    monkeypatch.setenv("VPR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(preflight, "images_per_second", lambda profile: 10.0)
    small.pitts30k_val_archive(tmp_path / "data" / "pitts30k-val", n=2)
    return tmp_path / "data"


def test_what_is_here_and_what_is_left_out(disk):
    small.register("mixvpr_resnet50_128")
    found = look_ahead("released")
    assert (
        found.missing["msls_val"] == "vpr data get msls_val (fetched, 2.4 GB)" and "pitts30k_val" not in found.missing
    )
    assert found.missing["tokyo247"] == "vpr data get tokyo247 (says what to do by hand, 16.0 GB)"
    assert found.missing["mixvpr_resnet50_512"] == "vpr weights get mixvpr_resnet50_512 (~40 MB)"
    assert found.missing["dinomix_vits14_4096"].endswith("(tells where: not for programs)")
    assert found.missing["clusvpr_vgg16_8192"].startswith("nobody publishes them")
    assert not {"gsv_cities", "oxford_train"} & set(found.missing)  # nothing is trained
    splits = ["pitts30k_test", "pitts250k_test", "msls_val"]  # two of them in one folder
    assert preflight._to_fetch_gb(splits) == pytest.approx(20.0 + 2.4)
    assert "mixvpr_resnet50_128" not in found.missing and "02_mixvpr_training" not in found.left_out
    assert "not on this disk: oxford, boreas: vpr data get NAME" in found.left_out["07_distilvpr"]
    images = 10_000 + 7_608  # of Pitts30k-val, described by every model that notebook 02 names
    models = 9
    assert found.hours["02_mixvpr_training"] == pytest.approx(models * images / 10 / 3600)
    text = "\n".join(in_words(found))
    for part in (
        "data: 1 of",
        "weights: 1 of",
        "○ msls_val: vpr data get msls_val (fetched",
        "at once: vpr weights get --profile released; vpr data get --profile released",
        "10 images/s measured",
        "left out: 07_distilvpr",
    ):
        assert part in text


def test_hours_and_limits_of_trainings_follow_the_measured_speed(disk, monkeypatch):
    small.gsv_cities(disk / "gsv_cities_light", places=2)
    monkeypatch.setattr("vpr_lib.models.registration.find_leave", lambda: True)
    found, light = look_ahead("light"), load_profile("light")
    images = 1.2 * preflight.IMAGES_PER_GB
    trained = (
        5 * 3 * 40 * images
    )  # MixVPR, two rivals, a smaller one, one without mixers; three passes a step; 40 epochs
    described = 4 * (10_000 + 7_608)
    hours = found.hours["02_mixvpr_training"]
    assert hours == pytest.approx((trained + described) / 10 / 3600, rel=0.01)
    assert found.limits["02_mixvpr_training"] == pytest.approx(
        3 * 3600 * hours
    )  # longer than the profile's eight hours
    assert found.limits["01_data_preparation"] == light.notebooks["01_data_preparation"].timeout_s


def test_every_run_of_a_notebook_is_counted():
    values = {name: load_profile("paper").notebooks[name].parameters for name in load_profile("paper").notebooks}
    runs = lambda name, **rest: dict(trainings(rest | values[name]))
    assert runs("02_mixvpr_training", seeds=[1]) == {"mixvpr_paper": 1 + 5 + 2 + 4 + 4}
    assert runs("04_knowledge_distillation") == {"mixvpr_paper": 1, "light_kd_paper": 1 + 3 * 3 + 1}
    assert runs("06_clusvpr_attention") == {"clusvpr_paper": 2 + 6}
    cross = runs("07_distilvpr", manifold_seeds=3)
    assert (cross["distilvpr_oxford_student"], cross["distilvpr_boreas_student"]) == (11 + 21, 11)
    assert trainings({"recipe": "toy_dinomix", "cnn_recipes": ["toy"]}) == [("toy", 1), ("toy_dinomix", 1)]


def test_the_command(disk, tmp_path):
    _register()
    done = CliRunner().invoke(app, ["check", "--profile", "released", "--json", str(tmp_path / "c.json")])
    assert done.exit_code == 1 and "left out: 05_dino_mix: no weights of dinomix_vitb14_4096" in done.output
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["images_per_s"] == 10.0 and "07_distilvpr" in told["left_out"] and told["free_gb"] > 0
    assert CliRunner().invoke(app, ["check", "--profile", "toy"]).exit_code == 0


def test_a_run_keeps_to_the_limits_it_is_given(chain, monkeypatch):
    seen = {}
    attempt = steps._attempt
    monkeypatch.setattr(
        steps, "_attempt", lambda run, entry, job: seen.update({job.name: job.timeout_s}) or attempt(run, entry, job)
    )
    chain.run(limits={"01_data": 1234.0})
    assert seen["01_data"] == 1234.0 and seen["02_train"] == 300.0  # what the profile says: at least five minutes
