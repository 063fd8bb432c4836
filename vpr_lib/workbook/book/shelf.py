"""Where the files of one notebook go, and what is recorded of each: figures with their words, tables, pages."""

import json
import re
import shutil
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpr_lib import paths
from vpr_lib.config import Profile
from vpr_lib.paths import git_state
from vpr_lib.plotting.picture import Picture
from vpr_lib.workbook.book import show
from vpr_lib.workbook.book.sentinel import Output, describe_output

if TYPE_CHECKING:
    import pandas
    import torch

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]*")
DPI = 160  # of figures


class Shown(type(Path())):
    """A path that no cell prints at its end: what lies there was just shown, and where is nobody's business in a report."""

    def _ipython_display_(self) -> None:
        pass


class Shelf:
    """The files of one notebook in one run, by profile."""

    def __init__(self, name: str, profile: Profile, run_id: str):
        self.name, self.profile, self.run_id = name, profile, run_id
        self.outputs: dict[str, Output] = {}

    @cached_property
    def device(self) -> "torch.device":
        """The device the profile asks for; `auto` takes CUDA where there is one. Imports torch."""
        import torch

        if self.profile.device == "cpu":
            return torch.device("cpu")
        if self.profile.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(
                f"Profile '{self.profile.name}' needs a CUDA device and torch {torch.__version__} sees none. "
                "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or run the profile 'toy'."
            )
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def figures(self) -> Path:
        """Folder of this profile's figures and tables."""
        return _folder(paths.figures_root() / self.profile.name)

    @property
    def cache(self) -> Path:
        """Folder of this profile's data, descriptors and checkpoints, which can be computed again."""
        return _folder(paths.cache_root() / self.profile.name)

    @cached_property
    def records(self) -> Path:
        """Folder of this notebook's per-query records, emptied when it is first asked for."""
        folder = self.cache / "records" / self.name
        shutil.rmtree(folder, ignore_errors=True)
        return _folder(folder)

    @property
    def run_folder(self) -> Path:
        return _folder(paths.runs_root() / self.run_id)

    @cached_property
    def git(self) -> str:
        return git_state()

    def figure(self, figure: Any, name: str, *, alt: str = "", caption: str = "") -> Path:
        """Save a figure with its provenance, and show it.

        Args:
            figure: a matplotlib figure, axes, an array of axes, a seaborn grid, or a Picture, which brings its words and gets
                profile and device added to its caption; it is closed.
            name: file name without suffix.
            alt: what is read aloud to somebody who does not see the figure: its message, with numbers.
            caption: one or two sentences below the figure.
        Returns:
            path of the PNG.
        Raises:
            ValueError: for a name that is not a plain file name, or an empty text.
        """
        import matplotlib.pyplot as plt

        if isinstance(figure, Picture):
            where = f"Profile {self.profile.name}, {self._device_used()}."
            figure, alt, caption = figure.figure, alt or figure.alt, f"{caption or figure.caption} {where}"
        if not alt.strip() or not caption.strip():
            raise ValueError(
                f"Figure '{name}' needs a caption and an alt text: say what the figure shows, with numbers."
            )
        figure, path = show.figure_of(figure), self._target(name, ".png")
        with paths.atomic_path(path) as temporary:
            packed = {"compress_level": 3}  # a tenth larger than the usual level, in half the time
            figure.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight", pil_kwargs=packed)
        self._record(path, caption, alt)
        paths.write_text(path.with_suffix(".json"), json.dumps(self._provenance(path, caption, alt), indent=1))
        show.picture(path, alt, caption, DPI)
        plt.close(figure)  # the inline backend would show it a second time
        return Shown(path)

    def table(
        self,
        frame: "pandas.DataFrame",
        name: str,
        caption: str,
        digits: int = 3,
        shown: "pandas.DataFrame | None" = None,
        latex: str = "",
    ) -> Path:
        """Save a table as CSV (all digits) and Markdown (`digits` decimals), and show it; returns the CSV's path.

        An index that is named or made of words becomes the first columns.

        Args:
            shown: another layout of the same numbers, for the page and the Markdown; a cell in **stars** is bold, and columns
                may have two levels.
            latex: the same for a paper, saved as .tex.
        """
        path = self._target(name, ".csv")
        frame = frame if show.plain_index(frame) else frame.reset_index()
        with paths.atomic_path(path) as temporary:
            frame.to_csv(temporary, index=False)
        shown = frame if shown is None else shown
        paths.write_text(path.with_suffix(".md"), f"{show.markdown_table(shown, digits)}\n\n{caption}\n")
        for suffix in (".csv", ".md"):
            self._record(path.with_suffix(suffix), caption)
        if latex:
            paths.write_text(path.with_suffix(".tex"), latex)
            self._record(path.with_suffix(".tex"), caption)
        show.table(shown, caption, digits)
        return Shown(path)

    def output(self, path: str | Path, caption: str = "") -> Path:
        """Record another file this notebook wrote (a checkpoint, a page): a resumed run checks that it is unchanged.

        An HTML page in the figures folder goes into the report, with a link on the notebook's page.
        """
        path = Path(path)
        output = describe_output(path, path.name if path.parent == self.figures else None, caption)
        self.outputs[output.name] = output
        return Shown(path)

    def _target(self, name: str, suffix: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' is not a plain file name; write one without folder and suffix, like 02_curves.")
        return self.figures / f"{name}{suffix}"

    def _record(self, path: Path, caption: str, alt: str = "") -> None:
        self.outputs[path.name] = describe_output(path, path.name, caption, alt)

    def _device_used(self) -> str:
        return str(self.__dict__.get("device", "cpu"))  # the cached property: set only if the notebook asked

    def _provenance(self, path: Path, caption: str, alt: str) -> dict[str, Any]:
        return {
            "file": path.name,
            "sha256": self.outputs[path.name].sha256,
            "profile": self.profile.name,
            "notebook": self.name,
            "run_id": self.run_id,
            "git": self.git,
            "device": self._device_used(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "caption": caption,
            "alt": alt,
        }


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
