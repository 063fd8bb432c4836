"""One place for randomness: seeds that depend on names, not on the order in which things happen to run."""

import hashlib
import random


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same in every process, session and Python version."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # the same, without a stack trace kept for a device that never comes; called at every step
        torch.default_generator.manual_seed(seed)
