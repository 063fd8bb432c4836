"""Recipes: every named variant fits, says what it changes, and a run to one trains."""

import pytest
import torch
import yaml
from pictures import write_places

from vpr_lib.config import RECIPES_FOLDER
from vpr_lib.losses.metric import MetricLoss
from vpr_lib.models.checkpoints import CheckpointError, load_weights, weights_hash
from vpr_lib.models.netvlad import initialise
from vpr_lib.models.zoo import ModelConfig, build_model
from vpr_lib.training import centres, recipes
from vpr_lib.training.centres import start_head
from vpr_lib.training.metric_learning import PlaceRecipe, metric_step, scaled_rate
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.recipes import load_experiment, load_recipe, starting_model, train, validator

VARIED = sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml") if "\nvariants:" in path.read_text())


@pytest.mark.parametrize("name", VARIED)
def test_every_variant_fits_and_changes_something(name):
    base = load_recipe(name)
    assert base.variants
    for variant in base.variants:
        changed = load_recipe(f"{name}+{variant}")
        assert changed != base
        with torch.device("meta"):
            build_model(changed.model, seed=None, **changed.model_changes)


def test_the_paper_and_its_code():
    code, text = load_experiment("mixvpr_paper"), load_experiment("mixvpr_paper+paper_text")
    assert (code.fit.epochs, code.fit.warmup_steps, code.fit.milestones) == (80, 650, (5, 10, 15, 25, 45))
    assert (text.fit.epochs, text.fit.warmup_steps, text.fit.milestones) == (30, 0, (5, 10, 15, 20, 25))
    both = load_experiment("mixvpr_paper+paper_text+bf16")
    assert (both.fit.epochs, both.fit.precision) == (30, "bf16")
    with pytest.raises(ValueError, match=r"Unknown variant of recipe 'mixvpr_paper' 'paper_txt'\. Did you mean"):
        load_experiment("mixvpr_paper+paper_txt")


def test_a_recipe_says_of_which_kind_it_is(tmp_path):
    assert load_recipe("distilvpr_toy_teacher").kind == "crossmodal" and load_recipe("toy").kind == "images"
    with pytest.raises(ValueError, match="'distilvpr_toy_teacher' trains on crossmodal, not on images"):
        load_experiment("distilvpr_toy_teacher")
    with pytest.raises(ValueError, match="variant of recipe 'distilvpr_toy_teacher' 'bf16'"):
        load_recipe("distilvpr_toy_teacher+bf16")
    (tmp_path / "odd.yaml").write_text("kind: sonar\n")
    with pytest.raises(ValueError, match=r"kind of recipe 'odd' 'sonar'.*crossmodal"):
        load_recipe(tmp_path / "odd.yaml")


def test_dictionaries_of_a_variant_are_merged():
    head = load_experiment("clusvpr_toy+cwt0").model_changes
    assert head["aggregator_args"] == {"clusters": 16, "neighbours": 4, "cwtnets": 0} and "backbone_args" in head


def test_a_variant_cannot_invent_a_field(tmp_path):
    text = (RECIPES_FOLDER / "convap_paper.yaml").read_text()
    (tmp_path / "a+b.yaml").write_text(text)
    assert load_recipe(tmp_path / "a+b.yaml") == load_experiment("convap_paper")
    assert load_experiment(tmp_path / "a+b.yaml").model == "convap_resnet50_2048"  # a path is not split
    values = load_experiment("convap_paper").model_dump()
    with pytest.raises(ValueError, match=r"no field 'fit\.epoch'"):
        recipes.set_field(values, "fit.epoch", 3)


def test_the_rate_follows_the_places_of_a_step():
    settings = FitSettings(epochs=1, learning_rate=0.05, accumulate=2)
    recipe = PlaceRecipe(places_per_batch=15, rate_for_places=120, rate_scaling="linear")
    assert scaled_rate(recipe, settings, world_size=2).learning_rate == pytest.approx(0.05 * 60 / 120)
    root = recipe.model_copy(update={"rate_scaling": "sqrt"})
    assert scaled_rate(root, settings).learning_rate == pytest.approx(0.05 * 0.5)
    assert scaled_rate(PlaceRecipe(places_per_batch=15), settings) == settings
    with pytest.raises(ValueError, match="needs rate_for_places"):
        scaled_rate(PlaceRecipe(rate_scaling="sqrt"), settings)


NORMLESS = ModelConfig(system="test", backbone="pixels", backbone_args={"side": 8, "patch": 4}, aggregator="MixVPR",
                       aggregator_args={"out_channels": 8, "mix_depth": 2}, image_size=(32, 32))  # fmt: skip


def test_a_batch_in_parts_gives_the_loss_and_gradient_of_the_whole():
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, found = torch.arange(5).repeat_interleave(2), []
    for parts in (1, 3):
        model = build_model(NORMLESS, seed=4)
        loss = metric_step(MetricLoss(miner_margin=1.0), model.input_spec.normalise, parts)(model, (images, labels))[
            "loss"
        ]
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert found[0][0] > 0
    torch.testing.assert_close(found[0], found[1])


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An experiment that trains on six small places for one epoch."""
    monkeypatch.setattr(recipes, "training_places", lambda experiment: write_places(tmp_path / "places"))
    recipe = load_experiment("toy_start_tinyresnet")
    places = recipe.places.model_copy(update={"places_per_batch": 3, "augmentation": "none"})
    fit = recipe.fit.model_copy(update={"epochs": 1, "warmup_steps": 0})
    return recipe.model_copy(update={"places": places, "fit": fit, "validation": None})


def test_netvlad_starts_from_the_training_images(small, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(centres, "initialise", lambda *arguments: seen.append(arguments) or initialise(*arguments))
    experiment = small.model_copy(update={"model": "netvlad_toy_2560"})
    model, result = train(experiment, tmp_path / "run", quiet=True)
    assert len(seen) == 1 and len(result.history) == 1 and torch.isfinite(model.aggregator.centroids).all()
    train(experiment, tmp_path / "run", quiet=True)
    assert len(seen) == 1  # a run that goes on keeps its centres
    one, two = (build_model("netvlad_toy_2560") for _ in range(2))
    places = recipes.training_places(experiment)
    for network in (one, two):
        start_head(network, [places.manifest], tmp_path / "none", seed=3)
    assert torch.equal(one.aggregator.centroids, two.aggregator.centroids)


def test_a_start_is_another_recipes_backbone(small, tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_CACHE", str(tmp_path / "cache"))
    text = yaml.safe_dump(small.model_dump(mode="json"))
    (tmp_path / "first.yaml").write_text(text)
    second = small.model_copy(update={"model": "avg_toy_160", "start": str(tmp_path / "first.yaml")})
    begun = starting_model(second, quiet=True)
    [folder] = (tmp_path / "cache/training").glob("[!.]*")  # beside its lock
    first = build_model("gem_toy_160")
    load_weights(first, folder / "best.safetensors")
    fresh = build_model("gem_toy_160", seed=7)
    assert weights_hash(begun.backbone) == weights_hash(first.backbone) != weights_hash(fresh.backbone)
    written = (folder / "state.pt").stat().st_mtime_ns
    model, result = train(second, tmp_path / "run", quiet=True)
    assert written == (folder / "state.pt").stat().st_mtime_ns  # trained once
    assert len(result.history) == 1 and weights_hash(model.backbone) != weights_hash(begun.backbone)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        starting_model(second.model_copy(update={"model": "mixvpr_toy_student"}), quiet=True)


def test_validation_names_and_the_value_that_selects(monkeypatch):
    opened = []
    monkeypatch.setattr(recipes, "open_benchmark", lambda name, root: opened.append((name, root)) or name)
    score = type("Score", (), {})
    answers = {"pitts30k_val": 0.9, "pitts30k_test": 0.8, "msls_val": 0.7}

    def evaluate(model, benchmark, *_, **__):
        found = score()
        found.recall = {k: answers[benchmark] + k / 1000 for k in (1, 5, 10)}
        return found

    monkeypatch.setattr(recipes, "evaluate", evaluate)
    experiment = load_experiment("mixvpr_paper+watched")
    scores = validator(experiment, "cpu")(None)
    assert scores["recall@1"] == 0.901 and scores["msls_val/recall@5"] == 0.705 and len(scores) == 9
    assert opened == [("pitts30k_val", None), ("pitts30k_test", None), ("msls_val", None)]
    validator(load_experiment("mixvpr_paper+select_msls"), "cpu")
    with pytest.raises(ValueError, match="select: 'msls/recall@1' is none of recall@1, recall@5"):
        validator(experiment.model_copy(update={"select": "msls/recall@1"}), "cpu")
