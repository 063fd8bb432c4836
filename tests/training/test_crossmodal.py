"""Cross-modal training on two drives of a tiny town: pairs, both stages, exact resuming, what a recipe refuses."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vpr_lib.cli import main
from vpr_lib.config import find_recipe, load_yaml
from vpr_lib.data.catalogue import DATASETS
from vpr_lib.data.readers.submaps import read_toy_runs, read_toy_tuples
from vpr_lib.models.checkpoints import save_weights, trained_path, weights_hash
from vpr_lib.models.minkloc import MinkLoc
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.toycity.city import TOY
from vpr_lib.toycity.export import ensure
from vpr_lib.training.crossmodal import (
    METHODS,
    CrossModalDistillation,
    CrossmodalExperiment,
    CrossmodalStep,
    _Heads,
    load_teacher,
    teacher_descriptors,
    train_crossmodal,
    training_submaps,
)
from vpr_lib.training.optimisation import FitSettings, make_optimizer
from vpr_lib.training.pairs import PairBatches, PairSampler
from vpr_lib.training.recipes import load_recipe, runner_of

TINY = ZOO["minklocpp_toy_96"].model_copy(
    update=dict(
        planes=(4, 8), layers=(1, 1), conv0_kernel=3, cloud_dim=8, image_dim=8, voxel_size=0.2, image_size=(30, 40)
    )
)
SMALL_STUDENT = dict(aggregator_args=dict(out_channels=16), image_size=(30, 40))


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    spec = replace(
        TOY, run_conditions=("day", "overcast"), runs_train_streets=1, runs_test_streets=1, run_street_m=100.0
    )
    return ensure(spec, "runs", tmp_path_factory.mktemp("town"), workers=1)


@pytest.fixture(scope="module")
def tuples(town):
    return read_toy_tuples(town)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(ZOO, "tiny", TINY)


def recipe(**changes):
    values = dict(
        claim="", expected="", hardware="", crossmodal="teacher", model="tiny", teacher="tiny", pretrained=False, batch_size=8,
        fit=FitSettings(epochs=2, optimizer="adam", learning_rate=1e-3, checkpoint_every_s=0.0, seed=3), workers=0,
        keep_in_memory=True,
    )  # fmt: skip
    return CrossmodalExperiment.model_validate(values | changes)


def student(method, **changes):
    changes = dict(model="distilvpr_toy_96", model_changes=SMALL_STUDENT, head_weights={"final": 0.5}) | changes
    return recipe(crossmodal="student", distillation=CrossModalDistillation(method=method), **changes)


# ---- pairs


def test_pairs_share_a_place_and_rows_come_once_while_there_are_fresh_ones(tuples):
    sampler, usable = PairSampler(tuples, 6, seed=1), set(tuples.usable)
    for epoch in range(4):
        batches = sampler.epoch(epoch)
        rows = np.concatenate(batches)
        assert all(len(batch) == 6 for batch in batches[:-1]) and len(batches[-1]) in (4, 6)
        assert all(b in tuples.positives[a] for a, b in rows.reshape(-1, 2))
        assert len(np.unique(rows[::2])) == len(rows) // 2  # no anchor twice
        assert len(sampler) - 1 <= len(batches) <= len(sampler)
        seen = set()
        for a, b in rows.reshape(-1, 2):  # an anchor was never used; a partner only when all its positives were
            assert a not in seen and (b not in seen or usable & set(tuples.positives[a]) <= seen)
            seen |= {a, b}
    assert np.array_equal(sampler.epoch(1)[0], PairSampler(tuples, 6, seed=1).epoch(1)[0])
    assert not np.array_equal(sampler.epoch(1)[0], PairSampler(tuples, 6, seed=2).epoch(1)[0])


def test_samplers_that_cannot_work(tuples):
    with pytest.raises(ValueError, match="even and at least 4, got 7"):
        PairSampler(tuples, 7)
    alone = replace(tuples, positives=tuples.positives.where(tuples.positives.rows < 1))
    with pytest.raises(ValueError, match=r"Only 1 of \d+ submaps have a positive"):
        PairSampler(alone, 8)


def test_batches_from_the_middle_are_those_of_a_whole_epoch(tuples, tiny):
    experiment = recipe()
    batches = PairBatches(PairSampler(tuples, 8, 3), training_submaps(build_model("tiny"), tuples, experiment))
    whole, rest = list(batches.epoch(1)), list(batches.epoch(1, start=1))
    assert len(rest) == len(whole) - 1 > 0
    for (rows, images, voxels), (other_rows, other_images, other_voxels) in zip(whole[1:], rest):
        assert torch.equal(rows, other_rows) and torch.equal(images, other_images) and torch.equal(voxels, other_voxels)
    assert not torch.equal(whole[0][2], next(batches.epoch(2))[2])


def test_an_image_student_opens_no_cloud(tuples):
    submaps = training_submaps(build_model("distilvpr_toy_96"), tuples, recipe())
    assert submaps.clouds is None and submaps[0, 1][1] is None


# ---- the step


def test_masks_of_a_batch(tuples):
    step = CrossmodalStep(tuples, None, {"final": 0.5})
    rows = np.array([0, int(tuples.positives[0][0]), 0])  # a row may come twice
    positives, negatives = step.masks(rows)
    assert positives.tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    assert not negatives.any()


def test_head_weights_make_the_loss(tuples, tiny):
    model = build_model("tiny")
    batch = next(PairBatches(PairSampler(tuples, 8, 3), training_submaps(model, tuples, recipe())).epoch(0))
    values = CrossmodalStep(tuples, model.input_spec, {"final": 0.5, "cloud": 0.25, "image": 0.0})(_Heads(model), batch)
    assert values["loss"].item() == pytest.approx((values["triplet_final"] + values["triplet_cloud"]).item())
    assert "triplet_image" not in values and values["images"] == 8 and 0 <= values["useful"] <= 1


def test_a_batch_without_negatives_teaches_nothing(tuples, tiny):
    model = build_model("tiny")
    batch = next(PairBatches(PairSampler(tuples, 8, 3), training_submaps(model, tuples, recipe())).epoch(0))
    near = replace(
        tuples,
        non_negatives=type(tuples.positives).from_lists(
            [range(len(tuples.database))] * len(tuples.database), len(tuples.database)
        ),
    )
    values = CrossmodalStep(near, model.input_spec, {"final": 0.5})(_Heads(model), batch)
    assert values["loss"].item() == 0 and not values["loss"].requires_grad


def test_the_image_branch_has_its_own_rate(tiny):
    model = build_model("tiny")
    optimizer = make_optimizer(_Heads(model, 0.1), FitSettings(epochs=1, optimizer="adam"))
    cloud, image = optimizer.param_groups
    assert (cloud.get("rate_factor", 1.0), image["rate_factor"]) == (1.0, 0.1)
    count = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert count == sum(p.numel() for p in model.parameters())
    assert len(make_optimizer(_Heads(build_model("distilvpr_toy_96")), FitSettings(epochs=1)).param_groups) == 1


# ---- the two stages


def test_teacher_then_student_with_every_method(tuples, town, tiny, tmp_path):
    runs = read_toy_runs(town)
    teacher, result = train_crossmodal(recipe(), tmp_path / "teacher", "cpu", True, tuples, runs)
    assert isinstance(teacher, MinkLoc) and {"loss", "triplet_cloud", "recall@1", "recall@1%"} <= set(result.history[0])
    one = FitSettings(epochs=1, optimizer="adam", learning_rate=1e-3, max_steps_per_epoch=1, seed=3)
    hashes = {}
    for method in METHODS:
        model, result = train_crossmodal(
            student(method, fit=one, validation=None),
            tmp_path / method,
            "cpu",
            True,
            tuples,
            None,
            teacher,
            cache=tmp_path / "cache",
        )
        extra = {name for name in result.history[0] if name not in ("epoch", "loss", "triplet_final", "useful", "descriptor_norm",
                                                                   "learning_rate", "load_s", "seconds")}  # fmt: skip
        agents = {"S": ("self",), "C": ("cross",), "SC": ("self", "cross")}.get(method, ())
        expected = {f"{agent}_{geometry}" for agent in agents for geometry in ("euclidean", "cosine", "geodesic")}
        assert extra == (expected or ({method} if method != "none" else set()))
        hashes[method] = weights_hash(model)
    assert len(set(hashes.values())) == len(METHODS)  # every loss moves the weights its own way


def test_resuming_is_exact(tuples, tiny, tmp_path):
    whole, _ = train_crossmodal(recipe(validation=None), tmp_path / "whole", "cpu", True, tuples)
    first = recipe(validation=None, fit=recipe().fit.model_copy(update={"epochs": 1}))
    train_crossmodal(first, tmp_path / "parts", "cpu", True, tuples)
    again, result = train_crossmodal(recipe(validation=None), tmp_path / "parts", "cpu", True, tuples)
    assert len(result.history) == 2 and weights_hash(again) == weights_hash(whole)


@pytest.mark.slow  # starts three Python processes
def test_two_processes_train_as_one_does(town, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for name, command in (("alone", [sys.executable]), ("both", launch)):
        command += [Path(__file__).with_name("two_processes_pairs.py"), town, tmp_path / name]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    alone, *both = (
        torch.load(tmp_path / path) for path in ("alone/found_alone.pt", "both/found_0.pt", "both/found_1.pt")
    )
    for name in ("teacher", "student"):  # the processes stay equal, and know the score of the first
        first, second = (found[name] for found in both)
        assert all(
            torch.equal(first["weights"][key], second["weights"][key])
            for key in first["weights"]
            if "running" not in key
        )
        assert [row["recall@1"] for row in first["history"]] == [row["recall@1"] for row in second["history"]]
    student = [found["student"] for found in (alone, *both)]
    for one in student[1:]:  # triplets and relations are those of the whole batch: the loss and every weight agree
        assert [row["loss"] for row in one["history"]] == pytest.approx(
            [row["loss"] for row in student[0]["history"]], rel=1e-4
        )
        torch.testing.assert_close(one["weights"], student[0]["weights"], rtol=1e-3, atol=1e-4)  # moved by up to 0.3


def test_shares_of_a_batch_are_its_samples(tuples, tiny):
    submaps = training_submaps(build_model("tiny"), tuples, recipe())
    sampler = PairSampler(tuples, 8, 3)
    whole, *shares = (list(PairBatches(sampler, submaps, 0, *part).epoch(0)) for part in ((0, 1), (0, 2), (1, 2)))
    for (rows, images, _), *parts in zip(whole, *shares):
        for rank, (own, pictures, _) in enumerate(parts):
            assert torch.equal(own, rows[rank::2]) and torch.equal(pictures, images[rank::2])
    with pytest.raises(ValueError, match="batch of 8 cannot be shared by 3 processes"):
        PairBatches(sampler, submaps, 0, 0, 3)


def test_teacher_descriptors_are_clean_unless_told(tuples, tiny, tmp_path):
    teacher = build_model(TINY)
    clean = teacher_descriptors(teacher, tuples, tmp_path, quiet=True)
    assert clean.shape == (len(tuples.database), 16) and torch.equal(
        clean, teacher_descriptors(teacher, tuples, tmp_path, quiet=True)
    )
    view = training_submaps(teacher, tuples, recipe())
    seen = [teacher_descriptors(teacher, tuples, augmented=view, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2]) and not torch.allclose(seen[0], clean)


def test_what_stops_a_student(tuples, tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No weights .*of the teacher 'tiny'. Train it first"):
        train_crossmodal(student("SC", validation=None), tmp_path / "a", "cpu", True, tuples)
    with pytest.raises(ValueError, match="has 24 dimensions, the teacher 'tiny' 16"):
        wide = SMALL_STUDENT | {"aggregator_args": {"out_channels": 24}}
        train_crossmodal(
            student("SC", validation=None, model_changes=wide),
            tmp_path / "b",
            "cpu",
            True,
            tuples,
            None,
            build_model("tiny"),
        )
    path = save_weights(build_model("tiny", seed=5), tmp_path / "w.safetensors", {})
    assert weights_hash(load_teacher(student("SC", teacher_weights=str(path)))) == weights_hash(
        build_model("tiny", seed=5)
    )


@pytest.mark.parametrize("name", ["toy", "oxford", "boreas"])
def test_recipes_name_models_that_fit_and_data_sets_that_exist(name):
    taught = load_recipe(f"distilvpr_{name}_teacher")
    learns = load_recipe(f"distilvpr_{name}_student")
    assert runner_of(taught) is train_crossmodal and (taught.crossmodal, learns.crossmodal) == ("teacher", "student")
    assert build_model(taught.model).dim == build_model(learns.model).dim and learns.teacher == taught.model
    for experiment in (taught, learns):
        assert (
            DATASETS[experiment.train_set].kind == "tuples"
            and DATASETS[experiment.validation or "toycity_runs"].kind == "run_pairs"
        )
    assert learns.head_weights == {"final": 0.5}


def test_variants_share_no_folder_and_keep_the_rest(tmp_path):
    learns = load_recipe("distilvpr_toy_student")
    variants = [
        learns.variant(11, "none"),
        learns.variant(12, "none"),
        learns.variant(11, "SC"),
        learns.variant(11, "SC", "E+H"),
    ]
    assert len({run.folder_in(tmp_path) for run in variants}) == 4 and learns.variant(learns.fit.seed, "none") == learns
    assert variants[3].distillation.relational == learns.distillation.relational.restricted_to("E+H")
    assert variants[2].distillation.relational == learns.distillation.relational


def test_published_settings():
    oxford, boreas = (
        load_yaml(find_recipe(f"distilvpr_{name}_student"), CrossmodalExperiment) for name in ("oxford", "boreas")
    )
    assert (oxford.distillation.relational.self_agent, boreas.distillation.relational.self_agent) == (10, 1)
    assert oxford.distillation.relational.cross == {"euclidean": 0.1, "cosine": 0.1, "geodesic": 0.1}
    assert (oxford.fit.learning_rate, oxford.fit.epochs, oxford.fit.milestones, oxford.batch_size) == (
        1e-4,
        60,
        (40,),
        128,
    )


def test_the_command_trains_a_teacher_and_then_its_student(town, monkeypatch, capsys):
    common = [f"train_root={town}", "batch_size=8", "fit.epochs=1", "fit.max_steps_per_epoch=1"]

    def vpr_train(recipe, *changes):
        arguments = [part for change in (*common, *changes) for part in ("--set", change)]
        monkeypatch.setattr(sys, "argv", ["vpr", "train", recipe, "--device", "cpu", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    vpr_train("distilvpr_toy_teacher")
    vpr_train("distilvpr_toy_student", "distillation.method=SC")
    assert trained_path("minklocpp_toy_96").is_file() and trained_path("distilvpr_toy_96").is_file()
    with pytest.raises(AssertionError, match=r"distillation\.method"):
        vpr_train("distilvpr_toy_student", "distillation.method=KDD")
