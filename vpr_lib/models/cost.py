"""What a model costs: parameters, arithmetic, latency and memory, of the whole and of its parts."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vpr_lib.machine import keep_freed_memory


@dataclass(frozen=True)
class Latency:
    """Wall time of one call with a batch, over `repeats` calls after warming up.

    `best_ms` compares programs, because other programs only ever add time; the median and the 90th percentile are what a
    user of this machine meets.
    """

    batch: int
    best_ms: float
    median_ms: float
    p90_ms: float
    repeats: int

    @property
    def images_per_s(self) -> float:
        """Of the fastest call."""
        return 1000 * self.batch / self.best_ms


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, or of those that receive a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def gflops(call: Callable[..., object], *inputs: Tensor) -> float:
    """Billions of floating-point operations of one call, a multiply-add counted as two (lightweight_mixvpr §1.3).

    Convolutions and matrix products are counted, elementwise work is not.

    Args:
        call: a network, which is counted in evaluation mode, or a function.
    """
    if isinstance(call, nn.Module):
        call.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call(*inputs)
    return counter.get_total_flops() / 1e9


def model_latency(
    model: nn.Module, batch: int = 1, seconds: float = 1.0, device: str | torch.device = "cpu"
) -> Latency:
    """`latency` of a model on images of its input size, channels last, on `device`, where the model stays."""
    keep_freed_memory()
    model.eval().to(device, memory_format=torch.channels_last)
    images = torch.randn(batch, 3, *model.input_spec.size).to(device, memory_format=torch.channels_last)
    with torch.inference_mode():
        return latency(lambda: model(images), batch, seconds, device)


def latency(
    call: Callable[[], object], batch: int, seconds: float = 2.0, device: str | torch.device = "cpu"
) -> Latency:
    """Time `call` again and again for about `seconds`, at least three times, after one call for warming up.

    On CUDA every call is waited for.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    times: list[float] = []
    call()
    wait()
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        wait()
        times.append(1000 * (time.perf_counter() - start))
    return Latency(batch, min(times), statistics.median(times), statistics.quantiles(times, n=10)[-1], len(times))


def peak_memory_mb(module: nn.Module, images: Tensor) -> float:
    """Most megabytes of tensors alive at once in one call without gradients: input, activations and weights.

    Counted from the tensors themselves, so it is the same on every device and run; an allocator keeps more.
    """
    module.eval()
    weights = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    with torch.no_grad(), LiveTensors() as live:
        module(images)
    return (weights + images.numel() * images.element_size() + live.peak) / 1e6


class LiveTensors(TorchDispatchMode):
    """Sums the bytes of the tensors made inside it that are still referenced; `peak` is the largest sum."""

    def __init__(self):
        super().__init__()
        self.peak, self._made, self._held = 0, {}, 0  # _held counts what is gone too, until that could matter

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:  # a view or an in-place result is nothing new
                    _, before = self._made.get(storage._cdata, (None, 0))
                    self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                    self._held += storage.nbytes() - before
        if self._held > self.peak:
            self._made = {key: entry for key, entry in self._made.items() if not entry[0].expired()}
            self._held = sum(size for _, size in self._made.values())
            self.peak = max(self.peak, self._held)
        return result


def cost_of_parts(model: nn.Module, batch: int = 1, seconds: float = 1.0) -> list[dict[str, float | str]]:
    """What backbone and aggregator cost on the CPU, one row each: parameters, GFLOP and milliseconds per image."""
    images = torch.randn(batch, 3, *model.input_spec.size).to(memory_format=torch.channels_last)
    model.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        features = model.feature_map(images)
        rows = []
        for name, part, given in (("backbone", model.backbone, images), ("aggregator", model.aggregator, features)):
            timed = latency(lambda part=part, given=given: part(given), batch, seconds)
            rows.append({"part": name, "parameters (M)": count_parameters(part) / 1e6,
                         "GFLOP": gflops(*on_shapes(part, given)) / batch,
                         "ms per image": timed.best_ms / batch})  # fmt: skip
    return rows


def cost_of_model(
    model: nn.Module, batches: Sequence[int] = (1, 16), seconds: float = 1.0, device: str | torch.device = "cpu"
) -> dict[str, float]:
    """One row of a cost table: parameters, descriptor length, arithmetic, and per batch size speed and memory.

    1 MAC = 2 FLOP; papers print either under either name. "used" leaves out what does not reach the descriptor.
    Arithmetic and memory are counted on shapes (`on_shapes`), latency is measured on `device`.
    """
    size, own = model.input_spec.size, dict(model.named_parameters())
    shapes, one = on_shapes(model, torch.zeros(1, 3, *size))
    unused, flop = sum(own[name].numel() for name in unused_parameters(shapes, one)), gflops(shapes, one)
    row = {
        "parameters (M)": count_parameters(model) / 1e6, "used (M)": (count_parameters(model) - unused) / 1e6,
        "trained (M)": count_parameters(model, trainable=True) / 1e6, "dim": model.dim, "GMAC": flop / 2, "GFLOP": flop,
    }  # fmt: skip
    for batch in batches:
        timed = model_latency(model, batch, seconds, device)
        row |= {f"ms, batch {batch}": timed.best_ms, f"p90 ms, batch {batch}": timed.p90_ms,
                f"images/s, batch {batch}": timed.images_per_s,
                f"MB, batch {batch}": peak_memory_mb(shapes, one.expand(batch, -1, -1, -1).clone())}  # fmt: skip
    return row


def on_shapes(module: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy of the module and its input on torch's meta device, where shapes are computed and nothing else.

    Both are on the CPU for a network that has no shapes-only pass: timm's EfficientViT switches autocast off by the type of
    its device, and torch knows none of type meta.
    """
    shapes, empty = copy.deepcopy(module).to("meta").eval(), torch.empty_like(images, device="meta")
    try:
        with torch.no_grad():
            shapes(empty)
    except RuntimeError:
        return copy.deepcopy(module).cpu(), images.cpu()
    return shapes, empty


def unused_parameters(module: nn.Module, *inputs: Tensor) -> list[str]:
    """Names of the parameters that do not reach the output, such as the classifier in EfficientNet's published files."""
    where = inputs[0].device
    state = {
        name: torch.zeros_like(t, device=where) for name, t in (*module.named_parameters(), *module.named_buffers())
    }
    names = [name for name, _ in module.named_parameters()]
    if not names:  # raw pixels have none
        return []
    for name in names:
        state[name].requires_grad_()
    training = module.training
    output = torch.func.functional_call(module.eval(), state, inputs)
    module.train(training)
    gradients = torch.autograd.grad(output, [state[n] for n in names], torch.empty_like(output), allow_unused=True)
    return [name for name, gradient in zip(names, gradients) if gradient is None]


def clusvpr_parts(model: nn.Module, whitened: int = 4096) -> list[dict[str, float | str]]:
    """What the parts of a ClusVPR cost for one image: parameters and GMAC, counted on shapes without computing anything.

    One multiply-add is one MAC, as in the published "FLOPs". Counted are convolutions and matrix products; the neighbour
    search, T^2 C per CWTNet, is added by its formula because it is no product. Sums come after the parts they add up.

    Args:
        model: a model of the zoo with a ClusVPR head; left on the meta device, so pass one that is not needed again.
        whitened: length after PCA, counted as a linear layer with its bias.
    Spec: clusvpr §7.1.
    """
    model = model.to("meta").eval()
    head, images = model.aggregator, torch.empty(1, 3, *model.input_spec.size, device="meta")
    with torch.no_grad():
        features = model.feature_map(images)
        y = head.expand(features)
    macs = lambda call, *given: gflops(call, *given) / 2
    size = tuple(features.shape[2:])
    tokens = 1 + size[0] * size[1] // 4
    search = len(head.vit_layer) * tokens**2 * features.shape[1] / 2 / 1e9
    layers = sum(macs(layer, features) for layer in head.vit_layer)
    expand, assign = macs(head.expand, features), macs(head.assign, y)
    rows = [
        ("backbone", count_parameters(model.backbone), macs(model.feature_map, images)),
        (f"{len(head.vit_layer)} CWTNets", count_parameters(head.vit_layer), layers),
        ("neighbour search", 0, search),
        ("linear layer W1", 0 if head.linear1 is None else count_parameters(head.linear1), expand),
        ("assignment", count_parameters(head.conv), assign),
        ("residuals", head.centroids.numel(), macs(head.cells, features) - expand - assign),
    ]
    rows.append(("group attention", count_parameters(head) - sum(row[1] for row in rows[1:]), 0.0))
    rows.append(("sum", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    pca = ((head.dim + 1) * whitened, head.dim * whitened / 1e9)
    rows += [("PCA", *pca), ("sum with PCA", rows[-1][1] + pca[0], rows[-1][2] + pca[1])]
    return [{"part": name, "parameters": count, "GMAC": mac} for name, count, mac in rows]
