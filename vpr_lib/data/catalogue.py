"""Every data set the workbook can evaluate on, by name. One line in DATASETS, and a data set is known everywhere."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.readers.berton import read_berton
from vpr_lib.data.readers.vpr_bench import read_vpr_bench
from vpr_lib.registry import lookup


@dataclass(frozen=True)
class Dataset:
    """How to open a benchmark: `read(root)`, and where the root is when nobody says (None: it must be said)."""

    read: Callable[[Path], Benchmark]
    default_root: Callable[[], Path] | None = None
    about: str = ""


def _toycity(subset: str) -> Callable[[], Path]:
    def root() -> Path:
        from vpr_lib.data.toycity.city import TOY
        from vpr_lib.data.toycity.export import ensure

        return ensure(TOY, subset)

    return root


DATASETS: dict[str, Dataset] = {
    "toycity": Dataset(partial(read_berton, split="test", name="toycity"), _toycity("benchmark"),
                       "the embedded city, unseen streets, 25 m"),
    "toycity_val": Dataset(partial(read_berton, split="val", name="toycity_val"), _toycity("benchmark"),
                           "the embedded city, validation streets, 25 m"),
    "toycity_traverse": Dataset(partial(read_vpr_bench, name="toycity_traverse"), _toycity("traverse"),
                                "the embedded city, summer against winter, ±1 frame"),
    "vpr_bench": Dataset(read_vpr_bench, None, "any VPR-Bench folder: ref/, query/, ground_truth_new.npy"),
    "berton": Dataset(read_berton, None, "any data set in the '@' layout: images/test/{database,queries}, 25 m"),
}  # fmt: skip


def open_benchmark(name: str, root: Path | None = None) -> Benchmark:
    """The benchmark of that name.

    Args:
        root: its folder on disk; needed unless the data set has a place of its own.
    Raises:
        ValueError: for an unknown name, or when the root must be given. FileNotFoundError: if the folder is absent.
    """
    dataset = lookup(DATASETS, name, "data set")
    if root is None and dataset.default_root is None:
        raise ValueError(f"'{name}' has no place of its own: say where it is with --root.")
    root = Path(root) if root is not None else dataset.default_root()
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {root} for data set '{name}'.")
    return dataset.read(root)
