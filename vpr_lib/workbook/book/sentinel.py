"""What a finished notebook leaves behind, and whether that is still true of the files on disk.

The notebook writes `runs/<run_id>/<notebook>.done.json` as its last act. The runner believes nothing else: not the cell
metadata, and not a sentinel of another run.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from vpr_lib import paths
from vpr_lib.config import Check, Finding, Strict, Verdict
from vpr_lib.digests import digest_file

if TYPE_CHECKING:
    from vpr_lib.results.findings import Evidence

Model = TypeVar("Model", bound=BaseModel)
_HASHED_ANEW = 64 * 2**20  # bytes; a larger file with the recorded size and time is taken as unchanged


class Output(Strict):
    """One file a notebook wrote."""

    name: str  # below the profile's figures folder; for other files the path
    path: str  # below the project, or absolute
    bytes: int
    sha256: str
    modified_ns: int
    caption: str = ""
    alt: str = ""

    @property
    def file(self) -> Path:
        return paths.project_root() / self.path

    def fault(self) -> str:
        """Why the file on disk is not the one that was recorded; empty if it is."""
        if not self.file.is_file():
            return f"{self.name} is gone ({self.file})"
        stat = self.file.stat()
        if stat.st_size != self.bytes:
            return f"{self.name} has {stat.st_size} bytes, {self.bytes} were written"
        if stat.st_mtime_ns == self.modified_ns and stat.st_size > _HASHED_ANEW:
            return ""
        return "" if digest_file(self.file) == self.sha256 else f"{self.name} has changed since it was written"


class CheckResult(Strict, ser_json_inf_nan="strings"):
    """A check of the profile beside what was measured."""

    key: str
    statement: str
    target: str
    measured: float
    holds: bool
    source: str = ""
    low: float | None = None  # the interval in which the check holds, for drawing; None: unbounded
    high: float | None = None
    skipped: str = ""  # why it could not be run here; then it neither holds nor fails

    @property
    def verdict(self) -> str:
        if self.skipped:
            return f"not run: {self.skipped}"
        return "holds" if self.holds else "does not hold"

    @property
    def number(self) -> str:
        """What was measured, for tables: four digits, a large count whole."""
        if self.skipped:
            return "–"
        return f"{self.measured:,.0f}" if 1e4 <= abs(self.measured) < 1e12 else f"{self.measured:.4g}"

    @property
    def sign(self) -> str:
        return "–" if self.skipped else "✓" if self.holds else "✗"


def evaluate(key: str, check: Check, value: float, skipped: str = "") -> CheckResult:
    """Compare a measured value with its check; NaN never holds, and what was not run says why."""
    low, high = check.at_least, check.at_most
    if check.expected is not None:
        low, high = check.expected - check.tolerance, check.expected + check.tolerance
    return CheckResult(
        key=key,
        statement=check.statement,
        target=check.target(),
        measured=value,
        holds=check.holds(value),
        source=check.source,
        skipped=skipped,
        low=low,
        high=high,
    )


class FindingResult(Strict, ser_json_inf_nan="strings"):
    """A paper's statement beside what was measured here; `verdict` follows from the interval by the rule."""

    key: str
    statement: str
    source: str
    rule: str
    bound: float  # of the rule, for drawing
    verdict: Verdict | Literal["not measured"]
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    compared: str = ""
    seeds: int = 0
    queries: int = 0
    p_value: float | None = None

    def _ipython_display_(self) -> None:
        """Nothing: `book.finding` has just said it, and a cell need not print it again."""

    @property
    def measured(self) -> str:
        """The difference with its interval and what it rests on, in words."""
        if self.verdict == "not measured":
            return "–"
        if not self.seeds:
            return f"{self.value:.4g} {self.unit}"
        basis = f"{self.seeds} seed{'s' * (self.seeds != 1)}, {self.queries:,} queries"
        chance = "" if self.p_value is None else f", McNemar p = {self.p_value:.2g}"
        return f"{self.value:+.1f} {self.unit} [{self.low:+.1f}, {self.high:+.1f}], {basis}{chance}"

    @property
    def sentence(self) -> str:
        """The statement, what became of it here, and the number it rests on."""
        opening = {
            "reproduced": "Reproduced here:",
            "contradicted": "Contradicted here, it does not hold that",
            "undecided": "Undecided here, whether",
            "not measured": "Not measured here, whether",
        }[self.verdict]
        detail = "" if self.verdict == "not measured" else f": {self.measured}; expected {self.rule}"
        return f"{opening} {self.statement} ({self.source}){detail}."


def assess(key: str, finding: Finding, evidence: "Evidence | None") -> FindingResult:
    """What the evidence says about a paper's statement; no evidence: not measured."""
    bound = next(b for b in (finding.above, finding.at_least, finding.at_most) if b is not None)
    about = {
        "key": key,
        "statement": finding.statement,
        "source": finding.source,
        "rule": finding.rule(),
        "bound": bound,
    }
    if evidence is None:
        return FindingResult(**about, verdict="not measured")
    return FindingResult(**about, verdict=finding.verdict(evidence.low, evidence.high), **asdict(evidence))


class Checked(Strict, ser_json_inf_nan="strings"):
    """What a notebook has checked and found so far; written before a failing check stops the notebook."""

    checks: tuple[CheckResult, ...] = ()
    findings: tuple[FindingResult, ...] = ()
    notes: dict[str, float] = {}


class Sentinel(Checked):
    """The record of one notebook that ran to its end."""

    notebook: str
    run_id: str
    profile: str
    key: str  # content key given by the runner; empty in an interactive session
    device: str
    git: str
    started: str  # ISO 8601, UTC
    seconds: float
    headline: str
    outputs: tuple[Output, ...] = ()
    holes: dict[str, str] = {}  # file, check or model that is missing -> why, and the command that fills it
    stopped: str = ""  # why the notebook ended early, by its own decision: what follows needs what is not here
    made: tuple[Output, ...] = ()  # what tables are made of: the records of this notebook
    used: str = ""  # SHA-256 of the list of files it computed with (book/used.py)
    gpu_memory_bytes: int | None = None


def read_json(path: Path, model: type[Model]) -> Model:
    """Parse a JSON file written by `model_dump_json`; ValueError naming the file if it is damaged or of another version."""
    try:
        return model.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or was written by another version: {error}") from error


def sentinel_path(run: Path, notebook: str) -> Path:
    return Path(run) / f"{notebook}.done.json"


def checked_path(run: Path, notebook: str) -> Path:
    return Path(run) / f"{notebook}.checked.json"


def read_sentinel(run: Path, notebook: str) -> Sentinel | None:
    """The sentinel of that notebook in the run folder, None if there is none (ValueError if it is damaged)."""
    path = sentinel_path(run, notebook)
    return read_json(path, Sentinel) if path.is_file() else None


def read_checked(run: Path, notebook: str) -> Checked:
    """What that notebook checked and found in the run folder, whether or not it reached its end."""
    path = checked_path(run, notebook)
    return read_json(path, Checked) if path.is_file() else Checked()


def describe_output(path: Path, name: str | None = None, caption: str = "", alt: str = "") -> Output:
    """Record a file that was just written (FileNotFoundError if it was not)."""
    path, root = Path(path).resolve(), paths.project_root()
    if not path.is_file():
        raise FileNotFoundError(f"{path} was announced as an output, but it is not a file. Write it first.")
    stat = path.stat()
    inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return Output(
        name=name or inside,
        path=inside,
        bytes=stat.st_size,
        sha256=digest_file(path),
        modified_ns=stat.st_mtime_ns,
        caption=caption,
        alt=alt,
    )


def first_fault(outputs: Iterable[Output]) -> str:
    """The first difference between the recorded outputs and the disk; empty if there is none."""
    return next((fault for output in outputs if (fault := output.fault())), "")
