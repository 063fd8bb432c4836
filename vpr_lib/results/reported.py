"""Numbers that papers and their repositories report, from the CSV files in data/reported, beside ours and beside each other."""

import re

import pandas as pd

from vpr_lib.models.zoo import ZOO
from vpr_lib.paths import data_root, project_root

TRUST = "VRDSUM?"  # marks of confidence, best first
FLOAT_BYTES = 4
COLUMNS = ("source", "table", "method", "dataset", "protocol", "metric", "k", "value", "confidence", "note")


def read_reported(name: str) -> pd.DataFrame:
    """The published numbers of one system, one row per number; values in per cent.

    `dataset` and `protocol` are names of our catalogue, so a row can be put beside our own records. `confidence` is the
    mark of the spec: V verified, R reported by the authors, D derived (for instance digitised), S second-hand, M recollected and not
    verified, U unverified, ? doubtful, missing: not published.

    Raises:
        FileNotFoundError: listing the systems there are. ValueError: for a file without the columns of COLUMNS.
    """
    folders = [project_root() / "data" / "reported", data_root() / "reported"]
    path = next((folder / f"{name}.csv" for folder in folders if (folder / f"{name}.csv").is_file()), None)
    if path is None:
        known = sorted({file.stem for folder in folders for file in folder.glob("*.csv")})
        raise FileNotFoundError(
            f"No published numbers {folders[0] / name}.csv. There are: {', '.join(known) or 'none'}."
        )
    table = pd.read_csv(path, keep_default_na=False, dtype={"dim": str})
    if missing := [column for column in COLUMNS if column not in table]:
        raise ValueError(f"{path} lacks the columns {missing}; it has {list(table.columns)}.")
    return table


def reported_systems() -> list[str]:
    """The systems `read_reported` has numbers of."""
    return sorted(file.stem for file in (project_root() / "data" / "reported").glob("*.csv"))


def beside_reported(table: pd.DataFrame, k: int = 1) -> pd.DataFrame:
    """Every published recall@k with ours beside it where data set protocol, method, backbone and descriptor size are the same.

    Args:
        table: rows as of `results.tables.recall_table`.
    Returns:
        columns method, backbone, dim, protocol, source, confidence, published, and those of `measured_beside`.
    """
    published = pd.concat([read_reported(name) for name in reported_systems()], ignore_index=True)
    published = published[(published["metric"] == "recall") & (pd.to_numeric(published["k"], errors="coerce") == k)]
    published = published.assign(published=published["value"].astype(float))
    columns = ["method", "backbone", "dim", "protocol", "source", "confidence", "published"]
    beside = measured_beside(published.rename(columns={"dim": "D"}), table)
    return pd.concat([published[columns], beside], axis=1).reset_index(drop=True)


def measured_beside(published: pd.DataFrame, table: pd.DataFrame | None) -> pd.DataFrame:
    """Ours beside published numbers, row by row.

    Args:
        published: columns method, backbone, D, protocol, k and `published`, a number in per cent.
        table: rows as of `results.tables.recall_table`; of several seeds the first counts. None when nothing was measured.
    Returns:
        columns model, measured, low, high (per cent; NaN when not measured), difference, card (hash), and verdict: 'inside' or
        'outside' the interval, 'not measured'; the index of `published`.
    """
    ours: dict[tuple, list[dict]] = {}
    for row in (table.sort_values("seed") if table is not None and len(table) else pd.DataFrame()).to_dict("records"):
        ours.setdefault((row["protocol"], row["system"], str(row["dim"])), []).append(row)
    rows = []
    for number in published.to_dict("records"):
        candidates = ours.get((number["protocol"], number["method"], str(number["D"])), [])
        own = next((row for row in candidates if same_backbone(row["model"], number["backbone"])), {})
        measured, low, high = (own.get(f"R@{number['k']}{end}", float("nan")) for end in ("", " low", " high"))
        known = measured == measured and number["published"] == number["published"]
        verdict = "not measured" if not known else "inside" if low <= number["published"] <= high else "outside"
        rows.append({
            "model": own.get("model", ""), "measured": measured, "low": low, "high": high,
            "difference": measured - number["published"], "card": own.get("card", ""), "verdict": verdict,
        })  # fmt: skip
    return pd.DataFrame(rows, index=published.index)


def same_backbone(model: str, published: str) -> bool:
    """Whether a model of the zoo has the backbone that a table names, or one of several joined by '+'; no claim is made about
    models and tables that name none."""
    plain = lambda text: re.sub(r"[^a-z0-9]", "", text.lower())
    return model not in ZOO or any(plain(part) in plain(ZOO[model].backbone) for part in published.split("+"))


def published_recall(system: str, protocol: str, k: int = 1) -> dict[str, float]:
    """Published R@k in per cent of the zoo's models of a system: those whose backbone and descriptor length a row names."""
    table = read_reported(system)
    table = table[(table["metric"] == "recall") & (table["k"].astype(str) == str(k)) & (table["protocol"] == protocol)]
    rows = [(row, name) for row in table.to_dict("records") for name in ZOO if name.endswith(f"_{row['dim']}")]
    return {
        name: float(row["value"])
        for row, name in reversed(rows)  # the first row of a model wins
        if ZOO[name].system == row["method"] and same_backbone(name, row["backbone"])
    }


def impossible_recalls() -> pd.DataFrame:
    """Published recalls that no whole number of queries gives: the rows of `read_reported`, with `queries` and `nearest`.

    Looked at are recalls that were printed (not read off a figure), on data sets whose number of counted queries the catalogue
    knows. `nearest` is the nearest share that is possible, in per cent. Such a number may be a mean over runs, come from
    another query list, or be a slip; the row says only that it is no recall of this list.
    """
    rows = []
    for system in reported_systems():
        table = read_reported(system)
        for row in table[(table["metric"] == "recall") & (table["confidence"] != "D")].to_dict("records"):
            count, text = _counted(row["dataset"], row["protocol"]), str(row["value"])
            if not count or not text:
                continue
            half_a_digit = 0.5 * 10.0 ** -max(1, len(text.partition(".")[2]))
            nearest = 100 * round(float(text) * count / 100) / count
            if abs(nearest - float(text)) > half_a_digit + 1e-9:
                rows.append({"system": system, **row, "queries": count, "nearest": nearest})
    return pd.DataFrame(rows)


def _counted(dataset: str, protocol: str) -> int | None:
    from vpr_lib.data.catalogue import load_table

    entry = load_table().datasets.get(dataset)
    if entry is None:
        return None
    return (entry.expected.get(f"counted {protocol}") or entry.expected.get("queries") or (None, ""))[0]


def present_state(protocol: str = "pitts30k_test@25m") -> pd.DataFrame:
    """Where published methods stand today, recall@1 beside what a place costs.

    One row per published method, backbone and descriptor length under a protocol, best recall first.

    Where several sources give a number, the one with the best mark counts; among equals the first.

    Returns:
        columns system, backbone, dim, R@1, mark, source, bytes per place (single precision), model (a name of the zoo, ''
        where we have none).
    """
    published = pd.concat([read_reported(name) for name in reported_systems()], ignore_index=True)
    value, cut = pd.to_numeric(published["value"], errors="coerce"), pd.to_numeric(published["k"], errors="coerce")
    dim = pd.to_numeric(published["dim"], errors="coerce")
    chosen = (
        (published["protocol"] == protocol)
        & (published["metric"] == "recall")
        & (cut == 1)
        & value.notna()
        & dim.notna()
    )
    rows = published[chosen].assign(value=value, dim=dim.astype("Int64"))
    rows = rows.assign(order=rows["confidence"].map(TRUST.find)).sort_values("order", kind="stable")
    rows = rows.drop_duplicates(["method", "backbone", "dim"]).sort_values("value", ascending=False, kind="stable")
    return pd.DataFrame({
        "system": rows["method"], "backbone": rows["backbone"], "dim": rows["dim"].astype(int), "R@1": rows["value"],
        "mark": rows["confidence"], "source": rows["source"], "bytes per place": FLOAT_BYTES * rows["dim"].astype(int),
        "model": [_in_the_zoo(*row) for row in zip(rows["method"], rows["backbone"], rows["dim"])],
    }).reset_index(drop=True)  # fmt: skip


def _in_the_zoo(method: str, backbone: str, dim: int) -> str:
    """The zoo's model of that method, backbone and descriptor length; the name tells the length."""
    if not backbone:
        return ""
    names = (n for n, c in ZOO.items() if c.system == method and n.endswith(f"_{dim}") and same_backbone(n, backbone))
    return next(names, "")
