"""The numbers of a data set that a reader can compare with what a paper or a specification says."""

from functools import singledispatch

import numpy as np

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.positions import radius_positives
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.data.tuples import TupleSet

NEAR_M = 0.05  # pairs this close to a threshold are told: rounding could decide them


@singledispatch
def totals(content: object) -> dict[str, int]:
    """Name -> number. Per protocol card X: `counted X` queries in its denominator, `positives X` pairs among the queries it
    looks at, `unmatched X` of them without any."""
    raise TypeError(f"no totals for {type(content).__name__}")


@totals.register
def _(content: Benchmark) -> dict[str, int]:
    found = {"database": len(content.database), "queries": len(content.queries)}
    if "nms_group" in content.database.table:
        found["panoramas"] = int(content.database.table["nms_group"].nunique())
    if content.queries.has_positions:
        found["query positions"] = len(np.unique(content.queries.positions(), axis=0))
    for protocol in content.protocols:
        name, mask = protocol.card.name, protocol.query_mask
        counts = protocol.positives.counts[mask]
        found |= {f"counted {name}": int(protocol.counted.sum()), f"positives {name}": int(counts.sum()),
                  f"unmatched {name}": int((counts == 0).sum())}  # fmt: skip
    return found


@totals.register
def _(content: Manifest) -> dict[str, int]:
    found = {"images": len(content)}
    for column, name in (("place_id", "places"), ("city", "cities")):
        if column in content.table:
            found[name] = int(content.table[column].nunique())
    return found


@totals.register
def _(content: RunPairs) -> dict[str, int]:
    return {
        "runs": len(content.runs), "pairs": len(content.positives), "submaps": sum(map(len, content.databases)),
        "queries": sum(map(len, content.query_rows)), "counted": sum(content.counted.values()),
        "positives": sum(len(found.indices) for found in content.positives.values()),
    }  # fmt: skip


@totals.register
def _(content: TupleSet) -> dict[str, int]:
    return {
        "images": len(content.database), "queries": len(content.queries), "usable": len(content.usable),
        "positives": len(content.positives.indices), "non-negatives": len(content.non_negatives.indices),
    }  # fmt: skip


def near_threshold(content: Benchmark) -> int | None:
    """Pairs within 5 cm of the default card's radius; None where it is no radius in metres.

    Spec: datasets §13.3 rule 3.
    """
    card = content.protocols[0].card if content.protocols else None
    if (
        card is None
        or card.rule != "radius_m"
        or not (content.database.has_positions and content.queries.has_positions)
    ):
        return None
    sides = content.database, content.queries
    group = "city" if all("city" in side.table for side in sides) else None
    outer, inner = (radius_positives(*sides, card.threshold + margin, group) for margin in (NEAR_M, -NEAR_M))
    return len(outer.indices) - len(inner.indices)
