"""Heads on cached maps: the maps are the network's, made once; training from them is training through the network."""

from functools import partial

import numpy as np
import pytest
import torch
from pictures import write_picture, write_places

from vpr_lib.data.images import ImageError, load_image
from vpr_lib.models.checkpoints import load_weights
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval import feature_maps as feature_maps_module
from vpr_lib.retrieval.describe import UnreadableImages, describe
from vpr_lib.retrieval.feature_maps import HeadLearner, describe_on_maps, feature_maps, has_frozen_layers
from vpr_lib.training.fit import TrainingRun, make_fabric
from vpr_lib.training.heads import MapBatches, train_heads
from vpr_lib.training.metric_learning import AUGMENTATIONS, PlaceRecipe, place_sampler, train_places
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.recipes import load_experiment, set_field

RECIPE = PlaceRecipe(places_per_batch=3, order="shuffled", augmentation="none", miner_margin=1.0)
SETTINGS = FitSettings(epochs=2, learning_rate=1e-2, channels_last=False)  # SGD: Adam makes rounding errors into signs


def small(name="convap_lite0_512", **changes):
    return build_model(name, pretrained=True, image_size=(64, 64), **changes)


def test_maps_are_the_frozen_layers_output_whatever_the_pictures_size(tmp_path):
    places, model = write_places(tmp_path), small()
    write_picture(tmp_path / "3.png", seed=7, height=90, width=31)
    maps = feature_maps(model, places.manifest, tmp_path / "maps", workers=2, batch_size=5, quiet=True)
    assert maps.array.dtype == np.float16 and maps.shape == (112, 4, 4) and maps.images == 24
    for row in (0, 3, 23):
        image = load_image(places.manifest.image_paths()[row], model.input_spec)[None]
        with torch.no_grad():
            alone = model.backbone(model.input_spec.normalise(image))[0]
        torch.testing.assert_close(
            torch.from_numpy(maps.array[row]).reshape(112, 4, 4).float(), alone, atol=5e-3, rtol=1e-2
        )


def test_a_file_of_maps_is_used_again_continued_and_told_apart(tmp_path):
    places, model = write_places(tmp_path), small()
    first = feature_maps(model, places.manifest, tmp_path / "maps", quiet=True)
    written = first.path.stat().st_mtime_ns
    assert (
        feature_maps(small("gem_lite0_112"), places.manifest, tmp_path / "maps").path == first.path
    )  # the head is no part
    assert first.path.stat().st_mtime_ns == written
    before = np.array(first.array)
    write_picture(tmp_path / "5.png", seed=99)
    again = feature_maps(model, places.manifest, tmp_path / "maps", quiet=True)
    assert np.flatnonzero((np.array(again.array) != before).any(axis=1)).tolist() == [5]
    unfrozen = small(backbone_args={"layers_to_freeze": 4})
    other = feature_maps(unfrozen, places.manifest, tmp_path / "maps", quiet=True)
    assert other.path != first.path and other.shape == (80, 4, 4)


def test_a_picture_replaced_while_its_map_is_made_is_told_and_not_kept(tmp_path, monkeypatch):
    places, model = write_places(tmp_path), small()
    first, real = (tmp_path / "5.png").read_bytes(), feature_maps_module._frozen_layers
    replaced = lambda *arguments: write_picture(tmp_path / "5.png", seed=99) and real(*arguments)
    monkeypatch.setattr(feature_maps_module, "_frozen_layers", replaced)
    with pytest.raises(ImageError, match=r"5\.png: it changed while it was described"):
        feature_maps(model, places.manifest, tmp_path / "maps", quiet=True)
    monkeypatch.undo()
    (tmp_path / "5.png").write_bytes(first)
    kept, fresh = (feature_maps(model, places.manifest, cache, quiet=True) for cache in (tmp_path / "maps", None))
    np.testing.assert_allclose(kept.array, fresh.array, atol=5e-3, rtol=1e-2)  # a picture alone and in a batch


def test_views_are_augmented_pictures_the_same_every_time(tmp_path):
    places, model = write_places(tmp_path), small()
    light = AUGMENTATIONS["light"]()
    maps = feature_maps(model, places.manifest, None, 3, light, quiet=True)
    array = maps.array.reshape(3, 24, -1)
    assert (maps.views, maps.images) == (3, 24)
    assert not (array[0] == array[1]).all(axis=1).any() and not (array[1] == array[2]).all(axis=1).any()
    alone = feature_maps(model, places.manifest, None, quiet=True)
    assert (alone.array == array[0]).all()
    split = feature_maps(model, places.manifest, None, 3, light, workers=2, batch_size=64, quiet=True)
    assert (split.array == maps.array).all()
    with pytest.raises(ValueError, match="3 views of a picture need an augmentation"):
        feature_maps(model, places.manifest, None, 3)
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"2\.png: the file is empty"):
        feature_maps(model, places.manifest, None, quiet=True)


@pytest.mark.parametrize("arguments", [{"layers_to_freeze": 5}, {"layers_to_freeze": 4}])
def test_training_from_maps_is_training_through_the_network(tmp_path, arguments):
    places = write_places(tmp_path)
    through, cached = (small(backbone_args=arguments) for _ in range(2))
    start = {name: value.clone() for name, value in cached.state_dict().items()}
    train_places(through, places, RECIPE, SETTINGS, TrainingRun(tmp_path / "a", "cpu", quiet=True))
    found = train_heads(cached, places, RECIPE, SETTINGS, TrainingRun(tmp_path / "b", "cpu", quiet=True), 1, None)
    moved = {name for name, value in cached.state_dict().items() if not torch.equal(value, start[name])}
    assert all(name.startswith(("aggregator.", "backbone.model.blocks.4.")) for name in moved)
    assert any(name.startswith("backbone.") for name in moved) == (arguments["layers_to_freeze"] == 4)
    images = torch.stack([load_image(path, through.input_spec) for path in places.manifest.image_paths()])
    with torch.no_grad():
        one, two = (model.eval()(through.input_spec.normalise(images)) for model in (through, cached))
    assert (one * two).sum(dim=1).min() > 0.999  # fp16 maps are all that differs
    fresh = small(backbone_args=arguments)
    assert load_weights(fresh, found.last)["views"] == 1


def test_batches_are_the_same_from_any_start(tmp_path):
    places, model = write_places(tmp_path), small()
    maps = feature_maps(model, places.manifest, None, 2, AUGMENTATIONS["light"](), quiet=True)
    fabric = make_fabric(SETTINGS, "cpu")
    batches = MapBatches(place_sampler(places, RECIPE, SETTINGS, fabric), maps, fabric.device)
    whole, later = list(batches.epoch(3)), list(batches.epoch(3, start=1))
    assert len(whole) == len(batches) == 2 and torch.equal(whole[1][0], later[0][0])
    shown, labels = whole[0]
    assert shown.shape == (12, 112, 4, 4) and labels.tolist() == sorted(labels.tolist(), key=labels.tolist().index)
    assert not torch.equal(shown, next(batches.epoch(4))[0])
    assert HeadLearner(model)(shown.float()).shape == (12, 512)


@pytest.mark.parametrize(
    ("recipe", "field", "value", "told"),
    [
        ("lite0", "token_teacher", "tinyresnet", "trains by places or tuples"),
        ("clusvpr_toy", "cached_views", 2, "one cached view of a picture"),
        ("clusvpr_toy", "tuples.augmentation", "jitter", "one cached view of a picture"),
    ],
)
def test_what_cannot_learn_from_cached_views_is_refused(recipe, field, value, told):
    values = load_experiment(recipe).model_dump()
    set_field(values, field, value)
    with pytest.raises(ValueError, match=told):
        type(load_experiment(recipe)).model_validate(values)


def test_maps_are_told_apart_by_the_layers_that_made_them_alone(tmp_path):
    places = write_places(tmp_path)
    arguments = {"widths": (4, 4, 8, 16), "layers_to_freeze": 2, "fixed_statistics": True}
    model = build_model("clusvpr_toy_640", image_size=(64, 64), backbone_args=arguments)
    first = feature_maps(model, places.manifest, tmp_path / "maps", quiet=True)
    with torch.no_grad():
        next(model.backbone.model.layer3.parameters()).add_(1.0)
    assert feature_maps(model, places.manifest, tmp_path / "maps", quiet=True).path == first.path
    plain = describe(model, places.manifest, None, quiet=True)
    found = describe_on_maps(model, places.manifest, tmp_path / "maps", quiet=True)
    assert (plain.array * found.array).sum(1).min() > 0.9999
    with torch.no_grad():
        next(model.backbone.model.layer2.parameters()).add_(1.0)
    assert feature_maps(model, places.manifest, tmp_path / "maps", quiet=True).path != first.path


def test_a_head_answers_from_cached_maps_as_from_the_pictures(tmp_path):
    places = write_places(tmp_path)
    model, pixels = small("convap_lite0_512"), build_model("pixels")
    assert has_frozen_layers(model) and not has_frozen_layers(pixels)
    assert not has_frozen_layers(build_model("mixvpr_toy_256", pretrained=False))
    plain = describe(model, places.manifest, None, quiet=True)
    found = describe_on_maps(model, places.manifest, tmp_path / "maps", quiet=True)
    assert (plain.array * found.array).sum(1).min() > 0.9999
    assert found.contents == plain.contents and found.described == len(places.manifest)


def test_maps_beyond_half_precision_are_named(tmp_path, monkeypatch):
    places = write_places(tmp_path / "p", places=2)
    model = small()
    fixed = type(model.backbone).fixed_map
    monkeypatch.setattr(type(model.backbone), "fixed_map", lambda self, images: fixed(self, images) * 1e6)
    with pytest.raises(UnreadableImages, match="8 of 8 images cannot be used"):
        describe_on_maps(model, places.manifest, tmp_path / "maps", quiet=True)


def test_frozen_layers_go_through_openvino_where_that_is_exact(monkeypatch):
    pytest.importorskip("openvino")
    model, images = small("gem_lite0_112"), torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    layers, plain = (feature_maps_module._frozen_layers(model, "cpu", "fp32", n, "trunk") for n in (100, 1))
    assert not isinstance(layers, partial) and isinstance(plain, partial)
    assert torch.cosine_similarity(layers(images).flatten(1), plain(images).flatten(1)).min() > 0.99999
    wrong = lambda network, precision: lambda images: torch.randn(len(images), *plain(images).shape[1:])
    monkeypatch.setattr(feature_maps_module, "compile_openvino", wrong)
    assert isinstance(feature_maps_module._frozen_layers(model, "cpu", "fp32", 100, "other"), partial)
    assert feature_maps_module._frozen_layers(model, "cpu", "fp32", 100, "trunk") is layers, "compiled once"
    monkeypatch.undo()
    for number in range(feature_maps_module.KEPT + 1):
        feature_maps_module._frozen_layers(model, "cpu", "fp32", 100, f"{number}")
    assert len(feature_maps_module._compiled) == feature_maps_module.KEPT
