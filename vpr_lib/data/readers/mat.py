"""The `dbStruct` MATLAB files of NetVLAD, read by field name: the fields stand in another order in every set. Spec: §1.2."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIELDS = {  # ours -> NetVLAD's name, AnyLoc's name
    "database": ("dbImageFns", "dbImages"), "database_positions": ("utmDb", "locDb"),
    "queries": ("qImageFns", "qImages"), "query_positions": ("utmQ", "locQ"),
    "n_database": ("numImages", "numDb"), "n_queries": ("numQueries", "numQ"), "radius_m": ("posDistThr",),
}  # fmt: skip
TIMES = {"database_times": "dbTimeStamp", "query_times": "qTimeStamp"}


@dataclass(frozen=True)
class DbStruct:
    """Names and positions (float64 (N, 2), metres) of both sides; time stamps, as text, in TokyoTM only."""

    database: list[str]
    database_positions: np.ndarray
    queries: list[str]
    query_positions: np.ndarray
    radius_m: float
    database_times: np.ndarray | None = None
    query_times: np.ndarray | None = None


def read_db_struct(path: Path) -> DbStruct:
    """Read a `.mat` file with a struct `dbStruct`.

    Raises:
        FileNotFoundError: if it is absent. ValueError: if it is no MATLAB 5 file, lacks the struct or a field, or its
            counts disagree.
    """
    struct = _load(Path(path))
    values = {ours: _field(struct, names, path) for ours, names in FIELDS.items()}
    names = {side: [str(name).strip() for name in np.atleast_1d(values[side])] for side in ("database", "queries")}
    sides = (("database", "database_positions", "n_database"), ("queries", "query_positions", "n_queries"))
    for side, positions, count in sides:
        n = len(names[side])
        if n != int(values[count]):
            raise ValueError(f"{path}: {n} names of {side}, but it says {int(values[count])} ({FIELDS[count][0]}).")
        values[positions] = _positions(values[positions], n, f"{path}: {FIELDS[positions][0]}")
    times = {ours: _times(struct, name, path) for ours, name in TIMES.items()}
    radius_m = float(values["radius_m"])
    return DbStruct(
        **names, **{key: values[key] for _, key, _ in sides}, radius_m=radius_m, **times
    )  # fmt: skip


def _load(path: Path) -> object:
    from scipy.io import loadmat

    if not path.is_file():
        raise FileNotFoundError(
            f"No file {path}. The .mat files of Pittsburgh and Tokyo come in netvlad_v100_datasets.tar.gz; "
            "`vpr data get pitts30k_test` says where from."
        )
    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
    except Exception as error:  # a damaged file makes scipy's reader raise whatever comes
        raise ValueError(f"{path} is not a MATLAB 5 file (damaged, or saved with -v7.3): {error}") from error
    if "dbStruct" not in content:
        held = sorted(key for key in content if not key.startswith("__"))
        raise ValueError(f"{path} holds no struct 'dbStruct'; it holds {held}.")
    return content["dbStruct"]


def _field(struct: object, names: tuple[str, ...], path: Path) -> object:
    for name in names:
        if hasattr(struct, name):
            return getattr(struct, name)
    raise ValueError(f"{path}: dbStruct lacks the field {names[0]}; it has {getattr(struct, '_fieldnames', [])}.")


def _positions(values: object, n: int, what: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    values = values.reshape(2, -1) if values.shape == (2,) else values  # one image: MATLAB's 2x1, squeezed
    if values.shape != (2, n):
        raise ValueError(f"{what} has the shape {values.shape}, expected (2, {n}): easting and northing per image.")
    return np.ascontiguousarray(values.T)


def _times(struct: object, name: str, path: Path) -> np.ndarray | None:
    values = getattr(struct, name, None)
    return None if values is None else np.atleast_1d(values).astype(str)
