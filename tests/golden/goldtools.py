"""Small helpers shared by the golden modules."""

from contextlib import contextmanager

import torch

DEVIATIONS: dict[str, dict[str, float]] = {}  # fixture -> output -> error as a share of the allowed one


def as_tensors(arrays):
    return {key: torch.from_numpy(value.copy()) for key, value in arrays.items()}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def record(model, names):
    """Collect the outputs of submodules: names {output name: module path} -> {output name: tensor}."""
    outputs, modules = {}, dict(model.named_modules())
    handles = [
        modules[path].register_forward_hook(
            lambda _, __, out, name=name: outputs.__setitem__(name, out.detach().clone())
        )
        for name, path in names.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
