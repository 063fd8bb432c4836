import pytest
from second_device import second_device

from vpr_lib.models.checkpoints import save_weights, trained_path, weights_hash
from vpr_lib.models.zoo import build_model
from vpr_lib.training.recipes import load_experiment
from vpr_lib.workbook.book.trained import at_hand, networks_on_disk, trained_model


class Desk:
    """As much of a book as is asked for; what it trains is a fresh network."""

    device, trains = "cpu", True

    def __init__(self, cache):
        self.cache, self.holes = cache, {}

    def hole(self, name, why):
        self.holes[name] = why

    def train(self, experiment, quiet=True):
        assert self.trains, "trained"
        return build_model(experiment.model, seed=7), type("Result", (), {"history": [{"epoch": 1}]})


def test_registered_weights_are_used_when_wanted(tmp_path):
    own = build_model("gem_toy_160", seed=5)
    save_weights(own, trained_path("gem_toy_160"), {"file": "official.ckpt", "source": ""})
    model, history, words = trained_model(Desk(tmp_path), "gem_toy_160", "toy", "registered")
    assert weights_hash(model) == weights_hash(own) and history == [] and words == "official.ckpt"
    model, history, words = trained_model(Desk(tmp_path), "gem_toy_160", "toy", "trained")
    assert weights_hash(model) == weights_hash(build_model("gem_toy_160", seed=7))
    assert history == [{"epoch": 1}] and words == "trained here, recipe toy"
    with pytest.raises(FileNotFoundError, match=r"No registered weights of avg_toy_160. Nobody publishes them: train"):
        trained_model(Desk(tmp_path), "avg_toy_160", "toy", "registered")
    with pytest.raises(ValueError, match="'trained' or 'registered', got 'official'"):
        trained_model(Desk(tmp_path), "gem_toy_160", "toy", "official")


def test_missing_weights_leave_a_hole_with_the_command(tmp_path):
    save_weights(build_model("gem_toy_160"), trained_path("gem_toy_160"), {})
    book, names = Desk(tmp_path), ["gem_toy_160", "mixvpr_resnet50_4096"]
    assert at_hand(book, "trained", names, ["avg_toy_160"]) == [names, ["avg_toy_160"]] and not book.holes
    assert at_hand(book, "registered", names, ["avg_toy_160"]) == [["gem_toy_160"], []]
    assert set(book.holes) == {"mixvpr_resnet50_4096", "avg_toy_160"}
    assert "`vpr weights get mixvpr_resnet50_4096` fetches resnet50_MixVPR" in book.holes["mixvpr_resnet50_4096"]
    with pytest.raises(FileNotFoundError, match=r"No registered weights of avg_toy_160\. `vpr weights list`"):
        at_hand(book, "registered", ["avg_toy_160"])


@pytest.mark.parametrize("weights", ["registered", "trained"])
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
