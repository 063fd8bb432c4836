"""PCA whitening of descriptors, fitted after training: the published 4096 of ClusVPR and NetVLAD. Spec: clusvpr §8.5."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.data.images import InputSpec
from vpr_lib.data.pickles import read_hdf5, write_hdf5
from vpr_lib.models.unit import unit

log = logging.getLogger(__name__)
FLOOR = 1e-9  # eigenvalues below are raised to it


@dataclass(frozen=True)
class Whitening:
    """A fitted projection: `components` (D, d), `eigenvalues` (d,) falling, `mean` (D,); all float32.

    `key` says what it was fitted on; files of another key are refused by whoever asks for one.
    """

    components: Tensor
    eigenvalues: Tensor
    mean: Tensor
    key: str = ""

    def apply(self, descriptors: Tensor) -> Tensor:
        """(N, D) -> unit-norm (N, d)."""
        return unit((descriptors - self.mean) @ self.matrix(), dim=1)

    def matrix(self) -> Tensor:
        """U diag(1 / sqrt(lambda)), (D, d)."""
        return self.components * self.eigenvalues.clamp(min=FLOOR).rsqrt()

    def save(self, path: Path) -> Path:
        """Write the published HDF5 layout: U (D, d), lams (d), mu (D, 1), Utmu (d, 1), with sums; the key as an attribute."""
        arrays = {"U": self.components, "lams": self.eigenvalues, "mu": self.mean[:, None],
                  "Utmu": self.components.T @ self.mean[:, None]}  # fmt: skip
        return write_hdf5(path, {name: values.cpu().numpy() for name, values in arrays.items()}, self.key)

    @classmethod
    def load(cls, path: Path) -> "Whitening":
        """Read what `save` or OpenIBL's code wrote.

        Raises:
            FileNotFoundError; ValueError: for another or a damaged file, numbers that are not finite, or shapes that do not
                belong together.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"No whitening {path}; fit one on a training split first.")
        arrays, key = read_hdf5(path, ("U", "lams", "mu"))
        u, lams, mu = map(torch.from_numpy, arrays)
        if u.ndim != 2 or u.shape != (mu.numel(), lams.numel()):
            raise ValueError(f"{path}: U is {tuple(u.shape)}, but mu has {mu.numel()} and lams {lams.numel()} entries.")
        return cls(u, lams.flatten(), mu.flatten(), key)


def fit_whitening(
    descriptors: Tensor | np.ndarray, dim: int, form: Literal["auto", "primal", "dual"] = "auto", key: str = ""
) -> Whitening:
    """PCA of descriptors (N, D), the `dim` largest directions, computed in float64.

    The primal form decomposes the D x D covariance, the dual one the N x N Gram matrix; "auto" takes the smaller. Signs of
    the directions are free, so compare Gram matrices.

    Raises:
        ValueError: if `dim` exceeds what N descriptors of D numbers can hold, or one of them is not finite.
    Spec: clusvpr §8.5.
    """
    x = torch.as_tensor(np.asarray(descriptors) if isinstance(descriptors, np.ndarray) else descriptors)
    n, width = x.shape
    most = min(n - 1, width)
    if not 1 <= dim <= most:
        raise ValueError(
            f"{n} descriptors of {width} numbers span {most} directions, {dim} were asked for. Fit on more images, or keep "
            f"at most {most}."
        )
    if odd := n - int(torch.isfinite(x).all(1).sum()):
        raise ValueError(
            f"{odd} of {n} descriptors are not finite (NaN or infinite): a whitening cannot be fitted on them."
        )
    mean = x.mean(dim=0, dtype=torch.float64)
    x = x.double() - mean
    primal = form == "primal" or (form == "auto" and width <= n)
    gram = x.T @ x if primal else x @ x.T
    values, vectors = torch.linalg.eigh(gram.div_(n - 1))
    if empty := int((values[-dim:] < FLOOR).sum()):
        log.warning(
            "%d of %d directions hold nothing but rounding (equal images?): keep at most %d", empty, dim, dim - empty
        )
    values, vectors = values[-dim:].flip(0).clamp(min=FLOOR), vectors[:, -dim:].flip(1)
    if not primal:
        vectors = x.T @ vectors * (values * (n - 1)).rsqrt()
    return Whitening(vectors.float(), values.float(), mean.float(), key)


class Whitened(nn.Module):
    """A model followed by its whitening, as one model: normalised images (B, 3, H, W) -> unit-norm (B, d).

    Raises:
        ValueError: if the whitening was fitted on descriptors of another length.
    """

    def __init__(self, model: nn.Module, whitening: Whitening):
        super().__init__()
        if len(whitening.mean) != model.dim:
            raise ValueError(
                f"The whitening takes descriptors of {len(whitening.mean)} numbers, the model gives {model.dim}: it was "
                "fitted for another model."
            )
        self.model, self.config, self.reads = model, model.config, model.reads
        self.register_buffer("mean", whitening.mean)
        self.register_buffer("matrix", whitening.matrix())
        self.dim = self.matrix.shape[1]

    @property
    def input_spec(self) -> InputSpec:
        return self.config.input_spec

    @property
    def query_spec(self) -> InputSpec:
        return self.config.query_spec

    def forward(self, images: Tensor) -> Tensor:
        return unit((self.model(images).float() - self.mean) @ self.matrix, dim=1)
