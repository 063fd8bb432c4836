"""Tuple mining, generations and the step by the acceptance checks 8 and 9 (spec clusvpr §13); exact resuming; centres.

Covers cli.train.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image

from vpr_lib.data.ground_truth import Benchmark, Positives, make_protocol
from vpr_lib.data.images import load_image
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.tuples import TupleSet, place_tuples, radius_tuples
from vpr_lib.losses.tuples import TUPLE_LOSSES, hardest_regions, soft_loss, tuple_loss
from vpr_lib.models.checkpoints import load_weights, weights_hash
from vpr_lib.models.zoo import build_model
from vpr_lib.training import recipes
from vpr_lib.training import tuple_mining as module
from vpr_lib.training.centres import centres_name, cluster, read_centres, sample_descriptors, write_centres
from vpr_lib.training.fit import TrainingRun, make_fabric
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.recipes import load_experiment
from vpr_lib.training.tuple_mining import TupleRecipe, TupleSource, mine_tuple
from vpr_lib.training.tuples import TupleNet, TupleStep, measured_step, regions, step_gigabytes, train_tuples

PLACES, VIEWS = 5, 4
EXACT = "donot_use_mm_for_euclid_dist"


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    root = tmp_path_factory.mktemp("town")
    write_town(root)
    return make_town(root)


def write_town(root):
    for place in range(PLACES):
        for view in range(VIEWS):
            noisy = picture(place).astype(int) + np.random.default_rng(10 * place + view).integers(-40, 41, (48, 64, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / f"{place}_{view}.png")


def make_town(root):
    """Five places 100 m apart with four views each, 3 m apart; every second view is a query. A view is a noisy picture."""
    sides = {"db": [], "query": []}
    for place in range(PLACES):
        for view in range(VIEWS):
            name = f"{place}_{view}.png"
            sides[("db", "query")[view % 2]].append((name, 100.0 * place + 3.0 * view))
    manifests = [
        build_manifest(root, "town", "train", role, {"image_path": [n for n, _ in rows], "utm_east": [e for _, e in rows],
                       "utm_north": 0.0}, position_kind="gps", keep_order=True)
        for role, rows in sides.items()
    ]  # fmt: skip
    return radius_tuples(*manifests)


def network(seed=0, **head):
    head = dict(clusters=4, cwtnets=1, neighbours=4) | head
    model = build_model("clusvpr_toy_640", seed=seed, image_size=(64, 64), aggregator_args=head,
                        backbone_args={"widths": (4, 4, 8, 16)})  # fmt: skip
    return model


RECIPE = TupleRecipe(negatives=3, difficult=2, tuples_per_batch=2, queries_per_refresh=4, temperatures=(0.06, 0.05, 0.04),
                     epochs_per_generation=1, augmentation="none", centres_images=4, rerank_k1=3)  # fmt: skip
SETTINGS = FitSettings(epochs=3, optimizer="sgd", learning_rate=1e-3, schedule="constant", channels_last=False)


def source_of(model, tuples, folder, recipe=RECIPE, **options):
    alone = {"broadcast": lambda found: found, "barrier": lambda: None}  # no process group in these tests
    shares = SimpleNamespace(**{"device": torch.device("cpu"), "global_rank": 0, "world_size": 1} | alone | options)
    settings = SETTINGS.model_copy(update={"seed": 1})
    return TupleSource(model, tuples, recipe, settings, folder, TrainingRun(folder, keep_images=True, fabric=shares))


# ---- mining


def line(positives, n=12):
    """One query with the given positives; they are also all non-negatives."""
    listed = Positives.from_lists([positives], n)
    return TupleSet(None, None, listed, listed)


def test_promoted_first_then_unmoved_and_never_demoted():
    rng = np.random.default_rng(0)
    distances = np.array([0.1, 0.2, 0.3, 0.4, 0.5, *np.linspace(0.9, 0.6, 7)])
    tuples = line([0, 1, 2, 3, 4])
    recipe = RECIPE.model_copy(update={"difficult": 5})
    # old order 0 1 2 3 4; new order 0 3 1 4 2: 3 gains two, 4 gains one, 0 stays, 1 and 2 lose
    second = np.array([0.1, 0.3, 0.5, 0.2, 0.4, *np.ones(7)])
    found = mine_tuple(0, distances, second, tuples, np.empty(0, np.int64), recipe, rng)
    assert found.easy == 0 and found.difficult.tolist() == [3, 4, 0]
    assert found.negatives.tolist() == [11, 10, 9]  # the closest ones
    same = mine_tuple(0, distances, distances, tuples, np.empty(0, np.int64), recipe, rng)
    assert same.difficult.tolist() == [0, 1, 2, 3, 4]  # generation 0: the nearest, the easy one among them
    few = recipe.model_copy(update={"positive_pool": 2})
    assert mine_tuple(0, distances, second, tuples, np.empty(0, np.int64), few, rng).difficult.tolist() == [0, 1]


def test_remembered_negatives_compete_with_the_drawn_ones():
    distances = np.concatenate([[0.1], np.linspace(0.2, 1.0, 999)])
    recipe = RECIPE.model_copy(update={"negative_pool": 5})
    remembered = np.array([1, 2])
    found = mine_tuple(0, distances, distances, line([0], 1000), remembered, recipe, np.random.default_rng(1))
    assert found.negatives[:2].tolist() == [1, 2] and found.negatives[2] > 2


def test_generations():
    recipe = TupleRecipe()
    assert recipe.epochs == 16 and recipe.first_epochs() == (1, 6, 11)
    assert [recipe.generation(e) for e in (0, 1, 5, 6, 10, 11, 15)] == [0, 1, 1, 2, 2, 3, 3]


def test_an_epoch_keeps_to_the_radii_and_remembers(town, tmp_path):
    source = source_of(network(), town, tmp_path)
    batches = list(source.epoch(0))
    assert len(batches) == len(source) == 2 + 2 + 1  # ten queries in chunks of 4, 4, 2
    files = sorted(tmp_path.glob("epoch_*.npz"))
    assert [file.name for file in files] == [f"epoch_00_chunk_00{c}.npz" for c in range(3)]
    mined = [t for file in files for t in module._read(file)[0]]
    assert sorted(t.query for t in mined) == list(range(10))
    for t in mined:
        assert t.easy in town.positives[t.query] and set(t.difficult) <= set(town.positives[t.query].tolist())
        assert (
            not set(t.negatives.tolist()) & set(town.non_negatives[t.query].tolist())
            and len(set(t.negatives.tolist())) == 3
        )
    memory = module._read(files[-1])[1]
    assert all(memory[t.query].tolist() == t.negatives.tolist() for t in mined)
    first = batches[0]
    assert first.images.shape == (2 * 5, 3, 64, 64) and first.difficult[0].numel() == 0  # generation 0 has no soft loss
    assert first.negatives.tolist() == [[2, 3, 4], [7, 8, 9]]


def test_an_epoch_can_begin_in_the_middle(town, tmp_path):
    model = network()
    whole = [batch.images for batch in source_of(model, town, tmp_path).epoch(1)]
    with torch.no_grad():
        model.aggregator.centroids.add_(1.0)  # training went on; the mined files still say what comes
    late = [batch.images for batch in source_of(model, town, tmp_path).epoch(1, 2)]
    assert len(late) == len(whole) - 2 and all(torch.equal(a, b) for a, b in zip(whole[2:], late))


def test_ranks_share_a_chunk(town, tmp_path):
    model = network()
    source_of(model, town, tmp_path).mined(0, 0, town.usable[:5])
    alone = source_of(model, town, tmp_path)
    shares = []
    for rank in (0, 1):
        source = source_of(model, town, tmp_path, global_rank=rank, world_size=2)
        assert len(source) == 2 * 1 + 1
        mined = source.mined(0, 0, town.usable[:5])
        shares.append([mined[(rank + 2 * step) % 5].query for step in range(3)])
    assert len(alone) == 5 and set(shares[0]) | set(shares[1]) == set(town.usable[:5].tolist())


def test_no_usable_query(town, tmp_path):
    empty = TupleSet(
        town.database, town.queries, town.positives.where(np.zeros(len(town.positives.rows), bool)), town.non_negatives
    )
    with pytest.raises(ValueError, match="None of the 10 queries has both"):
        source_of(network(), empty, tmp_path)


# ---- the step


def test_the_step_is_its_formula(town, tmp_path):
    model = network(dropout=0.0)
    source = source_of(model, town, tmp_path)
    step = TupleStep(source, RECIPE, model.input_spec)
    for generation, epoch in ((0, 0), (2, 2)):
        batch = next(iter(source.epoch(epoch)))
        values = step(TupleNet(model).train(), batch)
        images = model.input_spec.normalise(batch.images)
        rows = torch.cat([batch.anchors, batch.easy, batch.negatives.flatten()])
        seen = regions(model.train(), images[rows], "21")
        anchors, easy, negatives = seen[:2], seen[2:4], seen[4:].unflatten(0, (2, 3))
        chosen = hardest_regions(anchors[:, 0], negatives)[0] if generation else negatives[:, :, 0]
        hard = tuple_loss("sare_ind", anchors[:, 0], easy[:, 0], chosen, 0.06)
        assert values["hard"].item() == pytest.approx(hard.item(), rel=1e-4)
        if generation == 0:
            assert values["soft"] == 0.0 and values["loss"] is values["hard"]
            continue
        assert [len(d) for d in batch.difficult] == [2, 2]
        seen = regions(model, images[torch.cat([batch.anchors, *batch.difficult])], "21")
        scores = torch.stack([(seen[2 + 2 * i : 4 + 2 * i] @ seen[i, 0]).flatten() for i in range(2)])
        soft = soft_loss(scores, scores, 0.06, 0.04)  # the teacher is the student of a moment ago
        assert values["soft"].item() == pytest.approx(soft.item(), rel=1e-4)
        assert values["loss"].item() == pytest.approx(hard.item() + 0.5 * soft.item(), rel=1e-4)
        assert not any(p.requires_grad for p in step.teacher(2, "cpu").parameters())


def test_a_step_of_the_paper_fits_one_gpu():
    found = {}
    for name in ("", "+one_tuple", "+ten_and_ten"):
        experiment = load_experiment(f"clusvpr_paper{name}")
        with torch.device("meta"):
            found[name] = step_gigabytes(build_model(experiment.model, seed=None), experiment.tuples)
    assert found["+one_tuple"] < 2 and found["+one_tuple"] * 2 < found[""] < found["+ten_and_ten"] < 16 / 2
    small = network()
    whole = step_gigabytes(small, RECIPE)
    assert whole > step_gigabytes(small, RECIPE.model_copy(update={"soft_weight": 0.0, "pyramid": "1"}))
    weights = sum(p.numel() for p in small.parameters())
    images = 2 * (2 + 3 + 2) * 64 * 64 * 3
    assert whole > 4e-9 * (3 * weights + images)


def test_a_measured_step_has_the_time_and_on_a_gpu_the_memory():
    settings = FitSettings(epochs=1, learning_rate=0.01)
    assert set(measured_step(network(), RECIPE, settings, "cpu", steps=1)) == {"seconds a step"}


@pytest.mark.gpu
def test_a_measured_step_takes_about_what_was_counted():
    row = measured_step(network(), RECIPE, FitSettings(epochs=1, learning_rate=0.01))
    assert step_gigabytes(network(), RECIPE) * 0.7 < row["GB measured"] < row["GB reserved"]


def test_losses_by_hand():
    anchor, near = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    far = torch.tensor([[[0.0, 1.0], [0.8, 0.6]]])
    logistic = lambda s: np.log1p(np.exp((s - 1) / 0.5))
    assert tuple_loss("sare_ind", anchor, near, far, 0.5).item() == pytest.approx((logistic(0.0) + logistic(0.8)) / 2)
    joint = -np.log(np.exp(2) / (np.exp(2) + 1 + np.exp(1.6)))
    assert tuple_loss("sare_joint", anchor, near, far, 0.5).item() == pytest.approx(joint, rel=1e-5)
    hinge = lambda d: max(0.0, 0.1**0.5 - d)
    expected = (hinge(2**0.5) + hinge(0.4**0.5)) / 2
    assert tuple_loss("triplet", anchor, near, far).item() == pytest.approx(expected, abs=1e-5)
    assert set(TUPLE_LOSSES) == {"sare_ind", "sare_joint", "triplet"}
    with pytest.raises(ValueError, match="Unknown tuple loss 'sare'"):
        tuple_loss("sare", anchor, near, far)


# ---- training


class Stop(Exception):
    pass


def test_stopped_and_resumed_is_uninterrupted(town, tmp_path, monkeypatch):
    fabric = make_fabric(SETTINGS, "cpu")
    settings = SETTINGS.model_copy(update={"checkpoint_every_s": 0.0})
    scores = lambda model: {"recall@5": model.aggregator.centroids.sum().item()}

    def run(folder):
        model = network(seed=3)
        result = train_tuples(
            model,
            town,
            RECIPE,
            settings,
            TrainingRun(folder, validate=scores, select="recall@5", fabric=fabric, keep_images=True, quiet=True),
        )
        return result, weights_hash(model)

    (result, whole), calls = run(tmp_path / "whole"), []
    assert [row["epoch"] for row in result.history] == [1, 2, 3] and result.history[2]["soft"] > 0
    original = TupleStep.__call__

    def interrupted(self, model, batch):
        calls.append(batch.generation)
        if len(calls) in (4, 12):  # inside a chunk of generation 0, and of generation 2
            raise Stop
        return original(self, model, batch)

    monkeypatch.setattr(TupleStep, "__call__", interrupted)
    for _ in range(2):
        with pytest.raises(Stop):
            run(tmp_path / "stopped")
    _, again = run(tmp_path / "stopped")
    assert again == whole and calls[3] == 0 and calls[11] == 2
    for name in ("teacher_1", "teacher_2"):
        files = [
            next((tmp_path / kind).glob(f"tuples_*/{name}.safetensors")).read_bytes() for kind in ("whole", "stopped")
        ]
        assert files[0] == files[1]


def test_a_pooled_model_trains_without_regions(town, tmp_path):
    model = build_model("gem_toy_160", image_size=(64, 64), backbone_args={"widths": (4, 4, 8, 16)})
    recipe = RECIPE.model_copy(update={"pyramid": "1", "soft_weight": 0.0})
    before = weights_hash(model)
    result = train_tuples(
        model, town, recipe, SETTINGS.model_copy(update={"epochs": 2}), TrainingRun(tmp_path, "cpu", quiet=True)
    )
    assert weights_hash(model) != before and [row["soft"] for row in result.history] == [0.0, 0.0]
    load_weights(model, result.last)
    with pytest.raises(ValueError, match="GeM head has no regions"):
        regions(model, torch.zeros(1, 3, 64, 64), "21")
    with pytest.raises(ValueError, match="make 3 epochs, the settings ask for 9"):
        train_tuples(model, town, RECIPE, SETTINGS.model_copy(update={"epochs": 9}), TrainingRun(tmp_path, "cpu"))


@pytest.mark.parametrize("same", [False, True])
def test_tuples_from_cached_maps_are_those_of_the_pictures(town, tmp_path, same):
    """The frozen layers are run once; what is mined, and what the rest learns, is as through the whole network."""
    tuples = radius_tuples(town.database, town.database) if same else town
    frozen = {"widths": (4, 4, 8, 16), "layers_to_freeze": 2, "fixed_statistics": True}
    trained = {}
    for maps in (None, tmp_path / "maps"):
        model = build_model("clusvpr_toy_640", seed=0, image_size=(64, 64), backbone_args=frozen,
                            aggregator_args=dict(clusters=4, cwtnets=1, neighbours=4, dropout=0.0))  # fmt: skip
        start = {name: value.clone() for name, value in model.state_dict().items()}
        run = TrainingRun(tmp_path / f"{maps is None}", "cpu", quiet=True)
        result = train_tuples(model, tuples, RECIPE, SETTINGS, run, maps)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
        assert any(name.startswith("backbone.") for name in moved)
        assert not any(
            name.startswith(("backbone.model.conv1", "backbone.model.layer1", "backbone.model.layer2"))
            for name in moved
        )
        mined = [module._read(path)[0] for path in sorted(run.folder.glob("tuples_*/epoch_*.npz"))]
        trained[maps is None] = (
            [(t.query, t.easy, t.negatives.tolist(), t.difficult.tolist()) for c in mined for t in c],
            model,
        )
        load_weights(model, result.last)  # names of the whole network
    (tuples_before, through), (tuples_after, cached) = trained[True], trained[False]
    assert tuples_before[:10] == tuples_after[:10]
    images = torch.stack([load_image(path, through.input_spec) for path in town.database.image_paths()])
    with torch.no_grad():
        one, two = (model.eval()(through.input_spec.normalise(images)) for model in (through, cached))
    assert (one * two).sum(dim=1).min() > 0.999  # maps in half precision are all that differs


def test_maps_need_layers_that_stay(town, tmp_path):
    with pytest.raises(ValueError, match="has no layer from which on it learns"):
        train_tuples(network(), town, RECIPE, SETTINGS, TrainingRun(tmp_path, "cpu", quiet=True), tmp_path / "maps")


@pytest.mark.slow  # starts two Python processes
def test_two_processes_stay_together(tmp_path):
    write_town(tmp_path)
    here = Path(__file__).parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               str(here / "two_processes_tuples.py"), str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first["after"][name], second["after"][name]) for name in first["after"])
    assert not torch.equal(first["after"]["aggregator.centroids"], first["before"]["aggregator.centroids"])
    assert first["history"][1]["soft"] > 0 and first["history"][0]["hard"] != second["history"][0]["hard"]


# ---- places as tuples, centres


def test_tuples_of_places(tmp_path):
    columns = {
        "image_path": list("abcdef"), "place_id": ["p", "p", "q", "q", "r", "r"], "city": ["x"] * 4 + ["y"] * 2,
        "lat": [48.0, 48.0, 48.0001, 48.01, 48.0, 48.0], "lon": [8.0] * 6,
    }  # fmt: skip
    manifest = build_manifest(tmp_path, "s", "train", "train", columns)
    found = place_tuples(manifest)
    assert [row.tolist() for row in found.positives] == [[1], [0], [3], [2], [5], [4]]
    assert found.non_negatives[0].tolist() == [0, 1, 2]  # c is 11 m away; r lies in another city
    assert found.non_negatives[3].tolist() == [2, 3]  # of one place, though a kilometre away
    with pytest.raises(ValueError, match=r"missing: \['lat', 'lon', 'place_id'\]"):
        place_tuples(build_manifest(tmp_path, "s", "train", "train", {"image_path": ["a"]}))


def test_a_benchmark_as_training_set(town, monkeypatch):
    """By radius; where a card of the set has the inner radius, its positives are the set's own (TokyoTM: at another time)."""
    sides = town.database, town.queries
    experiment = load_experiment("clusvpr_paper")
    fields = dict(dataset="town", rule="radius_m")
    wide = make_protocol(*sides, town.non_negatives, name="a", threshold=25.0, **fields)
    monkeypatch.setattr(recipes, "open_benchmark", lambda name, root: Benchmark(name, *sides, cards))
    cards = (wide,)
    assert recipes.training_tuples(experiment).positives.hash == town.positives.hash
    picked = town.positives.where(town.positives.rows % 2 == 0)
    cards = (wide, make_protocol(*sides, picked, name="b", threshold=10.0, **fields))
    found = recipes.training_tuples(experiment)
    assert found.positives.hash == picked.hash and found.usable.tolist() == [0, 2, 4, 6, 8]
    with pytest.raises(ValueError, match="Unknown training set of places 'pitts30k_train'"):
        recipes.training_places(experiment)


def test_recipes_and_their_ablations_fit_their_models():
    for name in ("clusvpr_toy", "clusvpr_paper"):
        experiment = load_experiment(name)
        assert experiment.fit.epochs == experiment.tuples.epochs and experiment.select == "recall@5"
        for variant in experiment.variants:
            changed = load_experiment(f"{name}+{variant}")
            with torch.device("meta"):
                model = build_model(changed.model, seed=None, **changed.model_changes)
            if variant in ("city", "netvlad_head", "linear_attention"):
                assert step_gigabytes(model, changed.tuples) < 16  # a whole step, forward and backward, on shapes


def test_centres_file(town, tmp_path, monkeypatch):
    model = network()
    sampled = sample_descriptors(model, [town.queries, town.database], images=6, per_image=5, quiet=True)
    assert sampled.shape == (30, model.aggregator.group_dim)
    with torch.no_grad():  # exactly what the assignment sees: columns of y of some image
        from vpr_lib.data.images import load_image

        head, rows = model.eval().aggregator, []
        for path in town.queries.image_paths() + town.database.image_paths():
            image = model.input_spec.normalise(load_image(path, model.input_spec)[None])
            rows.append(head.expand(head.transform(model.feature_map(image)))[0].permute(0, 2, 1).flatten(0, 1))
        assert (
            torch.cdist(torch.from_numpy(sampled), torch.cat(rows), compute_mode=EXACT).min(dim=1).values.max() < 1e-4
        )
    path = write_centres(tmp_path / centres_name("vgg16", "pitts30k", 4), cluster(sampled, 4), sampled)
    assert path.name == "vgg16_pitts30k_4_desc_cen.hdf5"
    with h5py.File(path) as file:
        assert {n: (file[n].shape, file[n].dtype) for n in file} == {
            "centroids": ((4, 4), np.float32), "descriptors": ((30, 4), np.float32)}  # fmt: skip
    assert read_centres(path)[0].shape == (4, 4)
    with pytest.raises(ValueError, match="cannot form 40 clusters"):
        cluster(sampled, 40)
    with pytest.raises(ValueError, match="GeM head has no groups"):
        sample_descriptors(build_model("gem_toy_160"), [town.queries])


def test_damaged_centre_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="vpr centres"):
        read_centres(tmp_path / "no.hdf5")
    (tmp_path / "text.hdf5").write_text("no")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        read_centres(tmp_path / "text.hdf5")
    with h5py.File(tmp_path / "half.hdf5", "w") as file:
        file["centroids"] = np.zeros((4, 8))
    with pytest.raises(ValueError, match=r"lacks the datasets \['descriptors'\]"):
        read_centres(tmp_path / "half.hdf5")
    write_centres(tmp_path / "odd.hdf5", np.zeros((4, 8)), np.zeros((9, 7)))
    with pytest.raises(ValueError, match="do not fit together"):
        read_centres(tmp_path / "odd.hdf5")
    rows = np.random.default_rng(1).random((9, 8), np.float32)
    whole = write_centres(tmp_path / "flipped.hdf5", rows[:4], rows).read_bytes()
    at = whole.index(rows[4:].tobytes()[:16])
    (tmp_path / "flipped.hdf5").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match="is damaged"):
        read_centres(tmp_path / "flipped.hdf5")
    write_centres(tmp_path / "nan.hdf5", rows[:4] * np.nan, rows)
    with pytest.raises(ValueError, match="not finite"):
        read_centres(tmp_path / "nan.hdf5")


def test_centres_command(town, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from vpr_lib.cli import _register, app
    from vpr_lib.data import catalogue

    monkeypatch.setattr(catalogue, "open_dataset", lambda name, root: town.database)
    _register()
    out = tmp_path / "c.hdf5"
    arguments = ["centres", "clusvpr_toy_640", "--dataset", "toycity_places", "--out", str(out), "--images", "3",
                 "--per-image", "20", "--untrained", "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "centroids (16, 40), descriptors (60, 40)" in done.output.replace("\n", " ")
    assert read_centres(out)[1].shape == (60, 40)
