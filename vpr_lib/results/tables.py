"""Recall tables with intervals, made from records only; numbers under different protocol cards never share a column."""

from collections.abc import Sequence

import pandas as pd

from vpr_lib.results.statistics import McNemar, mcnemar, wilson_interval

KEYS = ["dataset", "protocol", "model", "seed"]


class MixedProtocols(ValueError):
    """Records of one data set that were scored under different cards."""


def recall_table(records: pd.DataFrame, ks: Sequence[int] = (1, 5, 10)) -> pd.DataFrame:
    """One row per data set, protocol, model and seed: recalls in per cent with their 95 % Wilson interval.

    Returns:
        columns dataset, protocol, system, model, dim, seed, queries, then `R@k`, `R@k low`, `R@k high`, and profile,
        device, card, rule.
    Raises:
        MixedProtocols: if one data set and protocol name appears under two protocol cards.
    """
    refuse_mixed_cards(records)
    return pd.DataFrame([_row(keys, group, ks) for keys, group in records.groupby(KEYS, sort=False)])


def _row(keys: tuple, group: pd.DataFrame, ks: Sequence[int]) -> dict:
    counted, first = group[group["counted"]], group.iloc[0]
    pairs = (
        counted["pair"] if "pair" in group and isinstance(first["pair"], str) else None
    )  # of runs, see results.run_pairs
    queries = len(counted) if pairs is None else counted["query_id"].nunique()
    row = dict(zip(KEYS, keys)) | {"system": first["system"], "dim": first["dim"], "queries": queries}
    for k in ks:
        if k > first["n_database"]:
            continue
        hits = counted["first_hit"].between(1, k)
        share = hits.mean() if pairs is None else hits.groupby(pairs).mean().mean()
        low, high = wilson_interval(round(share * queries) if queries else 0, queries)
        row |= {f"R@{k}": 100 * share, f"R@{k} low": 100 * low, f"R@{k} high": 100 * high}
    return row | {name: first[name] for name in ("profile", "device", "precision", "card", "rule")}


def refuse_mixed_cards(records: pd.DataFrame) -> None:
    """Raise MixedProtocols unless every (data set, protocol) has one card."""
    cards = records.groupby(["dataset", "protocol"])["card"].nunique()
    if (mixed := cards[cards > 1]).size:
        dataset, protocol = mixed.index[0]
        found = sorted(records.query("dataset == @dataset and protocol == @protocol")["card"].unique())
        raise MixedProtocols(
            f"'{dataset}' under '{protocol}' was scored with different protocol cards {found}: the "
            "lists or the rule changed in between. Evaluate the older models again."
        )


def compare(records: pd.DataFrame, first: str, second: str, k: int = 1) -> McNemar:
    """Exact McNemar test between two models on the counted queries of one data set and protocol.

    Raises:
        ValueError: if a model is absent or the two were scored on other queries; MixedProtocols.
    """
    refuse_mixed_cards(records)
    sides = [
        records[(records["model"] == name) & records["counted"]].sort_values(["seed", "query"])
        for name in (first, second)
    ]
    for name, side in zip((first, second), sides):
        if side.empty:
            raise ValueError(f"No records of '{name}'; there are {sorted(records['model'].unique())}.")
    if list(sides[0]["query_id"]) != list(sides[1]["query_id"]):
        raise ValueError(f"'{first}' and '{second}' were scored on different queries.")
    return mcnemar(*(side["first_hit"].between(1, k).to_numpy() for side in sides))
