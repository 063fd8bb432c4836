"""Every profile that wants real data, executed on miniatures in the exact layouts: whole, with holes, with nothing at all.

Covers workbook.book.released.
"""

from dataclasses import replace
from functools import cache

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import small

from vpr_lib.models import zoo
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.cost import cost_of_model
from vpr_lib.results.precision import trust_table
from vpr_lib.toycity.city import PRESETS
from vpr_lib.toycity.contact import contact_sheet
from vpr_lib.training import recipes
from vpr_lib.workbook.book import session
from vpr_lib.workbook.run.needs import absent
from vpr_lib.workbook.run.parameters import resolve
from vpr_lib.workbook.run.plan import load_workbook

pytestmark = pytest.mark.slow
RELEASED = ("mixvpr_resnet50_4096", "mixvpr_resnet50_512", "mixvpr_resnet50_128", "convap_resnet50_4096",
            "lightmixvpr_kd_resnet18_512", "dinomix_vitb14_4096", "clusvpr_vgg16_8192")  # fmt: skip
FEW = dict(latency_models=["mixvpr_resnet50_128"])


SHEET = cache(contact_sheet)  # the same picture in every profile


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Small models under the full-size names, trainings that end at once, and a project folder of its own."""
    matplotlib.use("Agg")
    monkeypatch.setenv("VPR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("vpr_lib.paths.runs_root", lambda: tmp_path / "runs")
    monkeypatch.setattr("vpr_lib.paths.figures_root", lambda: tmp_path / "figures")
    for name in list(zoo.ZOO):
        monkeypatch.setitem(zoo.ZOO, name, small.small(name))
    for place in ("zoo", "minkloc"):  # no pre-training is as narrow
        monkeypatch.setattr(
            f"vpr_lib.models.{place}.build_backbone", lambda name, pretrained, **given: build_backbone(name, **given)
        )
    monkeypatch.setattr(
        "vpr_lib.models.cost.cost_of_model", lambda model, batches=(1,), *_: cost_of_model(model, batches, 0.001)
    )
    monkeypatch.setattr("vpr_lib.results.precision.trust_table", lambda table, **_: trust_table(table, resamples=10))
    monkeypatch.setattr("vpr_lib.toycity.contact.contact_sheet", SHEET)
    monkeypatch.setattr(recipes, "load_recipe", small.small_recipe(recipes.load_recipe))
    monkeypatch.setattr(session.Book, "train", small.untrained)
    monkeypatch.setattr(session, "load_profile", lambda name: small.profile_for_miniatures(name))
    for place in ("pretraining", "registration"):
        monkeypatch.setattr(f"vpr_lib.models.{place}.find_leave", lambda: True)
    monkeypatch.setattr("vpr_lib.workbook.book.show._display", lambda *_: None)  # no page here to show pictures on
    yield tmp_path / "data"
    plt.close("all")


def profile(name):
    return small.profile_for_miniatures(name)


def why_absent(name, notebook):
    entry = load_workbook().find(notebook)
    return absent(
        entry, resolve(entry.path, profile(name).notebooks[notebook].parameters, {}, {"profile": name, "run_id": "r"})
    )


def test_light_runs_on_archives_without_positions(bench):
    small.pitts30k_val_archive(bench / "pitts30k-val")
    small.msls_val_archive(bench / "msls-val")
    small.gsv_cities(bench / "gsv_cities_light")
    light = profile("light")
    for name in light.notebooks:
        extra = FEW if name.startswith("02") else {}
        sentinel = small.run_notebook(name, light, **extra)
        assert not sentinel["holes"] and not sentinel["stopped"], (name, sentinel["holes"])
        assert set(load_workbook().find(name).makes) <= {output["name"] for output in sentinel["outputs"]}, name


def test_light_with_one_set_and_no_places(bench):
    small.msls_val_archive(bench / "msls-val")
    told = small.run_notebook("01_data_preparation", profile("light"))
    assert "vpr data get gsv_cities_light" in told["holes"]["01_training_places.png"]
    assert "gsv_cities_light is not on this disk: vpr data get gsv_cities_light" in why_absent(
        "light", "02_mixvpr_training"
    )


def test_released_fills_its_tables_and_names_its_holes(bench):
    small.pitts30k(bench / "pittsburgh", "pitts30k_test")
    small.pitts30k_val_archive(bench / "pitts30k-val")
    small.msls_val_archive(bench / "msls-val")
    small.sped(bench / "vpr_bench" / "SPEDTEST")
    small.register(*RELEASED)
    released, sentinels = profile("released"), {}
    for name in released.notebooks:
        if why := why_absent("released", name):
            assert name == "07_distilvpr" and "oxford, boreas: vpr data get NAME" in why, (name, why)
            continue
        sentinels[name] = small.run_notebook(name, released)
    holes = sentinels["02_mixvpr_training"]["holes"]
    assert "vpr weights get convap_resnet50_8192" in holes["convap_resnet50_8192"] and "nordland_2760" in holes
    assert (
        "vpr weights get lightmixvpr_mobilenet_v2_1024"
        in sentinels["03_lightweight_backbones"]["holes"]["lightmixvpr_mobilenet_v2_1024"]
    )
    assert all(sentinels[name]["stopped"] for name in sentinels if name[:2] in ("02", "03", "05", "06"))
    table = (bench.parent / "figures/released/08_recalls.csv").read_text()
    names = (
        "mixvpr_resnet50_512",
        "msls_val@740",
        "sped@listed",
        "dinomix_vitb14_4096 majority vote",
        "avg_dinov2_vitb14_768",
        "clusvpr_vgg16_8192 reranked",
    )
    assert all(name in table for name in names)


def test_one_teacher_and_its_drives_are_enough(bench):
    small.boreas(bench / "boreas")
    small.register("minklocpp_boreas_384")
    assert not why_absent("released", "07_distilvpr")
    told = small.run_notebook("07_distilvpr", profile("released"))
    assert set(told["holes"]) >= {"oxford", "minklocpp_384"} and told["headline"].startswith(
        "1 of 2 released models on 1 of 2"
    )
    assert "minklocpp_boreas_384" in (bench.parent / "figures/released/07_registered.csv").read_text()


FEWER = {  # of a notebook: fewer arms and quicker measurements than the profile asks for
    "02": dict(latency_models=["mixvpr_resnet50_128"], depths=[0]),
    "03": dict(sized=["mixvpr_resnet50_4096", "lightmixvpr_resnet18_512"], seconds=0.01, batches=[1, 2], runtimes=[]),
    "05": dict(tested=12, query_modes=["nearest_crop"], transforms=["evaluator"]),
    "06": dict(whitened=[8], whitening_images=40, ablations=["cwt0", "no_token_weight"]),
    "07": dict(seeds=[1], manifold_seeds=1),
    "08": dict(clocked=[]),
}
FEW_METHODS = dict(methods=["none", "CSD", "SC"], manifolds=["H"])


def run_all(name, distillation=FEW_METHODS):
    """Every notebook of a profile that can show something; its sentinel, or why it was left out."""
    found, chosen = {}, profile(name)
    for notebook in chosen.notebooks:
        if not (why := why_absent(name, notebook)):
            fewer = FEWER.get(notebook[:2], {}) | (distillation if notebook.startswith("07") else {})
            why = small.run_notebook(notebook, chosen, **fewer)
        found[notebook] = why
    return found


def made_everything(found):
    """Declared outputs that neither exist nor are holes, by notebook."""
    made = {name: {output["name"] for output in told["outputs"]} | set(told["holes"]) for name, told in found.items()}
    return {name: lost for name in found if (lost := set(load_workbook().find(name).makes) - made[name])}


def test_paper_with_a_set_and_the_drives_of_boreas_missing(bench):
    small.pitts30k(bench / "pittsburgh", "pitts30k_test", "pitts30k_train")
    small.pitts30k_val_archive(bench / "pitts30k-val")
    small.msls_val_archive(bench / "msls-val")
    small.sped(bench / "vpr_bench" / "SPEDTEST")
    small.tokyo(bench / "tokyo247")
    small.gsv_cities(bench / "gsv_cities")
    small.oxford(bench / "oxford")
    found = run_all("paper")
    assert not made_everything(found)
    holes = {name: told["holes"] for name, told in found.items()}
    assert holes["02_mixvpr_training"]["nordland_2760"] == "Not on this disk: vpr data get nordland_2760"
    assert holes["07_distilvpr"]["distilvpr_boreas_student"] == "Not on this disk: vpr data get boreas"
    assert not any(told["stopped"] for told in found.values())
    table = pd.read_csv(bench.parent / "figures/paper/08_recalls.csv")
    measured = set(zip(table["model"], table["protocol"]))
    assert measured >= {("mixvpr_resnet101_4096", "sped@listed"), ("dinomix_vitl14_4096", "tokyo247@nms"),
                        ("dinomix_vitb14_4096 nearest crop", "tokyo247"), ("clusvpr_vgg16_8192, PCA 8 reranked", "tokyo247@nms"),
                        ("clusvpr_vgg16_8192, PCA 8", "tokyo247+free_queries")}  # fmt: skip
    assert any(name.startswith("distilvpr_oxford_student+cloud_teacher: SC") for name, _ in measured)


def test_drives_of_boreas_and_a_trunk_that_is_missing(bench, monkeypatch):
    small.oxford(bench / "oxford")
    small.boreas(bench / "boreas")
    few = FEWER["07"] | FEW_METHODS
    told = small.run_notebook("07_distilvpr", profile("paper"), **few)
    assert set(told["holes"]) == set() and "07_further.csv" in {output["name"] for output in told["outputs"]}
    monkeypatch.undo()
    monkeypatch.setenv("VPR_DATA", str(bench))
    monkeypatch.setattr("vpr_lib.models.registration.find_leave", lambda: False)
    monkeypatch.setattr("vpr_lib.models.registration.is_here", lambda name: False)
    assert "the pre-training of resnet18 is not here: vpr weights get resnet18" in why_absent("paper", "07_distilvpr")


def test_city_runs_on_a_small_one(bench, monkeypatch):
    monkeypatch.setitem(PRESETS, "city", replace(PRESETS["city"], **small.TINY))
    assert not made_everything(run_all("city"))


def test_distilvpr_table_runs_on_a_small_town(bench, monkeypatch):
    monkeypatch.setitem(PRESETS, "toy", replace(PRESETS["toy"], **small.TINY))
    found = run_all("distilvpr_table", {})
    assert not made_everything(found)
    gains = pd.read_csv(bench.parent / "figures/distilvpr_table/07_methods.csv")
    assert len(gains) == 12


def test_mixvpr_table_measures_what_the_toy_profile_leaves_out(bench, monkeypatch):
    monkeypatch.setitem(PRESETS, "toy", replace(PRESETS["toy"], **small.TINY))
    monkeypatch.setitem(PRESETS, "town", replace(PRESETS["town"], **small.TINY))
    fewer = dict(seeds=[1], shares=[8], place_counts=[2, 3], step_counts=[1], budgeted=["gem_lite0_112"]) | FEWER["02"]
    told = small.run_notebook("02_mixvpr_training", profile("mixvpr_table"), **fewer)
    unknown = {line["key"] for line in told["findings"] if line["verdict"] == "not measured"}
    assert unknown == {"a_tiny_descriptor_costs_little"}  # these descriptors cannot be so many times shorter


def test_nothing_at_all_leaves_every_notebook_out_with_its_commands(bench):
    for name, makes_its_own in (("released", ("00", "08")), ("paper", ("08",)), ("light", ("08",))):
        for notebook in profile(name).notebooks:
            why = why_absent(name, notebook)
            assert not why if notebook.startswith(makes_its_own) else "vpr data get" in why, (name, notebook)
    assert "vpr weights get" in why_absent("released", "02_mixvpr_training")
    told = small.run_notebook("08_results_tables", profile("released"))
    assert "nothing was measured" in told["headline"] and told["stopped"]
