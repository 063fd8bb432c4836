"""What a night came to, as `nightly.json` keeps it, and what differs from the reference night."""

from typing import Literal

from vpr_lib.config import Strict


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


class Failure(Strict):
    """Why a notebook is not green."""

    notebook: str
    kind: str  # check, error, killed, timeout, disk, gpu memory, blocked, invalid
    reason: str


class Night(Strict):
    """The whole of `nightly.json`."""

    run_id: str
    profile: str
    started: str
    finished: str | None = None
    exit_code: int | None = None  # None: still running, or killed
    meaning: str = ""
    accepted: bool = False  # taken as the reference by order of the operator
    git: str = ""
    device: str = ""
    summary: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    retried: dict[str, str] = {}
    comparison: Comparison | None = None
    removed: tuple[str, ...] = ()  # run folders that retention deleted
    taken_over: str = ""  # the dead holder of the lock
    problem: str = ""

    @property
    def green(self) -> bool:
        return self.exit_code == 0
