import pytest
import torch
import torch.nn.functional as F

from vpr_lib.losses.metric import MetricLoss


def by_loops(descriptors, labels, epsilon=0.1, alpha=1.0, beta=50.0):
    """Multi-Similarity loss with its miner, from the formulas of spec mixvpr §3.3."""
    similarity, n, total = descriptors @ descriptors.T, len(labels), 0.0
    for i in range(n):
        same = [j for j in range(n) if j != i and labels[j] == labels[i]]
        other = [j for j in range(n) if labels[j] != labels[i]]
        positives = [p for p in same if similarity[i, p] - epsilon < max(similarity[i, k] for k in other)]
        negatives = [k for k in other if similarity[i, k] + epsilon > min(similarity[i, p] for p in same)]
        if positives:
            total = total + torch.log(1 + sum(torch.exp(-alpha * similarity[i, p]) for p in positives)) / alpha
        if negatives:
            total = total + torch.log(1 + sum(torch.exp(beta * similarity[i, k]) for k in negatives)) / beta
    return total / n


def test_multi_similarity_against_loops():
    torch.manual_seed(0)
    centres = torch.randn(5, 8).repeat_interleave(3, 0)
    descriptors, labels = F.normalize(centres + 0.8 * torch.randn(15, 8), dim=1), torch.arange(5).repeat_interleave(3)
    criterion = MetricLoss()
    torch.testing.assert_close(criterion(descriptors, labels), by_loops(descriptors, labels))
    assert 0 < criterion.useful_fraction <= 1


def test_perfectly_separated_places_teach_nothing():
    descriptors, labels = torch.eye(3).repeat_interleave(2, 0), torch.arange(3).repeat_interleave(2)
    criterion = MetricLoss()
    assert criterion(descriptors, labels) == 0 and criterion.useful_fraction == 0


def test_unknown_names():
    with pytest.raises(ValueError, match="Did you mean 'MultiSimilarityLoss'"):
        MetricLoss("MultiSimilarity")
    with pytest.raises(ValueError, match="Unknown miner"):
        MetricLoss(miner="x")
