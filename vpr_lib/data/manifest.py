"""The manifest: one table per data set split and role, one row per image or submap. Spec: datasets §13.1."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vpr_lib.paths import atomic_path

ROLES = ("db", "query", "train")
POSITION_KINDS = ("gps", "local_metric", "frame_index", "mock_pair", "none")
METRIC_KINDS = ("gps", "local_metric")  # differences of positions are metres

ALWAYS = ("uid", "dataset", "variant", "split", "role", "sample_id", "position_kind")
INTEGERS = ("uid", "width", "height", "image_bytes", "tile", "nms_group", "utm_zone", "timestamp", "frame_no")
FLOATS = ("pitch_deg", "yaw_deg", "utm_east", "utm_north", "lat", "lon", "heading_deg")
STRINGS = (
    *("dataset", "variant", "split", "role", "sample_id", "position_kind", "image_path", "image_sha256", "mode"),
    *("place_id", "pano_id", "city", "utm_band", "lat_raw", "lon_raw", "heading_raw", "heading_convention"),
    *("time_resolution", "run", "cloud_path", "cloud_format", "exclude_reason", "source_archive", "source_version"),
)
LISTS = ("conditions", "image_candidates")  # list of strings; list of (path, µs) pairs
COLUMNS = frozenset((*INTEGERS, *FLOATS, *STRINGS, *LISTS))


@dataclass(frozen=True)
class Manifest:
    """A table of images (or submaps) with the folder its paths are relative to.

    The row order is frozen: ground truth, descriptors and rankings are indices into it. Optional columns that no row
    fills are absent from `table`.
    """

    table: pd.DataFrame
    root: Path

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def list_hash(self) -> str:
        """SHA-256 over the sample ids in order: the identity of the list that indices refer to."""
        ids, digest = self.table["sample_id"], hashlib.sha256()
        for start in range(0, len(ids), 100_000):  # in pieces: the ids of SF-XL are half a gigabyte
            digest.update((b"\n" if start else b"") + "\n".join(ids.iloc[start : start + 100_000].tolist()).encode())
        return digest.hexdigest()

    def image_paths(self) -> list[str]:
        """Absolute path of every image, in row order."""
        root = str(self.root)
        return [f"{root}/{path}" for path in self.table["image_path"]]

    @property
    def has_positions(self) -> bool:
        """Whether differences of positions are metres (GPS or a local metric frame)."""
        return len(self) > 0 and "utm_east" in self.table and self.table["position_kind"].iloc[0] in METRIC_KINDS

    def positions(self) -> np.ndarray:
        """Easting and northing, float64 (N, 2), in the unit that `position_kind` names.

        Raises:
            ValueError: if the manifest carries no positions.
        """
        if "utm_east" not in self.table:
            raise ValueError(f"The {len(self)} rows under {self.root} carry no positions (utm_east, utm_north).")
        return self.table[["utm_east", "utm_north"]].to_numpy(np.float64)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Manifest":
        """The given rows as a manifest of their own: renumbered, with its own list hash."""
        table = self.table.iloc[np.asarray(rows)].reset_index(drop=True)
        return Manifest(table.assign(uid=np.arange(len(table), dtype=np.int64)), self.root)

    def save(self, path: Path) -> Path:
        """Write Parquet with the list hash in its metadata, atomically."""
        arrow = pa.Table.from_pandas(self.table, preserve_index=False)
        arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), b"list_hash": self.list_hash.encode()})
        with atomic_path(path) as temporary:
            pq.write_table(arrow, temporary, compression="zstd")
        return Path(path)

    @classmethod
    def load(cls, path: Path, root: Path) -> "Manifest":
        """Read what `save` wrote.

        Raises:
            ValueError: if the rows do not match the stored list hash (the file was edited).
        """
        arrow = pq.read_table(path)
        manifest = cls(arrow.to_pandas(), Path(root))
        stored = (arrow.schema.metadata or {}).get(b"list_hash", b"").decode()
        if stored != manifest.list_hash:
            raise ValueError(
                f"{path}: the rows hash to {manifest.list_hash[:12]}, the file says {stored[:12] or 'nothing'}; "
                "prepare the data set again."
            )
        return manifest


def build_manifest(
    root: Path,
    dataset: str,
    split: str,
    role: str,
    columns: Mapping[str, Any],
    variant: str = "",
    position_kind: str = "none",
    keep_order: bool = False,
) -> Manifest:
    """Make a manifest from columns that a reader knows.

    Args:
        root: folder that `image_path` (and `cloud_path`) are relative to.
        columns: column name -> sequence of N values or one value for all rows; at least `image_path` or `cloud_path`. The
            cloud, where there is one, is what a row is named and sorted by.
        keep_order: keep the given order because an official index array refers to it; otherwise rows are sorted
            byte-wise by path.
    Raises:
        ValueError: for an unknown column, role or position kind, a column of another length, a repeated path, or two
            paths that differ only by case or by the spelling of accents.
    Spec: datasets §13.1.
    """
    if unknown := set(columns) - COLUMNS:
        raise ValueError(f"Unknown manifest columns {sorted(unknown)}; the known ones are {sorted(COLUMNS)}.")
    if role not in ROLES or position_kind not in POSITION_KINDS:
        raise ValueError(
            f"role must be one of {ROLES} and position_kind one of {POSITION_KINDS}, "
            f"got '{role}' and '{position_kind}'."
        )
    key = (
        "cloud_path" if "cloud_path" in columns else "image_path"
    )  # a submap is its cloud; its image is the nearest one
    if key not in columns:
        raise ValueError("A manifest needs 'image_path' or 'cloud_path'.")
    paths = pa.array(columns[key], pa.large_string())
    n = len(paths)
    _check_paths(paths, root)
    table = pd.DataFrame({name: _column(name, values, n) for name, values in columns.items()})
    if not keep_order and not pc.all(pc.less(paths[:-1], paths[1:])).as_py():
        order = pc.sort_indices(paths)  # UTF-8 bytes
        paths, table = paths.take(order), table.iloc[order.to_numpy()].reset_index(drop=True)
    labels = dict(dataset=dataset, variant=variant, split=split, role=role, position_kind=position_kind)
    for name, value in labels.items():
        table[name] = pd.Categorical.from_codes(np.zeros(n, np.int8), [value])
    table["uid"] = np.arange(n, dtype=np.int64)
    table["sample_id"] = _sample_ids(f"{dataset}/{split}/{role}/", paths).to_pandas()
    return Manifest(table[[*ALWAYS, *(c for c in table.columns if c not in ALWAYS)]], Path(root))


def _column(name: str, values: Any, n: int) -> Any:
    if isinstance(values, str) or not hasattr(values, "__len__"):
        values = [values] * n
    if isinstance(values, pa.Array | pa.ChunkedArray):
        values = values.to_pandas()
    if len(values) != n:
        raise ValueError(f"Column '{name}' has {len(values)} values, expected {n}.")
    if name in FLOATS:
        return np.asarray(values, np.float64)
    if name in INTEGERS and getattr(values, "dtype", None) == np.int64:
        return values
    if name in INTEGERS:
        return pd.array(values, dtype="Int64") if any(v is None for v in values) else np.asarray(values, np.int64)
    return values if isinstance(values, pd.Series | np.ndarray) else list(values)


def _sample_ids(prefix: str, paths: pa.LargeStringArray) -> pa.LargeStringArray:
    """The prefix before every path, in Unicode's composed form: the same list has one hash on every file system."""
    if not pc.all(pc.string_is_ascii(paths)).as_py():
        paths = pc.utf8_normalize(paths, "NFC")
    before, separator = pa.scalar(prefix, pa.large_string()), pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(before, paths, separator)


def _check_paths(paths: pa.LargeStringArray, root: Path) -> None:
    if (known := len(pc.unique(paths))) < len(paths):
        raise ValueError(
            f"{len(paths) - known} paths under {root} are listed twice, for instance '{_first_repeated(paths)}'."
        )
    if pc.all(pc.string_is_ascii(paths)).as_py():
        folded = pc.ascii_lower(paths)
    else:
        folded = pa.array([text.casefold() for text in pc.utf8_normalize(paths, "NFC").to_pylist()], pa.large_string())
    if (known := len(pc.unique(folded))) < len(paths):
        raise ValueError(
            f"{len(paths) - known} paths under {root} differ from another one by case or by the spelling of accents "
            f"only, for instance '{_first_repeated(folded, paths)}'; a case-insensitive file system would merge them."
        )


def _first_repeated(keys: pa.LargeStringArray, paths: pa.LargeStringArray | None = None) -> str:
    row = int(keys.to_pandas().duplicated().to_numpy().argmax())
    return (keys if paths is None else paths)[row].as_py()
