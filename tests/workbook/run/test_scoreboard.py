"""Findings and checks of a whole profile, those of notebooks that have not run among them."""

from vpr_lib import paths
from vpr_lib.config import load_profile
from vpr_lib.results.findings import Evidence
from vpr_lib.workbook.book.session import open_notebook
from vpr_lib.workbook.run.scoreboard import checks_table, findings_table

TOLD = {
    "checks": {"finite": {"statement": "positions that are not finite", "at_most": 0}},
    "findings": {"wins": {"statement": "mixing wins", "source": "Table 2", "above": 0}},
}


def test_tables_have_what_was_measured_and_what_was_not(project):
    project.add("02_train", settings=TOLD).add("03_later", settings=TOLD)
    book = open_notebook("02_train", project.profile, "run-1")
    book.check({"finite": 0})
    book.finding("wins", Evidence(-2.0, -3.0, -1.0, "points", "a - b", 3, 10))
    profile, run = load_profile(project.profile), paths.runs_root() / "run-1"
    found, checks = findings_table(profile, run), checks_table(profile, run)
    assert list(found["verdict"]) == ["✗ contradicted", "– not measured"]
    assert found["measured here"][0] == "-2.0 points [-3.0, -1.0], 3 seeds, 10 queries"
    assert list(checks["verdict"]) == ["✓ holds", "– not run yet"] and list(checks["run"]) == ["run-1", ""]
