"""SHA-256 of files and of our own sources: whether something on disk is what it was, or has to be made again."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest_file(*parts: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits; of several files, as if they were one."""
    digest = hashlib.sha256()
    for part in parts:
        with Path(part).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def digest_code(sources: Iterable[Path]) -> str:
    """16 hexadecimal digits over names and contents of source files, in the order given: other code, other digits."""
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
