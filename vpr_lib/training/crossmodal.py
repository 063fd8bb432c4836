"""DistilVPR's two stages: a teacher of clouds and images, then a student that learns from its cached descriptors.

Spec: distilvpr §7. Both are one `fit`; what differs is the loss of a batch. A batch is pairs of submaps of one place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from vpr_lib.config import Strict
from vpr_lib.data.catalogue import open_dataset
from vpr_lib.data.clouds import BOREAS_AUGMENTATION, CloudAugmentation, CloudSet, SubmapSet, collate_submaps
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.data.tuples import TupleSet
from vpr_lib.losses.kd_baselines import kd_baseline
from vpr_lib.losses.relational import RelationalWeights, relational_loss
from vpr_lib.losses.triplet import batch_hard_triplet
from vpr_lib.models.checkpoints import load_weights, trained_path, weights_hash
from vpr_lib.models.minkloc import load_official
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import cache_root
from vpr_lib.retrieval.describe import describe, describe_batch
from vpr_lib.retrieval.run_pairs import evaluate_run_pairs
from vpr_lib.seeds import derive_seed
from vpr_lib.training.fit import FitResult, Recipe, fit, make_fabric
from vpr_lib.training.metric_learning import gather
from vpr_lib.training.optimisation import FitSettings
from vpr_lib.training.origin import made_from, training_folder
from vpr_lib.training.pairs import PairBatches, PairSampler

Method = Literal["none", "KD", "AFD", "EPC-Net", "RKD", "CSD", "LSD-Net", "MKD", "S", "C", "SC"]
METHODS: tuple[Method, ...] = Method.__args__


class CrossModalDistillation(Strict):
    """What the student learns besides the task: a compared baseline, or self-agent, cross-agent or both relations."""

    method: Method = "SC"
    weight: float = 1.0  # of a baseline; the published experiments do not say theirs
    relational: RelationalWeights = RelationalWeights()
    clean_cache: bool = True  # False: teacher descriptors of one augmented view, as released

    def terms(self, student: Tensor, teacher: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name, for descriptors (B, D) and pair masks (B, B)."""
        if self.method == "none":
            return {}
        if self.method in ("S", "C", "SC"):
            off = {"S": {"cross": {}}, "C": {"self_agent": 0.0}, "SC": {}}[self.method]
            return relational_loss(student, teacher, self.relational.model_copy(update=off))
        return {self.method: self.weight * kd_baseline(self.method, student, teacher, positives, negatives)}


class CrossmodalExperiment(Recipe):
    """A recipe of the cross-modal systems; the student or the teacher is a model of the zoo."""

    kind: Literal["crossmodal"] = "crossmodal"
    crossmodal: Literal["teacher", "student"]
    model_changes: dict[str, Any] = {}
    pretrained: bool = True
    train_set: str = "oxford_train"  # a data set of tuples by name
    train_root: str | None = None
    validation: str | None = "oxford"  # run pairs by name
    validation_root: str | None = None
    metric: Literal["cosine", "euclidean"] = "cosine"  # MinkLoc++ ranks by Euclidean distance
    teacher: str = "minklocpp_384"  # of students
    teacher_weights: str | None = None  # default: where `vpr train` keeps the teacher's
    distillation: CrossModalDistillation = CrossModalDistillation(method="none")
    head_weights: dict[str, float] = {"final": 0.5, "cloud": 0.5}  # of the triplet losses; a student has one head
    margin: float = 0.2
    batch_size: int = 128
    image_rate_factor: float = 1.0  # learning rate of an image branch beside a cloud branch, relative to fit's
    image_augmentation: bool = True
    image_candidates: bool = False  # draw one of the images near the cloud in time (MinkLoc++) or take the nearest
    cloud_augmentation: CloudAugmentation | Literal["boreas"] | None = CloudAugmentation()
    fit: FitSettings
    workers: int = 8
    keep_in_memory: bool = False

    def variant(self, seed: int, method: Method | None = None, manifolds: str | None = None) -> "CrossmodalExperiment":
        """The same recipe under another seed, and for a student with another method.

        Args:
            manifolds: see `RelationalWeights.restricted_to`; default the recipe's.
        """
        changes: dict[str, Any] = {"fit": self.fit.model_copy(update={"seed": seed})}
        if method is not None:
            relational = self.distillation.relational
            if manifolds is not None:
                relational = relational.restricted_to(manifolds)
            changes["distillation"] = self.distillation.model_copy(update={"method": method, "relational": relational})
        return self.model_copy(update=changes)


def image_augmentation() -> Callable[[Tensor], Tensor]:
    """uint8 (3, H, W) -> uint8: colour jitter, then a black rectangle in half of the images. Spec §2.3."""
    jitter = v2.ColorJitter(0.2, 0.2, 0.2, 0.1)
    return v2.Compose([jitter, v2.RandomErasing(p=0.5, scale=(0.1, 0.4), ratio=(0.3, 3.3), value=0)])


def training_submaps(model: nn.Module, tuples: TupleSet, experiment: CrossmodalExperiment) -> SubmapSet:
    """Augmented submaps with what the model reads of them; an image student never opens a cloud."""
    spec = model.input_spec if "image" in model.reads else None
    clouds = None
    if "cloud" in model.reads:
        recipe = experiment.cloud_augmentation
        recipe = BOREAS_AUGMENTATION if recipe == "boreas" else recipe
        clouds = CloudSet(tuples.database, recipe, model.config.voxel_size, experiment.keep_in_memory)
    augment = image_augmentation() if experiment.image_augmentation else None
    return SubmapSet(tuples.database, spec, clouds, augment, experiment.keep_in_memory, experiment.image_candidates)


# ---- the loss of a batch (spec §6.6, §7.1)


class _Heads(nn.Module):
    """The model as `fit` trains it: images and voxels to descriptors by head."""

    def __init__(self, model: nn.Module, image_rate_factor: float = 1.0):
        super().__init__()
        self.model, self.image_rate_factor = model, image_rate_factor

    def forward(self, images: Tensor | None, voxels: Tensor | None) -> dict[str, Tensor]:
        return self.model.heads(images, voxels) if "cloud" in self.model.reads else self.model.heads(images)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimiser: an image branch beside a cloud branch has a learning rate of its own."""
        branches = self.model.branches
        groups = {name: {"params": list(branch.parameters())} for name, branch in branches.items()}
        if len(branches) > 1:
            groups["image"]["rate_factor"] = self.image_rate_factor
        return list(groups.values())


@dataclass
class CrossmodalStep:
    """The step that `fit` calls: triplets on every weighted head, and distillation where there is a teacher.

    With several processes the descriptors are gathered with their gradient, so triplets and relations are those of the
    whole batch, as in `metric_step`; batch norm alone sees a process's own samples.

    Args:
        teacher: descriptors of all training submaps, (N, D); None without distillation.
    """

    tuples: TupleSet
    spec: Any
    head_weights: dict[str, float]
    margin: float = 0.2
    distillation: CrossModalDistillation | None = None
    teacher: Tensor | None = None

    def masks(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Positive and negative pairs of a batch, bool (B, B)."""
        pairs = np.repeat(rows, len(rows)).reshape(len(rows), -1), np.tile(rows, (len(rows), 1))
        positives = self.tuples.positives.contains(*pairs)
        return torch.from_numpy(positives), torch.from_numpy(~self.tuples.non_negatives.contains(*pairs))

    def __call__(self, model: nn.Module, batch: tuple) -> dict[str, Any]:
        device = next(model.parameters()).device
        rows, images, voxels = batch
        own = float(len(rows))
        rows = gather(rows.to(device)).cpu()
        positives, negatives = (mask.to(device) for mask in self.masks(rows.numpy()))
        if not (positives.any() and negatives.any()):
            return {"loss": torch.zeros((), device=device), "images": own}  # nothing to learn from
        images = self.spec.normalise(images.to(device, non_blocking=True)) if images is not None else None
        descriptors = model(images, voxels.to(device, non_blocking=True) if voxels is not None else None)
        heads = {
            name: gather(head).float() for name, head in descriptors.items() if name in {"final", *self.head_weights}
        }
        terms, useful = {}, 0.0
        for name, weight in self.head_weights.items():
            if weight and name in heads:
                loss, mined, active = batch_hard_triplet(heads[name], positives, negatives, self.margin)
                terms[f"triplet_{name}"] = weight * loss
                if name == "final":
                    useful = active / max(len(mined.anchors), 1)
        if self.teacher is not None:
            terms |= self.distillation.terms(heads["final"], self.teacher[rows].to(device), positives, negatives)
        norm = heads["final"].detach().norm(dim=1).mean()
        return {"loss": sum(terms.values()), **terms, "useful": useful, "descriptor_norm": norm, "images": own}


# ---- the two stages


def load_teacher(experiment: CrossmodalExperiment) -> nn.Module:
    """The teacher a student's recipe names, with its weights.

    Raises:
        FileNotFoundError: with the ways to come by the weights.
    """
    path = Path(experiment.teacher_weights) if experiment.teacher_weights else trained_path(experiment.teacher)
    if not path.is_file():
        raise FileNotFoundError(
            f"No weights {path} of the teacher '{experiment.teacher}'. Train it first (`vpr train` with a recipe that says "
            "crossmodal: teacher), or name a file with --set teacher_weights=FILE."
        )
    teacher = build_model(experiment.teacher)
    (load_weights if path.suffix == ".safetensors" else load_official)(teacher, path)
    return teacher


def teacher_descriptors(
    teacher: nn.Module,
    tuples: TupleSet,
    cache: Path | None = None,
    device: str | torch.device = "cpu",
    augmented: SubmapSet | None = None,
    seed: int = 1,
    quiet: bool = False,
) -> Tensor:
    """Descriptors of all training submaps by the frozen teacher, float32 (N, D); computed once, kept under `cache`.

    Args:
        augmented: describe one augmented view of every submap instead of the clean one, as the released code does.
    """
    if augmented is None:
        return torch.from_numpy(np.array(describe(teacher, tuples.database, cache, device, quiet=quiet).array))
    teacher.eval().to(device)
    keys = [(row, derive_seed("teacher view", seed, row)) for row in range(len(tuples.database))]
    loader = DataLoader(augmented, batch_size=32, sampler=keys, collate_fn=collate_submaps)
    return torch.cat([describe_batch(teacher, images, device, voxels=voxels) for images, voxels in loader])


def run_pair_validator(
    runs: RunPairs, metric: str, device: str, precision: str = "fp32"
) -> Callable[[nn.Module], dict[str, float]]:
    """Model -> {"recall@1": ...}, averages over the pairs as shares; both metrics, the first selects."""

    def validate(model: nn.Module) -> dict[str, float]:
        scores = evaluate_run_pairs(model, runs, None, metric, device, precision=precision, quiet=True)
        average = scores.average_recall / 100
        return {f"recall@{k}": float(average[k - 1]) for k in (1, 5, 10)} | {
            "recall@1%": scores.average_one_percent / 100
        }

    return validate


def train_crossmodal(
    experiment: CrossmodalExperiment,
    folder: Path,
    device: str = "cpu",
    quiet: bool = False,
    tuples: TupleSet | None = None,
    validation: RunPairs | None = None,
    teacher: nn.Module | None = None,
    cache: Path | None = None,
) -> tuple[nn.Module, FitResult]:
    """Run a recipe, or go on where it stopped; returns the model with its best weights, and the result.

    Args:
        tuples, validation, teacher: already opened or loaded ones, instead of those the recipe names.
        cache: folder of the teacher's descriptors; default below the cache root.
    Raises:
        FileNotFoundError: for a missing data set or teacher, with how to come by it. ValueError: when widths differ.
    """
    root = lambda text: Path(text) if text else None
    tuples = tuples or open_dataset(experiment.train_set, root(experiment.train_root))
    if validation is None and experiment.validation:
        validation = open_dataset(experiment.validation, root(experiment.validation_root))
    settings, distils = experiment.fit, experiment.distillation.method != "none"
    model = build_model(experiment.model, experiment.pretrained, settings.seed, **experiment.model_changes)
    fabric, cached = make_fabric(settings, device), None
    if distils:
        teacher = teacher or load_teacher(experiment)
        if teacher.dim != model.dim:
            raise ValueError(
                f"The student '{experiment.model}' has {model.dim} dimensions, the teacher '{experiment.teacher}' {teacher.dim}; "
                "DistilVPR needs equal widths (--set model_changes.aggregator_args={out_channels: N})."
            )
        view = None if experiment.distillation.clean_cache else training_submaps(teacher, tuples, experiment)
        if fabric.global_rank == 0:
            folder_of = cache or cache_root() / "descriptors"
            cached = teacher_descriptors(teacher, tuples, folder_of, fabric.device, view, settings.seed, quiet=True)
        cached = fabric.broadcast(cached)
    sampler = PairSampler(tuples, experiment.batch_size, settings.seed)
    batches = PairBatches(sampler, training_submaps(model, tuples, experiment), experiment.workers,
                          fabric.global_rank, fabric.world_size)  # fmt: skip
    step = CrossmodalStep(
        tuples, model.input_spec, experiment.head_weights, experiment.margin, experiment.distillation, cached
    )
    validate = run_pair_validator(validation, experiment.metric, device, settings.precision) if validation else None
    taught = {"teacher": weights_hash(teacher)} if distils else {}
    made = made_from(experiment, model, {"training": tuples, "validation": validation}, **taught)
    with training_folder(folder, made, experiment):
        result = fit(
            _Heads(model, experiment.image_rate_factor), batches, step, settings, folder, validate,
            weights_of=lambda heads: heads.model, about={"experiment": experiment.model_dump(), "submaps": len(tuples.database)},
            fabric=fabric, quiet=quiet,
        )  # fmt: skip
        load_weights(model, result.best)
    return model, result
