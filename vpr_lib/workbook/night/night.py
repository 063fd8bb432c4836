"""What a night came to, as `nightly.json` keeps it."""

from vpr_lib.config import Strict
from vpr_lib.workbook.night.changes import Comparison


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
