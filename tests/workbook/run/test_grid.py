"""The papers' grid: every published recall of the eight tables that can be had is measured by `released` or `paper`."""

import ast

import pandas as pd
import pytest

from vpr_lib.config import load_profile
from vpr_lib.data.catalogue import load_table
from vpr_lib.models.zoo import ZOO
from vpr_lib.results.paper_tables import layouts, paper_table
from vpr_lib.training.recipes import load_recipe
from vpr_lib.workbook.run.needs import COUNTED, words_of
from vpr_lib.workbook.run.parameters import read_parameters
from vpr_lib.workbook.run.plan import load_workbook

NOT_BUILT = {"Gated NetVLAD", "SPE-NetVLAD", "Patch-NetVLAD", "TransVPR", "SARE", "HAF", "GPM", "GCL-NetVLAD", "DistilVPR-SC",
             "MAX", "SPOC", "MAC", "RMAC", "RRM", "CRN"}  # fmt: skip  # no weights, and no exact description, at hand
NOT_THERE = {  # of which nobody publishes weights; of which the published ones are shown alone
    "released": {"NetVLAD", "GeM", "AVG", "ClusVPR"},
    "paper": {
        "SFRS",
        "Lightweight-MixVPR KD",
    },  # trained here, the second is notebook 04's control: its term teaches nothing
}


def recalls_of(profile):
    """What the profile's notebooks would write, all at 50 %: a row per model, its descriptor's length and protocol."""
    rows = []
    for notebook, settings in load_profile(profile).notebooks.items():
        known = read_parameters(load_workbook().find(notebook).path)
        values = {key: ast.literal_eval(str(one.default)) for key, one in known.items()} | settings.parameters
        if notebook[:2] not in ("02", "03", "05", "06", "07"):
            continue
        words = [word for key, value in values.items() if key not in COUNTED for word in words_of(value)]
        recipes = [
            word
            for key in ("recipe", "teacher_recipe", "student_recipe", "further")
            for word in words_of(values.get(key, ""))
        ]
        models = [word for word in words if word in ZOO] + [
            load_recipe(w).model for w in recipes if "paper" in w or "distil" in w
        ]
        cards = [
            card for word in words if word in load_table().datasets for card in load_table().datasets[word].protocols
        ]
        for model in dict.fromkeys(models):
            for dim in (
                model.rsplit("_", 1)[-1],
                *(values.get("whitened", ()) if model == "clusvpr_vgg16_8192" else ()),
            ):
                rows += [{"model": model, "system": ZOO[model].system, "dim": dim, "protocol": card, "seed": 1, "card": "c"}
                         | {f"R@{k}{end}": 50.0 for k in ("1", "5", "10", "1%") for end in ("", " low", " high")} for card in cards]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("profile, filled", [("released", 137), ("paper", 155)])
def test_every_recall_that_can_be_had_is_filled(profile, filled):
    measured, seen = recalls_of(profile), 0
    for name in layouts().tables:
        cells = paper_table(name, measured).tidy
        cells = cells[cells["metric"].str.contains("recall") & cells["published"].notna()]
        seen += (cells["verdict"] != "not measured").sum()
        for cell in cells[cells["verdict"] == "not measured"].to_dict("records"):
            assert (
                cell["method"] in NOT_BUILT | NOT_THERE[profile]
                or not cell["D"]  # its size is not stated: nothing is put beside it
                or cell["dataset"] == "msls_test"  # the server's
                or (profile, cell["dataset"]) == ("paper", "pitts30k_val")  # it chooses the epoch
            ), (name, cell["method"], cell["backbone"], cell["D"], cell["protocol"])
    assert seen == filled


def test_the_rivals_of_dino_mix_are_measured_on_its_six_sets():
    six = set(paper_table("dinomix").tidy["dataset"])
    for profile, models in (("released", {"convap_resnet50_4096", "cosplace_resnet50_2048", "mixvpr_resnet50_4096"}),
                            ("paper", {"mixvpr_resnet18_512", "netvlad_resnet50_32768", "cosplace_resnet50_2048", "gem_resnet50_2048"})):  # fmt: skip
        own = recalls_of(profile)
        for model in models:
            cards = set(own["protocol"][own["model"] == model])
            sets = {name for name in six if cards & set(load_table().datasets[name].protocols)}
            assert sets == six, (profile, model, six - sets)
