"""Low-precision scores whose error is bounded, to find the few database rows that need an exact look.

A screen holds the queries and one block of the database, and gives scores `unit * y + shift`, off by at most `error`.
Whatever lies more than that below a query's k-th exact score cannot belong to its ranking; the rest is scored in fp32.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

CHANCE = 1e-16  # that one int8 score is further off than its bound; 8,000 queries x 84,000 rows: 10^-7 for all together
SPREAD = math.sqrt(math.log(2 / CHANCE) / 2)
SLACK = 1e-5  # what fp32 sums in another order may add, for vectors of unit length
BLOCK = 64  # columns that are looked at together, by their best score


@cache
def int8_levels() -> int | None:
    """How finely queries may be coded for whole-number products on this CPU: 127, 63, or None where there are none.

    AVX2 and AVX-512 without VNNI add pairs of products in 16 bits, which overflow unless one side keeps 7 bits. A product
    of the largest codes tells; a processor or a torch that gets it wrong, or has no such kernel, is left to fp32.
    """
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return None
    for levels in (127, 63):
        sign = torch.ones(64, 128, dtype=torch.int8)
        sign[::2] = -1
        try:
            packed = torch.ops.onednn.qlinear_prepack(127 * sign, None)
            found = whole_products(levels * sign[:32], levels, packed, torch.ones(64))
        except (AttributeError, RuntimeError):  # another torch may have renamed the operation
            return None
        if torch.equal(found, levels * 127.0 * (sign[:32].float() @ sign.float().T)):
            return levels
    return None


def whole_products(codes: Tensor, levels: int, packed: Tensor, steps: Tensor) -> Tensor:
    """Sums of whole numbers times `steps` (N,): int8 codes (q, D) up to `levels` with packed int8 (N, D), float32 (q, N)."""
    zero = levels + 1
    shifted = (codes.to(torch.int16) + zero).to(torch.uint8)
    return torch.ops.onednn.qlinear_pointwise(
        shifted, 1.0, zero, packed, steps, torch.zeros(len(steps), dtype=torch.int32), None, 1.0, 0, torch.float32,
        "none", [], "",
    )  # fmt: skip


class Int8Screen:
    """Whole numbers times one step per vector. Each coordinate is rounded up or down by chance, on average to itself, so
    a score's error is a sum of independent terms without bias: Hoeffding's inequality bounds it by SPREAD steps.

    Rows are coded without the mean of the first block, which descriptors often share: what is left has smaller steps.

    Args:
        queries: float32 (Q, D) of unit length (or zeros).
    """

    def __init__(self, queries: Tensor):
        self.levels, self.queries, self.mean = int8_levels(), queries, None
        self.codes, steps = _coded(queries, self.levels, seed=0)
        self.unit = torch.where(steps > 0, steps, torch.ones_like(steps))  # (Q,)
        self.lengths = queries.norm(dim=1)

    def take(self, rows: Tensor) -> bool:
        """Hold a block of the database, float32 (N, D) of unit length; False for one with numbers that are none."""
        if self.mean is None:
            self.mean = rows.mean(0).nan_to_num(0.0)
            self.shift = self.queries @ self.mean
        codes, self.steps = _coded(rows, 127, seed=1, mean=self.mean)
        self.packed = torch.ops.onednn.qlinear_prepack(codes, None)
        self.step = float(self.steps.max())
        # a coded row is within a step of the row in every coordinate
        self.length = float((rows - self.mean).norm(dim=1).max()) + self.step * math.sqrt(rows.shape[1])
        return math.isfinite(self.length)

    def scores(self, some: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y (q, N) of some queries with the block, and unit, shift, error (q,): a score is unit * y + shift, give or take error."""
        y, unit = whole_products(self.codes[some], self.levels, self.packed, self.steps), self.unit[some]
        error = SPREAD * (self.step * self.lengths[some] + unit * self.length) + SLACK
        return y, unit, self.shift[some], error


def _coded(rows: Tensor, levels: int, seed: int, mean: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """int8 codes (N, D) of rows - mean and the step of each row (N,). Chance: one number per coordinate."""
    chance = torch.rand(rows.shape[1], generator=torch.Generator().manual_seed(seed))
    codes, steps = torch.empty(rows.shape, dtype=torch.int8), torch.empty(len(rows))
    for start in range(0, len(rows), 512):  # the floats stay in the cache
        some = slice(start, start + 512)
        left = rows[some] - mean
        step = torch.maximum(left.amax(1), -left.amin(1)) / levels  # much quicker than the norm or aminmax
        left.mul_((1 / torch.where(step > 0, step, torch.ones_like(step)))[:, None]).add_(chance).floor_()
        codes[some], steps[some] = left.clamp_(-levels, levels), step
    return codes, steps


class HalfScreen:
    """fp16 products, for GPUs: every coordinate is off by 2^-11 of itself, so is the sum (Cauchy-Schwarz), and so its storage."""

    def __init__(self, queries: Tensor):
        self.codes, self.lengths = queries.half(), queries.norm(dim=1)

    def take(self, rows: Tensor) -> bool:
        self.rows, self.length = rows.half(), float(rows.norm(dim=1).max())
        return math.isfinite(self.length)

    def scores(self, some: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y, lengths = self.codes[some] @ self.rows.T, self.lengths[some]
        return y, torch.ones_like(lengths), torch.zeros_like(lengths), lengths * self.length * 2**-9 + SLACK


def highest(y: Tensor, top_k: int) -> Tensor:
    """Columns (q, top_k) of the highest of y (q, N); N at least top_k. The best of each block says where to look."""
    missing = -y.shape[1] % BLOCK
    blocks = (nn.functional.pad(y, (0, missing), value=-torch.inf) if missing else y).unflatten(1, (-1, BLOCK))
    best = blocks.amax(2)
    chosen = best.topk(min(top_k, best.shape[1]), dim=1).indices
    lanes = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1).topk(top_k, dim=1).indices
    return chosen.gather(1, lanes // BLOCK) * BLOCK + lanes % BLOCK


def above(y: Tensor, threshold: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Columns of y (q, N) at or above each query's threshold (q,), rising, -1 at the end: long (q, M).

    Returns:
        with them, bool (q,): the queries that have more than `most`, whose columns are not listed.
    """
    if y.device.type == "cpu":  # numpy is several times quicker at both steps
        place = torch.from_numpy(np.flatnonzero(y.numpy() >= threshold.numpy()[:, None]))
    else:
        place = (y >= threshold[:, None]).flatten().nonzero()[:, 0]
    owner, column = place // y.shape[1], place % y.shape[1]
    counts = torch.bincount(owner, minlength=len(y))
    unsure, before = counts > most, counts.cumsum(0) - counts
    kept = ~unsure[owner]
    listed = torch.full((len(y), max(1, int(counts.masked_fill(unsure, 0).max()))), -1, device=y.device)
    listed[owner[kept], (torch.arange(len(owner), device=y.device) - before[owner])[kept]] = column[kept]
    return listed, unsure
