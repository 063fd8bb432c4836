"""What became of a profile's findings and checks, over all its notebooks: two tables for notebook 08 and the README."""

from pathlib import Path

import pandas as pd

from vpr_lib.config import Profile
from vpr_lib.workbook.book.sentinel import Checked, assess
from vpr_lib.workbook.book.show import SIGNS
from vpr_lib.workbook.run.status import checked_of


def every_checked(profile: Profile, run: Path) -> dict[str, tuple[Checked, str]]:
    """By notebook: what it checked and found in the run folder, else in its last green run, and the id of that run."""
    return {name: checked_of(profile.name, name, run) for name in profile.notebooks}


def findings_table(profile: Profile, run: Path) -> pd.DataFrame:
    """One row per finding of the profile: notebook, statement, source, measured, expected, verdict, run."""
    rows = []
    for name, (checked, run_id) in every_checked(profile, run).items():
        known = {found.key: found for found in checked.findings}
        for key, finding in profile.notebooks[name].findings.items():
            found = known.get(key) or assess(key, finding, None)
            rows.append({
                "notebook": name[:2], "the paper's statement": found.statement, "source": found.source,
                "measured here": found.measured, "expected": found.rule, "verdict": f"{SIGNS[found.verdict]} {found.verdict}",
                "run": run_id,
            })  # fmt: skip
    return pd.DataFrame(rows)


def checks_table(profile: Profile, run: Path) -> pd.DataFrame:
    """One row per check of the profile: notebook, check, source, target, measured, verdict, run."""
    rows = []
    for name, (checked, run_id) in every_checked(profile, run).items():
        known = {check.key: check for check in checked.checks}
        for key, check in profile.notebooks[name].checks.items():
            result = known.get(key)
            verdict = f"{result.sign} {result.verdict}" if result else "– not run yet"
            rows.append({
                "notebook": name[:2], "check": check.statement, "source": check.source, "target": check.target(),
                "measured": result.number if result else "–", "verdict": verdict, "run": run_id,
            })  # fmt: skip
    return pd.DataFrame(rows)
