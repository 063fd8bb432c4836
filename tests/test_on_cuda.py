"""On a CUDA device everything gives what it gives on the CPU; without one, or with VPR_CUDA_TESTS=cpu, on the CPU."""

import copy
import os
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vpr_lib.bench.images import write_jpegs
from vpr_lib.bench.ranking import unit_rows
from vpr_lib.bench.rows import street_cloud
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.places import PlaceBatches, Places, PlaceSampler
from vpr_lib.losses.distillation import DISTANCES, DistillationLoss, make_term
from vpr_lib.losses.kd_baselines import KD_BASELINES
from vpr_lib.losses.metric import LOSSES, MINERS, MetricLoss
from vpr_lib.losses.relational import RelationalWeights, relational_loss
from vpr_lib.losses.triplet import batch_hard_triplet
from vpr_lib.losses.tuples import TUPLE_LOSSES, tuple_loss
from vpr_lib.models.attention import attend, attention_rollout
from vpr_lib.models.checkpoints import save_weights, trained_path
from vpr_lib.models.cost import cost_of_model
from vpr_lib.models.heatmaps import heat_maps
from vpr_lib.models.whitening import fit_whitening
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.describe import describe
from vpr_lib.retrieval.rerank import k_reciprocal_distances
from vpr_lib.retrieval.search import search
from vpr_lib.training.fit import TrainingRun, fit, make_fabric
from vpr_lib.training.metric_learning import AUGMENTATIONS, metric_step
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.throughput import measure_training
from vpr_lib.workbook.book.trained import trained_model

WHERE = os.environ.get("VPR_CUDA_TESTS", "cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.gpu(or_cpu=True)


@pytest.fixture(autouse=True)
def _full_precision():
    """fp32 is fp32 here: TF32 is what `examples/gpu/checks.py` looks at."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def masks():
    same = (torch.arange(24)[:, None] // 4) == (torch.arange(24) // 4)
    return same & ~torch.eye(24, dtype=torch.bool), ~same


def criteria():
    """name -> (student, teacher, labels) -> scalar, of every loss there is."""
    found = {
        f"{loss}, {miner}": lambda s, t, labels, a=(loss, miner): MetricLoss(*a)(s, labels)
        for loss in LOSSES
        for miner in MINERS
    }
    for mode, distances in DISTANCES.items():
        for distance in distances or (None,):
            criterion = MetricLoss()
            term = DistillationLoss(criterion, make_term(mode, criterion, distance))
            found[f"{mode}, {distance}"] = lambda s, t, labels, term=term: term(s, s, t, labels)["loss"]
    moved = lambda rows: [mask.to(rows.device) for mask in masks()]
    found |= {name: lambda s, t, labels, loss=loss: loss(s, t, *moved(s)) for name, loss in KD_BASELINES.items()}
    found["relational"] = lambda s, t, labels: sum(relational_loss(s, t, RelationalWeights()).values())
    found["batch-hard triplets"] = lambda s, t, labels: batch_hard_triplet(s, *moved(s))[0]
    for name in TUPLE_LOSSES:
        found[name] = lambda s, t, labels, name=name: tuple_loss(name, s[:6], s[6:12], s[12:].unflatten(0, (6, 2)))
    return found


@pytest.mark.parametrize("name", criteria())
def test_losses_and_their_gradients(name):
    raw = torch.from_numpy(unit_rows(24, 64, 0)), torch.from_numpy(unit_rows(24, 64, 1))
    labels, found = torch.arange(24) // 4, []
    for device in ("cpu", WHERE):
        student, teacher = (rows.to(device, copy=True) for rows in raw)
        loss = criteria()[name](student.requires_grad_(), teacher, labels.to(device))
        loss.backward() if loss.requires_grad else None
        found.append((loss.detach().cpu(), torch.zeros(1) if student.grad is None else student.grad.cpu()))
    for here, there in zip(*found):
        assert torch.allclose(here, there, rtol=1e-3, atol=1e-5), (here - there).abs().max()


@pytest.mark.parametrize("name", ["minklocpp_384", "minkloc3d_384", "minklocpp_toy_96"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_models_that_read_clouds(name, precision):
    model, clouds = build_model(name), [street_cloud(seed) for seed in range(4)]
    voxels = torch.cat([F.pad(cloud, (1, 0), value=number) for number, cloud in enumerate(clouds)])
    images = torch.randn(4, 3, *model.input_spec.size) if "image" in model.reads else None
    found = []
    for device in ("cpu", WHERE):
        own = copy.deepcopy(model).eval().to(device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16" and device == WHERE):
            descriptors = own(images.to(device) if images is not None else None, voxels.to(device)).float()
        descriptors.square().sum().backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in own.cloud_fe.parameters() if p.grad is not None])
        found.append((descriptors.detach().cpu(), gradient))
    for here, there in zip(*found):
        assert F.cosine_similarity(here, there, dim=-1).min() > (0.9999 if precision == "fp32" else 0.98)


@pytest.mark.parametrize("queries", [100, 600])  # from 256 on half precision leaves out what cannot be a match
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("where", ["host", "device"])
def test_search(queries, metric, where):
    database, asked = unit_rows(40_000, 256, 0), unit_rows(queries, 256, 1)
    asked[:50] = database[:50]
    exact = search(database, asked, 10, metric)
    given = [torch.from_numpy(rows).to(WHERE) for rows in (database, asked)] if where == "device" else (database, asked)
    found = search(*given, 10, metric, WHERE)
    assert np.allclose(found.scores, exact.scores, atol=1e-5)
    assert (found.indices == exact.indices).mean() > 0.999  # ties of fp32 sums in another order


@pytest.mark.skipif(not hasattr(faiss, "StandardGpuResources"), reason="this faiss has no GPU half")
def test_search_agrees_with_faiss_on_the_gpu():
    database, asked = unit_rows(40_000, 256, 0), unit_rows(300, 256, 1)
    index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, faiss.IndexFlatIP(256))
    index.add(database)
    assert (search(database, asked, 10, device=WHERE).indices == index.search(asked, 10)[1]).mean() > 0.999


class Noise:
    """Six batches an epoch of random images with labels."""

    def __len__(self):
        return 6

    def epoch(self, epoch, start=0):
        for batch in range(start, 6):
            generator = torch.Generator().manual_seed(100 * epoch + batch)
            yield torch.randint(0, 256, (8, 3, 112, 112), dtype=torch.uint8, generator=generator), torch.arange(8) // 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("path", [(WHERE, "cpu", WHERE), ("cpu", WHERE, "cpu")])
def test_a_training_goes_on_on_another_device(path, optimizer, tmp_path):
    histories = []
    for folder, devices in ("one", ["cpu"] * 3), ("several", path):
        for epochs, device in enumerate(devices, 1):  # a new model each time: all there is comes from the folder
            model = build_model("gem_toy_160")
            settings = FitSettings(epochs=epochs, optimizer=optimizer, learning_rate=1e-3, warmup_steps=2)
            step = metric_step(MetricLoss(), model.input_spec.normalise)
            found = fit(
                model,
                Noise(),
                step,
                settings,
                TrainingRun(tmp_path / folder, fabric=make_fabric(settings, device), quiet=True),
            )
        histories.append([row["loss"] for row in found.history])
    assert len(histories[1]) == 3 and np.allclose(*histories, rtol=0.03), histories


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_training_in_low_precision_resumes(precision, tmp_path):
    if WHERE == "cpu" and precision == "fp16":
        pytest.skip("no gradient scaler on the CPU")
    for epochs in (1, 2):
        model = build_model("mixvpr_toy_64")
        settings = FitSettings(epochs=epochs, optimizer="adamw", learning_rate=1e-3, precision=precision, clip_norm=1.0)
        found = fit(model, Noise(), metric_step(MetricLoss(), model.input_spec.normalise), settings, TrainingRun(tmp_path, fabric=make_fabric(settings, WHERE), quiet=True))  # fmt: skip
    assert len(found.history) == 2 and all(np.isfinite(row["loss"]) for row in found.history)


@pytest.mark.parametrize("weights", ["registered", "trained"])
def test_a_trained_model_is_on_the_device_of_the_book(weights):
    train = lambda run, quiet: (build_model(run.model), SimpleNamespace(history=[]))
    save_weights(build_model("gem_toy_160"), trained_path("gem_toy_160"), {})
    desk = SimpleNamespace(device=torch.device(WHERE), train=train)
    model, *_ = trained_model(desk, "gem_toy_160", "toy", weights)
    assert {part.device.type for part in (*model.parameters(), *model.buffers())} == {WHERE}


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    return write_jpegs(tmp_path_factory.mktemp("jpegs"), 16)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_descriptors_of_files(precision, jpegs, tmp_path):
    model = build_model("mixvpr_toy_256")
    expected = describe(copy.deepcopy(model), jpegs, quiet=True).array
    found = describe(model, jpegs, tmp_path, WHERE, precision=precision, batch_size=8, workers=2, quiet=True).array
    cosine = F.cosine_similarity(torch.from_numpy(expected), torch.from_numpy(np.array(found)), dim=1)
    assert cosine.min() > (0.99999 if precision == "fp32" else 0.998)


def test_batches_from_workers_train(jpegs):
    table = jpegs.table.assign(place_id=[f"{row // 4:03d}" for row in range(len(jpegs))], city="bench")
    sampler = PlaceSampler(Places.from_manifest(Manifest(table, jpegs.root), 4), 2, 4, order="shuffled")
    model = build_model("gem_toy_160")
    torch.zeros(1, device=WHERE)  # the workers are forked from a process that uses the device
    batches = PlaceBatches(sampler, model.input_spec, AUGMENTATIONS["randaugment"](), workers=2).epoch(0)
    settings = FitSettings(epochs=1, optimizer="sgd", learning_rate=1e-3, precision="bf16")
    assert measure_training(model, batches, MetricLoss(), settings, 1, 1, WHERE).images == 8


def test_maps_costs_whitening_and_reranking():
    model = build_model("dinomix_toy_256").to(WHERE)
    images = torch.randint(0, 256, (2, 3, *model.input_spec.size), dtype=torch.uint8)
    looks = [attend(model, images).maps, attention_rollout(model, model.input_spec.normalise(images.to(WHERE)))]
    head = build_model("clusvpr_toy_640").to(WHERE).eval()
    small = torch.randint(0, 256, (2, 3, *head.input_spec.size), dtype=torch.uint8)
    looks += heat_maps(head, head.input_spec.normalise(small.to(WHERE))).maps.values()
    assert all(look.device.type == WHERE and torch.isfinite(look).all() for look in looks)
    assert cost_of_model(model, (1, 2), 0.05, WHERE)["ms, batch 1"] > 0
    rows = torch.from_numpy(unit_rows(60, 32, 0))
    assert fit_whitening(rows.to(WHERE), 8).apply(rows.to(WHERE)).device.type == WHERE
    ranked = [
        k_reciprocal_distances(rows[:40].numpy(), rows[40:].numpy(), 6, 2, 0.3, device) for device in ("cpu", WHERE)
    ]
    assert np.allclose(*ranked, atol=1e-4)
