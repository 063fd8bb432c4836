"""Recall of a night beside that of another: the same evaluations, flips by exact McNemar, adjusted over all of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpr_lib.workbook.night.night import RecallChange

if TYPE_CHECKING:
    import pandas

LEVEL = 0.05  # family-wise, after Holm
Key = tuple[str, str, str, str, int]  # notebook, data set, protocol, model, seed


def evaluations(folder: Path, notebooks: list[str]) -> dict[Key, "pandas.DataFrame"]:
    from vpr_lib.results.records import read_record, record_files

    tables = {}
    for path in record_files(folder / "records"):
        notebook = path.relative_to(folder / "records").parts[0]
        table = read_record(path)
        if notebook in notebooks and len(table):
            first = table.iloc[0]
            tables[notebook, first["dataset"], first["protocol"], first["model"], int(first["seed"])] = table
    return tables


def recall_changes(before: dict[Key, "pandas.DataFrame"], after: dict[Key, "pandas.DataFrame"]) -> dict[str, Any]:
    """Recall changes with their verdicts, and what cannot be compared."""
    changes, incomparable = [], []
    for key in sorted(before.keys() & after.keys()):
        try:
            changes.append(_change(key, before[key], after[key]))
        except ValueError as error:
            incomparable.append(f"{_name(key)}: {error}")
    adjusted = holm([change.p_value if change.lost + change.gained else None for change in changes])
    judged = tuple(_judge(change, p) for change, p in zip(changes, adjusted))
    order = ("regressed", "improved", "within noise", "same")
    return {
        "recalls": tuple(sorted(judged, key=lambda change: (order.index(change.verdict), change.delta))),
        "incomparable": tuple(incomparable),
        "gone": tuple(map(_name, sorted(before.keys() - after.keys()))),
        "new": tuple(map(_name, sorted(after.keys() - before.keys()))),
    }


def _name(key: Key) -> str:
    notebook, dataset, protocol, model, seed = key
    return f"{model} on {dataset} ({protocol}, seed {seed}, {notebook[:2]})"


def _change(key: Key, before: "pandas.DataFrame", after: "pandas.DataFrame") -> RecallChange:
    """One evaluation compared; ValueError if protocol card or queries differ, or nothing counts."""
    import pandas

    from vpr_lib.results.tables import compare, recall_table

    if not (before["counted"].any() and after["counted"].any()):
        raise ValueError("no query counts")
    both = pandas.concat([before.assign(model="before"), after.assign(model="after")], ignore_index=True)
    test = compare(both, "before", "after")
    rows = recall_table(both).set_index("model")
    recalls = [
        {k: float(rows.loc[side, k]) for k in ("R@1", "R@5", "R@10") if k in rows} for side in ("before", "after")
    ]
    sides = [table[table["counted"]].sort_values("query") for table in (before, after)]
    was, now = (side["first_hit"].eq(1).to_numpy() for side in sides)
    number = sides[1]["query"].to_numpy()
    flips = [*number[was & ~now], *number[now & ~was]]
    same = (sides[0]["first_hit"].to_numpy() == sides[1]["first_hit"].to_numpy()).all()
    return RecallChange(
        **dict(zip(("notebook", "dataset", "protocol", "model", "seed"), key)),
        queries=int(rows.loc["after", "queries"]),
        before=recalls[0],
        after=recalls[1],
        lost=test.only_first,
        gained=test.only_second,
        p_value=test.p_value,
        p_adjusted=1.0,
        verdict="same" if same else "within noise",
        flips=tuple(int(query) for query in flips[:200]),
    )


def holm(p_values: list[float | None]) -> list[float]:
    """Holm's step-down adjustment; None marks a test that cannot reject (no flip) and does not count.

    Source: Holm, Scand. J. Statist. 6 (1979); leaving out tests that cannot reject: Tarone, Biometrics 46 (1990).
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def _judge(change: RecallChange, p_adjusted: float) -> RecallChange:
    verdict = change.verdict
    if p_adjusted < LEVEL:
        verdict = "improved" if change.gained > change.lost else "regressed"
    return change.model_copy(update={"p_adjusted": p_adjusted, "verdict": verdict})
