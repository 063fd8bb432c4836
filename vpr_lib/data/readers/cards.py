"""Protocol cards that several families share: by radius, with or without the queries that nothing can answer."""

import logging

from vpr_lib.data.ground_truth import Protocol, make_protocol
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.positions import check_positions, radius_positives

log = logging.getLogger(__name__)


def radius_cards(
    database: Manifest,
    queries: Manifest,
    name: str,
    dataset: str,
    radius_m: float = 25.0,
    matchable: bool = False,
    group: str | None = None,
    **card: object,
) -> tuple[Protocol, ...]:
    """`<name>@25m`, where every query counts, and with `matchable` also `<name>@25m_matchable`, where only those do that
    have a positive; nothing when one side has no positions.

    Raises:
        ValueError: for positions that cannot be compared (`data/positions.py`).
    """
    if not (database.has_positions and queries.has_positions):
        return ()
    for warning in check_positions(database, queries, radius_m):
        log.warning("%s: %s", name, warning)
    positives = radius_positives(database, queries, radius_m, group)
    card = dict(dataset=dataset, rule="radius_m", threshold=radius_m) | card
    cards = [make_protocol(database, queries, positives, name=f"{name}@{radius_m:g}m", **card)]
    if matchable:
        card |= dict(name=f"{name}@{radius_m:g}m_matchable", denominator="with_positive")
        cards.append(make_protocol(database, queries, positives, **card))
    return tuple(cards)
