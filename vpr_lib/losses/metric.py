"""Metric-learning losses and miners by name, with the settings of the MixVPR and GSV-Cities recipes (mixvpr §3.3)."""

from collections.abc import Callable

from pytorch_metric_learning import distances, losses, miners
from torch import Tensor, nn

from vpr_lib.registry import lookup

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "MultiSimilarityLoss": lambda: losses.MultiSimilarityLoss(
        alpha=1.0, beta=50, base=0.0, distance=distances.DotProductSimilarity()
    ),
    "SupConLoss": lambda: losses.SupConLoss(temperature=0.07),
    "CircleLoss": lambda: losses.CircleLoss(m=0.4, gamma=80),
    "ContrastiveLoss": lambda: losses.ContrastiveLoss(pos_margin=0, neg_margin=1),
    "LiftedLoss": lambda: losses.GeneralizedLiftedStructureLoss(
        neg_margin=0, pos_margin=1, distance=distances.DotProductSimilarity()
    ),
    "FastAPLoss": lambda: losses.FastAPLoss(num_bins=30),
    "NTXentLoss": lambda: losses.NTXentLoss(temperature=0.07),
    "TripletMarginLoss": lambda: losses.TripletMarginLoss(margin=0.1, triplets_per_anchor="all"),
}
MINERS: dict[str, Callable[[float], nn.Module | None]] = {
    "MultiSimilarityMiner": lambda margin: miners.MultiSimilarityMiner(epsilon=margin),
    "TripletMarginMiner": lambda margin: miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard"),
    "PairMarginMiner": lambda margin: miners.PairMarginMiner(
        pos_margin=0.7, neg_margin=0.3, distance=distances.DotProductSimilarity()
    ),
    "none": lambda margin: None,
}


class MetricLoss(nn.Module):
    """A loss with its miner: descriptors (N, D) and place labels (N,) -> scalar.

    After a call, `useful_fraction` is the share of anchors with at least one mined positive pair (the authors log
    b_acc = 1 - useful_fraction), or NaN without a miner.
    """

    def __init__(
        self, loss: str = "MultiSimilarityLoss", miner: str = "MultiSimilarityMiner", miner_margin: float = 0.1
    ):
        super().__init__()
        self.loss, self.miner = lookup(LOSSES, loss, "loss")(), lookup(MINERS, miner, "miner")(miner_margin)
        self.useful_fraction = float("nan")

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        if self.miner is None:
            return self.loss(descriptors, labels)
        mined = self.miner(descriptors, labels)
        self.useful_fraction = mined[0].unique().numel() / len(descriptors)
        return self.loss(descriptors, labels, mined)
