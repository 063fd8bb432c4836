"""One training loop for every system: a step says what to learn, a source what to show, a callable how good it is.

The loop resumes exactly: after a kill at any moment the finished run has the weights an uninterrupted one would have,
because a batch, its augmentation and its learning rate depend on (seed, epoch, batch number) and nothing else.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.files import atomic_path, content_hashes, write_text
from vpr_lib.machine import allow_tf32, keep_freed_memory
from vpr_lib.models.checkpoints import damaged, save_weights
from vpr_lib.progress import ProgressLine
from vpr_lib.registry import lookup
from vpr_lib.seeds import derive_seed, seed_everything
from vpr_lib.training.optimisation import FitSettings, learning_rate, make_optimizer
from vpr_lib.training.step_log import append_row, cut_after, line_values

FABRIC_PRECISION = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
SHORT_EPOCHS_S = 3.0  # epochs that follow each other more quickly are done again after a kill, rather than each stored
VALIDATION_MAY_TAKE = timedelta(hours=4)  # the first process validates while the others wait


class TrainingDiverged(RuntimeError):
    """The loss stopped being a number; the last good checkpoint is kept."""


class Recipe(Strict):
    """What every recipe says. `claim`, `expected` and `hardware` are for the reader; the rest decides what is computed."""

    claim: str  # table and row it reproduces, with the paper's number
    expected: str  # what we expect to get, and why when it differs
    hardware: str  # time on which machine
    model: str
    variants: dict[str, dict[str, Any]] = {}  # named changes, field -> value: 'recipe+variant' applies one

    def folder_in(self, cache: Path) -> Path:
        """`cache/training/<model>_<8 hex digits over everything that is computed>`: notebooks with the same experiment share it."""
        about = self.model_dump_json(exclude={"claim", "expected", "hardware", "variants", "kind"})
        return Path(cache) / "training" / f"{self.model}_{hashlib.sha256(about.encode()).hexdigest()[:8]}"


class Source(Protocol):
    """Batches of an epoch, from any batch on, the same for the same epoch."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]: ...


@dataclass
class FitResult:
    """What `fit` leaves behind: the files of the last and the best weights, and the history, one dict per epoch."""

    last: Path
    best: Path
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingRun:
    """Where a training runs and who watches it; what is learnt stands in its recipe and settings.

    Attributes:
        folder: receives state.pt (resume), last/best.safetensors + JSON, history.json and log.csv.
        device: see `make_fabric`, which is called unless there is a `fabric`.
        workers: loader processes.
        keep_images: hold resized pictures in memory, see `PlaceBatches`.
        validate: called after every epoch with the saved part of the model in evaluation mode, in the first process only.
        select: key of `validate`'s result that decides which epoch is best (larger is better).
        about: what else the run is made of (recipe, data, teacher), kept with the weights; a folder of another is refused.
    """

    folder: Path
    device: str = "auto"
    workers: int = 0
    keep_images: bool = False
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    select: str = "recall@1"
    about: dict[str, Any] = field(default_factory=dict)
    fabric: Fabric | None = None
    quiet: bool = False

    def launched(self, settings: FitSettings) -> "TrainingRun":
        """The run on its fabric."""
        return replace(self, fabric=self.fabric or make_fabric(settings, self.device))

    def saying(self, **about: Any) -> "TrainingRun":
        """The run with more that it is made of, before what it says already."""
        return replace(self, about=about | self.about)

    @property
    def begun(self) -> bool:
        """Whether the folder holds a state to go on from."""
        return (self.folder / "state.pt").is_file()


def make_fabric(settings: FitSettings, device: str = "auto") -> Fabric:
    """Fabric for this machine; under torchrun it joins the launched processes.

    Args:
        device: auto, cpu, cuda, or one GPU by number (cuda:1).
    """
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    kind, _, number = device.partition(":")
    fabric = Fabric(
        accelerator=lookup({"auto": "auto", "cuda": "gpu", "cpu": "cpu"}, kind, "device"),
        devices=local if world > 1 else [int(number)] if number else 1,
        num_nodes=world // local,
        strategy=DDPStrategy(timeout=VALIDATION_MAY_TAKE) if world > 1 else "auto",
        precision=FABRIC_PRECISION[settings.precision],
    )
    fabric.launch()
    allow_tf32(settings.precision == "tf32")
    return fabric


def fit(
    model: nn.Module,
    source: Source,
    step: Callable[[nn.Module, Any], dict[str, Tensor | float]],
    settings: FitSettings,
    run: TrainingRun,
    weights_of: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> FitResult:
    """Train `model`, or go on where an earlier call with the same folder stopped.

    Args:
        model: everything with parameters to train (for distillation: student and projection in one module).
        source: batches; moved to the device by `step`.
        step: (model, batch) -> {"loss": scalar tensor, anything else to log: float}; "images" counts images.
        settings: optimisation; stored with the checkpoint, and a folder of other settings is refused.
        weights_of: the part of `model` whose weights are saved.
    Raises:
        TrainingDiverged: on a loss that is not finite. ValueError: if the folder belongs to other settings, or its best
            weights are not those of this training.
    """
    keep_freed_memory()
    loop = _Loop(model, source, step, settings, run.launched(settings), weights_of)
    loop.resume()
    while loop.epoch < settings.epochs:
        loop.run_epoch()
        scores = loop.validate(run.validate)
        loop.end_epoch(scores, run.select)
    best = loop.folder / "best.safetensors"
    known = loop.best_file if loop.fabric.global_rank == 0 else None
    if known is not None and content_hashes([best])[0] != known:
        raise ValueError(f"{best} is gone, or not what this training wrote: remove {loop.folder} to train again.")
    return FitResult(loop.folder / "last.safetensors", best, loop.history)


class _Loop:
    """State of a run in progress; `state()` and `resume()` move all of it to and from disk."""

    def __init__(self, model: nn.Module, source: Source, step: Callable, settings: FitSettings, run: TrainingRun,
                 weights_of: Callable[[nn.Module], nn.Module]):  # fmt: skip
        self.source, self.step_fn, self.settings, self.weights_of = source, step, settings, weights_of
        self.folder, self.about, self.quiet, self.fabric = run.folder, run.about, run.quiet, (fabric := run.fabric)
        seed_everything(derive_seed("fit", settings.seed, fabric.global_rank))
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model, self.optimizer = fabric.setup(model, make_optimizer(model, settings))
        self.epoch, self.batch, self.history = 0, 0, []
        self.sums: dict[str, float] = {}
        self.best, self.best_file = float("-inf"), None  # the content hash of best.safetensors
        self.batches = min(len(source), settings.max_steps_per_epoch or len(source))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "log.csv"
        self._saved = time.monotonic()

    # ---- one epoch

    def run_epoch(self) -> None:
        self.model.train()
        if self.batch == 0 and self.epoch in self.settings.restarts:
            self.optimizer.optimizer.state.clear()
        self.start_time, self.start_batch = time.monotonic(), self.batch
        name, quiet = f"epoch {self.epoch + 1}/{self.settings.epochs}", self.quiet or self.fabric.global_rank > 0
        line = ProgressLine(name, self.batches, quiet)
        on_gpu, asked = self.fabric.device.type == "cuda", time.monotonic()
        for batch in self.source.epoch(self.epoch, self.batch):
            if self.batch >= self.batches:
                break
            waited = time.monotonic() - asked
            seed_everything(derive_seed("step", self.settings.seed, self.epoch, self.batch, self.fabric.global_rank))
            values = self.one_batch(batch) | {"load_s": waited}
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.batch += 1
            done, seconds = self.batch - self.start_batch, time.monotonic() - self.start_time
            left = (self.settings.epochs - self.epoch) * self.batches - self.batch
            line.update(self.batch, line_values(values, done, left, seconds, self.fabric.world_size, on_gpu))
            if self.fabric.global_rank == 0:
                append_row(self.log, self.epoch + 1, self.batch, values)
            at_step = self.batch % self.settings.accumulate == 0  # half a step's gradients are not stored
            if at_step and time.monotonic() - self._saved > self.settings.checkpoint_every_s:
                self.save()
            asked = time.monotonic()
        line.close()

    def one_batch(self, batch: Any) -> dict[str, float]:
        settings = self.settings
        count = self.batch + 1
        last_of_group = count % settings.accumulate == 0 or count == self.batches
        rate = learning_rate(settings, self.optimizer_step(), self.steps_per_epoch())
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
        with self.fabric.no_backward_sync(self.model, enabled=not last_of_group):
            values = self.step_fn(self.model, batch)
            loss = values["loss"]
            if not torch.isfinite(loss):
                raise TrainingDiverged(
                    f"The loss is {loss.item()} in epoch {self.epoch + 1}, batch {count}. The last good checkpoint is "
                    f"kept in {self.folder}; lower the learning rate (now {rate:g}) or train in fp32."
                )
            if loss.requires_grad:  # a batch may hold nothing to learn from
                self.fabric.backward(loss / settings.accumulate)
        if last_of_group:
            if settings.clip_norm is not None:
                self.fabric.clip_gradients(self.model, self.optimizer, max_norm=settings.clip_norm)
            if settings.clip_value is not None:
                self.fabric.clip_gradients(self.model, self.optimizer, clip_val=settings.clip_value)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return {
            name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in values.items()
        } | {"learning_rate": rate}

    def steps_per_epoch(self) -> int:
        return -(-self.batches // self.settings.accumulate)

    def optimizer_step(self) -> int:
        return self.epoch * self.steps_per_epoch() + self.batch // self.settings.accumulate

    def validate(self, validate: Callable | None) -> dict[str, float]:
        if validate is None:
            return {}
        model = self.weights_of(self.model.module)
        training = model.training
        model.eval()
        scores = self.fabric.broadcast(validate(model) if self.fabric.global_rank == 0 else {})
        model.train(training)
        return scores

    def end_epoch(self, scores: dict[str, float], select: str) -> None:
        done = max(1, self.batch)
        means = {name: total / done for name, total in self.sums.items() if name != "images"}
        row = {"epoch": self.epoch + 1, **means, **scores, "seconds": time.monotonic() - self.start_time}
        self.history.append(row)
        if scores and select not in scores:
            raise ValueError(f"'{select}' is to select the best epoch, but validation gives {', '.join(scores)}.")
        value = scores.get(select, float(self.epoch))  # without validation the last epoch is the best
        improved, self.best = value > self.best, max(value, self.best)
        just_saved = self.epoch > 0 and time.monotonic() - self._saved < SHORT_EPOCHS_S
        due = self.fabric.broadcast(self.epoch + 1 == self.settings.epochs or not just_saved)
        if self.fabric.global_rank == 0:
            about = self.about | {"epoch": self.epoch + 1, "scores": scores, "settings": self.settings.model_dump()}
            if improved and (scores or due):
                best = save_weights(self.weights_of(self.model.module), self.folder / "best.safetensors", about)
                self.best_file = content_hashes([best])[0]
            if due:
                save_weights(self.weights_of(self.model.module), self.folder / "last.safetensors", about)
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        if due:
            self.save()

    # ---- to and from disk

    def save(self) -> None:
        """Write state.pt atomically: a kill leaves the old state or the new one."""
        self._saved = time.monotonic()
        state = {
            "model": self.model.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "sums": self.sums,
            "best": self.best,
            "best_file": self.best_file,
            "history": json.dumps(self.history),
            "settings": self.settings.model_dump_json(),
            "batches": self.batches,
            "scaler": scaler.state_dict() if (scaler := self._scaler()) is not None else None,
            "identity": self._identity(),
        }
        if self.fabric.global_rank == 0:
            with atomic_path(self.folder / "state.pt") as temporary:
                try:
                    torch.save(state, temporary)
                except RuntimeError as error:  # of torch's writer, which names neither the disk nor the file
                    free = shutil.disk_usage(self.folder).free
                    raise OSError(f"{temporary} could not be written: {free:,} bytes are free on its disk.") from error
            write_text(self.folder / "history.json", json.dumps(self.history, indent=1))
        self.fabric.barrier()

    def resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.is_file():
            if self.fabric.global_rank == 0:
                self.log.unlink(missing_ok=True)  # of a run that was killed before it stored anything
            return
        if damaged(path):  # torch reads it without looking at its sums
            raise ValueError(f"{path} is damaged, or cut short: remove {self.folder} to train again from the start.")
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        stored = FitSettings.model_validate_json(state["settings"])
        then, now = (each.model_dump(exclude=set(self.settings.neutral)) for each in (stored, self.settings))
        if then != now or state["batches"] != self.batches:
            raise ValueError(
                f"{self.folder} holds a run with other settings ({stored}, {state['batches']} batches per "
                "epoch). Choose another folder, or remove it to start again."
            )
        if state.get("identity") != (own := self._identity()):
            then, now = (json.loads(text or "{}") for text in (state.get("identity"), own))
            differing = sorted(name for name in then | now if then.get(name) != now.get(name))
            raise ValueError(
                f"{self.folder} holds a run of something else: {', '.join(differing)} differ. Choose another folder, or "
                "remove it to start again."
            )
        if (state["epoch"], state["batch"]) > (self.settings.epochs, 0):
            raise ValueError(
                f"{self.folder} holds a run of more than {self.settings.epochs} epochs ({state['epoch']} are done): its weights "
                "are none of a shorter one. Choose another folder, or remove it to start again."
            )
        self.model.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batch, self.best, self.sums = state["epoch"], state["batch"], state["best"], state["sums"]
        self.history, self.best_file = json.loads(state["history"]), state.get("best_file")
        if (scaler := self._scaler()) is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        if self.fabric.global_rank == 0:
            cut_after(self.log, self.epoch + 1, self.batch)

    def _identity(self) -> str:
        """What a run must share with the one it goes on with, beside the settings: what the caller says, and every tensor."""
        said = dict(self.about)
        said.pop("experiment", None)  # `training_folder` compares it
        network = [[name, list(tensor.shape)] for name, tensor in self.model.module.state_dict().items()]
        return json.dumps(said | {"network": network}, sort_keys=True, default=str)

    def _scaler(self) -> Any:
        return getattr(self.fabric._precision, "scaler", None)
