"""Every profile that wants real data, executed on miniatures in the exact layouts: whole, with holes, with nothing at all."""

import matplotlib
import matplotlib.pyplot as plt
import pytest
import small

from vpr_lib.models import zoo
from vpr_lib.workbook.book import session
from vpr_lib.workbook.run.needs import absent
from vpr_lib.workbook.run.parameters import resolve
from vpr_lib.workbook.run.plan import load_workbook

pytestmark = pytest.mark.slow
RELEASED = ("mixvpr_resnet50_4096", "mixvpr_resnet50_512", "mixvpr_resnet50_128", "convap_resnet50_4096",
            "lightmixvpr_kd_resnet18_512", "dinomix_vitb14_4096", "clusvpr_vgg16_8192")  # fmt: skip
FEW = dict(latency_models=["mixvpr_resnet50_128"])


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Small models under the full-size names, trainings that end at once, and a project folder of its own."""
    matplotlib.use("Agg")
    monkeypatch.setenv("VPR_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("vpr_lib.paths.runs_root", lambda: tmp_path / "runs")
    monkeypatch.setattr("vpr_lib.paths.figures_root", lambda: tmp_path / "figures")
    for name in list(zoo.ZOO):
        monkeypatch.setitem(zoo.ZOO, name, small.small(name))
    monkeypatch.setattr(session.Book, "train", small.untrained)
    monkeypatch.setattr(session, "load_profile", lambda name: small.profile_for_miniatures(name))
    monkeypatch.setattr("vpr_lib.models.pretraining.find_leave", lambda: True)
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
    small.pitts30k_test(bench / "pittsburgh")
    small.pitts30k_val_archive(bench / "pitts30k-val")
    small.msls_val_archive(bench / "msls-val")
    small.sped(bench / "vpr_bench" / "SPEDTEST")
    small.register(*RELEASED)
    released, sentinels = profile("released"), {}
    for name in released.notebooks:
        if why := why_absent("released", name):
            assert name == "07_distilvpr" and "vpr data get oxford" in why, (name, why)
            continue
        sentinels[name] = small.run_notebook(name, released)
    holes = sentinels["02_mixvpr_training"]["holes"]
    assert "linked in the table of the README" in holes["convap_resnet50_8192"] and "nordland_2760" in holes
    assert (
        "vpr weights get lightmixvpr_mobilenet_v2_1024"
        in sentinels["03_lightweight_backbones"]["holes"]["lightmixvpr_mobilenet_v2_1024"]
    )
    assert all(sentinels[name]["stopped"] for name in sentinels if name[:2] in ("02", "03", "05", "06"))
    table = (bench.parent / "figures/released/08_recalls.csv").read_text()
    assert all(name in table for name in ("mixvpr_resnet50_512", "msls_val@740", "sped@listed", "dinomix_vitb14_4096"))


def test_nothing_at_all_leaves_every_notebook_out_with_its_commands(bench):
    for name in profile("released").notebooks:
        why = why_absent("released", name)
        if name.startswith(("00", "08")):
            assert not why
        else:
            assert "vpr data get" in why, name
    assert "vpr weights get" in why_absent("released", "02_mixvpr_training")
    told = small.run_notebook("08_results_tables", profile("released"))
    assert "nothing was measured" in told["headline"] and told["stopped"]
