"""Training under a teacher: the control is the same run without one, targets come from the right rows, runs resume."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_picture

from vpr_lib.data.images import load_image
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.places import Places
from vpr_lib.models.checkpoints import load_weights, save_weights, weights_hash
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.retrieval.describe import describe
from vpr_lib.training.distillation import (
    Distillation,
    LiveTeacher,
    Pupil,
    load_teacher,
    read_teacher_file,
    train_distilled,
)
from vpr_lib.training.fit import TrainingRun, make_fabric
from vpr_lib.training.metric_learning import PlaceRecipe, place_batches, train_places
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.recipes import lesson, load_experiment

SIZE = (48, 48)
RECIPE = PlaceRecipe(places_per_batch=3, images_per_place=2, augmentation="light")
SETTINGS = FitSettings(epochs=2, optimizer="adamw", learning_rate=2e-3, seed=5)


def student(**changes):
    return build_model("mixvpr_toy_student", seed=3, image_size=SIZE, **changes)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    for row in range(12):
        write_picture(folder / f"{row:02d}.png", row // 2)
    columns = {
        "image_path": [f"{r:02d}.png" for r in range(12)],
        "place_id": [f"p{r // 2}" for r in range(12)],
        "city": "A",
    }
    return Places.from_manifest(build_manifest(folder, "s", "train", "train", columns), min_images=2)


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """Weights of a teacher on disk; it looks at larger images than the student."""
    changes = {"image_size": (64, 64), "aggregator_args": ZOO["mixvpr_toy_student"].aggregator_args}
    monkeypatch.setitem(ZOO, "teacher", ZOO["mixvpr_toy_256"].model_copy(update=changes))
    path = tmp_path / "teacher.safetensors"
    save_weights(build_model("teacher", seed=8), path, {})
    return {"teacher": "teacher", "teacher_weights": str(path)}


def distil(places, folder, distillation, model=None, settings=SETTINGS):
    model = model or student()
    result = train_distilled(model, places, RECIPE, settings, TrainingRun(folder, "cpu", quiet=True), distillation)
    return model, result


def test_repo_mode_is_plain_training_to_the_last_bit(places, teacher, tmp_path):
    control = student()
    train_places(control, places, RECIPE, SETTINGS, TrainingRun(tmp_path / "control", "cpu", quiet=True))
    model, result = distil(places, tmp_path / "repo", Distillation(mode="repo", **teacher))
    assert weights_hash(model) == weights_hash(control) != weights_hash(student())
    assert result.history[-1]["loss"] > result.history[-1]["student"] > 0  # it looks as if something were distilled


@pytest.mark.parametrize("mode", ["direct", "proj", "relational", "feature"])
def test_the_other_modes_learn_from_the_teacher(places, teacher, tmp_path, mode):
    settings = SETTINGS.model_copy(update={"epochs": 6})
    _, result = distil(places, tmp_path / mode, Distillation(mode=mode, weight=3.0, **teacher), settings=settings)
    assert result.history[-1]["distillation"] < 0.9 * result.history[0]["distillation"]
    load_weights(student(), result.best)  # strictly: no adapter in the file
    assert json.loads(result.best.with_suffix(".json").read_text())["distillation"]["mode"] == mode


def test_clean_views_are_the_described_images_and_a_file_of_them_does_the_same(places, teacher, tmp_path):
    fabric = make_fabric(SETTINGS, "cpu")
    clean = load_teacher(Distillation(views="clean", **teacher), places.manifest, fabric)
    model = build_model("teacher")
    load_weights(model, teacher["teacher_weights"])
    expected = describe(model, places.manifest, tmp_path / "own").array
    rows = np.array([7, 0, 3])
    torch.testing.assert_close(clean(None, rows), torch.from_numpy(expected[rows]))
    names = places.manifest.table["image_path"].to_numpy(str)
    np.savez(tmp_path / "foreign.npz", image_path=np.append(names[::-1], "more.png"),
             descriptors=np.append(expected[::-1], expected[:1], 0))  # fmt: skip
    foreign = load_teacher(Distillation(teacher_file=str(tmp_path / "foreign.npz")), places.manifest, fabric)
    torch.testing.assert_close(foreign(None, rows), clean(None, rows))
    ours = next((tmp_path / "own").glob("*.npy"))
    np.testing.assert_array_equal(read_teacher_file(ours, places.manifest)[0], expected)
    one, two = (distil(places, tmp_path / name, d)[0] for name, d in
                (("a", Distillation(views="clean", **teacher)),
                 ("b", Distillation(teacher_file=str(tmp_path / "foreign.npz"), views="clean"))))  # fmt: skip
    assert weights_hash(one) == weights_hash(two)


def test_maps_of_clean_views_are_those_of_a_fixed_trunk(places, tmp_path, monkeypatch):
    monkeypatch.setenv("VPR_DATA", str(tmp_path))
    monkeypatch.setitem(ZOO, "teacher", ZOO["convap_lite0_512"].model_copy(update={"image_size": (64, 64)}))
    model = build_model("teacher", seed=8, pretrained=True).eval()
    save_weights(model, tmp_path / "teacher.safetensors", {})
    asked = Distillation(
        mode="feature", views="clean", teacher="teacher", teacher_weights=str(tmp_path / "teacher.safetensors")
    )
    stored = load_teacher(asked, places.manifest, make_fabric(SETTINGS, "cpu"))
    rows = np.array([7, 0, 3])
    images = torch.stack([load_image(places.manifest.image_paths()[row], model.input_spec) for row in rows])
    with torch.no_grad():
        expected = model.feature_map(model.input_spec.normalise(images))
    assert stored.map_shape == expected.shape[1:] == (112, 4, 4)
    torch.testing.assert_close(stored(None, rows), expected, atol=5e-3, rtol=1e-2)
    _, result = distil(places, tmp_path / "run", asked)
    assert result.history[-1]["distillation"] < result.history[0]["distillation"]


def test_augmented_views_are_the_students_own_images(places, teacher, tmp_path):
    fabric = make_fabric(SETTINGS, "cpu")
    live = load_teacher(Distillation(**teacher), places.manifest, fabric)
    spec = ZOO["teacher"].model_copy(update={"image_size": SIZE})
    same_size = LiveTeacher(build_model(spec, seed=8), False, fabric)
    run = TrainingRun(tmp_path, fabric=fabric)
    images, labels = next(place_batches(places, RECIPE, SETTINGS, same_size.model.input_spec, run).epoch(0))
    with torch.no_grad():
        torch.testing.assert_close(
            same_size(images, None), same_size.model(same_size.model.input_spec.normalise(images))
        )
    assert live(images, None).shape == (len(labels), 512)  # resized to its 64 pixels
    assert not live.model.training and not any(p.requires_grad for p in live.model.parameters())


def test_a_resumed_run_ends_with_the_same_weights(places, teacher, tmp_path):
    lesson = Distillation(mode="proj", weight=3.0, **teacher)
    whole, _ = distil(places, tmp_path / "whole", lesson)
    distil(places, tmp_path / "parts", lesson, settings=SETTINGS.model_copy(update={"epochs": 1}))
    parts, _ = distil(places, tmp_path / "parts", lesson)
    assert weights_hash(parts) == weights_hash(whole)  # the projection and its momentum came back too


def test_another_lesson_in_the_same_folder_is_refused(places, teacher, tmp_path):
    distil(places, tmp_path / "run", Distillation(mode="relational", **teacher))
    with pytest.raises(ValueError, match="another distance"):
        distil(places, tmp_path / "run", Distillation(mode="relational", distance="mse", **teacher))
    save_weights(build_model("teacher", seed=9), teacher["teacher_weights"].replace("teacher.", "other."), {})
    other = teacher | {"teacher_weights": teacher["teacher_weights"].replace("teacher.", "other.")}
    with pytest.raises(ValueError, match="another teacher"):
        distil(places, tmp_path / "run", Distillation(mode="relational", **other))


def test_a_fixed_order_repeats_places_but_not_images(places, tmp_path):
    run = TrainingRun(tmp_path, "cpu").launched(SETTINGS)
    recipe = RECIPE.model_copy(update={"images_per_place": 1, "fixed_order": True})
    sampler = place_batches(places, recipe, SETTINGS, student().input_spec, run).sampler
    epochs = [np.concatenate(list(sampler.epoch(e)))[:, 0] for e in range(5)]
    assert all((places.labels[e] == places.labels[epochs[0]]).all() for e in epochs)
    assert len({e.tobytes() for e in epochs}) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, "needs one teacher"),
        ({"teacher_file": "x.npz"}, "needs one teacher"),
        ({"teacher": None, "teacher_file": "absent.npz"}, "No teacher descriptors absent.npz"),
        ({"teacher": None, "teacher_file": "x.npz", "mode": "feature"}, "holds no maps"),
        ({"mode": "feature", "views": "clean"}, "that of teacher learned: use views: augmented"),
        ({"teacher_weights": None}, "No weights of the teacher 'teacher'"),
        ({"mode": "direct", "teacher": "gem_toy_160"}, "does not fit this model"),
    ],
)
def test_mistakes_are_named(places, teacher, tmp_path, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        distil(places, tmp_path / "run", Distillation(**({"mode": "relational"} | teacher | change)))


def test_direct_needs_equal_lengths(places, tmp_path, teacher):
    small = student(aggregator_args=dict(out_channels=16, out_rows=2))
    with pytest.raises(ValueError, match="the student has 32, the teacher 512"):
        distil(places, tmp_path / "run", Distillation(mode="direct", **teacher), small)


def test_a_scaled_rate_is_scaled_for_the_control_and_the_taught_alike(places, teacher, tmp_path):
    recipe = RECIPE.model_copy(update={"rate_for_places": 6, "rate_scaling": "linear"})
    settings = SETTINGS.model_copy(update={"epochs": 1})
    first, second = (TrainingRun(tmp_path / name, "cpu", quiet=True) for name in "cd")
    runs = [train_places(student(), places, recipe, settings, first),
            train_distilled(student(), places, recipe, settings, second, Distillation(**teacher))]  # fmt: skip
    assert runs[0].history[0]["learning_rate"] == runs[1].history[0]["learning_rate"] == 1e-3
    parts = recipe.model_copy(update={"parts": 2})
    with pytest.raises(ValueError, match="does not go with distillation"):
        train_distilled(student(), places, parts, settings, TrainingRun(tmp_path / "p", "cpu"), Distillation(**teacher))


def test_a_student_without_maps(places):
    with pytest.raises(ValueError, match="needs a student with a feature map"):
        Pupil(torch.nn.Linear(3, 2), None, on_maps=True)


def test_descriptors_of_other_pictures_or_other_bytes_do_not_teach(places, tmp_path):
    ours = describe(build_model("pixels"), places.manifest, tmp_path / "d", quiet=True).path
    first = Path(places.manifest.image_paths()[0])
    picture = first.read_bytes()
    write_picture(first, 99)
    with pytest.raises(ValueError, match="made from other pictures of the same names"):
        read_teacher_file(ours, places.manifest)
    first.write_bytes(picture)
    assert len(read_teacher_file(ours, places.manifest)[0]) == len(places.manifest)
    with ours.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x01")
    with pytest.raises(ValueError, match="damaged, or not the file"):
        read_teacher_file(ours, places.manifest)


def test_descriptors_in_another_order_are_another_teacher(places, tmp_path):
    names = places.manifest.table["image_path"].to_numpy(str)
    rows = np.random.default_rng(1).normal(size=(len(names), 4))
    known = set()
    for order in (names, names, names[::-1]):
        np.savez(tmp_path / "t.npz", image_path=order, descriptors=rows)
        known.add(read_teacher_file(tmp_path / "t.npz", places.manifest)[1])
    assert len(known) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dict(a=np.zeros(3)), r"lacks the arrays \['descriptors', 'image_path'\]; it has \['a'\]"),
        (dict(image_path=np.array(["00.png"]), descriptors=np.ones((2, 4))), "do not fit together"),
        (dict(image_path=np.array(["00.png"]), descriptors=np.ones((1, 4))), r"no descriptor of 11 of 12.*'01.png'"),
        (
            dict(image_path=np.array([f"{r:02d}.png" for r in range(12)]), descriptors=np.zeros((12, 4))),
            "rows that are zero",
        ),
    ],
)
def test_teacher_files_that_do_not_fit(places, tmp_path, content, message):
    np.savez(tmp_path / "t.npz", **content)
    with pytest.raises(ValueError, match=message):
        read_teacher_file(tmp_path / "t.npz", places.manifest)
    np.save(tmp_path / "t.npy", np.ones((12, 4), np.float32))
    with pytest.raises(ValueError, match="made from another list of images"):
        read_teacher_file(tmp_path / "t.npy", places.manifest)


def test_lessons_differ_in_the_teacher_alone():
    experiment = load_experiment("light_kd_toy")
    control, feature = (lesson(experiment, mode, 7, weight=2.0) for mode in ("control", "feature"))
    assert control.distillation is None and control.fit.seed == 7
    taught = feature.distillation
    assert (taught.mode, taught.views, taught.weight) == ("feature", "clean", 2.0)
    full_size = lesson(load_experiment("light_kd_paper"), "feature", 7)
    assert full_size.distillation.views == "augmented"
    assert feature.model_copy(update={"distillation": None}) == control


@pytest.mark.parametrize("recipe", ["light_kd_toy", "light_kd_paper", "light_kd_repo_paper", "light_paper"])
def test_recipes_name_models_of_the_zoo_and_published_settings(recipe):
    experiment = load_experiment(recipe)
    assert experiment.model in ZOO and (experiment.distillation is None or experiment.distillation.teacher in ZOO)
    if recipe == "light_kd_repo_paper":  # spec §4.1
        assert experiment.places.fixed_order and experiment.fit.warmup_steps == 0 and experiment.fit.precision == "fp32"
        assert experiment.places.places_per_batch == 128 and experiment.distillation.mode == "repo"


def test_variants_of_the_paper_recipes():
    for name in ("light_paper", "light_kd_paper"):
        for variant in load_experiment(name).variants:
            assert load_experiment(f"{name}+{variant}").model in ZOO
    control, direct = (load_experiment(f"light_kd_paper+{v}") for v in ("control", "direct"))
    assert control.distillation is None and control.fit == direct.fit
    dims = {build_model(name).dim for name in (direct.model, direct.distillation.teacher)}
    assert dims == {512}
