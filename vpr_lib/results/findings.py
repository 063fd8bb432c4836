"""What a paper says, tested here: a paired difference with an interval over seeds and queries. The verdict follows by rule.

    difference(records, {"mixvpr": 1, "gem": -1})     # R@1 of the first minus that of the second, in points
    paired(values)                                    # any paired values, one row per seed, one column per query
    exact(53.12, "M parameters")                      # a count: no interval

`Finding.verdict` of the profile turns such evidence into reproduced, contradicted or undecided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from vpr_lib.results.statistics import mcnemar
from vpr_lib.results.tables import refuse_mixed_cards

DRAWS = 4000
_LEAST_QUERIES = 2  # fewer cannot be drawn again


@dataclass(frozen=True)
class Evidence:
    """A measured difference, its 95 % interval, and what it rests on."""

    value: float
    low: float
    high: float
    unit: str
    compared: str = ""  # what was subtracted from what, on which data
    seeds: int = 0  # 0: a count, nothing was drawn
    queries: int = 0
    p_value: float | None = None  # exact McNemar, for one seed and two models


def exact(value: float, unit: str, compared: str = "") -> Evidence:
    """Evidence without sampling error: a count, a size, whether two files are equal."""
    return Evidence(float(value), float(value), float(value), unit, compared)


def paired(values: np.ndarray, unit: str = "points", compared: str = "", groups: np.ndarray | None = None) -> Evidence:
    """Mean of paired differences with a 95 % interval over seeds and queries.

    Queries are drawn again with replacement, the same draw for every seed, because all seeds answered the same ones; each
    draw of several seeds also gets a Student error of their means, so that three seeds are not taken for many. The interval
    holds 95 % of 4,000 such means. With one seed it speaks of the queries only.

    Args:
        values: differences, (seeds, queries) or (queries,), in `unit`.
        groups: for each query the place it shows, (queries,): a place's queries are drawn together.
    Raises:
        ValueError: for fewer than two queries, or another number of groups than of queries.
    """
    values = np.atleast_2d(np.asarray(values, float))
    seeds, queries = values.shape
    if queries < _LEAST_QUERIES:
        raise ValueError(f"An interval over queries needs at least {_LEAST_QUERIES}, got {queries}.")
    means = _drawn_means(values.mean(0), np.arange(queries) if groups is None else np.asarray(groups))
    if seeds > 1:
        error = values.mean(1).std(ddof=1) / np.sqrt(seeds)
        means = means + error * np.random.default_rng(1).standard_t(seeds - 1, DRAWS)
    low, high = np.percentile(means, [2.5, 97.5])
    return Evidence(float(values.mean()), float(low), float(high), unit, compared, seeds, queries)


def _drawn_means(by_query: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Means over groups of queries drawn with replacement, (DRAWS,)."""
    if groups.shape != by_query.shape:
        raise ValueError(f"There are {len(by_query)} queries and {len(groups)} groups.")
    _, group = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(group, by_query), np.bincount(group)
    rng, means = np.random.default_rng(0), []
    for _ in range(DRAWS // 100):
        drawn = rng.integers(0, len(sizes), (100, len(sizes)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(means)


def difference(records: pd.DataFrame, weights: Mapping[str, float], k: int = 1) -> Evidence:
    """A weighted sum of models' R@k, in points: `{"a": 1, "b": -1}` is a minus b, `{"a": 1, "b": -0.9}` asks for 90 % of b.

    Seeds that every model has are paired; a model with one seed stands beside each of them. Records of several data sets or
    of pairs of drives are averaged first within each data set or pair, as their tables do.

    Raises:
        ValueError: when a model has no records, models share no seed or were scored on other queries; MixedProtocols.
    """
    refuse_mixed_cards(records)
    counted = records[records["counted"]]
    pair = ["pair"] if "pair" in counted and counted["pair"].notna().all() else []
    keys = ["dataset", "protocol", *pair, "query_id"]
    hits = {name: _hits(counted, name, keys, k) for name in weights}
    several = [set(table.columns) for table in hits.values() if table.shape[1] > 1]
    seeds = sorted(set.intersection(*several)) if several else [0]
    if not seeds:
        raise ValueError(f"{', '.join(hits)} share no seed; they were trained under {several}.")
    rows = next(iter(hits.values())).index
    if not all(table.index.equals(rows) for table in hits.values()):
        raise ValueError(f"{', '.join(hits)} were scored on different queries.")
    stacked = {name: table[seeds] if table.shape[1] > 1 else table for name, table in hits.items()}
    values = sum(weight * stacked[name].to_numpy(float).T for name, weight in weights.items())  # (seeds, queries)
    share = _equal_shares(rows)
    groups = rows.get_level_values("query_id")
    evidence = paired(100 * values * share, f"points of R@{k}", _in_words(weights, counted), groups)
    two = len(seeds) == 1 and sorted(weights.values()) == [-1, 1]
    if not two:
        return evidence
    first, second = (stacked[name].to_numpy(bool)[:, 0] for name in sorted(weights, key=weights.get, reverse=True))
    return replace(evidence, p_value=mcnemar(first, second).p_value)


def differences(records: pd.DataFrame, model: str, others: Sequence[str], k: int = 1) -> pd.DataFrame:
    """One row per other model: how much R@k `model` has more, with its interval, seeds, queries and McNemar's p."""
    rows = []
    for other in others:
        evidence = difference(records, {model: 1, other: -1}, k)
        rows.append({
            "against": other, f"difference in R@{k}": evidence.value, "low": evidence.low, "high": evidence.high, "seeds": evidence.seeds,
            "queries": evidence.queries, "p (exact McNemar)": np.nan if evidence.p_value is None else evidence.p_value,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _hits(counted: pd.DataFrame, name: str, keys: list[str], k: int) -> pd.DataFrame:
    own = counted[counted["model"] == name]
    if own.empty:
        raise ValueError(f"No records of '{name}'; there are {sorted(counted['model'].unique())}.")
    hit = own.assign(hit=own["first_hit"].between(1, k))
    return hit.pivot_table(index=keys, columns="seed", values="hit", aggfunc="mean", sort=True)


def _equal_shares(rows: pd.MultiIndex) -> np.ndarray:
    """Weights with mean one that give every data set and pair of drives the same share, (queries,)."""
    parts = rows.droplevel("query_id")
    code, _ = pd.factorize(parts)
    sizes = np.bincount(code)
    return len(rows) / (len(sizes) * sizes[code])


def _in_words(weights: Mapping[str, float], counted: pd.DataFrame) -> str:
    terms = [f"{'-' if w < 0 else '+'} {'' if abs(w) == 1 else f'{abs(w):g} · '}{name}" for name, w in weights.items()]
    return " ".join(terms).removeprefix("+ ") + f", {', '.join(counted['dataset'].unique())}"
