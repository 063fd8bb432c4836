"""What a model costs: parameters, arithmetic, latency and memory, of the whole and of its parts."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Latency:
    """Wall time of one call with a batch, over `repeats` calls after warming up."""

    batch: int
    median_ms: float
    p90_ms: float
    repeats: int

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch / self.median_ms


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, or of those that receive a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def gflops(module: nn.Module, *inputs: Tensor) -> float:
    """Billions of floating-point operations of one call, a multiply-add counted as two (lightweight_mixvpr §1.3).

    Convolutions and matrix products are counted, elementwise work is not.
    """
    module.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module(*inputs)
    return counter.get_total_flops() / 1e9


def latency(
    call: Callable[[], object], batch: int, seconds: float = 2.0, device: str | torch.device = "cpu"
) -> Latency:
    """Time `call` again and again for about `seconds`, at least five times, after two calls for warming up.

    On CUDA every call is waited for. The median tells the usual time; a busy machine shows in the 90th percentile.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    times: list[float] = []
    for _ in range(2):
        call()
    wait()
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        wait()
        times.append(1000 * (time.perf_counter() - start))
    return Latency(batch, statistics.median(times), statistics.quantiles(times, n=10)[-1], len(times))


def peak_memory_mb(module: nn.Module, images: Tensor) -> float:
    """Most megabytes of tensors alive at once in one call without gradients: input, activations and weights.

    Counted from the tensors themselves, so it is the same on every device and run; an allocator keeps more.
    """
    module.eval()
    weights = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    with torch.no_grad(), _LiveTensors() as live:
        module(images)
    return (weights + images.numel() * images.element_size() + live.peak) / 1e6


class _LiveTensors(TorchDispatchMode):
    """Sums the bytes of the tensors made inside it that are still referenced; `peak` is the largest sum."""

    def __init__(self):
        super().__init__()
        self.peak, self._made = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:  # a view or an in-place result is nothing new
                    self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._made = {key: entry for key, entry in self._made.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._made.values()))
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
            rows.append({"part": name, "parameters": count_parameters(part), "GFLOP": gflops(part, given) / batch,
                         "ms per image": timed.median_ms / batch})  # fmt: skip
    return rows


def unused_parameters(module: nn.Module, *inputs: Tensor) -> list[str]:
    """Names of the parameters that do not reach the output, such as the classifier in EfficientNet's published files."""
    state = {
        name: torch.empty_like(t, device="meta") for name, t in (*module.named_parameters(), *module.named_buffers())
    }
    names = [name for name, _ in module.named_parameters()]
    for name in names:
        state[name].requires_grad_()
    training = module.training
    output = torch.func.functional_call(module.eval(), state, tuple(t.to("meta") for t in inputs))
    module.train(training)
    gradients = torch.autograd.grad(output, [state[n] for n in names], torch.empty_like(output), allow_unused=True)
    return [name for name, gradient in zip(names, gradients) if gradient is None]


def cost_table(
    models: Mapping[str, nn.Module],
    batches: Sequence[int] = (1, 16),
    seconds: float = 1.0,
    rounds: int = 3,
    device: str | torch.device = "cpu",
) -> list[dict[str, float | str]]:
    """What whole models cost, one row each: size, arithmetic and latency; the models are timed in turns, `rounds` times.

    Returns:
        rows with model, D, parameters, "of them used", GMAC and GFLOP per image (1 MAC = 2 FLOP: papers print either
        under either name), and per batch size the middle of the rounds' medians, "ms at batch 1" (of the whole batch), and so on.
    """
    rows, inputs = [], {}
    for name, model in models.items():
        model.eval().to(device, memory_format=torch.channels_last)
        height, width = model.input_spec.size
        for batch in batches:
            images = torch.randn(batch, 3, height, width, device=device)
            inputs[name, batch] = images.to(memory_format=torch.channels_last)
        one, parameters = torch.randn(1, 3, height, width, device=device), dict(model.named_parameters())
        unused = sum(parameters[unused].numel() for unused in unused_parameters(model, one))
        flop = gflops(model, one)
        rows.append({"model": name, "D": model.dim, "parameters": count_parameters(model),
                     "of them used": count_parameters(model) - unused, "GMAC": flop / 2, "GFLOP": flop})  # fmt: skip
    with torch.inference_mode():
        found = [
            {
                key: latency(lambda key=key: models[key[0]](inputs[key]), key[1], seconds / rounds, device)
                for key in inputs
            }
            for _ in range(rounds)
        ]
    for row in rows:
        for batch in batches:
            times = [one[row["model"], batch].median_ms for one in found]
            row[f"ms at batch {batch}"] = statistics.median(times)
    return rows
