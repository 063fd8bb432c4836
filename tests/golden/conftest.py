"""Where the golden fixtures are: the environment variable GOLDEN_DIR, otherwise this folder."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from goldtools import DEVIATIONS


def golden_folder() -> Path:
    return Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent))


def pytest_generate_tests(metafunc):
    if "fixture_path" in metafunc.fixturenames:
        paths = sorted(golden_folder().glob("*.json"))
        metafunc.parametrize("fixture_path", paths, ids=[path.stem for path in paths])


def pytest_terminal_summary(terminalreporter):
    if not DEVIATIONS:
        return
    terminalreporter.section("golden fixtures: largest deviation as a share of the allowed one")
    for name, ratios in DEVIATIONS.items():
        worst = max(ratios, key=ratios.get)
        terminalreporter.write_line(f"{name:32s} {len(ratios):4d} outputs   {ratios[worst]:6.3f}   {worst}")
