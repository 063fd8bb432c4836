"""Numbers that papers and their repositories report, from the CSV files in data/reported."""

import pandas as pd

from vpr_lib.paths import data_root, project_root

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
    """Every published recall@k with ours beside it where data set protocol, method and descriptor size are the same.

    Args:
        table: rows as of `results.tables.recall_table`.
    Returns:
        columns method, backbone, dim, protocol, source, confidence, published, measured, low, high (per cent; NaN when not
        measured), difference, and verdict: 'inside' or 'outside' the interval, 'not measured'.
    """
    published = pd.concat([read_reported(name) for name in reported_systems()], ignore_index=True)
    published = published[(published["metric"] == "recall") & (pd.to_numeric(published["k"], errors="coerce") == k)]
    ours = {(row["protocol"], row["system"], str(row["dim"])): row for row in table.to_dict("records")}
    rows = []
    for row in published.to_dict("records"):
        own = ours.get((row["protocol"], row["method"], str(row.get("dim", ""))), {})
        measured, low, high = (own.get(name, float("nan")) for name in (f"R@{k}", f"R@{k} low", f"R@{k} high"))
        verdict = "not measured" if not own else "inside" if low <= float(row["value"]) <= high else "outside"
        rows.append({
            "method": row["method"], "backbone": row.get("backbone", ""), "dim": row.get("dim", ""), "protocol": row["protocol"],
            "source": row["source"], "confidence": row["confidence"], "published": float(row["value"]), "measured": measured,
            "low": low, "high": high, "difference": measured - float(row["value"]), "verdict": verdict,
        })  # fmt: skip
    return pd.DataFrame(rows)


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
