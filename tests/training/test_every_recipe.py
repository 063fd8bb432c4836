"""Every recipe that is shipped takes a step: its loss, optimiser, augmentation and miner, with a small model on a miniature of its data."""

import math
import sys
from pathlib import Path

import pytest
import torch

from vpr_lib.config import RECIPES_FOLDER
from vpr_lib.data.places import Places
from vpr_lib.data.readers.gsv_cities import read_gsv_cities
from vpr_lib.data.readers.pointnetvlad import read_boreas_tuples, read_oxford_tuples
from vpr_lib.data.tuples import place_tuples
from vpr_lib.models import minkloc, zoo
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.checkpoints import save_weights
from vpr_lib.models.zoo import build_model
from vpr_lib.training import recipes
from vpr_lib.training.crossmodal import train_crossmodal

sys.path.append(str(Path(__file__).resolve().parents[1] / "workbook" / "run"))
import small

RECIPES = sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml"))
VARIANTS = [  # that another model or another way of reading comes with
    "mixvpr_paper+resnet18", "mixvpr_paper+resnext50", "mixvpr_paper+swin", "mixvpr_paper+in_parts", "mixvpr_paper+openvprlab",
    "convap_paper+netvlad", "convap_paper+cosplace", "light_paper+resnet18", "light_paper+efficientnet", "light_kd_paper+control",
    "light_kd_paper+proj", "light_kd_paper+feature", "clusvpr_paper+plain_netvlad", "clusvpr_paper+no_soft", "dinomix_paper+second_stage",
    "distilvpr_oxford_teacher+cloud", "distilvpr_oxford_student+cloud", "distilvpr_oxford_student+cloud_teacher",
    "distilvpr_boreas_teacher+cloud", "distilvpr_boreas_student+cloud", "distilvpr_boreas_student+cloud_teacher",
    "distilvpr_toy_teacher+cloud", "distilvpr_toy_student+cloud",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    manifest = read_gsv_cities(small.gsv_cities(root / "gsv_cities", places=5, images=4))
    drives = read_oxford_tuples(small.oxford(root / "oxford")), read_boreas_tuples(small.boreas(root / "boreas"))
    return manifest, dict(zip(("oxford", "boreas"), drives))


def shortened(recipe):
    """One step of few places, on a CPU, from chance."""
    fit = dict(epochs=1, warmup_steps=0, max_steps_per_epoch=1, precision="fp32")
    changes = dict(pretrained=False, validation=None, workers=0, fit=recipe.fit.model_copy(update=fit))
    if recipe.kind == "crossmodal":
        return recipe.model_copy(update=changes | {"batch_size": 8})
    places = recipe.places.model_copy(update={"places_per_batch": 4, "rate_for_places": None, "rate_scaling": "none"})
    changes |= {"start": None, "places": places}
    if recipe.tuples:
        counts = dict(tuples_per_batch=2, negatives=2, difficult=1, queries_per_refresh=8)
        changes["tuples"] = recipe.tuples.model_copy(update=counts)
    return recipe.model_copy(update=changes)


@pytest.mark.parametrize("name", RECIPES + VARIANTS)
def test_a_recipe_takes_a_step(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "cache"))
    for known in list(zoo.ZOO):
        if "lite0" not in known and known != "places":  # their trunk is installed, and small
            monkeypatch.setitem(zoo.ZOO, known, small.small(known))
    for room in (zoo, minkloc):
        monkeypatch.setattr(room, "build_backbone", lambda name, pretrained, **given: build_backbone(name, **given))
    manifest, drives = data
    monkeypatch.setattr(recipes, "training_places", lambda run: Places.from_manifest(manifest, 4))
    monkeypatch.setattr(recipes, "training_tuples", lambda run: place_tuples(manifest))
    run = shortened(small.small_recipe(recipes.load_recipe)(name))
    if run.kind == "crossmodal":
        teacher = build_model(run.teacher, seed=5)
        model, result = train_crossmodal(run, tmp_path / "run", quiet=True, tuples=drives.get(name.split("_")[1], drives["oxford"]),
                                         teacher=teacher)  # fmt: skip
    else:
        if run.distillation and run.distillation.teacher:
            taught = run.distillation
            teacher = build_model(taught.teacher, seed=5, **taught.teacher_changes)
            weights = save_weights(teacher, tmp_path / "teacher.safetensors", {})
            taught = taught.model_copy(update={"teacher_weights": str(weights)})
            run = run.model_copy(update={"distillation": taught})
        model, result = recipes.train(run, tmp_path / "run", quiet=True)
    assert len(result.history) == 1 and math.isfinite(result.history[0]["loss"])
    before = build_model(run.model, False, run.fit.seed, **run.model_changes).state_dict()
    moved = [key for key, value in model.named_parameters() if not torch.equal(value.cpu(), before[key])]
    assert moved, "no parameter has moved"
