"""Nothing forgets to move a tensor: models, losses, training steps and search on a second device that only a test has."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from second_device import DevicesMixed, second_device

from vpr_lib.bench.rows import street_cloud
from vpr_lib.losses.distillation import DISTANCES, DistillationLoss, make_term
from vpr_lib.losses.kd_baselines import KD_BASELINES
from vpr_lib.losses.metric import LOSSES, MINERS, MetricLoss
from vpr_lib.losses.relational import RelationalWeights, relational_loss
from vpr_lib.losses.triplet import batch_hard_triplet
from vpr_lib.losses.tuples import TUPLE_LOSSES, tuple_loss
from vpr_lib.models.attention import attend, attention_rollout, change_without, last_block_attention
from vpr_lib.models.heatmaps import heat_maps
from vpr_lib.models.whitening import fit_whitening
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval import search as search_module
from vpr_lib.retrieval.rerank import k_reciprocal_distances
from vpr_lib.retrieval.run_pairs import energy_maps
from vpr_lib.retrieval.search import search
from vpr_lib.training.metric_learning import metric_step
from vpr_lib.training.tuple_mining import TupleBatch
from vpr_lib.training.tuples import TupleNet, TupleRecipe, TupleStep

TOYS = ["mixvpr_toy_256", "gem_toy_160", "avg_toy_160", "convap_toy_512", "netvlad_toy_2560", "cosplace_toy_160", "clusvpr_toy_640",
        "dinomix_toy_256", "distilvpr_toy_96", "pixels"]  # fmt: skip
BACKBONES = ["mixvpr_resnet18_512", "lightmixvpr_efficientnet_b0_128", "lightmixvpr_mobilenet_v2_1024",
             "lightmixvpr_mobilenetv4_s16_512", "lightmixvpr_efficientvit_b1_s16_512", "lightmixvpr_starnet_s1_s16_512",
             "clusvpr_mobilenetv3_1792", "mixvpr_swinv2_4096"]  # fmt: skip


@pytest.fixture
def device():
    with second_device() as found:
        yield found


def pictures(model, count=4):
    return torch.randint(0, 256, (count, 3, *model.input_spec.size), dtype=torch.uint8)


def rows(device, *shape):
    torch.manual_seed(sum(shape))
    return F.normalize(torch.randn(shape), dim=-1).to(device).requires_grad_()


def test_tensors_of_two_devices_may_not_meet(device):
    here, there = torch.ones(3), torch.ones(3).to(device)
    with pytest.raises(DevicesMixed, match="of the CPU and of the second device"):
        here + there
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert torch.equal((there[torch.tensor([0, 2])] * 2 + torch.tensor(1)).cpu(), torch.full((2,), 3.0))


@pytest.mark.parametrize("name", [*TOYS, *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES)])
def test_models(name, device):
    model = build_model(name)
    images = model.input_spec.normalise(pictures(model, 2))
    with torch.no_grad():
        expected = model.eval()(images)
    model.to(device)
    with torch.no_grad():
        assert torch.allclose(model(images.to(device)).cpu(), expected, atol=1e-4)
    found = model.train()(images.to(device))
    if found.requires_grad:
        found.sum().backward()
    assert found.device == device


@pytest.mark.parametrize("name", ["minklocpp_toy_96", "minkloc3d_384"])
def test_models_that_read_clouds(name, device):
    model, clouds = build_model(name), [street_cloud(seed, 500) for seed in range(2)]
    voxels = torch.cat([F.pad(cloud, (1, 0), value=number) for number, cloud in enumerate(clouds)])
    images = model.input_spec.normalise(pictures(model, 2)) if "image" in model.reads else None
    expected = model.eval()(images, voxels).detach()
    model.to(device)
    found = model(images.to(device) if images is not None else None, voxels.to(device))
    found.sum().backward()
    assert torch.allclose(found.detach().cpu(), expected, atol=1e-4)
    assert all(p.grad is None or p.grad.device == device for p in model.parameters())


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_metric_losses(loss, miner, device):
    descriptors, labels = rows(device, 12, 16), (torch.arange(12) // 4).to(device)
    value = MetricLoss(loss, miner)(descriptors, labels)
    assert value.device == device and torch.isfinite(value)


def masks(device):
    same = (torch.arange(12)[:, None] // 4) == (torch.arange(12) // 4)
    return (same & ~torch.eye(12, dtype=torch.bool)).to(device), (~same).to(device)


def test_losses_of_distillation(device):
    student, teacher, (positives, negatives) = rows(device, 12, 16), rows(device, 12, 16), masks(device)
    labels = (torch.arange(12) // 4).to(device)
    for mode, distances in DISTANCES.items():
        for distance in distances or (None,):
            criterion = MetricLoss()
            loss = DistillationLoss(criterion, make_term(mode, criterion, distance))
            loss(student, student, teacher, labels)["loss"].backward()
    for loss in KD_BASELINES.values():
        loss(student, teacher, positives, negatives).backward()
    for exact in (True, False):
        sum(relational_loss(student, teacher, RelationalWeights(exact_mean=exact)).values()).backward()
    batch_hard_triplet(student, positives, negatives)[0].backward()
    for name in TUPLE_LOSSES:
        tuple_loss(name, student[:3], student[3:6], student[6:].unflatten(0, (3, 2))).backward()
    assert student.grad.device == device


def test_a_step_by_places(device):
    model = build_model("mixvpr_toy_64").to(device)
    for parts in (1, 2):
        step = metric_step(MetricLoss(), model.input_spec.normalise, parts)
        values = step(model, (pictures(model, 8), torch.arange(8) // 4))
        values["loss"].backward()
        assert values["loss"].device == device


def test_a_step_by_tuples(device):
    model = build_model("clusvpr_toy_640").to(device)
    recipe = TupleRecipe(negatives=2, difficult=2, tuples_per_batch=1)
    step = TupleStep(SimpleNamespace(network=model), recipe, model.input_spec)
    step._teacher = (1, copy.deepcopy(model).requires_grad_(False))
    first = torch.tensor([0])
    batch = TupleBatch(
        pictures(model, 6), first, first + 1, torch.tensor([[2, 3]]), [torch.tensor([4, 5])], generation=1
    )
    step(TupleNet(model), batch)["loss"].backward()


def test_maps_of_attention(device):
    model = build_model("dinomix_toy_256").to(device)
    images = pictures(model, 3)
    inputs = model.input_spec.normalise(images.to(device))
    with torch.no_grad():
        reference = model.eval()(inputs)
    looks = [attend(model, images, mode).maps for mode in ("reproduce", "faithful")]
    looks += [attend(model, images, "similarity", reference=reference).maps, attention_rollout(model, inputs)]
    looks += [last_block_attention(model, inputs, of="patches").mean(dim=1)]
    assert all(look.device == device for look in looks)
    for least in (False, True):
        assert np.isfinite(change_without(model, images, looks[1].cpu(), least=least).cpu().numpy()).all()
    head = build_model("clusvpr_toy_640").to(device).eval()
    found = heat_maps(head, head.input_spec.normalise(pictures(head, 2).to(device)))
    assert all(look.device == device for look in (*found.maps.values(), found.group_attention))


def test_maps_of_energy_move_the_model(device):
    model = build_model("distilvpr_toy_96")
    assert energy_maps(model, pictures(model, 2), device).shape == (2, 90, 120)


@pytest.mark.parametrize("count", [20, 300])  # from 256 queries on low precision leaves out what cannot be a match
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_search(count, metric, device, monkeypatch):
    monkeypatch.setitem(search_module.CHUNKS, device.type, (128, 20_000))
    monkeypatch.setattr(search_module, "_screen", lambda queries, *rest: search_module.HalfScreen(queries) if count > 256 and metric == "cosine" else None)  # fmt: skip
    database, queries = (rows(torch.device("cpu"), n, 32).detach().numpy() for n in (17_000, count))
    exact = search(database, queries, 5, metric)
    found = search(torch.from_numpy(database).to(device), queries, 5, metric, device)
    assert (found.indices == exact.indices).all() and np.allclose(found.scores, exact.scores, atol=1e-5)


def test_whitening_and_reranking(device):
    descriptors = rows(device, 30, 16).detach()
    fitted = fit_whitening(descriptors, 8)
    assert fitted.apply(descriptors).device == device
    here = descriptors.cpu().numpy()
    ranked = [k_reciprocal_distances(here[:20], here[20:], 6, 2, 0.3, where) for where in ("cpu", device)]
    assert np.allclose(*ranked, atol=1e-5)
