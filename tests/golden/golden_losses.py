"""Pair-based losses and the Multi-Similarity miner."""

import torch
import torch.nn.functional as F

from vpr_lib.losses.metric import LOSSES, MetricLoss


def compute(fixture):
    config = fixture.config
    if config.get("loss") == "MultiSimilarityLoss" and "embeddings" in fixture.inputs:
        return multi_similarity(fixture)
    losses = config.get("losses")
    if isinstance(losses, list) and losses and set(losses) <= set(LOSSES):
        descriptors, labels = descriptors_of(fixture)
        return {name: LOSSES[name]()(descriptors, labels) for name in config["losses"]}
    return None


def descriptors_of(fixture):
    raw = torch.from_numpy(fixture.input("embeddings")).requires_grad_()
    labels = torch.arange(len(raw)) // fixture.config["images_per_place"]
    return F.normalize(raw, dim=1), labels


def multi_similarity(fixture):
    raw = torch.from_numpy(fixture.input("embeddings")).requires_grad_()
    labels = torch.arange(len(raw)) // fixture.config["images_per_place"]
    descriptors = F.normalize(raw, dim=1)
    config = fixture.config
    criterion = MetricLoss("MultiSimilarityLoss", config["miner"], config["miner_margin"])
    for name in ("alpha", "beta", "base"):
        setattr(criterion.loss, name, config.get(name, getattr(criterion.loss, name)))
    loss = criterion(descriptors, labels)
    loss.backward()
    anchors, positives, anchors2, negatives = criterion.miner(descriptors, labels)
    n = len(raw)
    mined_positives, mined_negatives = torch.zeros(n, n), torch.zeros(n, n)
    mined_positives[anchors, positives] = 1
    mined_negatives[anchors2, negatives] = 1
    return {
        "descriptors": descriptors,
        "similarity": descriptors @ descriptors.T,
        "mined_positives": mined_positives,
        "mined_negatives": mined_negatives,
        "n_positive_pairs": torch.tensor(len(anchors)),
        "n_negative_pairs": torch.tensor(len(anchors2)),
        "anchors_with_positive": torch.tensor(len(anchors.unique())),
        "b_acc": torch.tensor(1 - criterion.useful_fraction),
        "loss": loss,
        "grad_embeddings": raw.grad,
    }
