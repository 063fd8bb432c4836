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
    # pairs of runs, see results.run_pairs
    pairs = counted["pair"] if "pair" in group and isinstance(first["pair"], str) else None
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
        names = sorted(records.query("dataset == @dataset and protocol == @protocol")["card"].unique())
        raise MixedProtocols(
            f"'{dataset}' under '{protocol}' was scored with different protocol cards {names}: the "
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


def recall_within(records: pd.DataFrame, radii_m: Sequence[float]) -> pd.DataFrame:
    """The near-miss lens: share of counted queries (per cent) whose first match lies within each radius, in metres.

    One row per model, one column per radius; models without metric positions are left out. It looks at distances only, so at
    the protocol's own radius it equals R@1 unless the protocol asks for more than distance.
    """
    counted = records[records["counted"]]
    nearest = counted["top_distance_m"].map(lambda row: row[0] if len(row) else float("nan"))
    groups = nearest.groupby(counted["model"], sort=False)
    return pd.DataFrame({
        name: {radius: 100 * float((metres <= radius).mean()) for radius in radii_m}
        for name, metres in groups if metres.notna().any()
    }).T.rename_axis(index="model", columns="radius (m)")  # fmt: skip


def recall_by_condition(records: pd.DataFrame, k: int = 1) -> pd.DataFrame:
    """R@k in per cent by model (rows) and condition word (columns), over the counted queries that carry the word.

    Empty when no query carries a condition. The column names end in the number of queries.
    """
    counted = records[records["counted"]]
    if "conditions" not in counted:
        return pd.DataFrame()
    rows = counted.assign(word=counted["conditions"].fillna("").str.split(","), hit=counted["first_hit"].between(1, k))
    rows = rows.explode("word").query("word != ''")
    table = 100 * rows.pivot_table(index="model", columns="word", values="hit", aggfunc="mean", sort=False)
    sizes = rows.groupby("word")["query_id"].nunique()
    return table.rename(columns=lambda word: f"{word} ({sizes[word]})")


def seed_spread(records: pd.DataFrame) -> pd.DataFrame:
    """Models that were trained under several seeds: number of seeds, mean and standard deviation of R@1, lowest, highest."""
    table, keys = recall_table(records, (1,)), ["dataset", "model"]
    several = table[table.groupby(keys)["seed"].transform("nunique") > 1]
    spread = several.groupby(keys, sort=False)["R@1"].agg(["size", "mean", "std", "min", "max"]).reset_index()
    return spread.set_axis([*keys, "seeds", "mean", "standard deviation", "lowest", "highest"], axis=1)
