"""NetVLAD and k-means by second ways: plain loops."""

import math

import pytest
import torch

from vpr_lib.models.aggregators import build_aggregator
from vpr_lib.models.netvlad import NetVLAD, NetVLADPCA, assignment_sharpness, initialise, kmeans, sample_features
from vpr_lib.models.zoo import build_model


def unit(vector):
    return vector / vector.norm()


def test_descriptor_by_loops():
    torch.manual_seed(0)
    pool = NetVLAD(3, clusters=4)
    pool.set_centres(torch.randn(4, 3), alpha=1.7)
    features = torch.randn(2, 3, 2, 3)
    for found, maps in zip(pool(features), features):
        cells = [unit(maps[:, i, j]) for i in range(2) for j in range(3)]
        sums = [torch.zeros(3) for _ in range(4)]
        for cell in cells:
            weights = [math.exp(-1.7 * float((cell - centre).square().sum())) for centre in pool.centroids.detach()]
            for k in range(4):
                sums[k] += weights[k] / sum(weights) * (cell - pool.centroids[k].detach())
        torch.testing.assert_close(found, unit(torch.cat([unit(s) for s in sums])))


def test_the_whitening_layer_is_a_linear_map_of_the_descriptor():
    torch.manual_seed(1)
    head, maps = NetVLADPCA(3, clusters=4, dim=5), torch.randn(2, 3, 2, 3)
    weight, bias = head.whitening.weight[:, :, 0, 0], head.whitening.bias
    for found, vlad in zip(head(maps), NetVLAD.forward(head, maps)):
        torch.testing.assert_close(found, unit(weight @ vlad + bias))
    assert head.dim == 5 and head(maps).shape == (2, 5)


def lloyd(vectors, centres, rounds):
    """The same algorithm, one vector at a time."""
    for _ in range(rounds):
        members = [[] for _ in centres]
        for vector in vectors:
            members[min(range(len(centres)), key=lambda k: float((vector - centres[k]).square().sum()))].append(vector)
        centres = torch.stack([torch.stack(m).mean(0) if m else centre for m, centre in zip(members, centres)])
    return centres


def within(vectors, centres):
    return sum(min(float((v - c).square().sum()) for c in centres) for v in vectors)


def test_kmeans_by_a_plain_loop():
    generator = torch.Generator().manual_seed(1)
    truth = 5 * torch.randn(4, 6, generator=generator)
    vectors = (truth[:, None] + 0.3 * torch.randn(4, 25, 6, generator=generator)).flatten(0, 1)
    found = kmeans(vectors, 4, seed=3)
    torch.testing.assert_close(lloyd(vectors, found, 1), found, atol=1e-5, rtol=0)  # nothing left to improve
    plain = lloyd(vectors, truth, 10)
    assert within(vectors, found) == pytest.approx(within(vectors, plain), rel=1e-5)
    assert torch.equal(kmeans(vectors, 4, seed=3), found)
    with pytest.raises(ValueError, match="5 clusters needs at least as many vectors, got 4"):
        kmeans(vectors[:4], 5)


def test_sharpness_gives_the_nearest_centre_a_hundred_times_the_second():
    vectors, centres = torch.randn(40, 5), torch.randn(6, 5)
    alpha, ratios = assignment_sharpness(vectors, centres), []
    for vector in vectors:
        weights = sorted(-alpha * float((vector - centre).square().sum()) for centre in centres)
        ratios.append(weights[-1] - weights[-2])
    assert sum(ratios) / len(ratios) == pytest.approx(math.log(100), rel=1e-4)


def test_start_from_a_backbone():
    model = build_model("netvlad_toy_2560").train()
    batches = [torch.randn(3, 3, 112, 112) for _ in range(4)]
    statistics = model.backbone.model.bn1.running_mean.clone()
    vectors = sample_features(model.backbone, iter(batches), per_image=10, count=50)
    assert vectors.shape == (50, 160) and model.backbone.training  # two batches of 30, cut
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(50))
    assert torch.equal(statistics, model.backbone.model.bn1.running_mean)  # looking does not move batch statistics
    initialise(model.aggregator, model.backbone, iter(batches), seed=2)
    expected = kmeans(sample_features(model.backbone, iter(batches), seed=2), 16, seed=2)
    assert torch.equal(model.aggregator.centroids.detach(), expected)
    with pytest.raises(ValueError, match="No images to take features from"):
        sample_features(model.backbone, [])
    with pytest.raises(ValueError, match=r"needs centres \(16, 160\), got \(2, 160\)"):
        model.aggregator.set_centres(torch.zeros(2, 160), 1.0)


def test_any_map_size():
    pool = build_aggregator("NetVLAD", 8, (5, 7), clusters=3)
    assert pool.dim == 24 and all(pool(torch.randn(2, 8, *size)).shape == (2, 24) for size in ((5, 7), (2, 3)))
