"""Attention and post-norm transformer layers under the names of torch's own, with weights that can be looked at.

torch's layers take a fused path in evaluation that exporters do not know; these run one path everywhere.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """Queries (B, Q, C) look at a memory (B, N, C): (B, Q, C). Keys as in torch.nn.MultiheadAttention.

    A batch of one on the query side is shared by all images.

    Raises:
        ValueError: when the channels do not split into the heads.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not split into {heads} heads.")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _project(self, part: int, tokens: Tensor) -> Tensor:
        """Part 0, 1, 2 = query, key, value: (B, N, C) -> (B, heads, N, C / heads)."""
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        return F.linear(tokens, weight, bias).unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        query, key, value = self._project(0, queries), self._project(1, memory), self._project(2, memory)
        looked = F.scaled_dot_product_attention(query.expand(memory.shape[0], -1, -1, -1), key, value)
        return self.out_proj(looked.transpose(1, 2).flatten(2))

    def weights(self, queries: Tensor, memory: Tensor) -> Tensor:
        """How much each query looks at each token, mean over the heads: (B, Q, N), float32, rows sum to one."""
        query, key = self._project(0, queries), self._project(1, memory)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        return scores.float().softmax(dim=-1).mean(dim=1)


class EncoderLayer(nn.Module):
    """Post-norm encoder layer, (B, N, C) -> (B, N, C). Keys as in torch.nn.TransformerEncoderLayer, without dropout.

    Paper: Vaswani et al., Attention Is All You Need, NeurIPS 2017, Sec. 3.1.
    """

    def __init__(self, channels: int, heads: int, hidden: int, activation: Callable[[Tensor], Tensor] = F.relu):
        super().__init__()
        self.self_attn = MultiHeadAttention(channels, heads)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.activation = activation

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm1(tokens + self.self_attn(tokens, tokens))
        return self.norm2(tokens + self.linear2(self.activation(self.linear1(tokens))))


class CrossImageEncoder(nn.Module):
    """Encoder layers that attend over the images of a batch: row r of all images is one sequence. (B, R, C) -> (B, R, C).

    What an image gives therefore depends on the other images of its batch; a batch of one attends to itself alone.
    Paper: CricaVPR (Lu et al., CVPR 2024). Spec: modern_methods §7.
    """

    def __init__(self, channels: int, layers: int = 2, heads: int = 16, hidden: int = 2048):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(channels, heads, hidden, F.gelu) for _ in range(layers))

    def forward(self, rows: Tensor) -> Tensor:
        tokens = rows.transpose(0, 1)  # (R, B, C): batch and sequence change places
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens.transpose(0, 1)
