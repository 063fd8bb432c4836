"""How sure a recall is, and whether two models differ on the same queries."""

from dataclasses import dataclass

import numpy as np
from scipy import stats


def wilson_interval(hits: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share; (nan, nan) when nothing was counted.

    Source: Wilson, JASA 22 (1927). It stays inside [0, 1] and holds its level for small counts, unlike p ± 2 sigma.
    """
    if total == 0:
        return float("nan"), float("nan")
    interval = stats.binomtest(hits, total).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class McNemar:
    """Paired comparison of two models over the same queries."""

    only_first: int  # queries only the first model gets right
    only_second: int
    p_value: float  # two-sided, exact


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> McNemar:
    """Exact McNemar test (binomial on the discordant queries) on two bool arrays of the same queries (Q,).

    Raises:
        ValueError: if the arrays differ in length: paired tests need the same queries in the same order.
    """
    first, second = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    if first.shape != second.shape:
        raise ValueError(f"McNemar compares the same queries: got {first.shape} and {second.shape}.")
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    p = float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0
    return McNemar(b, c, p)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of a few runs with Student's interval for it: (mean, low, high); NaN bounds for a single run."""
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, float(mean - half), float(mean + half)


def pareto_front(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Bool (N,): nothing else costs at most as much and is worth more, or costs less and is worth at least as much."""
    cost, value = np.asarray(cost, float), np.asarray(value, float)
    cheaper, better = cost[None] < cost[:, None], value[None] > value[:, None]
    beaten = (better & (cost[None] <= cost[:, None])) | (cheaper & (value[None] >= value[:, None]))
    return ~beaten.any(1)
