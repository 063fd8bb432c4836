"""Lists of names and tables as data sets ship them: text, NumPy and CSV files, and where the named files lie."""

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from vpr_lib.data.pickles import load_array
from vpr_lib.data.readers.image_files import list_images

log = logging.getLogger(__name__)
FEW = 500_000  # names; as many files are listed in seconds


def list_paths(folder: Path) -> list[str]:
    """Image paths below `folder`, relative and sorted byte-wise.

    A sibling `<folder>_images_paths.txt` is believed where there is one, as in VPR-methods-evaluation: listing the
    millions of files of SF-XL takes minutes. Images that a list of up to FEW names leaves out are told. Nothing is opened;
    `vpr data check` finds what is missing.

    Raises:
        FileNotFoundError: without the folder and without a list. ValueError: if the list is empty or leaves the folder.
    Spec: datasets §1.1, §7.
    """
    folder = Path(folder)
    listed = folder.parent / f"{folder.name}_images_paths.txt"
    if not listed.is_file():
        return list_images(folder)
    names = sorted(read_names(listed))
    if len(names) <= FEW and folder.is_dir() and (others := sorted(set(list_images(folder)) - set(names))):
        text = "%s names %d images and leaves out %d of %s, for instance '%s'. If it is older than they are, remove it."
        log.warning(text, listed, len(names), len(others), folder, others[0])
    return names


def read_names(path: Path) -> list[str]:
    """File names from a text file (one per line) or a `.npy` array, in order, relative POSIX paths without './'.

    Raises:
        FileNotFoundError: if the file is absent. ValueError: if it names nothing, or a file outside its folder.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No list of names {path}.")
    if path.suffix == ".npy":
        names = [str(name).strip() for name in load_array(path).ravel()]
    else:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [name.removeprefix("./") for name in names if name]
    if not names:
        raise ValueError(f"{path} names no file.")
    if outside := [name for name in names if name.startswith("/") or (".." in name and ".." in name.split("/"))]:
        raise ValueError(
            f"{path}: {len(outside)} names lead out of the data set, for instance '{outside[0]}'; expected paths "
            "relative to its folder."
        )
    return names


def read_csv(path: Path, columns: Sequence[str], text: Sequence[str] = (), numbers: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV that must have `columns`.

    Semicolons or tabs may stand between the columns, and then commas before the decimals, as spreadsheets write them.
    Those in `text` stay text, whatever they look like ('1e5', '007', 'NA'); those in `numbers` become float64 and must all
    be finite.

    Raises:
        FileNotFoundError: if it is absent. ValueError: if it is empty, damaged, lacks a column (with what it has) or holds
            something else where a number belongs (with its line).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No table {path}; expected a CSV with the columns {', '.join(columns)}.")
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.readline()
        sep = next((mark for mark in ";\t" if mark in head and "," not in head), ",")
        decimal = "." if sep == "," else ","
        table = pd.read_csv(
            path, sep=sep, decimal=decimal, dtype=dict.fromkeys(text, str), keep_default_na=False, encoding="utf-8-sig"
        )
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable CSV: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(
            f"{path}: rows have more fields than the first line names columns; is there a comma at their end?"
        )
    table.columns = [str(name).strip() for name in table.columns]
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{path} lacks the columns {missing}; it has {list(table.columns)}.")
    for column in numbers:
        values = pd.to_numeric(table[column], errors="coerce").astype(np.float64)
        if (bad := ~np.isfinite(values)).any():
            row = int(bad.argmax())
            raise ValueError(f"{path}, line {row + 2}: '{table[column][row]}' is no number ({column}).")
        table[column] = values
    return table


def locate(root: Path, names: Sequence[str], folders: Sequence[str], suffixes: Sequence[str] = ()) -> list[str]:
    """Names as they lie below `root`: copies of a data set differ in the folder above the names and in the suffix.

    The first name decides: the first of `folders` that holds it, with its own suffix or one of `suffixes`, is taken for
    all. Where no file is there, the first folder and first suffix are assumed, so lists can be read without images.
    """
    first = PurePosixPath(names[0])
    tries = [(folder, suffix) for folder in folders for suffix in (*suffixes, *([] if suffixes else [first.suffix]))]
    place = next((pair for pair in tries if (Path(root) / pair[0] / first.with_suffix(pair[1])).is_file()), tries[0])
    folder, suffix = place
    before = f"{folder}/" if folder else ""
    return [before + str(PurePosixPath(name).with_suffix(suffix)) if suffixes else before + name for name in names]


def first_file(root: Path, places: Sequence[str], what: str) -> Path:
    """The first of some relative paths that is a file (FileNotFoundError naming all of them)."""
    for place in places:
        if (path := Path(root) / place).is_file():
            return path
    raise FileNotFoundError(f"No {what} under {root}; looked for {', '.join(places)}.")
