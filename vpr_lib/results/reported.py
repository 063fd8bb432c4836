"""Numbers that papers and their repositories report, from the CSV files in data/reported."""

import pandas as pd

from vpr_lib.paths import data_root, project_root

COLUMNS = ("source", "table", "method", "dataset", "protocol", "metric", "k", "value", "confidence", "note")


def read_reported(name: str) -> pd.DataFrame:
    """The published numbers of one system, one row per number; values in per cent.

    `dataset` and `protocol` are names of our catalogue, so a row can be put beside our own records. `confidence` is the
    mark of the spec: V verified, R reported by the authors, D derived (for instance digitised), ? doubtful.

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
