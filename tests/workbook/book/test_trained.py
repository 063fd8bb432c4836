import pytest
from second_device import second_device

from vpr_lib.models.checkpoints import save_weights, trained_path, weights_hash
from vpr_lib.models.zoo import build_model
from vpr_lib.training.recipes import load_experiment
from vpr_lib.workbook.book.trained import networks_on_disk, trained_model


class Desk:
    """As much of a book as is asked for; what it trains is a fresh network."""

    device, trains = "cpu", True

    def __init__(self, cache):
        self.cache = cache

    def train(self, experiment, quiet=True):
        assert self.trains, "trained"
        return build_model(experiment.model, seed=7), type("Result", (), {"history": [{"epoch": 1}]})


def test_registered_weights_are_used_when_wanted(tmp_path):
    own = build_model("gem_toy_160", seed=5)
    save_weights(own, trained_path("gem_toy_160"), {"file": "official.ckpt", "source": ""})
    model, history, words = trained_model(Desk(tmp_path), "gem_toy_160", "toy", "registered")
    assert weights_hash(model) == weights_hash(own) and history == [] and words == "official.ckpt"
    for name, weights in (("gem_toy_160", "train"), ("avg_toy_160", "registered")):  # not wanted, or not there
        model, history, words = trained_model(Desk(tmp_path), name, "toy", weights)
        assert weights_hash(model) == weights_hash(build_model(name, seed=7))
        assert history == [{"epoch": 1}] and words == "trained here, recipe toy"
    with pytest.raises(ValueError, match="'train' or 'registered', got 'official'"):
        trained_model(Desk(tmp_path), "gem_toy_160", "toy", "official")


@pytest.mark.parametrize("weights", ["registered", "train"])
def test_the_model_is_on_the_device_of_the_book(weights, tmp_path):
    save_weights(build_model("gem_toy_160"), trained_path("gem_toy_160"), {})
    with second_device() as device:
        desk = Desk(tmp_path)
        desk.device = device
        model, *_ = trained_model(desk, "gem_toy_160", "toy", weights)
        assert {part.device for part in (*model.parameters(), *model.buffers())} == {device}


def test_networks_on_disk_are_found_without_training(tmp_path, monkeypatch):
    monkeypatch.setattr(Desk, "trains", False)
    recipes = {"gem_toy_160": "toy", "mixvpr_toy_256": "toy"}
    assert networks_on_disk(Desk(tmp_path), recipes) == {}
    folder = load_experiment("toy").model_copy(update={"model": "gem_toy_160"}).folder_in(tmp_path)
    own = build_model("gem_toy_160", seed=5)
    save_weights(own, folder / "best.safetensors", {})
    found = networks_on_disk(Desk(tmp_path), recipes)
    assert list(found) == ["gem_toy_160"] and weights_hash(found["gem_toy_160"].build()) == weights_hash(own)
    save_weights(build_model("mixvpr_toy_256"), trained_path("mixvpr_toy_256"), {})
    assert set(networks_on_disk(Desk(tmp_path), recipes, "registered")) == set(recipes)
