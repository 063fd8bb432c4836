"""Runs that differ by their seed only: the mean with its interval, and what a change gains over its control."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vpr_lib.results.statistics import mean_interval
from vpr_lib.results.tables import recall_table


def first_seed(records: pd.DataFrame) -> pd.DataFrame:
    """Of every model on every data set and protocol, the rows of its lowest seed."""
    lowest = records.groupby(["dataset", "protocol", "model"])["seed"].transform("min")
    return records[records["seed"] == lowest]


def seed_table(
    records: pd.DataFrame, control: str, ks: Sequence[int] = (1, 5, 10), tested: Sequence[int] = (1, 5)
) -> pd.DataFrame:
    """One row per model: mean recalls over its seeds with 95 % t intervals, and what it gains over `control`.

    Args:
        records: of one data set and protocol.
        control: the model without the change, trained on the same seeds; a model with other seeds gets no gain.
        tested: the cut-offs, among `ks`, at which gains are given.
    Returns:
        columns model, dim, seeds, then for every k `R@k` in per cent and, for the tested ones, `R@k low`, `R@k high`, cut at 0 and
        100, and `R@k gain` in points with `R@k gain low`, `R@k gain high`, Student's of the differences seed by seed.
    Raises:
        ValueError: when `control` has no records, or there are several data sets.
    """
    if records.empty or control not in set(records["model"]):
        raise ValueError(f"No records of the control '{control}'; there are {sorted(set(records.get('model', [])))}.")
    table = recall_table(records, ks)
    if len(table[["dataset", "protocol"]].drop_duplicates()) > 1:
        raise ValueError("Seeds are compared on one data set and protocol; choose one.")
    # what the database is large enough for
    ks, tested = ([k for k in some if f"R@{k}" in table] for some in (ks, tested))
    by_seed = {model: group.set_index("seed") for model, group in table.groupby("model", sort=False)}
    rows = []
    for model, group in by_seed.items():
        row = {"model": model, "dim": group["dim"].iloc[0], "seeds": len(group)}
        paired = model != control and set(group.index) == set(by_seed[control].index)
        for k in ks:
            row[f"R@{k}"], low, high = mean_interval(group[f"R@{k}"])
            if k in tested:
                row |= {f"R@{k} low": max(low, 0), f"R@{k} high": min(high, 100)}  # NaN stays NaN
                gain = (group[f"R@{k}"] - by_seed[control][f"R@{k}"]).to_numpy() if paired else np.full(1, np.nan)
                row |= dict(zip((f"R@{k} gain", f"R@{k} gain low", f"R@{k} gain high"), mean_interval(gain)))
        rows.append(row)
    return pd.DataFrame(rows)


def mean_recalls(records: pd.DataFrame, ks: Sequence[int] = (1, 5, 10)) -> pd.DataFrame:
    """One row per data set, protocol and model: recalls in per cent, means over seeds, with a 95 % interval.

    Returns:
        columns dataset, protocol, model, system, dim, seeds, then `R@k`, `R@k low`, `R@k high` and `R@k by seed`, a list. The
        interval is Student's over seeds, and Wilson's over queries where there is one seed only.
    """
    rows = []
    for (dataset, protocol, model), group in recall_table(records, ks).groupby(
        ["dataset", "protocol", "model"], sort=False
    ):
        first = group.iloc[0]
        row = {"dataset": dataset, "protocol": protocol, "model": model, "system": first["system"], "dim": first["dim"]}
        row["seeds"] = len(group)
        for k in (k for k in ks if f"R@{k}" in group):
            mean, low, high = mean_interval(group[f"R@{k}"])
            if len(group) == 1:
                low, high = first[f"R@{k} low"], first[f"R@{k} high"]
            row |= {
                f"R@{k}": mean,
                f"R@{k} low": max(low, 0),
                f"R@{k} high": min(high, 100),
                f"R@{k} by seed": list(group[f"R@{k}"]),
            }
        rows.append(row)
    return pd.DataFrame(rows)
