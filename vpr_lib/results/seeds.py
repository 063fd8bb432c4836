"""Runs that differ by their seed only: the mean with its interval, and what a change gains over its control."""

from collections.abc import Sequence

import pandas as pd

from vpr_lib.results.statistics import mean_interval
from vpr_lib.results.tables import compare, recall_table


def seed_table(records: pd.DataFrame, control: str, ks: Sequence[int] = (1, 5, 10)) -> pd.DataFrame:
    """One row per model: mean recall over its seeds with the 95 % t interval, and the gain in R@1 over `control`.

    Args:
        records: of one data set and protocol.
        control: the model without the change, trained on the same seeds; a model with other seeds gets no gain.
    Returns:
        columns model, seeds, `R@k`, `R@1 low`, `R@1 high` in per cent; `gain`, `gain low`, `gain high` in points, from the
        differences seed by seed; `only model`, `only control`: queries that one of the two alone found, over all seeds,
        with the exact McNemar `p` (seeds share their queries, so it is a guide rather than a level).
    Raises:
        ValueError: when `control` has no records, or there are several data sets.
    """
    if records.empty or control not in set(records["model"]):
        raise ValueError(f"No records of the control '{control}'; there are {sorted(set(records.get('model', [])))}.")
    table = recall_table(records, ks)
    if len(table[["dataset", "protocol"]].drop_duplicates()) > 1:
        raise ValueError("Seeds are compared on one data set and protocol; choose one.")
    r1 = {model: group.set_index("seed")["R@1"] for model, group in table.groupby("model", sort=False)}
    rows = []
    for model, group in table.groupby("model", sort=False):
        mean, low, high = mean_interval(group["R@1"])
        row = {
            "model": model,
            "dim": group["dim"].iloc[0],
            "seeds": len(group),
            "R@1": mean,
            "R@1 low": low,
            "R@1 high": high,
        }
        row |= {f"R@{k}": group[f"R@{k}"].mean() for k in ks if k > 1}
        if model != control and set(r1[model].index) == set(r1[control].index):
            gain = mean_interval((r1[model] - r1[control]).to_numpy())
            test = compare(records, model, control)
            row |= dict(zip(("gain", "gain low", "gain high"), gain))
            row |= {"only model": test.only_first, "only control": test.only_second, "p": test.p_value}
        rows.append(row)
    return pd.DataFrame(rows)
