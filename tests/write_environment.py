"""Write environment.yml (conda view) from pyproject.toml and constraints.txt; tests/test_house.py compares the three."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# Conda view of pyproject.toml and constraints.txt, for a GPU machine: `conda env create -f environment.yml`, and then, in it,
# `pip install --no-deps -e .` (without --no-deps, faiss-cpu would come and hide faiss-gpu, which has the same import).
# The wheels carry their own CUDA libraries; only a driver is needed. Written by tests/write_environment.py.
name: vpr-workbook
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    versions = {normal(line.split("==")[0]): line.split("==")[1] for line in lines}
    names = [re.match(r"[\w.-]+", line).group().replace("faiss-cpu", "faiss-gpu") for line in project["dependencies"]]
    pins = [f"      - {name}=={versions[normal(name)]}\n" for name in names]
    (ROOT / "environment.yml").write_text(HEAD + "".join(pins))


if __name__ == "__main__":
    main()
