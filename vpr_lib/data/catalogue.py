"""Every data set the workbook knows, by name: what it is, who uses it, how to get it, how to open it.

The table is `vpr_lib/configs/datasets.yaml`. One entry there, and a data set is known everywhere.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from vpr_lib.config import Strict, load_yaml
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.prepare import STAMP, Content, load_prepared, prepared_folder, save_prepared, use_dataset
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.data.tuples import TupleSet
from vpr_lib.paths import data_root
from vpr_lib.registry import lookup

if TYPE_CHECKING:
    import pandas as pd

TABLE = Path(__file__).parent.parent / "configs" / "datasets.yaml"
KINDS: dict[str, type[Content]] = {
    "benchmark": Benchmark, "places": Manifest, "run_pairs": RunPairs, "tuples": TupleSet,
}  # fmt: skip
Tag = Literal["V", "D", "R", "U"]  # verified, derived, reported, literature (specs/datasets.md)


class Download(Strict):
    """One archive with a public address."""

    url: str
    file: str  # name of the archive on disk
    into: str  # folder below data_root() to unpack into
    bytes: int | None = None
    about_gb: float | None = None
    sha256: str | None = None
    inner: list[str] = []  # archives inside the archive, to be unpacked too


class Get(Strict):
    """How to come by a data set: archives with an address, shares that other programs read, and what must be done by hand."""

    downloads: list[Download] = []
    rsync: str | None = None  # a public share, whose content goes into the data set's folder
    kaggle: str | None = None  # owner/name; Kaggle's client fetches it where its credentials are
    hub: str | None = None  # a data set repository of Hugging Face
    gb: float | None = None  # room that the fetched data needs, archives included
    steps: list[str] = []  # {folder} stands for the place on this disk


class Family(Strict):
    """What data sets of one origin share."""

    title: str
    licence: str
    spec: str = ""  # section of specs/datasets.md
    get: Get


class Dataset(Strict):
    """One data set. Numbers carry their evidence: V and D must hold, R and U are expectations."""

    family: str
    reader: str  # module.function below vpr_lib.data.readers
    about: str
    kind: Literal["benchmark", "places", "run_pairs", "tuples"] = "benchmark"
    arguments: dict[str, Any] = {}
    pass_name: bool = True  # the reader takes the name of the entry
    folders: list[str] = []  # below data_root(), the first that holds one of `marks`
    marks: list[str] = []  # patterns; one match says that the data set is there
    metadata: list[str] = []  # patterns of the files that the reader looks at; default: the marks
    generated: str | None = None  # subset of the generated city
    preset: Literal["toy", "town", "city", "gpu"] = "toy"  # which city is generated
    users: list[str] = []  # systems of the workbook that train or evaluate on it
    size_gb: tuple[float, Tag] | None = None
    expected: dict[str, tuple[int, Tag]] = {}
    md5: dict[str, str] = {}  # of lists that ground truth refers to
    protocols: dict[str, str] = {}  # card name -> what counts as correct, over which queries
    get: Get | None = None  # where it differs from the family's

    def count(self, side: str) -> str:
        """'10,000' or '~529,506': the number of something, with a mark when it is not verified; '' when unknown."""
        number, tag = self.expected.get(side, (None, "V"))
        return "" if number is None else f"{'' if tag in 'VD' else '~'}{number:,}"


class Table(Strict):
    """The whole catalogue."""

    families: dict[str, Family]
    datasets: dict[str, Dataset] = Field(min_length=1)

    @model_validator(mode="after")
    def _families_exist(self) -> "Table":
        for name, dataset in self.datasets.items():
            if dataset.family not in self.families:
                raise ValueError(f"data set '{name}' names the unknown family '{dataset.family}'")
            if not dataset.generated and dataset.family != "any" and not (dataset.folders and dataset.marks):
                raise ValueError(f"data set '{name}' says neither where it is (folders) nor how to tell (marks)")
        return self


@cache
def load_table() -> Table:
    """The catalogue, read once."""
    return load_yaml(TABLE, Table)


def __getattr__(name: str) -> Any:
    if name == "DATASETS":  # read when first asked for, not when this module is imported
        return load_table().datasets
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def find(name: str) -> Dataset:
    """The entry of that name; an unknown name lists the known ones (ValueError)."""
    return lookup(load_table().datasets, name, "data set")


def how_to_get(name: str) -> Get:
    dataset = find(name)
    return dataset.get or load_table().families[dataset.family].get


def default_root(name: str) -> Path | None:
    """Where the data set is when nobody says: the first of its folders that holds it, otherwise the first. None for those
    that have no place of their own, and for the toy city, which `find_root` makes."""
    dataset = find(name)
    places = [data_root() / folder for folder in dataset.folders]
    there = (place for place in places if holds(place, dataset))
    return next(there, next(iter(places), None))


def holds(folder: Path, dataset: Dataset) -> bool:
    """Whether the folder looks like this data set."""
    return folder.is_dir() and any(next(iter(folder.glob(mark)), None) for mark in dataset.marks)


def status(name: str) -> dict[str, str]:
    """For a table: how to `get` the data set (fetch, by hand, made, --root) and whether it is `here`."""
    dataset, place = find(name), default_root(name)
    if dataset.generated:
        return {"get": "made", "here": "made"}
    if place is None:
        return {"get": "--root", "here": "-"}
    way = how_to_get(name)
    get = "fetch" if way.downloads or way.rsync or way.hub else "account" if way.kaggle else "by hand"
    if not holds(place, dataset):
        return {"get": get, "here": "no"}
    return {"get": get, "here": "prepared" if (prepared_folder(name) / STAMP).is_file() else "yes"}


def is_here(name: str) -> bool:
    """Whether a data set is on this disk, or made here."""
    return status(name)["here"] not in ("no", "-")


def find_root(name: str, root: Path | None = None) -> Path:
    """The folder to read: `root` when it is given; the toy city is made on first use.

    Raises:
        ValueError: when the root must be said. FileNotFoundError: when the folder is absent, with how to get it.
    """
    dataset = find(name)
    if root is None and dataset.generated:
        from vpr_lib.toycity.city import PRESETS
        from vpr_lib.toycity.export import ensure

        return ensure(PRESETS[dataset.preset], dataset.generated)
    place = Path(root).expanduser().absolute() if root is not None else default_root(name)
    if place is None:
        raise ValueError(f"'{name}' has no place of its own: say where it is with --root.")
    if not place.is_dir():
        raise FileNotFoundError(
            f"No folder {place} for data set '{name}'. `vpr data get {name}` says how to come by it; if it is elsewhere, "
            "say where with --root, or set VPR_DATA to the folder above."
        )
    return place


def read_dataset(name: str, root: Path | None = None) -> Content:
    """Read a data set from its own files, whatever was prepared. Raises as `find_root` and its reader."""
    dataset = find(name)
    names = {"name": name} if dataset.pass_name else {}
    return _reader(dataset)(find_root(name, root), **names, **dataset.arguments)


def open_dataset(name: str, root: Path | None = None) -> Content:
    """A data set of any kind: prepared if what was prepared still fits the folder, otherwise read."""
    dataset, place = find(name), find_root(name, root)
    prepared = load_prepared(name, KINDS[dataset.kind], place, _reading(dataset))
    content = prepared if prepared is not None else read_dataset(name, place)
    use_dataset(content, place, dataset.metadata or dataset.marks)
    return content


def prepare_dataset(name: str, root: Path | None = None) -> tuple[Content, Path]:
    """Read a data set and keep it; returns it and the folder it is kept in."""
    place = find_root(name, root)
    content = read_dataset(name, place)
    return content, keep(name, content, place)


def keep(name: str, content: Content, root: Path) -> Path:
    """Keep a data set that was read from `root`, for instance with more columns than its reader knows."""
    dataset = find(name)
    return save_prepared(name, content, root, _reading(dataset), dataset.metadata or dataset.marks)


def open_benchmark(name: str, root: Path | None = None) -> Benchmark:
    """The benchmark of that name.

    Args:
        root: its folder on disk; needed unless the data set has a place of its own.
    Raises:
        ValueError: for an unknown name, a training set, or when the root must be given. FileNotFoundError: if the folder is
            absent.
    """
    if find(name).kind != "benchmark":
        raise ValueError(
            f"'{name}' is no benchmark with one database and queries; open it with open_dataset('{name}')."
        )
    return open_dataset(name, root)


def open_available(names: Sequence[str]) -> tuple[dict[str, Benchmark], list[str]]:
    """The benchmarks of these names that are on this disk (or are generated), and the names of those that are not.

    Raises:
        ValueError: for an unknown name, or when none of them is here.
    """
    opened, missing = {}, []
    for name in names:
        try:
            opened[name] = open_benchmark(name)
        except FileNotFoundError:
            missing.append(name)
    if not opened:
        raise ValueError(f"None of {', '.join(names)} is on this disk; `vpr data get NAME` says how to come by them.")
    return opened, missing


def inventory() -> "pd.DataFrame":
    """One row per data set: family, sizes ('~' for a count not verified), who uses it, how to get it, whether it is here."""
    import pandas as pd

    return pd.DataFrame(
        {
            "data set": name, "database or training": dataset.count("database") or dataset.count("images"),
            "queries": dataset.count("queries"), "users": ", ".join(dataset.users), **status(name),
            "licence": load_table().families[dataset.family].licence,
        }
        for name, dataset in load_table().datasets.items()
    )  # fmt: skip


def _reading(dataset: Dataset) -> dict[str, Any]:
    return {"reader": dataset.reader, "arguments": dataset.arguments}


def _reader(dataset: Dataset) -> Callable[..., Content]:
    module, function = dataset.reader.split(".")
    return getattr(import_module(f"vpr_lib.data.readers.{module}"), function)
