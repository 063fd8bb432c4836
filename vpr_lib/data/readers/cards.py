"""Protocol cards that several families share: by radius, with or without the queries that nothing can answer."""

import numpy as np

from vpr_lib.data.ground_truth import Positives, Protocol, make_protocol
from vpr_lib.data.manifest import Manifest


def radius_positives(database: Manifest, queries: Manifest, radius_m: float, group: str | None = None) -> Positives:
    """Database images within `radius_m`, threshold included; only inside one UTM zone, or one value of column `group`."""
    groups = [side.table[group].to_numpy() if group else _zones(side) for side in (database, queries)]
    return Positives.from_radius(database.positions(), queries.positions(), radius_m, *groups)


def _zones(side: Manifest) -> np.ndarray | None:
    """UTM zone and hemisphere as one number per row, None where the names carry no zone."""
    if "utm_zone" not in side.table:
        return None
    zone = side.table["utm_zone"].fillna(0).to_numpy(np.int64)
    if "utm_band" not in side.table:
        return zone
    codes, bands = side.table["utm_band"].factorize(use_na_sentinel=False)
    return 2 * zone + np.array([str(band) >= "N" for band in bands])[codes]


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
    have a positive; nothing when one side has no positions."""
    if not (database.has_positions and queries.has_positions):
        return ()
    positives = radius_positives(database, queries, radius_m, group)
    card = dict(dataset=dataset, rule="radius_m", threshold=radius_m) | card
    cards = [make_protocol(database, queries, positives, name=f"{name}@{radius_m:g}m", **card)]
    if matchable:
        card |= dict(name=f"{name}@{radius_m:g}m_matchable", denominator="with_positive")
        cards.append(make_protocol(database, queries, positives, **card))
    return tuple(cards)
