"""What differs between a night and the last green one: recall, checks, findings, time, memory, environment, figures.

Both sides are read from their run folders only: `keep` copies there what later runs overwrite.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpr_lib import paths
from vpr_lib.files import atomic_path
from vpr_lib.workbook.book.sentinel import Sentinel, read_sentinel
from vpr_lib.workbook.night.night import CheckChange, Comparison, CostChange, FileChange, FindingChange
from vpr_lib.workbook.night.recalls import evaluations, recall_changes
from vpr_lib.workbook.run.status import GREENS, RunStatus, Status, read_status

if TYPE_CHECKING:
    import numpy

_VOLATILE = {"disk_free_bytes"}


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
        **recall_changes(evaluations(before, both), evaluations(after, both)),
        checks=tuple(_checks(*sentinels)),
        findings=tuple(_findings(*sentinels)),
        costs=tuple(_costs(old, new)),
        files=tuple(_files(before, after, *sentinels)),
        environment=_differences(*machines),
        commits=_commits(old.git, new.git),
    )


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
