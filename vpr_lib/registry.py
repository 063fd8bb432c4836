"""Tables of builders: a name maps to a callable, and an unknown name lists the known ones."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

Entry = TypeVar("Entry")


def lookup(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """`table[name]`, or a ValueError that names the closest and all known entries."""
    if name in table:
        return table[name]
    close = get_close_matches(name, table, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise ValueError(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(sorted(table))}.")
