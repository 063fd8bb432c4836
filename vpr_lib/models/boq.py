"""BoQ: learned queries ask the feature map what is there. Spec: modern_methods §2.

Paper: Ali-bey et al., BoQ: A Place is Worth a Bag of Learnable Queries, CVPR 2024.
"""

import torch
from torch import Tensor, nn

from vpr_lib.models.transformer import EncoderLayer, MultiHeadAttention
from vpr_lib.models.unit import unit

HEAD_WIDTH = 64


class BoQBlock(nn.Module):
    """One encoder layer over the positions and one bag of queries that looks at its result.

    The queries talk to each other first; that does not depend on the image. There is no residual around the look.
    """

    def __init__(self, channels: int, num_queries: int):
        super().__init__()
        heads = channels // HEAD_WIDTH
        self.encoder = EncoderLayer(channels, heads, 4 * channels)
        self.queries = nn.Parameter(torch.randn(1, num_queries, channels))
        self.self_attn = MultiHeadAttention(channels, heads)
        self.norm_q = nn.LayerNorm(channels)
        self.cross_attn = MultiHeadAttention(channels, heads)
        self.norm_out = nn.LayerNorm(channels)

    def bag(self) -> Tensor:
        """The queries after they have talked to each other, (1, Q, C)."""
        return self.norm_q(self.queries + self.self_attn(self.queries, self.queries))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) -> refined tokens (B, N, C), which the next block reads, and answers (B, Q, C)."""
        tokens = self.encoder(tokens)
        return tokens, self.norm_out(self.cross_attn(self.bag(), tokens))


class BoQ(nn.Module):
    """Feature map (B, C, h, w) of any size -> unit-norm (B, proj_channels * row_dim).

    Args:
        proj_channels: width inside, a multiple of 64; every attention has a head per 64 channels.
        num_queries: of each of the `num_layers` blocks.
        row_dim: what all answers are mixed down to, per channel.
    Raises:
        ValueError: for a width that is no multiple of 64.
    """

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int] | None = None,
        proj_channels: int = 512,
        num_queries: int = 64,
        num_layers: int = 2,
        row_dim: int = 32,
    ):
        super().__init__()
        if proj_channels < HEAD_WIDTH or proj_channels % HEAD_WIDTH:
            raise ValueError(
                f"BoQ's heads are {HEAD_WIDTH} channels wide; proj_channels must be a multiple, got {proj_channels}."
            )
        self.dim = proj_channels * row_dim
        self.proj_c = nn.Conv2d(in_channels, proj_channels, 3, padding=1)
        self.norm_input = nn.LayerNorm(proj_channels)
        self.boqs = nn.ModuleList(BoQBlock(proj_channels, num_queries) for _ in range(num_layers))
        self.fc = nn.Linear(num_layers * num_queries, row_dim)

    def tokens(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h w, proj_channels), row-major."""
        return self.norm_input(self.proj_c(features).flatten(2).transpose(1, 2))

    def forward(self, features: Tensor) -> Tensor:
        tokens, answers = self.tokens(features), []
        for block in self.boqs:
            tokens, answer = block(tokens)
            answers.append(answer)
        mixed = self.fc(torch.cat(answers, dim=1).transpose(1, 2))  # (B, C, R)
        return unit(mixed.flatten(1))

    def attention(self, features: Tensor) -> Tensor:
        """Where every query looks, mean over heads: (B, num_layers, num_queries, h, w), each map sums to one."""
        tokens, maps = self.tokens(features), []
        for block in self.boqs:
            tokens = block.encoder(tokens)
            maps.append(block.cross_attn.weights(block.bag(), tokens))
        return torch.stack(maps, dim=1).unflatten(3, tuple(features.shape[2:]))
