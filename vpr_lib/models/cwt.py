"""CWTNet: a transformer whose value vectors count by how isolated their token is. Spec: clusvpr §3.

Paper: Xu et al., ClusVPR (arXiv 2310.04099). Parameter names are those of the published code.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEUTRAL = 0.5  # the token weight that leaves a value vector as it is


@torch.no_grad()
def neighbour_sums(tokens: Tensor, neighbours: int = 10) -> Tensor:
    """Summed squared distance of every token to its nearest ones, itself included: (B, T, C) -> float32 (B, T).

    With fewer than `neighbours` + 1 tokens, all of them count. Spec: clusvpr §3.3, §3.4.
    """
    tokens = tokens.float()
    distances = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.topk(min(neighbours + 1, tokens.shape[1]), largest=False).values.square().sum(-1)


@torch.no_grad()
def token_weights(tokens: Tensor, neighbours: int = 10) -> Tensor:
    """How isolated every token of an image is: (B, T, C) -> (B, T) in [0, 1]; 0 for all when all are equally dense.

    No gradient flows through it. The closed form of the paper's five steps: the density exp(-n/10) and both normalisations
    leave w = (1 - exp(-n/10)) / (1 - exp(-1/10)) of the min-max scaled sums n. Spec: clusvpr §3.3.
    """
    sums = neighbour_sums(tokens, neighbours)
    low, high = sums.aminmax(dim=1, keepdim=True)
    scaled = (sums - low) / (high - low).clamp(min=1e-12)
    return torch.expm1(-scaled / 10) / math.expm1(-1 / 10)


class WeightedAttention(nn.Module):
    """Multi-head self-attention whose value vectors are scaled by 0.5 + w, (B, T, C) -> (B, T, C). Spec: clusvpr §3.2.

    Args:
        weigh: False leaves the values alone (an ablation).
        weigh_class_token: False keeps the class token out of the neighbour search and at the neutral weight.
    """

    def __init__(self, dim: int, heads: int, neighbours: int, weigh: bool, weigh_class_token: bool):
        super().__init__()
        self.heads, self.neighbours, self.weigh, self.weigh_class_token = heads, neighbours, weigh, weigh_class_token
        for name in ("query", "key", "value", "out"):
            self.add_module(name, nn.Linear(dim, dim))

    def weights(self, tokens: Tensor) -> Tensor:
        """w of every token, class token first, (B, T)."""
        if not self.weigh:
            return tokens.new_full(tokens.shape[:2], NEUTRAL, dtype=torch.float32)
        if self.weigh_class_token:
            return token_weights(tokens, self.neighbours)
        return F.pad(token_weights(tokens[:, 1:], self.neighbours), (1, 0), value=NEUTRAL)

    def probabilities(self, tokens: Tensor) -> Tensor:
        """Attention of every token (rows) to every token, (B, heads, T, T)."""
        query, key = self._split(self.query(tokens)), self._split(self.key(tokens))
        return (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.value(tokens) * (0.5 + self.weights(tokens)).unsqueeze(2).to(tokens.dtype)
        parts = (self._split(part) for part in (self.query(tokens), self.key(tokens), value))
        return self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, C / heads)


class _FeedForward(nn.Module):
    """dim -> 2 dim -> dim with GELU and dropout after both layers."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.fc1, self.fc2, self.dropout = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim), nn.Dropout(dropout)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(tokens)))))


class _Block(nn.Module):
    """A transformer block without any layer norm."""

    def __init__(self, attention: WeightedAttention, dim: int, dropout: float):
        super().__init__()
        self.attn, self.ffn = attention, _FeedForward(dim, dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(tokens)
        return tokens + self.ffn(tokens)


class _Embeddings(nn.Module):
    """Map (B, C, h, w) -> tokens (B, 1 + hw, C), a learned class token first; no position is told."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embeddings, self.dropout = nn.Conv2d(dim, dim, 1), nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        patches = self.patch_embeddings(features).flatten(2).transpose(1, 2)
        return self.dropout(torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1))


class CWT(nn.Module):
    """Clustering-based weighted transformer: tokens at half resolution, added back to the map. Spec: clusvpr §3.1."""

    def __init__(self, dim: int, dropout: float, **attention: object):
        super().__init__()
        block = _Block(WeightedAttention(dim, **attention), dim, dropout)
        self.transformer = nn.ModuleDict({
            "embeddings": _Embeddings(dim, dropout),
            "encoder": nn.ModuleDict({"layer": nn.ModuleList([block])}),
        })  # fmt: skip
        self.transpose = nn.ConvTranspose2d(dim, dim, 2, 2, groups=dim, bias=False)
        self.point_conv = nn.Conv2d(dim, dim, 1, bias=False)

    @property
    def block(self) -> _Block:
        return self.transformer["encoder"]["layer"][0]

    def tokens(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the block's input (B, 1 + hw/4, C)."""
        return self.transformer["embeddings"](F.avg_pool2d(features, 2))

    def forward(self, features: Tensor) -> Tensor:
        height, width = features.shape[2:]
        tokens = self.block(self.tokens(features))[:, 1:]
        half = tokens.transpose(1, 2).unflatten(2, (height // 2, width // 2))
        return features + self.point_conv(self.transpose(half))


class CWTNet(nn.Module):
    """Local and global half of the channels, exchanged by depthwise convolutions: (B, C, h, w) -> (B, C, h, w).

    Both branches share `local_bn` unless `separate_bn`; then its running statistics move twice per training step, and
    `global_bn` is carried along without use or gradient, as in the published code. Spec: clusvpr §3.
    """

    def __init__(self, channels: int, separate_bn: bool, **cwt: object):
        super().__init__()
        half = channels // 2
        for name in ("local_dwconvl", "local_dwconvg", "global_dwconv"):
            self.add_module(name, nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False))
        self.global_cwt = CWT(half, **cwt)
        self.local_bn, self.global_bn = nn.BatchNorm2d(half), nn.BatchNorm2d(half)
        self.separate_bn = separate_bn
        if not separate_bn:
            self.global_bn.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        local, wide = features.chunk(2, dim=1)
        local_out = self.local_dwconvl(local) + self.global_dwconv(wide)
        wide_out = self.local_dwconvg(local) + self.global_cwt(wide)
        wide_bn = self.global_bn if self.separate_bn else self.local_bn
        return torch.cat([F.relu(self.local_bn(local_out)), F.relu(wide_bn(wide_out))], dim=1)
