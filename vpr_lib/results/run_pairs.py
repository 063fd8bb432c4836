"""Records and tables of drives compared two at a time: one row per query and database run. Spec: distilvpr §9."""

import numpy as np
import pandas as pd

from vpr_lib.data.ground_truth import Benchmark, Protocol
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.results.records import Run, query_records
from vpr_lib.results.tables import KEYS, recall_table
from vpr_lib.retrieval.protocol import Scored
from vpr_lib.retrieval.run_pairs import PairScores, one_percent_of


def pair_records(runs: RunPairs, scores: PairScores, run: Run) -> pd.DataFrame:
    """The rows of `query_records` for every ordered pair, with `pair`, `query_run`, `database_run` and `metric`.

    `query` counts over all pairs; `query_id` names the submap, so it occurs once per database run.
    """
    tables = []
    for pair in scores.pairs:
        q, d = pair
        positives, ranking = runs.positives[pair], scores.rankings[pair]
        protocol = Protocol(runs.card, positives, np.ones(len(positives), bool))
        benchmark = Benchmark(runs.name, runs.databases[d], runs.queries(q), (protocol,))
        scored = Scored(protocol, ranking.indices, scores.first_hits[pair], scores.counted[pair], {})
        names = dict(query_run=runs.runs[q], database_run=runs.runs[d], pair=f"{runs.runs[q]} in {runs.runs[d]}")
        tables.append(query_records(benchmark, scored, ranking.scores, run).assign(**names, metric=scores.metric))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(query=np.arange(len(table)))


def run_pair_table(records: pd.DataFrame, ks: tuple[int, ...] = (1, 5, 10)) -> pd.DataFrame:
    """`recall_table` of run pairs, whose recalls are unweighted means over the pairs, with `R@1%` and the pairs counted.

    The intervals are Wilson's for as many queries as there are different query submaps: a submap that is searched in several
    drives is one observation of a place, not several.
    """
    table = recall_table(records, ks).set_index(KEYS)
    for keys, group in records.groupby(KEYS, sort=False):
        counted = group[group["counted"]]
        hits = counted["first_hit"].between(1, counted["n_database"].map(one_percent_of))
        table.loc[keys, "R@1%"] = 100 * hits.groupby(counted["pair"]).mean().mean()
        table.loc[keys, "pairs"] = counted["pair"].nunique()
        table.loc[keys, "pairs skipped"] = group["pair"].nunique() - counted["pair"].nunique()
    return table.reset_index().astype({"pairs": int, "pairs skipped": int})


def method_table(records: pd.DataFrame, baseline: str, k: int = 1, draws: int = 2000) -> pd.DataFrame:
    """AR@k of every model, averaged over its seeds, and its gain over the baseline with a 95 % interval.

    The gain is paired: the same queries, searched in the same drives, by models of the same seed. The interval comes from a
    bootstrap over query submaps, so all answers about one place are drawn together; it does not cover the draw of seeds, for
    which `lowest seed` and `highest seed` of the gain are given.

    Returns:
        columns model, system, seeds, `AR@k`, `gain`, `gain low`, `gain high`, `lowest seed`, `highest seed`, in points.
    Raises:
        ValueError: when the baseline is absent, or lacks a seed that a model has.
    """
    keys = ["seed", "pair", "query_id"]
    counted = records[records["counted"]]
    hits = counted.assign(hit=100.0 * counted["first_hit"].between(1, k)).set_index(["model", *keys])["hit"]
    if baseline not in hits.index.get_level_values("model"):
        raise ValueError(f"No records of the baseline '{baseline}'; there are {sorted(records['model'].unique())}.")
    reference, rows = hits.loc[baseline], []
    rng = np.random.default_rng(0)
    for model, group in records.groupby("model", sort=False):
        own = hits.loc[model]
        gain = own - reference.reindex(own.index)
        if gain.isna().any():
            seeds = sorted(set(own.index.get_level_values("seed")) - set(reference.index.get_level_values("seed")))
            raise ValueError(
                f"'{model}' cannot be paired with '{baseline}', which lacks seeds {seeds} or some queries."
            )
        places = gain.groupby(level="query_id").mean().to_numpy()
        drawn = places[rng.integers(0, len(places), (draws, len(places)))].mean(1)
        by_seed = gain.groupby(level=["seed", "pair"]).mean().groupby(level="seed").mean()
        average = own.groupby(level=["seed", "pair"]).mean().groupby(level="seed").mean()
        low, high = np.percentile(drawn, [2.5, 97.5])
        rows.append({
            "model": model, "system": group["system"].iloc[0], "seeds": len(average), f"AR@{k}": average.mean(),
            "gain": by_seed.mean(), "gain low": low, "gain high": high, "lowest seed": by_seed.min(), "highest seed": by_seed.max(),
        })  # fmt: skip
    return pd.DataFrame(rows)
