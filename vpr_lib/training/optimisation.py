"""How a training optimises: settings, learning rate, optimiser."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from vpr_lib.config import Strict


class FitSettings(Strict):
    """The optimisation half of a recipe."""

    epochs: int = Field(gt=0)
    optimizer: Literal["sgd", "adamw", "adam"] = "sgd"
    learning_rate: float = 0.05
    weight_decay: float = 1e-3
    momentum: float = 0.9  # SGD only
    warmup_steps: int = 0
    schedule: Literal["milestones", "cosine", "constant"] = "milestones"
    milestones: tuple[int, ...] = ()  # epochs at which the rate is multiplied by `gamma`
    gamma: float = 0.3
    accumulate: int = 1  # batches per optimiser step
    clip_norm: float | None = None
    clip_value: float | None = None  # of every gradient entry
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    checkpoint_every_s: float = 120.0  # besides the one at the end of every epoch that is not a short one
    max_steps_per_epoch: int | None = None
    restarts: tuple[int, ...] = ()  # epochs (from 0) that begin with an empty optimiser memory: new generations
    seed: int = 1

    @property
    def neutral(self) -> tuple[str, ...]:
        """Fields that may differ between a run and the one it goes on with: it may be prolonged, unless its learning rates follow
        from the number of epochs."""
        return ("checkpoint_every_s",) if self.schedule == "cosine" else ("checkpoint_every_s", "epochs")


def learning_rate(settings: FitSettings, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimiser step `step` (from 0), a pure function of the position in training.

    Warm-up is linear, base * (step + 1) / warmup_steps. Milestones multiply by gamma when their epoch begins; one that
    falls inside the warm-up is overwritten by it and lost, as in the authors' code. Spec: mixvpr §3.4.
    """
    base, warm = settings.learning_rate, settings.warmup_steps
    if step < warm:
        return base * min(1.0, (step + 1) / warm)
    if settings.schedule == "constant":
        return base
    if settings.schedule == "cosine":
        total = settings.epochs * steps_per_epoch
        return base * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    passed = sum(warm <= milestone * steps_per_epoch <= step for milestone in settings.milestones)
    return base * settings.gamma**passed


def make_optimizer(model: nn.Module, settings: FitSettings) -> torch.optim.Optimizer:
    """One parameter group with all parameters; frozen ones receive no gradient and stay (spec mixvpr §3.4).

    A model with `parameter_groups()` says itself; the `rate_factor` of a group multiplies the learning rate.
    """
    parameters = model.parameter_groups() if hasattr(model, "parameter_groups") else list(model.parameters())
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=settings.momentum, weight_decay=decay)
    optimizer = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return optimizer(parameters, rate, weight_decay=decay)
