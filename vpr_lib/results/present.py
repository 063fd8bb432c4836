"""Where published methods stand today: recall under one protocol beside what a place costs."""

import pandas as pd

from vpr_lib.models.zoo import ZOO
from vpr_lib.results.reported import read_reported, reported_systems, same_backbone

TRUST = "VRDSUM?"  # marks, best first
FLOAT_BYTES = 4


def present_state(protocol: str = "pitts30k_test@25m", k: int = 1) -> pd.DataFrame:
    """One row per published method, backbone and descriptor length under a protocol, best recall first.

    Where several sources give a number, the one with the best mark counts; among equals the first.

    Returns:
        columns system, backbone, dim, R@k, mark, source, bytes per place (single precision), model (a name of the zoo, ''
        where we have none).
    """
    published = pd.concat([read_reported(name) for name in reported_systems()], ignore_index=True)
    value, cut = pd.to_numeric(published["value"], errors="coerce"), pd.to_numeric(published["k"], errors="coerce")
    dim = pd.to_numeric(published["dim"], errors="coerce")
    chosen = (
        (published["protocol"] == protocol)
        & (published["metric"] == "recall")
        & (cut == k)
        & value.notna()
        & dim.notna()
    )
    rows = published[chosen].assign(value=value, dim=dim.astype("Int64"))
    rows = rows.assign(order=rows["confidence"].map(TRUST.find)).sort_values("order", kind="stable")
    rows = rows.drop_duplicates(["method", "backbone", "dim"]).sort_values("value", ascending=False, kind="stable")
    return pd.DataFrame({
        "system": rows["method"], "backbone": rows["backbone"], "dim": rows["dim"].astype(int), f"R@{k}": rows["value"],
        "mark": rows["confidence"], "source": rows["source"], "bytes per place": FLOAT_BYTES * rows["dim"].astype(int),
        "model": [_in_the_zoo(*row) for row in zip(rows["method"], rows["backbone"], rows["dim"])],
    }).reset_index(drop=True)  # fmt: skip


def _in_the_zoo(method: str, backbone: str, dim: int) -> str:
    """The zoo's model of that method, backbone and descriptor length; the name tells the length."""
    if not backbone:
        return ""
    names = (n for n, c in ZOO.items() if c.system == method and n.endswith(f"_{dim}") and same_backbone(n, backbone))
    return next(names, "")
