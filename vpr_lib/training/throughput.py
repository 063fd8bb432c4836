"""Where the time of a training step goes: loading, forward, mining, loss, backward, optimiser."""

import copy
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vpr_lib.losses.metric import MetricLoss
from vpr_lib.machine import keep_freed_memory, peak_memory_bytes
from vpr_lib.models.zoo import build_model
from vpr_lib.training.fit import TrainingRun, make_fabric
from vpr_lib.training.metric_learning import place_batches
from vpr_lib.training.optimisation import FitSettings, make_optimizer
from vpr_lib.training.recipes import load_experiment, training_places

PHASES = ("loading", "forward", "mining", "loss", "backward", "optimiser")


@dataclass(frozen=True)
class TrainingSpeed:
    """Milliseconds of each phase, mean over the steps, for batches of `images`.

    `peak_gb` (10^9 bytes) is what the training itself needed of the GPU; on a CPU, the peak of the whole process.
    """

    images: int
    milliseconds: dict[str, float]
    peak_gb: float

    @property
    def images_per_s(self) -> float:
        return 1000 * self.images / sum(self.milliseconds.values())


def measure_training(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: MetricLoss,
    settings: FitSettings,
    steps: int = 10,
    warmup: int = 2,
    device: str = "cpu",
) -> TrainingSpeed:
    """Train a copy of `model` for warmup + steps batches and time every phase, waiting for the GPU after each.

    The waiting makes the sum a little larger than a step of `fit`, where loading and the GPU overlap.

    Args:
        batches: uint8 images (B, 3, H, W) and labels (B,), for instance `PlaceBatches(...).epoch(0)`.
    Raises:
        ValueError: when there are not warmup + steps batches.
    """
    keep_freed_memory()
    fabric, spec = make_fabric(settings, device), model.input_spec
    on_gpu = fabric.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if on_gpu else 0  # by others of this process
    network = copy.deepcopy(model)
    if settings.channels_last:
        network = network.to(memory_format=torch.channels_last)
    network, optimizer = fabric.setup(network, make_optimizer(network, settings))
    network.train()
    clock = _Clock(torch.cuda.synchronize if on_gpu else lambda: None)
    source, images = iter(batches), 0
    for step in range(warmup + steps):
        if step == warmup:
            clock.reset()
        batch = next(source, None)
        if batch is None:
            raise ValueError(f"{warmup} + {steps} batches are needed to measure, there are {step}.")
        pixels, labels = (part.to(fabric.device) for part in batch)
        images = len(pixels)
        clock.stop("loading")
        descriptors = network(spec.normalise(pixels)).float()
        clock.stop("forward")
        mined = criterion.miner(descriptors, labels) if criterion.miner is not None else None
        clock.stop("mining")
        loss = criterion.loss(descriptors, labels, mined)
        clock.stop("loss")
        if loss.requires_grad:
            fabric.backward(loss)
        clock.stop("backward")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.stop("optimiser")
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory_bytes()
    return TrainingSpeed(images, {name: 1000 * clock.sums[name] / steps for name in PHASES}, (peak - held) / 1e9)


def step_row(recipe: str, train_set: str, device: str = "cpu", steps: int = 6, warmup: int = 2) -> dict[str, object]:
    """One row of a table of full-size steps: a recipe's model, batch, loss and optimiser, on the places of `train_set`.

    The weights are random: they do not matter for what a step costs. "no loading" is what is left when images arrive in time.
    """
    experiment = load_experiment(recipe).model_copy(update={"train_set": train_set})
    model = build_model(experiment.model, **experiment.model_changes)
    settings, places = experiment.fit, training_places(experiment)
    run = TrainingRun(Path(), device, experiment.workers).launched(settings)
    source = place_batches(places, experiment.places, settings, model.input_spec, run)
    batches = itertools.chain.from_iterable(source.epoch(epoch) for epoch in itertools.count())
    criterion = MetricLoss(experiment.places.loss, experiment.places.miner, experiment.places.miner_margin)
    speed = measure_training(model, batches, criterion, settings, steps, warmup, device)
    milliseconds = {f"ms {phase}": value for phase, value in speed.milliseconds.items()}
    computing = sum(speed.milliseconds.values()) - speed.milliseconds["loading"]
    return {
        "recipe": recipe, "model": experiment.model, "images per step": speed.images, "precision": settings.precision,
        "img/s": speed.images_per_s, "img/s, no loading": 1000 * speed.images / computing, "GB": speed.peak_gb, **milliseconds,
    }  # fmt: skip


class _Clock:
    def __init__(self, wait):
        self.wait = wait
        self.reset()

    def reset(self) -> None:
        self.sums = dict.fromkeys(PHASES, 0.0)
        self.last = time.perf_counter()

    def stop(self, phase: str) -> None:
        self.wait()
        now = time.perf_counter()
        self.sums[phase] += now - self.last
        self.last = now
