"""What is wrong with a data set on disk, in sentences: counts against the catalogue, files, names, duplicates."""

import hashlib
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from vpr_lib.data.audit import EMPTY, MISSING, file_paths, inspect_files, load_audit, with_audit
from vpr_lib.data.catalogue import Dataset, find, find_root, keep, load_table, read_dataset
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.positions import check_positions
from vpr_lib.data.prepare import AUDIT, Content, manifests_of, prepared_folder
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.data.totals import near_threshold, totals
from vpr_lib.data.tuples import TupleSet

EXAMPLES = 3
FIRM = ("V", "D")  # evidence that must hold


@dataclass(frozen=True)
class Finding:
    """One thing a reader should know: failures must be mended, warnings looked at, notes known."""

    level: Literal["failure", "warning", "note"]
    what: str
    do: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A check of one data set."""

    name: str
    root: str
    totals: dict[str, int]
    findings: tuple[Finding, ...]
    files: int  # opened, or looked up when unchanged since the last check
    seconds: float

    @property
    def ok(self) -> bool:
        return not any(finding.level == "failure" for finding in self.findings)

    def as_dict(self) -> dict:
        return asdict(self) | {"ok": self.ok}


def check_dataset(
    name: str, root: Path | None = None, decode: bool = True, workers: int | None = None, quiet: bool = False
) -> Report:
    """Check a data set and keep it prepared, with what was learnt about every file in its table.

    Args:
        decode: open every file completely; otherwise only counts, lists and names are checked, and nothing is kept.
    Raises:
        FileNotFoundError, ValueError: when it cannot even be read.
    """
    start, dataset, place = time.monotonic(), find(name), find_root(name, root)
    content = read_dataset(name, place)
    numbers = totals(content)
    findings = [
        *compare(numbers, dataset),
        *check_lists(place, dataset),
        *check_names(content, place),
        *check_ground_truth(content, dataset),
        *_close_calls(content),
    ]
    files = 0
    if decode:
        paths = [path for manifest in manifests_of(content).values() for path in file_paths(manifest)]
        stored = prepared_folder(name) / AUDIT
        audit = inspect_files(paths, stored, workers, quiet)
        audit = audit[~audit.index.duplicated()]
        files = len(audit)
        findings += [
            *check_files(audit),
            *check_duplicates(content, audit),
            *check_other_splits(name, audit),
            *describe(audit),
        ]
        keep(name, _with_audit(content, audit), place)
    return Report(name, str(place), numbers, tuple(findings), files, time.monotonic() - start)


def compare(numbers: Mapping[str, int], dataset: Dataset) -> Iterator[Finding]:
    """Counts that differ from the catalogue: a failure where it is verified, a warning where it is hearsay."""
    for what, (expected, tag) in dataset.expected.items():
        if what not in numbers:
            yield Finding("note", f"{what}: expected {expected:,} [{tag}], but this form of the data set does not tell")
        elif numbers[what] != expected:
            level = "failure" if tag in FIRM else "warning"
            yield Finding(level, f"{what}: expected {expected:,} [{tag}], found {numbers[what]:,}")


def check_lists(root: Path, dataset: Dataset) -> Iterator[Finding]:
    """Lists whose content is known: ground truth refers to their order."""
    for file, expected in dataset.md5.items():
        if (path := root / file).is_file() and (found := hashlib.md5(path.read_bytes()).hexdigest()) != expected:
            yield Finding(
                "failure", f"{file} has md5 {found}, expected {expected}", "Get the file of the release again."
            )


def check_names(content: Content, root: Path) -> Iterator[Finding]:
    """Names that break other tools, though not this one."""
    paths = [
        path for m in manifests_of(content).values() for path in m.table.get("image_path", m.table.get("cloud_path"))
    ]
    names = [path.rsplit("/", 1)[-1] for path in paths]
    traps = {
        "begin with '-', which a shell takes for an option": lambda name: name.startswith("-"),
        "are not in Unicode's composed form (NFC)": lambda name: not unicodedata.is_normalized("NFC", name),
        "begin or end with a space": lambda name: name != name.strip(),
        "end in capitals (.JPG), which case-sensitive globs miss": lambda name: name.rsplit(".", 1)[-1].isupper(),
    }
    for what, trap in traps.items():
        if hits := [name for name in names if trap(name)]:
            yield Finding("note", f"{len(hits):,} names {what}", examples=tuple(hits[:EXAMPLES]))
    if "@" in str(root) and any(name.startswith("@") for name in names):
        yield Finding(
            "warning", f"the folder {root} has an '@' in its path", "Public evaluators split whole paths on '@' and would read "
            "wrong positions here; rename the folder before using them.",
        )  # fmt: skip


def check_files(audit: pd.DataFrame) -> Iterator[Finding]:
    """Files that are missing, empty or damaged."""
    kinds = {
        "are missing": (audit["fault"] == MISSING, "Complete the data set; see `vpr data get`."),
        "are empty": (audit["fault"] == EMPTY, "Fetch them again (MSLS: unpack patch_v1.1.zip on top)."),
        "cannot be read": (~audit["fault"].isin(("", MISSING, EMPTY)), "Fetch them again."),
    }
    for what, (hit, do) in kinds.items():
        if hit.any():
            rows = audit[hit]
            examples = tuple(
                path if fault in (MISSING, EMPTY) else f"{path}: {fault}"
                for path, fault in rows["fault"].head(EXAMPLES).items()
            )
            yield Finding("failure", f"{len(rows):,} of {len(audit):,} files {what}", do, examples)


def check_duplicates(content: Content, audit: pd.DataFrame) -> Iterator[Finding]:
    """The same bytes twice: in one list, or on both sides of a benchmark."""
    hashes = {side: audit["sha256"].reindex(file_paths(m)) for side, m in manifests_of(content).items()}
    hashes = {side: values[values.fillna("") != ""] for side, values in hashes.items()}
    for side, values in hashes.items():
        if (again := values.duplicated()).any():
            yield Finding(
                "note",
                f"{int(again.sum()):,} files of {side} repeat another one",
                examples=tuple(again[again].index[:EXAMPLES]),
            )
    if isinstance(content, Benchmark):
        shared = hashes["queries"][hashes["queries"].isin(set(hashes["database"]))]
        if len(shared):
            do = "They are found trivially; a recall over them says less than it seems to."
            yield Finding(
                "warning", f"{len(shared):,} queries are also database images", do, tuple(shared.index[:EXAMPLES])
            )


def check_other_splits(name: str, audit: pd.DataFrame) -> Iterator[Finding]:
    """Images that another checked data set of the family holds too."""
    dataset, own = find(name), set(audit["sha256"]) - {""}
    relatives = (n for n, d in load_table().datasets.items() if d.family == dataset.family and n != name)
    for other in relatives:
        theirs = load_audit(prepared_folder(other) / AUDIT)
        if count := len(own & (set(theirs["sha256"]) - {""})):
            leak = _trains(name) != _trains(other)
            do = "Training and test overlap: leave these images out of one of them." if leak else ""
            yield Finding("warning" if leak else "note", f"{count:,} images are also in {other}", do)


def _trains(name: str) -> bool:
    dataset = find(name)
    return dataset.kind in ("places", "tuples") or dataset.arguments.get("split") == "train"


def describe(audit: pd.DataFrame) -> Iterator[Finding]:
    """Modes and sizes, where they are not all the same."""
    good = audit[(audit["fault"] == "") & (audit["width"] > 0)]
    modes = good["mode"].value_counts()
    if len(modes) and list(modes.index) != ["RGB"]:
        yield Finding(
            "note", "modes " + ", ".join(f"{mode} {count:,}" for mode, count in modes.items()) + "; all are read as RGB"
        )
    sizes = (good["width"].astype(str) + "x" + good["height"].astype(str)).value_counts()
    if len(sizes) > 1:
        common = ", ".join(f"{size} {count:,}" for size, count in sizes.head(EXAMPLES).items())
        yield Finding("note", f"{len(sizes):,} image sizes (width x height), most often {common}")


def check_ground_truth(content: Content, dataset: Dataset) -> Iterator[Finding]:
    """Queries that nothing can answer, where the catalogue does not expect them, and positions that cannot be."""
    if not isinstance(content, Benchmark):
        return
    for protocol in content.protocols[:1]:
        card, counts = protocol.card, protocol.positives.counts[protocol.query_mask]
        none, odd = int((counts == 0).sum()), []
        if (
            card.rule == "radius_m"
            and card.threshold
            and content.database.has_positions
            and content.queries.has_positions
        ):
            odd = check_positions(content.database, content.queries, card.threshold)
        for sentence in odd:
            yield Finding("warning", sentence, "Correct the positions: a recall over them says nothing.")
        if none and f"unmatched {card.name}" not in dataset.expected:
            level = "warning" if card.denominator == "all" else "note"
            yield Finding(level, f"{none:,} of {len(counts):,} queries have no positive ({card.name})")


def _close_calls(content: Content) -> Iterator[Finding]:
    if isinstance(content, Benchmark) and (count := near_threshold(content)):
        yield Finding("note", f"{count:,} pairs lie within 5 cm of the radius; keep positions in float64")


def _with_audit(content: Content, audit: pd.DataFrame) -> Content:
    """The same data set with what was learnt in its tables."""
    if isinstance(content, Benchmark):
        sides = (with_audit(content.database, audit), with_audit(content.queries, audit))
        return Benchmark(content.name, *sides, content.protocols)
    if isinstance(content, RunPairs | TupleSet):
        return content  # clouds have no columns to fill
    return with_audit(content, audit)


def summary(findings: Sequence[Finding]) -> str:
    """'2 failures, 1 warning' for the last line of a check."""
    counts = {level: sum(f.level == level for f in findings) for level in ("failure", "warning")}
    return ", ".join(f"{n} {level}{'s' * (n != 1)}" for level, n in counts.items() if n) or "nothing wrong"
