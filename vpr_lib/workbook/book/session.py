"""What a notebook calls: open the book, save figures and tables, check, compare with the papers, finish.

    book = open_notebook("02_mixvpr_training", profile=profile, run_id=run_id)
    book.figure(ax, "02_training_curves", alt="Loss falls from 1.2 to 0.3 in 20 epochs.", caption="Training.")
    book.check({"recall_at_1": 0.61})                                       # must hold
    book.finding("mixing_beats_gem", difference(records, {"mixvpr": 1, "gem": -1}))   # a paper's statement; never blocks
    book.finish(headline="R@1 61.0 %")

In JupyterLab, where no runner gives a run id, everything works the same with an id of its own.
"""

import math
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpr_lib import paths
from vpr_lib.config import NotebookSettings, Profile, load_profile
from vpr_lib.files import forget_used, visible_files
from vpr_lib.workbook.book import show
from vpr_lib.workbook.book.sentinel import (
    Checked,
    CheckResult,
    FindingResult,
    Sentinel,
    assess,
    checked_path,
    describe_output,
    evaluate,
    sentinel_path,
)
from vpr_lib.workbook.book.shelf import Shelf
from vpr_lib.workbook.book.used import write_used

if TYPE_CHECKING:
    import torch

    from vpr_lib.results.findings import Evidence
    from vpr_lib.training.fit import FitResult, Recipe


class CheckFailed(AssertionError):
    """A number lies outside of what its profile says must hold: something is broken."""


class Stopped(Exception):
    """A notebook that ends early because it decided to; Jupyter shows one line instead of a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"The notebook ends here: {self}"]


def open_notebook(name: str, profile: str | Path = "toy", run_id: str | None = None) -> "Book":
    """Start the book-keeping of one notebook and give its figures the house style.

    Args:
        name: of the notebook, without .ipynb.
        profile: name or YAML file, as injected by the runner.
        run_id: as injected by the runner; empty in an interactive session.
    Raises:
        ValueError: for an unknown profile, or a notebook of which the profile says nothing.
    """
    settings = load_profile(profile)
    if name not in settings.notebooks:
        known = ", ".join(settings.notebooks) or "none"
        raise ValueError(f"Profile '{settings.name}' says nothing about notebook '{name}'. It has: {known}.")
    from vpr_lib.plotting.style import use_style

    use_style()
    forget_used()
    return Book(name, settings, run_id or f"interactive-{datetime.now():%Y%m%d-%H%M%S}")


class Book(Shelf):
    """One notebook in one run: a shelf for its files, and what it has measured so far."""

    def __init__(self, name: str, profile: Profile, run_id: str):
        super().__init__(name, profile, run_id)
        self.started, self._clock = datetime.now(UTC), time.monotonic()
        self.checks: dict[str, CheckResult] = {}
        self.findings: dict[str, FindingResult] = {}
        self.notes: dict[str, float] = {}
        self.holes: dict[str, str] = {}

    @property
    def settings(self) -> NotebookSettings:
        """What the profile says about this notebook: checks, findings, times, parameters."""
        return self.profile.notebooks[self.name]

    @property
    def seed(self) -> int:
        return self.profile.seed

    def train(self, experiment: "Recipe", quiet: bool = True, **given: Any) -> "tuple[torch.nn.Module, FitResult]":
        """Run an experiment on this book's device; one that a notebook of this profile has finished is used, a begun one
        goes on.

        Args:
            given: what is opened already, as `tuples` and `teacher` of cross-modal training.
        Returns:
            the model with its best weights, and the result with its history.
        """
        from vpr_lib.training.recipes import runner_of

        folder = experiment.folder_in(self.cache)
        return runner_of(experiment)(experiment, folder, str(self.device), quiet=quiet, **given)

    def check(
        self,
        values: Mapping[str, float],
        notes: Mapping[str, float] | None = None,
        skipped: Mapping[str, str] | None = None,
    ) -> None:
        """Compare measured values with the checks of the profile, show them, and stop if one does not hold.

        May be called several times; `finish` insists that every check was measured.

        Args:
            values: measured value per check.
            notes: values worth recording for which the profile has no check.
            skipped: why a check could not be run here, for instance which package is missing; it is told as "not run".
        Raises:
            ValueError: for a value without a check.
            CheckFailed: listing every check that does not hold, after all have been recorded.
        """
        skipped = dict(skipped or {})
        unknown = [key for key in (*values, *skipped) if key not in self.settings.checks]
        if unknown:
            known = ", ".join(self.settings.checks) or "none"
            raise ValueError(
                f"Profile '{self.profile.name}' has no check {', '.join(unknown)} for {self.name}; its checks: {known}. "
                "Add a check to the profile, or pass the value as a note: check(..., notes={...})."
            )
        results = [evaluate(key, self.settings.checks[key], float(value)) for key, value in values.items()]
        results += [evaluate(key, self.settings.checks[key], math.nan, reason) for key, reason in skipped.items()]
        self.checks |= {result.key: result for result in results}
        self.notes |= {key: float(value) for key, value in (notes or {}).items()}
        self._write_checked()
        show.checks(results, notes or {})
        failed = [
            f"{r.key}: {r.statement}: target {r.target}, measured {r.measured:.4g}"
            for r in results
            if not r.holds and not r.skipped
        ]
        if failed:
            raise CheckFailed(f"{len(failed)} of {len(results)} checks do not hold: {'; '.join(failed)}")

    def finding(self, name: str, evidence: "Evidence") -> FindingResult:
        """Hold a paper's statement against what was measured, and say what became of it in one sentence.

        Args:
            name: of a finding of configs/findings.yaml or the profile.
            evidence: of `vpr_lib.results.findings`: `difference`, `paired` or `exact`.
        Raises:
            ValueError: for a name the profile does not have.
        """
        if name not in self.settings.findings:
            known = ", ".join(self.settings.findings) or "none"
            raise ValueError(
                f"There is no finding '{name}' for {self.name}; there are: {known}. Add it to configs/findings.yaml."
            )
        result = assess(name, self.settings.findings[name], evidence)
        self.findings[name] = result
        self._write_checked()
        show.finding(result)
        return result

    def hole(self, name: str, why: str) -> None:
        """Leave something out, and say so: the notebook stays green without it.

        Args:
            name: a file that workbook.yaml declares, a check of the profile, a model or a data set.
            why: the reason, with the command that fills the hole.
        """
        self.holes[name] = why
        show.hole(name, why)

    def stop(self, headline: str, why: str) -> None:
        """End the notebook here, green: what follows needs what is not there. Everything still owed becomes a hole.

        Args:
            why: the reason, with the command that lets the notebook go on.
        Raises:
            Stopped: always; the runner takes it for an orderly end.
        """
        self.hole("the rest of this notebook", why)
        self.holes |= {key: why for key in self.settings.checks if key not in self.checks}
        self._finish(headline, stopped=why)
        raise Stopped(why)

    def takeaways(self, *method: str) -> None:
        """Close with what the run found, statement by statement, after what does not depend on a run.

        Args:
            method: sentences about the method itself, which no run can refute.
        """
        show.takeaways(method, self._every_finding())

    def finish(self, headline: str = "") -> None:
        """The last act of a notebook: write the sentinel that proves it ran to its end.

        Raises:
            CheckFailed: if a check of the profile was neither measured nor left out as a hole. A finding that was not is recorded as such.
        """
        missing = [key for key in self.settings.checks if key not in self.checks and key not in self.holes]
        if missing:
            raise CheckFailed(
                f"{self.name} did not measure the checks {', '.join(missing)} of profile '{self.profile.name}'"
            )
        self._finish(headline)

    def _finish(self, headline: str, stopped: str = "") -> None:
        self.findings = {result.key: result for result in self._every_finding()}
        self._write_checked()
        sentinel = Sentinel(
            notebook=self.name,
            run_id=self.run_id,
            profile=self.profile.name,
            key=os.environ.get("VPR_NOTEBOOK_KEY", ""),
            device=self._device_used(),
            git=self.git,
            started=self.started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._clock, 2),
            headline=headline,
            outputs=tuple(self.outputs.values()),
            holes=self.holes,
            stopped=stopped,
            made=tuple(describe_output(path) for path in visible_files(self.records, "*.parquet")),
            used=write_used(self.run_folder, self.name),
            checks=tuple(self.checks.values()),
            findings=tuple(self.findings.values()),
            notes=self.notes,
            gpu_memory_bytes=_gpu_memory(),
        )
        paths.write_text(sentinel_path(self.run_folder, self.name), sentinel.model_dump_json(indent=1))
        show.finished(sentinel)

    def _every_finding(self) -> list[FindingResult]:
        return [self.findings.get(key) or assess(key, finding, None) for key, finding in self.settings.findings.items()]

    def _write_checked(self) -> None:
        checked = Checked(checks=tuple(self.checks.values()), findings=tuple(self.findings.values()), notes=self.notes)
        paths.write_text(checked_path(self.run_folder, self.name), checked.model_dump_json(indent=1))

    def _repr_html_(self) -> str:
        return show.card(self.name, self.profile, self.settings)

    def __repr__(self) -> str:
        return f"Book({self.name}, profile {self.profile.name}, run {self.run_id})"


def _gpu_memory() -> int | None:
    """Most bytes torch held on the GPU, if this process used one."""
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda.max_memory_allocated() if used else None
