"""Every file of weights that authors publish: which model it belongs to, where it is, under which licence.

The table is `vpr_lib/configs/weights.yaml`; one entry there, and `vpr weights get NAME` fetches it.
"""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from vpr_lib.config import Strict, load_yaml
from vpr_lib.registry import lookup

TABLE = Path(__file__).parent.parent / "configs" / "weights.yaml"
WAYS = ("url", "drive", "hub", "drive_folder", "by_hand")


class Published(Strict):
    """One published file."""

    file: str  # its name there and here
    source: str  # who publishes it
    licence: str
    kind: Literal["model", "cloud", "trunk", "dinov2"] = "model"
    url: str | None = None  # a direct address, redirects included
    drive: str | None = None  # Google Drive: the file's id
    hub: tuple[str, str] | None = None  # Hugging Face: repository and file
    drive_folder: str | None = None  # Google Drive: a folder's id, with `member`
    member: str | None = None  # pattern of the path in that folder, whatever the case of its letters
    by_hand: str | None = None  # where no program can fetch it, in words
    backbone: str | None = None  # of a trunk
    bytes: int | None = None
    about_mb: float | None = None
    sha256: str | None = None
    note: str = ""

    @model_validator(mode="after")
    def _has_one_way(self) -> "Published":
        if len(ways := [way for way in WAYS if getattr(self, way) is not None]) != 1:
            raise ValueError(
                f"'{self.file}' needs exactly one of {', '.join(WAYS)}; it has {', '.join(ways) or 'none'}"
            )
        if (self.drive_folder is None) != (self.member is None):
            raise ValueError(f"'{self.file}': drive_folder and member come together")
        return self

    @property
    def address(self) -> str:
        """What a browser opens; '' where there is only `by_hand`."""
        if self.drive:
            return f"https://drive.google.com/uc?id={self.drive}"
        if self.drive_folder:
            return f"https://drive.google.com/drive/folders/{self.drive_folder}"
        return f"https://huggingface.co/{self.hub[0]}/blob/main/{self.hub[1]}" if self.hub else self.url or ""

    @property
    def size_in_words(self) -> str:
        """'334 MB', '~334 MB' where the size is not exact, or 'size not stated'."""
        if self.bytes:
            return f"{self.bytes / 1e6:,.0f} MB"
        return f"~{self.about_mb:,.0f} MB" if self.about_mb else "size not stated"


class Table(Strict):
    """The whole list, by the name the weights are kept under."""

    weights: dict[str, Published] = Field(min_length=1)


@cache
def load_published() -> dict[str, Published]:
    """The table, read once: name of the zoo, of a cloud model, of a trunk or of DINOv2's pre-training -> file."""
    return load_yaml(TABLE, Table).weights


def find_published(name: str) -> Published:
    """The entry of that name; an unknown one lists the known ones (ValueError)."""
    return lookup(load_published(), name, "published weights")


def name_of_file(file: str) -> str:
    """The name a published file belongs to, the first where two share it; '' for an unknown file."""
    return next((name for name, known in load_published().items() if known.file == file), "")


def published_at(name: str) -> str:
    """A sentence on how to come by the published weights of a model or trunk; '' when none are known."""
    known = load_published().get(name)
    if known is None:
        return ""
    if known.by_hand:
        return f" Its authors publish {known.file}, not for programs: {known.by_hand}. Then `vpr weights add FILE --as {name}`."
    return f" `vpr weights get {name}` fetches {known.file} ({known.size_in_words}; {known.source})."
