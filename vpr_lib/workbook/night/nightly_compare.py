"""What differs between a night and the last green one: recall, checks, findings, time, memory, environment, figures.

Both sides are read from their run folders only: `keep` copies there what later runs overwrite.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vpr_lib import paths
from vpr_lib.config import Strict
from vpr_lib.files import atomic_path
from vpr_lib.workbook.book.sentinel import Sentinel, read_sentinel
from vpr_lib.workbook.run.status import GREENS, RunStatus, Status, read_status

if TYPE_CHECKING:
    import numpy
    import pandas

LEVEL = 0.05  # family-wise, after Holm
_VOLATILE = {"disk_free_bytes"}
Key = tuple[str, str, str, str, int]  # notebook, data set, protocol, model, seed


class RecallChange(Strict):
    """One evaluation in both nights; recalls in per cent."""

    notebook: str
    dataset: str
    protocol: str
    model: str
    seed: int
    queries: int
    before: dict[str, float]  # R@1, R@5, R@10
    after: dict[str, float]
    lost: int  # queries right at rank one before, wrong now
    gained: int
    p_value: float  # exact McNemar at rank one, two-sided
    p_adjusted: float  # Holm over all evaluations with a flip
    verdict: Literal["regressed", "improved", "within noise", "same"]
    flips: tuple[int, ...] = ()  # numbers of up to 200 flipped queries, lost ones first

    @property
    def name(self) -> str:
        return f"{self.model} on {self.dataset} ({self.protocol}, seed {self.seed}, {self.notebook[:2]})"

    @property
    def delta(self) -> float:
        return self.after["R@1"] - self.before["R@1"]


class CostChange(Strict):
    """Time and memory of a notebook that was executed in both nights."""

    notebook: str
    seconds: tuple[float, float]
    memory_bytes: tuple[int | None, int | None]
    remark: str = ""  # 'slower', 'faster', 'more memory'


class CheckChange(Strict, ser_json_inf_nan="strings"):
    notebook: str
    key: str
    target: str
    before: float
    after: float


class FindingChange(Strict):
    """A paper's statement on which two nights disagree."""

    notebook: str
    statement: str
    before: str
    after: str


class FileChange(Strict):
    """A figure or another recorded file that differs."""

    notebook: str
    name: str
    kind: Literal["pixels", "size", "content", "new", "gone"]
    mean_difference: float | None = None  # of the pixels, 0 to 255
    changed_share: float | None = None  # of the pixels


class Comparison(Strict):
    """Everything that differs from the reference night."""

    reference: str
    recalls: tuple[RecallChange, ...] = ()
    gone: tuple[str, ...] = ()
    incomparable: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    checks: tuple[CheckChange, ...] = ()
    findings: tuple[FindingChange, ...] = ()
    costs: tuple[CostChange, ...] = ()
    files: tuple[FileChange, ...] = ()
    environment: dict[str, tuple[str, str]] = {}
    commits: tuple[str, ...] = ()

    def of(self, verdict: str) -> list[RecallChange]:
        return [change for change in self.recalls if change.verdict == verdict]


def keep(folder: Path, status: RunStatus) -> None:
    """Put the per-query records and the figures of every green notebook into the run folder.

    They are copied: whatever is written into the originals later does not reach the night.
    """
    from vpr_lib.results.records import record_files

    for line in status.notebooks:
        if line.status not in GREENS:
            continue
        source = paths.cache_root() / status.profile / "records" / line.name
        for path in record_files(source):
            _take(path, folder / "records" / line.name / path.relative_to(source))
        for output in _sentinel(folder, line.name).outputs:
            if output.file.suffix == ".png" and output.file.is_file():
                _take(output.file, folder / "figures" / Path(output.name).name)


def _take(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _sentinel(folder: Path, notebook: str) -> Sentinel:
    sentinel = read_sentinel(folder, notebook)
    if sentinel is None:
        raise FileNotFoundError(f"{folder} has no sentinel of {notebook}, which is green. Was a file removed by hand?")
    return sentinel


def compare_nights(before: Path, after: Path) -> Comparison:
    """Compare two run folders; only what is green now is compared, what failed is told elsewhere."""
    old, new = read_status(before), read_status(after)
    old_green, new_green = ([line.name for line in status.notebooks if line.status in GREENS] for status in (old, new))
    both = [name for name in new_green if name in old_green]
    sentinels = [{name: _sentinel(folder, name) for name in both} for folder in (before, after)]
    machines = [json.loads((folder / "env.json").read_text(encoding="utf-8")) for folder in (before, after)]
    return Comparison(
        reference=before.name,
        **_recalls(_evaluations(before, both), _evaluations(after, both)),
        checks=tuple(_checks(*sentinels)),
        findings=tuple(_findings(*sentinels)),
        costs=tuple(_costs(old, new)),
        files=tuple(_files(before, after, *sentinels)),
        environment=_differences(*machines),
        commits=_commits(old.git, new.git),
    )


def _evaluations(folder: Path, notebooks: list[str]) -> dict[Key, "pandas.DataFrame"]:
    from vpr_lib.results.records import read_record, record_files

    evaluations = {}
    for path in record_files(folder / "records"):
        notebook = path.relative_to(folder / "records").parts[0]
        table = read_record(path)
        if notebook in notebooks and len(table):
            first = table.iloc[0]
            evaluations[notebook, first["dataset"], first["protocol"], first["model"], int(first["seed"])] = table
    return evaluations


def _recalls(before: dict[Key, "pandas.DataFrame"], after: dict[Key, "pandas.DataFrame"]) -> dict[str, Any]:
    """Recall changes with their verdicts, and what cannot be compared."""
    changes, incomparable = [], []
    for key in sorted(before.keys() & after.keys()):
        try:
            changes.append(_change(key, before[key], after[key]))
        except ValueError as error:
            incomparable.append(f"{_name(key)}: {error}")
    adjusted = holm([change.p_value if change.lost + change.gained else None for change in changes])
    judged = tuple(_judge(change, p) for change, p in zip(changes, adjusted))
    order = ("regressed", "improved", "within noise", "same")
    return {
        "recalls": tuple(sorted(judged, key=lambda change: (order.index(change.verdict), change.delta))),
        "incomparable": tuple(incomparable),
        "gone": tuple(map(_name, sorted(before.keys() - after.keys()))),
        "new": tuple(map(_name, sorted(after.keys() - before.keys()))),
    }


def _name(key: Key) -> str:
    notebook, dataset, protocol, model, seed = key
    return f"{model} on {dataset} ({protocol}, seed {seed}, {notebook[:2]})"


def _change(key: Key, before: "pandas.DataFrame", after: "pandas.DataFrame") -> RecallChange:
    """One evaluation compared; ValueError if protocol card or queries differ, or nothing counts."""
    import pandas

    from vpr_lib.results.tables import compare, recall_table

    if not (before["counted"].any() and after["counted"].any()):
        raise ValueError("no query counts")
    both = pandas.concat([before.assign(model="before"), after.assign(model="after")], ignore_index=True)
    test = compare(both, "before", "after")
    rows = recall_table(both).set_index("model")
    recalls = [
        {k: float(rows.loc[side, k]) for k in ("R@1", "R@5", "R@10") if k in rows} for side in ("before", "after")
    ]
    sides = [table[table["counted"]].sort_values("query") for table in (before, after)]
    was, now = (side["first_hit"].eq(1).to_numpy() for side in sides)
    number = sides[1]["query"].to_numpy()
    flips = [*number[was & ~now], *number[now & ~was]]
    same = (sides[0]["first_hit"].to_numpy() == sides[1]["first_hit"].to_numpy()).all()
    return RecallChange(
        **dict(zip(("notebook", "dataset", "protocol", "model", "seed"), key)),
        queries=int(rows.loc["after", "queries"]),
        before=recalls[0],
        after=recalls[1],
        lost=test.only_first,
        gained=test.only_second,
        p_value=test.p_value,
        p_adjusted=1.0,
        verdict="same" if same else "within noise",
        flips=tuple(int(query) for query in flips[:200]),
    )


def holm(p_values: list[float | None]) -> list[float]:
    """Holm's step-down adjustment; None marks a test that cannot reject (no flip) and does not count.

    Source: Holm, Scand. J. Statist. 6 (1979); leaving out tests that cannot reject: Tarone, Biometrics 46 (1990).
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def _judge(change: RecallChange, p_adjusted: float) -> RecallChange:
    verdict = change.verdict
    if p_adjusted < LEVEL:
        verdict = "improved" if change.gained > change.lost else "regressed"
    return change.model_copy(update={"p_adjusted": p_adjusted, "verdict": verdict})


def _checks(before: dict[str, Sentinel], after: dict[str, Sentinel]) -> Iterator[CheckChange]:
    for name, sentinel in after.items():
        known = {check.key: check.measured for check in before[name].checks}
        for check in sentinel.checks:
            if check.key in known and check.measured != known[check.key]:
                yield CheckChange(
                    notebook=name, key=check.key, target=check.target, before=known[check.key], after=check.measured
                )


def _findings(before: dict[str, Sentinel], after: dict[str, Sentinel]) -> Iterator[FindingChange]:
    for name, sentinel in after.items():
        known = {found.key: found.verdict for found in before[name].findings}
        for found in sentinel.findings:
            if known.get(found.key, found.verdict) != found.verdict:
                yield FindingChange(
                    notebook=name, statement=found.statement, before=known[found.key], after=found.verdict
                )


def _costs(before: RunStatus, after: RunStatus) -> Iterator[CostChange]:
    """Notebooks executed tonight beside their last known cost (a resumed one carries that of its execution)."""
    known = {line.name: line for line in before.notebooks if line.status in GREENS and line.seconds}
    for line in after.notebooks:
        if line.status != Status.GREEN or line.name not in known or not line.seconds:
            continue
        old, remarks = known[line.name], []
        if abs(line.seconds - old.seconds) > max(5.0, 0.25 * old.seconds):
            remarks.append("slower" if line.seconds > old.seconds else "faster")
        memory = (old.peak_memory_bytes, line.peak_memory_bytes)
        if None not in memory and memory[1] > 1.1 * memory[0] + 100 * 2**20:
            remarks.append("more memory")
        yield CostChange(
            notebook=line.name, seconds=(old.seconds, line.seconds), memory_bytes=memory, remark=", ".join(remarks)
        )


def _files(
    old_run: Path, new_run: Path, before: dict[str, Sentinel], after: dict[str, Sentinel]
) -> Iterator[FileChange]:
    """Figures whose pixels differ, other outputs whose content differs, and what came or went."""
    for notebook, sentinel in after.items():
        old, new = ({o.name: o for o in side.outputs} for side in (before[notebook], sentinel))
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new:
                yield FileChange(notebook=notebook, name=name, kind="gone" if name in old else "new")
            elif old[name].sha256 != new[name].sha256:
                pictures = [run / "figures" / Path(name).name for run in (old_run, new_run)]
                change = _pixels(*pictures) if name.endswith(".png") else {"kind": "content"}
                if change:
                    yield FileChange(notebook=notebook, name=name, **change)


def _pixels(before: Path, after: Path) -> dict[str, Any]:
    """How two pictures differ; empty if no pixel does (a file may differ in its metadata alone)."""
    import numpy as np

    try:
        old, new = (_array(path) for path in (before, after))
    except OSError:  # not kept, or not a picture
        return {"kind": "content"}
    if old.shape != new.shape:
        return {"kind": "size"}
    gap = np.abs(old.astype(np.int16) - new)
    share = float((gap.max(axis=2) > 0).mean())
    return {"kind": "pixels", "mean_difference": float(gap.mean()), "changed_share": share} if share else {}


def _array(path: Path) -> "numpy.ndarray":
    """RGB pixels (H, W, 3), uint8, on white."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        picture = picture.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))


def _differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """What differs between two descriptions of a machine, by dotted name."""
    old, new = (dict(_flat(machine)) for machine in (before, after))
    names = sorted(old.keys() | new.keys())
    pairs = {name: (old.get(name, "absent"), new.get(name, "absent")) for name in names if name not in _VOLATILE}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, list):
        values = {str(number): value for number, value in enumerate(values)}
    if not isinstance(values, dict):
        yield prefix, str(values)
        return
    for name, value in values.items():
        yield from _flat(value, f"{prefix}.{name}" if prefix else name)


def _commits(before: str, after: str) -> tuple[str, ...]:
    """Subjects of the commits between two states of the source, latest first; empty where git cannot tell."""
    ends = [state.partition("+")[0] for state in (before, after)]
    if "unknown" in ends or ends[0] == ends[1]:
        return ()
    command = ["git", "-C", str(paths.project_root()), "log", "--oneline", "-50", f"{ends[0]}..{ends[1]}"]
    try:
        return tuple(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
        )
    except (OSError, subprocess.SubprocessError):
        return ()
