"""Small helpers shared by the golden modules."""

from contextlib import contextmanager

import torch

DEVIATIONS: dict[str, dict[str, float]] = {}  # fixture -> output -> error as a share of the allowed one


def as_tensors(arrays):
    return {key: torch.from_numpy(value.copy()) for key, value in arrays.items()}


@contextmanager
def on(device):
    """Golden modules compute on `device`: what they make and read is there, their code is the same."""
    read = torch.from_numpy
    torch.from_numpy = lambda array: read(array).to(device)
    try:
        with torch.device(device):
            yield
    finally:
        torch.from_numpy = read


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
