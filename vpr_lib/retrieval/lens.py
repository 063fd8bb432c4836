"""One ranking under other rules: how far a recall depends on the radius, the window of frames and the denominator."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vpr_lib.data.ground_truth import Positives
from vpr_lib.data.positions import radius_positives
from vpr_lib.retrieval.metrics import first_hit_ranks, recall_from_ranks
from vpr_lib.retrieval.protocol import Evaluation


def recall_under(evaluation: Evaluation, truths: Mapping[float | str, Positives], k: int = 1) -> pd.DataFrame:
    """Recall@k of the same ranking under several ground truths, one row each.

    Columns: `rule` (the key), `all` and `with_positive` (recall between 0 and 1 under either denominator), `queries` and
    `matched` (the two denominators). Looks at the queries of the default protocol only.
    """
    looked_at, rows = evaluation.scores[0].protocol.query_mask, []
    for rule, positives in truths.items():
        ranks, matched = first_hit_ranks(evaluation.scores[0].ranking, positives), looked_at & (positives.counts > 0)
        recall = {
            name: recall_from_ranks(ranks, (k,), mask)[k]
            for name, mask in (("all", looked_at), ("with_positive", matched))
        }
        rows.append({"rule": rule, **recall, "queries": int(looked_at.sum()), "matched": int(matched.sum())})
    return pd.DataFrame(rows)


def recall_by_radius(evaluation: Evaluation, radii_m: Sequence[float], k: int = 1) -> pd.DataFrame:
    """`recall_under` with everything within each radius (metres) as positives; both sides need positions (ValueError)."""
    benchmark = evaluation.benchmark
    if not (benchmark.database.has_positions and benchmark.queries.has_positions):
        raise ValueError(f"'{benchmark.name}' has no positions in metres; for a traverse there is recall_by_window.")
    truths = {radius: radius_positives(benchmark.database, benchmark.queries, radius) for radius in radii_m}
    return recall_under(evaluation, truths, k)


def recall_by_window(evaluation: Evaluation, half_widths: Sequence[int], k: int = 1) -> pd.DataFrame:
    """`recall_under` with frame i of the database, and so many to either side, as positives of query i.

    Only for aligned traverses of equal length (ValueError otherwise).
    """
    n, m = len(evaluation.benchmark.queries), len(evaluation.benchmark.database)
    if n != m:
        raise ValueError(f"'{evaluation.benchmark.name}' is no aligned traverse: {n} queries, {m} database images.")
    truths = {width: Positives.from_window(np.arange(n), width, m) for width in half_widths}
    return recall_under(evaluation, truths, k)
