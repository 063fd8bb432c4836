"""Vectors of length one, whatever precision the network computes in."""

import torch.nn.functional as F
from torch import Tensor


def unit(vectors: Tensor, dim: int = 1) -> Tensor:
    """`vectors` divided by their length along `dim`, computed and returned in fp32 at least.

    In fp16 the squares of values below 0.0002 vanish and those above 255 overflow: the result would be zeros or NaN.
    """
    return F.normalize(at_least_fp32(vectors), dim=dim)


def at_least_fp32(values: Tensor) -> Tensor:
    """Half precision as fp32, anything else as it is."""
    return values.float() if values.element_size() < 4 else values
