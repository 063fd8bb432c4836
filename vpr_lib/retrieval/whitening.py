"""Fit a model's whitening on a training split, once: cached under a hash of everything it depends on. Spec: clusvpr §8.5."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
from torch import nn

from vpr_lib.config import ComputeOptions
from vpr_lib.data.manifest import Manifest
from vpr_lib.models.whitening import Whitened, Whitening, fit_whitening
from vpr_lib.retrieval.describe import cache_key, describe
from vpr_lib.seeds import derive_seed

log = logging.getLogger(__name__)


def whiten(
    model: nn.Module,
    manifests: Sequence[Manifest],
    dim: int = 4096,
    cache: Path | None = None,
    samples: int = 10_000,
    seed: int = 43,
    device: str = "cpu",
    **compute: Unpack[ComputeOptions],
) -> Whitened:
    """The model with a whitening fitted on `samples` random images of a training split (database and queries).

    Args:
        cache: folder of `pca_params_<hash>.h5`; the hash is over weights, transform, images, sample and dim, so a file
            that no longer fits is not found rather than believed, and a damaged one is made again. None fits anew.
    Raises:
        ValueError: if the split has too few images for `dim`; UnreadableImages as `describe`.
    """
    rows = _sample([len(manifest) for manifest in manifests], samples, seed)
    chosen = [manifest.take(picked) for manifest, picked in zip(manifests, rows) if len(picked)]
    parts = [cache_key(model, manifest, compute.get("precision", "fp32")) for manifest in chosen] + [dim]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]
    path = Path(cache) / f"pca_params_{key}.h5" if cache else None
    if path is not None and path.is_file():
        try:
            if (stored := Whitening.load(path)).key == key:
                return Whitened(model, stored)
        except ValueError as error:
            log.warning("%s It is fitted anew.", error)
    descriptors = np.concatenate([describe(model, manifest, None, device, **compute).array for manifest in chosen])
    fitted = fit_whitening(descriptors, dim, key=key)
    log.info("whitening fitted on %d images, %d -> %d", len(descriptors), descriptors.shape[1], dim)
    if path is not None:
        fitted.save(path)
    return Whitened(model, fitted)


def _sample(sizes: Sequence[int], samples: int, seed: int) -> list[np.ndarray]:
    """Rows of every list, rising; `samples` of all together."""
    total, ends = sum(sizes), np.cumsum(sizes)
    rng = np.random.default_rng(derive_seed("whitening", seed))
    rows = np.sort(rng.choice(total, min(samples, total), replace=False))
    return [rows[(rows >= end - size) & (rows < end)] - (end - size) for size, end in zip(sizes, ends)]
