"""A drawing with the words that belong to it: what `book.figure` saves."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A figure, its message for somebody who does not see it, and its caption."""

    figure: Any  # a matplotlib figure or axes
    alt: str
    caption: str


def listed(values: dict[str, float], unit: str = " %", digits: int = 0) -> str:
    """Numbers with their names for an alt text: 'GeM 61 %, MixVPR 70 %'."""
    return ", ".join(f"{name} {value:.{digits}f}{unit}" for name, value in values.items())
