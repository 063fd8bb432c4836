"""No old training is passed off as a new one: whatever decides weights is compared, and one process trains at a time."""

import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pictures import write_picture, write_places

from vpr_lib.cli import train as command_line
from vpr_lib.data.manifest import build_manifest
from vpr_lib.files import try_lock
from vpr_lib.models.checkpoints import save_weights, weights_hash
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.training import origin, recipes
from vpr_lib.training.distillation import Distillation
from vpr_lib.training.fit import TrainingRun, fit
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.origin import OtherTraining, code_hash, training_folder
from vpr_lib.training.recipes import load_experiment, train


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An experiment that trains on six small places for one step."""
    places = write_places(tmp_path / "places")
    monkeypatch.setattr(recipes, "training_places", lambda experiment: places)
    recipe = load_experiment("toy_start_tinyresnet")
    small = recipe.places.model_copy(update={"places_per_batch": 3, "augmentation": "none"})
    fit = recipe.fit.model_copy(update={"epochs": 1, "warmup_steps": 0, "max_steps_per_epoch": 1})
    return recipe.model_copy(update={"places": small, "fit": fit, "validation": None})


def changed(experiment, name, value):
    values = experiment.model_dump()
    recipes.set_field(values, name, value)
    return type(experiment).model_validate(values)


def other_places(tmp_path, monkeypatch):
    places = write_places(tmp_path / "elsewhere")  # the same names, other pictures
    for row in range(24):
        write_picture(tmp_path / "elsewhere" / f"{row}.png", 100 + row)
    monkeypatch.setattr(recipes, "training_places", lambda experiment: places)


def other_labels(tmp_path, monkeypatch):
    places = write_places(tmp_path / "places")
    table = places.manifest.table
    table = table.assign(place_id=table["place_id"].iloc[::-1].to_list())
    places = type(places)(type(places.manifest)(table, places.manifest.root), places.labels, places.groups)
    monkeypatch.setattr(recipes, "training_places", lambda experiment: places)


def other_code(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "_bare", lambda file: f"{file.name}: edited")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("places.loss", "TripletMarginLoss"), ("places.miner", ""), ("places.miner_margin", 0.3),
        ("places.augmentation", "light"), ("places.order", "in_city"), ("model", "avg_toy_160"),
        ("model_changes.image_size", [96, 128]), ("pretrained", True), ("fit.learning_rate", 0.5), ("fit.seed", 2),
    ],
)  # fmt: skip
def test_another_recipe_is_refused_by_name(small, tmp_path, field, value):
    train(small, tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    with pytest.raises(OtherTraining, match=rf"{field}.* Choose another folder \(--folder\)"):
        train(changed(small, field, value), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before  # and nothing is lost


@pytest.mark.parametrize(
    ("change", "named"),
    [(other_places, "data.training"), (other_labels, "data.training"), (other_code, "code")],
)
def test_other_bytes_labels_and_code_are_refused(small, tmp_path, monkeypatch, change, named):
    train(small, tmp_path / "run", quiet=True)
    change(tmp_path, monkeypatch)
    with pytest.raises(OtherTraining, match=named):
        train(small, tmp_path / "run", quiet=True)


def test_another_line_of_the_zoo_is_refused(small, tmp_path, monkeypatch):
    train(small, tmp_path / "run", quiet=True)
    other = ZOO[small.model].model_copy(update={"antialias": False})  # no weight and no field of the recipe tells
    monkeypatch.setitem(ZOO, small.model, other)
    with pytest.raises(OtherTraining, match=r"zoo\.antialias was True, is False"):
        train(small, tmp_path / "run", quiet=True)


def test_another_teacher_is_refused(small, tmp_path):
    for seed in (1, 2):
        save_weights(build_model("gem_toy_160", seed=seed), tmp_path / f"{seed}.safetensors", {})
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "1.safetensors").read_bytes())
    lesson = Distillation(teacher="gem_toy_160", teacher_weights=str(tmp_path / "t.safetensors"), mode="relational")
    taught = small.model_copy(update={"distillation": lesson})
    train(taught, tmp_path / "run", quiet=True)
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "2.safetensors").read_bytes())
    with pytest.raises(OtherTraining, match="teacher"):
        train(taught, tmp_path / "run", quiet=True)


def test_another_teacher_of_tokens_is_refused(small, tmp_path, monkeypatch):
    taught = small.model_copy(update={"model": "dinomix_toy_256", "token_teacher": "tinyresnet"})
    teachers = iter(
        [recipes.build_backbone("tinyresnet", pretrained=True), build_model("gem_toy_160", seed=7).backbone]
    )
    one, two = next(teachers), next(teachers)
    monkeypatch.setattr(recipes, "build_backbone", lambda name, pretrained: one)
    train(taught, tmp_path / "run", quiet=True)
    train(taught, tmp_path / "run", quiet=True)
    monkeypatch.setattr(recipes, "build_backbone", lambda name, pretrained: two)
    with pytest.raises(OtherTraining, match="teacher was"):
        train(taught, tmp_path / "run", quiet=True)


def test_a_schedule_over_all_epochs_is_not_prolonged(small, tmp_path):
    train(changed(small, "fit.schedule", "cosine"), tmp_path / "run", quiet=True)
    longer = changed(changed(small, "fit.schedule", "cosine"), "fit.epochs", 2)
    with pytest.raises(OtherTraining, match=r"recipe\.fit\.epochs was 1, is 2"):
        train(longer, tmp_path / "run", quiet=True)


def test_what_a_start_left_that_stored_nothing_is_made_again(small, tmp_path):
    folder = tmp_path / "run"
    for name in ("centres.hdf5", "tuples_0123/centres.hdf5", "mine.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of another training")
    (folder / "log.csv").write_text("epoch,batch,loss\n1,1,9\n")
    train(small, folder, quiet=True)
    assert (
        not (folder / "centres.hdf5").exists()
        and not (folder / "tuples_0123").exists()
        and (folder / "mine.txt").exists()
    )
    lines = (folder / "log.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,batch,loss,") and [line.split(",")[:2] for line in lines[1:]] == [["1", "1"]]


def test_what_decides_nothing_goes_on(small, tmp_path):
    small = changed(small, "fit.schedule", "constant")
    train(small, tmp_path / "run", quiet=True)
    longer = small.model_copy(update={"fit": small.fit.model_copy(update={"epochs": 2}), "claim": "in other words"})
    _, result = train(longer.model_copy(update={"workers": 0, "keep_images": True}), tmp_path / "run", quiet=True)
    assert len(result.history) == 2


def test_a_folder_that_the_program_named_is_trained_anew(small, tmp_path, monkeypatch, caplog):
    caplog.set_level("WARNING")  # libraries that other tests load raise the root logger's
    folder = small.folder_in(tmp_path / "cache")
    old, _ = train(small, folder, quiet=True)
    other_places(tmp_path, monkeypatch)
    new, _ = train(small, folder, quiet=True)
    fresh, _ = train(small, tmp_path / "fresh", quiet=True)
    assert weights_hash(new) == weights_hash(fresh) != weights_hash(old)
    assert "is trained anew: data.training was" in caplog.text


def test_a_folder_that_says_nothing_is_refused(small, tmp_path):
    train(small, tmp_path / "run", quiet=True)
    (tmp_path / "run" / origin.MADE_FROM).write_text('{"recipe"')
    with pytest.raises(OtherTraining, match="does not say what it was made from"):
        train(small, tmp_path / "run", quiet=True)


def test_cities_and_pictures_to_choose_from_are_data(tmp_path):
    for number in range(3):
        write_picture(tmp_path / f"{number}.png", number)
    columns = {"image_path": ["0.png", "1.png"], "city": ["A", "B"], "place_id": ["a", "b"]}
    columns |= {"image_candidates": [[{"path": "0.png", "dt_us": 0}, {"path": "2.png", "dt_us": 9}], []]}
    hashes = lambda **changes: origin._content_hash(build_manifest(tmp_path, "x", "train", "train", columns | changes))
    first = hashes()
    assert hashes() == first != hashes(city=["A", "A"])
    write_picture(tmp_path / "2.png", 99)
    assert hashes() != first


def test_code_that_networks_and_mining_call_is_counted(monkeypatch):
    files = set()
    monkeypatch.setattr(origin, "_bare", lambda file: files.add(file.name) or "")
    code_hash(build_model("gem_toy_160"))
    assert {"clouds.py", "voxel_grid.py", "unit.py", "rerank.py", "feature_maps.py", "fit.py", "metric.py"} <= files


def test_docstrings_and_comments_are_no_code(tmp_path):
    one, two, three = (tmp_path / name / "a.py" for name in ("1", "2", "3"))
    for path, text in (
        (one, '"""Doc."""\nx = 1  # why\n'), (two, '"""Else."""\nx = 1\n'), (three, '"""Doc."""\nx = 2\n')
    ):  # fmt: skip
        path.parent.mkdir()
        path.write_text(text)
    assert origin._bare(one) == origin._bare(two) != origin._bare(three)
    assert code_hash(build_model("gem_toy_160")) != code_hash(build_model("netvlad_toy_2560"))  # files of its modules


def test_fit_itself_compares_what_it_is_told(tmp_path):
    class Batches:
        def __len__(self):
            return 1

        def epoch(self, epoch, start=0):
            yield torch.ones(2, 3)

    def run(width, **about):
        model = torch.nn.Linear(3, width)
        settings = FitSettings(epochs=1, learning_rate=0.1)
        step = lambda model, batch: {"loss": model(batch).pow(2).mean()}
        return fit(model, Batches(), step, settings, TrainingRun(tmp_path / "run", about=about, quiet=True))

    run(2, data="a")
    run(2, data="a")
    with pytest.raises(ValueError, match="holds a run of something else: data differ"):
        run(2, data="b")
    with pytest.raises(ValueError, match="holds a run of something else: network differ"):  # not torch's traceback
        run(4, data="a")


@pytest.mark.parametrize("change", ["remove", "replace", "flip"])
def test_best_weights_of_something_else_are_refused(small, tmp_path, change):
    best = train(small, tmp_path / "run", quiet=True)[1].best
    train(small, tmp_path / "run", quiet=True)
    if change == "remove":
        best.unlink()
    elif change == "replace":
        save_weights(build_model(small.model, seed=5), best, {})
    else:
        data = bytearray(best.read_bytes())
        data[-100] ^= 1
        best.write_bytes(data)
    with pytest.raises(ValueError, match="is gone, or not what this training wrote"):
        train(small, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("cut", ["2", "2,", "1,2,0.5", "\n", "1,1,x,y"])
def test_a_cut_or_repeated_log_line_does_not_block(small, tmp_path, cut):
    small = changed(small, "fit.schedule", "constant")
    train(small, tmp_path / "run", quiet=True)
    log = tmp_path / "run" / "log.csv"
    row = log.read_text().splitlines()[1]
    log.write_text(log.read_text() + row + "\n" + cut)
    train(changed(small, "fit.epochs", 2), tmp_path / "run", quiet=True)
    places = [line.split(",")[:2] for line in log.read_text().splitlines()]
    assert places == [["epoch", "batch"], ["1", "1"], ["2", "1"]]


def _hold(folder, experiment, made, began, order):
    with training_folder(folder, made, experiment):
        began.set()
        order.put("in")
        time.sleep(0.5)
        order.put("out")


def test_anew_waits_for_the_process_that_trains_in_the_folder(small, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").touch()
    there = []
    ran = lambda experiment, folder, device: there.append(folder.exists()) or (None, None)
    monkeypatch.setattr(recipes, "load_recipe", lambda name: small)
    monkeypatch.setattr(recipes, "runner_of", lambda experiment: ran)
    lock = try_lock(tmp_path / "run")
    with ThreadPoolExecutor() as pool:
        command = pool.submit(command_line.train, "x", tmp_path / "run", anew=True, device="cpu")
        time.sleep(0.3)
        assert (tmp_path / "run" / "state.pt").is_file() and not there
        os.close(lock)
        assert command.exception() and there == [False]  # nothing was trained here


def test_one_process_trains_in_a_folder(small, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    began, order = spawn.Event(), spawn.Queue()
    other = spawn.Process(target=_hold, args=(tmp_path / "run", small, {}, began, order))
    other.start()
    assert began.wait(60)
    with training_folder(tmp_path / "run", {}, small):
        found = [order.get(timeout=5), order.get(timeout=5)]
    other.join()
    assert found == ["in", "out"] and json.loads((tmp_path / "run" / origin.MADE_FROM).read_text()) == {}
