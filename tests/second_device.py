"""A second device on a machine that has one: tensors that say they are on `meta`, hold numbers all the same, and refuse
to meet those of the CPU as a GPU's would.

`with second_device() as device:` lets `.to(device)`, factories and modules work with it as with CUDA: what forgets to move
a tensor raises `DevicesMixed`. Scalars may meet anything and CPU indices may pick rows, as on CUDA.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("meta")
aten = torch.ops.aten
# ops in which CUDA lets tensors of both devices meet: copies, and rows chosen by indices from the CPU
ACROSS = {
    aten._to_copy, aten.copy_, aten.copy, aten.set_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_,
    aten._local_scalar_dense,
}  # fmt: skip


class DevicesMixed(AssertionError):
    """An operation got tensors of both devices."""


class Elsewhere(Tensor):
    """A tensor of the second device; `held` has its numbers."""

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=requires_grad,
        )  # fmt: skip
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    def new_tensor(self, data, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(DEVICE)

    def __repr__(self) -> str:
        return f"Elsewhere({self.held})"

    def __deepcopy__(self, memo):
        copied = Elsewhere(self.held.detach().clone(), self.requires_grad)
        copied = torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [leaf for leaf in leaves if not isinstance(leaf, Elsewhere) and leaf.ndim]
    there = [leaf for leaf in leaves if isinstance(leaf, Elsewhere)]
    if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        here = [args[0]] if not isinstance(args[0], Elsewhere) and there else []
    elif func.overloadpacket in ACROSS:
        here = []
    if here and there:
        shapes = [tuple(leaf.shape) for leaf in (*here, *there)]
        raise DevicesMixed(f"{func} got tensors of the CPU and of the second device: shapes {shapes}.")
    wanted = kwargs.get("device")
    elsewhere = bool(there) if wanted is None else torch.device(wanted) == DEVICE
    if func.overloadpacket in (aten.copy_, aten.index_put_, aten._index_put_impl_):
        elsewhere = isinstance(args[0], Elsewhere)
    if wanted is not None and elsewhere:
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain = lambda leaf: leaf.held if isinstance(leaf, Elsewhere) else leaf
    out = func(*pytree.tree_map(plain, args), **pytree.tree_map(plain, kwargs))
    if func.overloadpacket in (aten._local_scalar_dense, aten.is_same_size, aten.equal) or not elsewhere:
        return out
    out = pytree.tree_map(lambda leaf: Elsewhere(leaf) if isinstance(leaf, Tensor) else leaf, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there else out


class _Both(TorchDispatchMode):
    """Sends what is asked for on the second device there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


@contextmanager
def second_device() -> Iterator[torch.device]:
    """The second device exists while this context lasts; gives it. Autocast takes it for the CPU."""
    autocast, tensor = torch.autocast, torch.tensor

    def made_there(data, *, device=None, **named) -> Tensor:  # torch.tensor would make an empty one on `meta`
        made = tensor(data, **named)
        return made if device is None else made.to(device)

    def there_as_here(device_type, *rest, **named):
        return autocast("cpu" if device_type == DEVICE.type else device_type, *rest, **named)

    torch.autocast = there_as_here
    torch.tensor = made_there
    try:
        with _Both():
            yield DEVICE
    finally:
        torch.autocast, torch.tensor = autocast, tensor
