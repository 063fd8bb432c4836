import math

import pytest
import torch
import torch.nn.functional as F

from vpr_lib.models.salad import SALAD, MegaLoc, sinkhorn


def head(**changes):
    torch.manual_seed(0)
    return SALAD(**dict(in_channels=12, num_clusters=4, cluster_dim=3, token_dim=5, hidden=8) | changes).eval()


def test_the_transport_keeps_its_marginals():
    scores = torch.randn(2, 5, 30)
    plan = sinkhorn(scores).exp()
    assert torch.allclose(plan.sum(dim=1), torch.ones(2, 30), atol=1e-5)
    exact = sinkhorn(scores, rounds=200).exp()
    assert torch.allclose(exact[:, :4].sum(dim=2), torch.ones(2, 4), atol=1e-3)
    assert torch.allclose(exact[:, 4].sum(dim=1), torch.full((2,), 26.0), atol=1e-3)


def test_the_transport_agrees_with_scaling_in_the_plain_domain():
    scores = torch.randn(1, 4, 10, dtype=torch.float64)
    kernel, total = scores[0].exp(), 10 + 3
    rows = torch.tensor([1.0, 1.0, 1.0, 7.0], dtype=torch.float64) / total
    columns = torch.full((10,), 1 / total, dtype=torch.float64)
    v = torch.ones(10, dtype=torch.float64)
    for _ in range(3):
        u = rows / (kernel @ v)
        v = columns / (kernel.T @ u)
    assert torch.allclose(sinkhorn(scores)[0].exp(), total * u[:, None] * kernel * v, atol=1e-10)


def test_the_descriptor_is_the_token_part_and_then_the_clusters_channel_by_channel():
    model, features, token = head(), torch.randn(2, 12, 5, 6), torch.randn(2, 12)
    shares = model.attention(features).flatten(2)
    local = model.cluster_features(features).flatten(2)
    rows = [F.normalize(model.token_features(token)[0], dim=0)]
    clusters = torch.stack([(local[0] * shares[0, k]).sum(1) for k in range(4)], dim=1)  # (l, m)
    rows.append((clusters / clusters.norm(dim=0)).flatten())
    expected = torch.cat(rows) / math.sqrt(5)
    assert torch.allclose(model(features, token)[0], expected, atol=1e-5)
    assert model.dim == 17 and torch.allclose(model(features).norm(dim=1), torch.ones(2), atol=1e-5)


def test_without_a_class_token_the_mean_over_the_map_takes_its_place():
    model, features = head(), torch.randn(2, 12, 5, 6)
    assert torch.equal(model(features), model(features, features.mean(dim=(2, 3))))


def test_the_value_of_the_dustbin_changes_nothing():
    model, features = head(), torch.randn(1, 12, 5, 6)
    before = model(features)
    model.dust_bin.data.fill_(7.0)
    assert torch.allclose(before, model(features), atol=1e-5)


def test_a_map_without_room_for_a_dustbin_is_refused():
    with pytest.raises(ValueError, match="needs a map of more positions than that, got 2 x 2 = 4"):
        head()(torch.randn(1, 12, 2, 2))


def test_megaloc_projects_the_same_head():
    torch.manual_seed(0)
    model = MegaLoc(12, out_dim=7, num_clusters=4, cluster_dim=3, token_dim=5, hidden=8).eval()
    features, token = torch.randn(2, 12, 5, 6), torch.randn(2, 12)
    assert torch.allclose(model(features, token), F.normalize(model.linear(model.agg(features, token)), dim=1))
    assert model.attention(features).shape == (2, 5, 5, 6)
