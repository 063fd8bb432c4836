"""Notebooks tell a story in small cells, open a method with a picture, formulas and an example, and know their findings."""

import json
import re
from pathlib import Path

import pytest
import yaml

from vpr_lib.config import FINDINGS_FILE

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
METHODS = [path for path in NOTEBOOKS if path.name[:2] in {"02", "03", "04", "05", "06", "07"}]
PLUMBING = ("model_copy(", "folder_in(", "plt.", "torch.stack([load_image", "quiet=True)[", "!pip")
FINDINGS = yaml.safe_load(FINDINGS_FILE.read_text(encoding="utf-8"))


def cells(path: Path, kind: str) -> list[dict]:
    return [
        cell | {"source": "".join(cell["source"])}
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == kind
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_small(path):
    for cell in cells(path, "code"):
        lines, where = cell["source"].splitlines(), f"{path.name} {cell['id']}"
        assert all(len(line) <= 120 for line in lines), where
        assert not re.search(r"^\s*(def|class) ", cell["source"], re.MULTILINE), where
        assert not any(sign in cell["source"] for sign in PLUMBING), where
        imports = all(re.match(r"(from|import|\s|\)|$)", line) for line in lines)
        if not imports and "parameters" not in cell["metadata"].get("tags", []):
            assert len(lines) <= 15 and len(cell["source"]) <= 900, where


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_opens_with_its_picture_formulas_and_an_example(path):
    text, code = ("\n".join(cell["source"] for cell in cells(path, kind)) for kind in ("markdown", "code"))
    assert "## The idea in one picture" in text and "book.figure(picture_of_" in code
    assert text.count("$$") >= 2 and "change me" in code
    first_training = code.index("trained_to(")
    assert code.index("book.figure(picture_of_") < first_training and code.index("change me") < first_training


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_static_text_claims_nothing_that_a_run_can_refute(path):
    """Behind the opening, which asks and quotes, no sentence of the text says who is ahead or names a share."""
    claim = re.compile(r"\b(beats?|outperforms?|wins?|loses|better|worse)\b|\d ?%")
    sentences = re.split(r"(?<=[.?!:])\s+", "\n\n".join(cell["source"] for cell in cells(path, "markdown")[1:]))
    assert not [text for text in sentences if claim.search(text) and not text.rstrip().endswith("?")]


@pytest.mark.parametrize("name", FINDINGS)
def test_a_notebook_measures_its_findings(name):
    path = next(path for path in NOTEBOOKS if path.stem == name)
    code = "\n".join(cell["source"] for cell in cells(path, "code"))
    built = re.findall(r'f?"(?:\{[^}]*\})?(_gains)"|"(mixing_beats_)"', code)  # names put together from a parameter
    parts = [part for pair in built for part in pair if part]
    missing = [key for key in FINDINGS[name] if f'"{key}"' not in code and not any(part in key for part in parts)]
    assert not missing, f"{name} never measures {missing}"
    assert "book.takeaways(" in code
