"""Pickles and arrays on disk: of what the world sends, numbers, strings and lists come in, code does not; of ours, each has a sum."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import xxhash

from vpr_lib.files import atomic_path

PLAIN = (list, dict, set, frozenset, tuple, int, float, complex, str, bytes, bytearray, bool, slice)
ALLOWED = {("builtins", kind.__name__): kind for kind in PLAIN}
NUMPY_MODULES = (
    "numpy",
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "numpy.core.numeric",
    "numpy._core.numeric",
)
NUMPY_NAMES = ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer")

DAMAGE = (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError, MemoryError,
          OverflowError)  # fmt: skip


class UnsafePickle(ValueError):
    """A pickle that asks for something other than plain data."""


class PlainUnpickler(pickle.Unpickler):
    """Unpickles builtin containers, numbers, strings and numpy arrays; `records` maps further class names to plain ones.

    Args:
        records: {("module", "Class"): replacement}, for instance the training tuples of PointNetVLAD.
    """

    def __init__(self, file: io.IOBase, records: dict[tuple[str, str], type] | None = None, encoding: str = "latin1"):
        super().__init__(file, encoding=encoding)
        self._records = records or {}

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        if (allowed := self._records.get((module, name)) or ALLOWED.get((module, name))) is not None:
            return allowed
        if module in NUMPY_MODULES and name in NUMPY_NAMES:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise UnsafePickle(f"the pickle asks for {module}.{name}, which is not plain data; it was not loaded")


def load_plain_pickle(path: Path, records: dict[tuple[str, str], type] | None = None) -> Any:
    """Load a pickle that holds plain data only (UnsafePickle otherwise; ValueError when damaged)."""
    with Path(path).open("rb") as file:
        return _load(file, path, records)


def load_arrays(path: Path, names: set[str]) -> dict[str, np.ndarray]:
    """The arrays of these names in a .npz file; nothing is unpickled.

    Raises:
        FileNotFoundError; ValueError when the file is damaged, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            if missing := names - set(content.files):
                raise ValueError(f"it lacks the arrays {sorted(missing)}; it has {content.files}")
            return {name: content[name] for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # of zip, zlib and the parsers of headers, which have no common name
        raise ValueError(f"{path} cannot be used: {error}.") from error


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], key: str = "") -> Path:
    """Write arrays as float32, each with the sum of its bytes, and `key` as an attribute of the file."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=np.float32(values), fletcher32=True).attrs["sum"] = _sum(values)
        file.attrs["key"] = key
    return Path(path)


def read_hdf5(path: Path, names: Sequence[str]) -> tuple[list[np.ndarray], str]:
    """The arrays of these names, float32, and the key, of a file of ours or of OpenIBL.

    Raises:
        ValueError: for another or a damaged file, one that lacks an array, or numbers that are not finite.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            if missing := set(names) - set(file):
                raise ValueError(f"it lacks the datasets {sorted(missing)}; it has {sorted(file)}")
            arrays = [np.asarray(file[name], np.float32) for name in names]
            if any(file[n].attrs.get("sum", _sum(array)) != _sum(array) for n, array in zip(names, arrays)):
                raise ValueError("its bytes are not those that were written")
            key = str(file.attrs.get("key", ""))
    except Exception as error:  # HDF5's errors have no common name
        raise ValueError(f"{path} is not an HDF5 file of these arrays, or is damaged: {error}.") from error
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(f"{path} holds numbers that are not finite.")
    return arrays, key


def _sum(array: np.ndarray) -> str:
    return f"{np.shape(array)} {xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array, np.float32))}"


def load_array(path: Path) -> np.ndarray:
    """Load a .npy file; an object array goes through the restricted unpickler, everything else never unpickles.

    Raises:
        FileNotFoundError; ValueError when the file is damaged; UnsafePickle when it holds more than plain data.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(len(np.lib.format.MAGIC_PREFIX))
    if head and head != np.lib.format.MAGIC_PREFIX:
        what = "an archive (.npz)" if head.startswith(b"PK") else "not a NumPy array file"
        raise ValueError(f"{path} is {what}; expected one array, as numpy.save writes it (.npy).")
    try:
        return np.load(path, allow_pickle=False)
    except EOFError as error:
        raise ValueError(f"{path} is empty or cut short.") from error
    except (ValueError, SyntaxError, TokenError, MemoryError) as error:  # a damaged header is parsed as Python
        if "Object arrays" not in str(error):
            raise ValueError(f"{path} is not a NumPy array file: {error}") from error
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read_header(file)
        return np.asarray(_load(file, path, None)).reshape(shape)


def _load(file: io.IOBase, path: Path, records: dict | None) -> Any:
    try:
        return PlainUnpickler(file, records).load()
    except UnsafePickle as error:
        raise UnsafePickle(f"{path}: {error}") from error
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged or not a pickle of plain data: {error}") from error
