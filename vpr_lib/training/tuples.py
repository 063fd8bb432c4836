"""Training by tuples, as ClusVPR and SFRS: mined negatives with memory, promoted positives, generations with a teacher.

A cache of descriptors is refreshed before every chunk of queries and tuples are mined from it. What was mined, and the
teacher of every generation, lie in the run folder: a killed run goes on with exactly the tuples it had. Spec: clusvpr §8.
"""

import copy
import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpr_lib.data.tuples import TupleSet
from vpr_lib.losses.tuples import hardest_regions, soft_loss, tuple_loss
from vpr_lib.models.checkpoints import load_weights
from vpr_lib.models.clusvpr import PYRAMIDS
from vpr_lib.models.cost import LiveTensors
from vpr_lib.registry import lookup
from vpr_lib.retrieval.feature_maps import FeatureMaps, HeadLearner, feature_maps
from vpr_lib.training.centres import start_head
from vpr_lib.training.fit import FitResult, TrainingRun, fit, make_fabric
from vpr_lib.training.optimisation import FitSettings, make_optimizer
from vpr_lib.training.tuple_mining import TupleBatch, TupleRecipe, TupleSource


class TupleNet(nn.Module):
    """The student as `fit` sees it: several groups of images through one call, each a batch of its own for the norms."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, groups: list[Tensor], pyramid: str) -> list[Tensor]:
        """Normalised images (n, 3, H, W) per group -> region descriptors (n, P, D) per group."""
        return [regions(self.network, images, pyramid) for images in groups]


def regions(network: nn.Module, images: Tensor, pyramid: str) -> Tensor:
    """Descriptors of the regions of a pyramid, (n, 3, H, W) -> (n, P, D); region 0 is the image's descriptor.

    Raises:
        ValueError: if the model's head cannot be cut into regions.
    """
    if pyramid == "1":
        return network(images).unsqueeze(1)
    if not hasattr(network.aggregator, "pyramid"):
        raise ValueError(
            f"A {type(network.aggregator).__name__} head has no regions: train it with pyramid '1' and soft_weight 0."
        )
    return network.aggregator.pyramid(network.feature_map(images), lookup(PYRAMIDS, pyramid, "pyramid"))


class TupleStep:
    """The step `fit` calls: a TupleBatch -> hard loss, plus the soft loss against the teacher from generation 1 on."""

    def __init__(self, source: TupleSource, recipe: TupleRecipe, spec: Any):
        self.source, self.recipe, self.spec = source, recipe, spec
        self._teacher: tuple[int, nn.Module] | None = None

    def __call__(self, model: nn.Module, batch: TupleBatch) -> dict[str, Any]:
        recipe, device = self.recipe, next(model.parameters()).device
        images = self.spec.normalise(batch.images.to(device, non_blocking=True))
        b, m = batch.negatives.shape
        hard_rows = torch.cat([batch.anchors, batch.easy, batch.negatives.flatten()])
        soft = [tuple_ for tuple_, found in enumerate(batch.difficult) if len(found)]
        groups = [images[hard_rows]]
        if soft:
            groups.append(images[torch.cat([batch.anchors[soft], *(batch.difficult[t] for t in soft)])])
        pyramid = recipe.pyramid if batch.generation else "1"  # generation 0 looks at whole images only
        hard_regions, *soft_regions = model(groups, pyramid)
        anchors, easy, negatives = hard_regions.float().split([b, b, b * m])
        negatives = negatives.unflatten(0, (b, m))  # (B, M, P, D)
        chosen = hardest_regions(anchors[:, 0], negatives)[0] if batch.generation else negatives[:, :, 0]
        hard = tuple_loss(recipe.loss, anchors[:, 0], easy[:, 0], chosen, recipe.temperatures[0])
        values = {"loss": hard, "hard": hard, "soft": 0.0, "images": float(len(images))}
        if soft:
            with torch.no_grad():
                taught = regions(self.teacher(batch.generation, device), groups[1], pyramid)
            counts = [len(batch.difficult[t]) for t in soft]
            student, teacher = (_anchor_rows(r.float(), counts) for r in (soft_regions[0], taught))
            temperature = recipe.temperatures[batch.generation]
            parts = [soft_loss(s[None], t[None], recipe.temperatures[0], temperature) for s, t in zip(student, teacher)]
            values["soft"] = torch.stack(parts).mean()
            values["loss"] = hard + recipe.soft_weight * values["soft"]
        return values

    def teacher(self, generation: int, device: torch.device) -> nn.Module:
        """The student as it was when the generation began, without gradient."""
        if self._teacher is None or self._teacher[0] != generation:
            network = copy.deepcopy(self.source.network)
            load_weights(network, self.source.teacher_path(generation))
            network.requires_grad_(False).train(self.recipe.teacher_mode == "train")
            self._teacher = (generation, network.to(device))
        return self._teacher[1]


def step_gigabytes(model: nn.Module, recipe: TupleRecipe) -> float:
    """Most gigabytes of tensors alive in one step with a teacher: both networks, activations, gradients and momentum.

    Counted on shapes (torch's meta device) for one process, so nothing is computed; an allocator keeps more.
    """
    student = copy.deepcopy(model).to("meta").train()
    step, batch = _step_with_teacher(student, recipe)
    with LiveTensors() as live:
        step(TupleNet(student), batch)["loss"].backward()
    numbers = sum(p.numel() * (3 if p.requires_grad else 2) for p in student.parameters())  # student, teacher, momentum
    return (live.peak + 4 * numbers) / 1e9


def measured_step(
    model: nn.Module, recipe: TupleRecipe, settings: FitSettings, device: str = "cuda", steps: int = 3
) -> dict[str, float]:
    """Seconds of a whole step on random images and, on a GPU, the gigabytes that `step_gigabytes` counts, as measured.

    "GB measured" is what the step's own tensors take at the peak, "GB reserved" what the allocator asked of the GPU.
    """
    fabric = make_fabric(settings, device)
    on_gpu = fabric.device.type == "cuda"
    wait, held = torch.cuda.synchronize if on_gpu else lambda: None, 0
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    student = copy.deepcopy(model).to(fabric.device).train()
    step, batch = _step_with_teacher(student, recipe)
    network, optimizer = fabric.setup(TupleNet(student), make_optimizer(student, settings))
    for number in range(steps + 1):
        if number == 1:  # the first one warms up
            wait()
            start = time.perf_counter()
        fabric.backward(step(network, batch)["loss"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    wait()
    row = {"seconds a step": (time.perf_counter() - start) / steps}
    if on_gpu:
        row["GB measured"] = (torch.cuda.max_memory_allocated() - held) / 1e9
        row["GB reserved"] = torch.cuda.max_memory_reserved() / 1e9
    return row


def _step_with_teacher(student: nn.Module, recipe: TupleRecipe) -> tuple["TupleStep", TupleBatch]:
    """A step of generation 1, whose teacher is a copy of `student`, and one batch of tuples of noise on its device."""
    device = next(student.parameters()).device
    negatives, difficult = recipe.negatives, recipe.difficult if recipe.soft_weight else 0
    width = 2 + negatives + difficult  # query, easy positive, and so on
    first = torch.arange(recipe.tuples_per_batch) * width
    shape = (len(first) * width, 3, *student.input_spec.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    parts = [place + 2 + negatives + torch.arange(difficult) for place in first]
    batch = TupleBatch(images, first, first + 1, first[:, None] + 2 + torch.arange(negatives), parts, generation=1)
    step = TupleStep(None, recipe, student.input_spec)
    step._teacher = (1, copy.deepcopy(student).requires_grad_(False).train(recipe.teacher_mode == "train"))
    return step, batch


def _anchor_rows(found: Tensor, counts: list[int]) -> list[Tensor]:
    """Similarities of every anchor's global descriptor to all regions of its difficult positives, one (J P,) per tuple."""
    anchors, others = found[: len(counts), 0], found[len(counts) :].split(counts)
    return [(other @ anchor).flatten() for anchor, other in zip(anchors, others)]


def train_tuples(
    model: nn.Module, tuples: TupleSet, recipe: TupleRecipe, settings: FitSettings, run: TrainingRun,
    maps: Path | None = None,
) -> FitResult:  # fmt: skip
    """Train a model on tuples; see `fit` for resuming and errors. The authors' best epoch has the highest recall@5.

    Args:
        maps: folder of cached maps: the frozen layers run once over the pictures and the rest learns from what they make,
            for a recipe without augmentation.
    Raises:
        ValueError: if the settings ask for more epochs than the generations have, or maps are wanted and the backbone
            learns from its first layer on.
    """
    if settings.epochs > recipe.epochs:
        raise ValueError(
            f"{len(recipe.temperatures)} generations of {recipe.epochs_per_generation} epochs (the first of one) make "
            f"{recipe.epochs} epochs, the settings ask for {settings.epochs}. Add temperatures, or lower fit.epochs."
        )
    settings = settings.model_copy(update={"restarts": recipe.first_epochs()})
    run = run.launched(settings)
    device = run.fabric.device
    identity = f"{recipe.model_dump_json()}{settings.seed}{tuples.database.list_hash}{tuples.queries.list_hash}"
    mined = run.folder / f"tuples_{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    mined.mkdir(parents=True, exist_ok=True)
    model.to(device)
    learner: nn.Module = model
    sides = [tuples.database] if tuples.queries is tuples.database else [tuples.queries, tuples.database]
    if recipe.centres_images and not run.begun:
        start_head(model, sides, mined / "centres.hdf5", recipe.centres_images, device=device, quiet=run.quiet)
    if recipe.sync_bn and run.fabric.world_size > 1 and device.type == "cuda":  # torch has none for the CPU
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    rows: list[FeatureMaps] = []
    if maps is not None:
        options = {"device": device, "precision": settings.precision, "workers": run.workers, "quiet": run.quiet}
        rows, learner = [feature_maps(model, side, maps, **options) for side in reversed(sides)], HeadLearner(model)
    source = TupleSource(learner, tuples, recipe, settings, mined, run, rows)
    step = TupleStep(source, recipe, learner.input_spec)
    pairs = f"{identity}{tuples.positives.hash}{tuples.non_negatives.hash}"
    about = {"recipe": recipe.model_dump(), "data": hashlib.sha256(pairs.encode()).hexdigest(),
             "queries": len(tuples.usable), "images": len(source.images)}  # fmt: skip
    weights_of = (lambda net: net.network) if maps is None else (lambda net: net.network.model)
    return fit(TupleNet(learner), source, step, settings, run.saying(**about), weights_of)
