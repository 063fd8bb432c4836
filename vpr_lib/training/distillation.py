"""Training a small model under a large one: the place recipe with one more term. Spec: lightweight_mixvpr §4.

The teacher is any model of the zoo, run on the very images the student sees (`views: augmented`, as the published script
does) or once per clean image with its descriptors kept on disk (`views: clean`), or a file of descriptors made elsewhere.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from lightning.fabric import Fabric
from torch import Tensor, nn
from torchvision.transforms import v2

from vpr_lib.config import Strict
from vpr_lib.data.images import INTERPOLATIONS, InputSpec
from vpr_lib.data.manifest import Manifest
from vpr_lib.data.pickles import load_arrays
from vpr_lib.data.places import PlaceBatches, Places
from vpr_lib.files import content_hashes
from vpr_lib.losses.distillation import Distance, DistillationLoss, MapAdapter, Mode, make_term
from vpr_lib.losses.metric import MetricLoss
from vpr_lib.models.checkpoints import load_weights, trained_path, weights_hash
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import cache_root, write_text
from vpr_lib.retrieval.describe import contents_hash, describe
from vpr_lib.retrieval.feature_maps import describe_on_maps, feature_maps, has_frozen_layers
from vpr_lib.training.fit import FitResult, TrainingRun, fit
from vpr_lib.training.metric_learning import PlaceRecipe, gather, place_batches, scaled_rate
from vpr_lib.training.optimisation import FitSettings

Teacher = Callable[
    [Tensor, np.ndarray], Tensor
]  # uint8 images (B, 3, H, W) and their rows -> what the student should match


class Distillation(Strict):
    """The distillation half of a recipe. Weight, temperature and projection are ours: the repository states none."""

    mode: Mode = "relational"
    teacher: str | None = None  # a model of the zoo
    teacher_changes: dict[str, Any] = {}  # of its settings, as `model_changes` of the recipe it was trained to
    teacher_weights: str | None = None  # default: what `vpr train` or `vpr weights add` stored
    teacher_file: str | None = None  # descriptors instead of a model, see `read_teacher_file`
    views: Literal["augmented", "clean"] = "augmented"  # what the teacher sees
    weight: float = 1.0  # lambda
    distance: Distance | None = None
    temperature: float = 0.1  # of relational kl


class Pupil(nn.Module):
    """A student with its adapter, which is trained with it and left out of the saved weights.

    `forward(images)` gives the student's descriptors (B, D) and what is compared with the teacher.
    """

    def __init__(self, student: nn.Module, adapter: nn.Module | None, on_maps: bool):
        super().__init__()
        if on_maps and not (hasattr(student, "features") and hasattr(student, "aggregator")):
            raise ValueError(f"Mode 'feature' needs a student with a feature map; {type(student).__name__} has none.")
        self.student, self.adapter, self.on_maps = student, adapter or nn.Identity(), on_maps

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.on_maps:
            features = self.student.features(images)
            return self.student.aggregator(*features), self.adapter(features[0])
        descriptors = self.student(images)
        return descriptors, self.adapter(descriptors)


class LiveTeacher:
    """A frozen model that looks at every augmented image, resized to its own input size where that differs."""

    def __init__(self, model: nn.Module, on_maps: bool, fabric: Fabric):
        self.model = model.eval().requires_grad_(False).to(fabric.device, memory_format=torch.channels_last)
        self.on_maps, self.fabric, self.dim = on_maps, fabric, model.dim
        self.identity = weights_hash(model)
        if on_maps:
            self.map_shape = (model.backbone.out_channels, *model.backbone.grid(model.input_spec.size))

    @torch.no_grad()
    def __call__(self, images: Tensor, rows: np.ndarray) -> Tensor:
        spec: InputSpec = self.model.input_spec
        if tuple(images.shape[2:]) != spec.size:
            images = v2.functional.resize(images, list(spec.size), INTERPOLATIONS[spec.interpolation], antialias=True)
        images = spec.normalise(images.to(self.fabric.device, non_blocking=True))
        with self.fabric.autocast():
            return (self.model.feature_map(images) if self.on_maps else self.model(images)).float()


class StoredTeacher:
    """Descriptors of the clean images (N, D), or their feature maps (N, C, h, w), in the order of the training manifest."""

    def __init__(self, array: np.ndarray, identity: str, device: torch.device):
        self.array, self.identity, self.device = array, identity, device
        self.dim, self.map_shape = array.shape[1], array.shape[1:]

    def __call__(self, images: Tensor, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(self.array[rows], np.float32)).to(self.device, non_blocking=True)


def load_teacher(distillation: Distillation, manifest: Manifest, fabric: Fabric) -> LiveTeacher | StoredTeacher:
    """The teacher a recipe names, ready to be called.

    Raises:
        ValueError: when it names no teacher or two, or when maps are asked from stored descriptors; FileNotFoundError when
            its weights or its file are absent.
    """
    d, on_maps = distillation, distillation.mode == "feature"
    if (d.teacher is None) == (d.teacher_file is None):
        raise ValueError(
            "Distillation needs one teacher: set either `teacher` (a model) or `teacher_file` (descriptors)."
        )
    if d.teacher_file is not None:
        if on_maps:
            raise ValueError("Mode 'feature' needs a teacher model: a file of descriptors holds no maps.")
        array, identity = read_teacher_file(Path(d.teacher_file), manifest)
        return StoredTeacher(array, identity, fabric.device)
    model = build_model(d.teacher, **d.teacher_changes)
    path = Path(d.teacher_weights or trained_path(d.teacher))
    if not path.is_file():
        raise FileNotFoundError(
            f"No weights of the teacher '{d.teacher}' at {path}. Train it (`vpr train`), register a checkpoint "
            f"(`vpr weights add FILE --as {d.teacher}`), or name one in distillation.teacher_weights."
        )
    load_weights(model, path)
    if d.views == "augmented":
        return LiveTeacher(model, on_maps, fabric)
    if on_maps:
        if not has_frozen_layers(model) or model.backbone.after_fixed:
            raise ValueError(
                f"Mode 'feature' compares maps, which are kept per clean image where a trunk is fixed; that of {d.teacher} "
                "learned: use views: augmented."
            )
        maps = feature_maps(model, manifest, cache_root() / "maps", device=fabric.device, quiet=True)
        return StoredTeacher(maps.array.reshape(-1, *maps.shape), weights_hash(model), fabric.device)
    if has_frozen_layers(model):
        described = describe_on_maps(model, manifest, cache_root() / "maps", device=fabric.device, quiet=True)
    else:
        described = describe(model, manifest, cache_root() / "descriptors", fabric.device, quiet=True)
    return StoredTeacher(described.array, weights_hash(model), fabric.device)


def read_teacher_file(path: Path, manifest: Manifest) -> tuple[np.ndarray, str]:
    """Teacher descriptors (N, D) in the manifest's order, and what identifies them.

    Two forms: a `.npz` with `image_path` (names relative to the data set's root) and `descriptors`, in any order, with more
    images than needed; or a `.npy` that `describe` wrote, with its JSON beside it, made from exactly this list of images.

    Raises:
        FileNotFoundError; ValueError naming the images without a descriptor, or the other list the file was made from.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No teacher descriptors {path}.")
    if path.suffix == ".npz":
        content = load_arrays(path, {"image_path", "descriptors"})
        names, array = content["image_path"].tolist(), content["descriptors"]
        if array.ndim != 2 or len(array) != len(names):
            raise ValueError(f"{path}: {len(names)} names and descriptors of shape {array.shape} do not fit together.")
        row_of = {name: row for row, name in enumerate(names)}
        missing = [name for name in manifest.table["image_path"] if name not in row_of]
        if missing:
            raise ValueError(
                f"{path} has no descriptor of {len(missing)} of {len(manifest)} training images, for instance '{missing[0]}'."
            )
        array = array[[row_of[name] for name in manifest.table["image_path"]]]
    else:
        about = path.with_suffix(".json")
        said = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
        made_from = said.get("key", {}).get("images")
        if made_from != manifest.list_hash:
            raise ValueError(
                f"{path} was made from another list of images ({(made_from or 'no JSON beside it')[:12]}, the training set is "
                f"{manifest.list_hash[:12]}). Describe this set, or give a .npz with image_path and descriptors."
            )
        if said["key"].get("contents") != contents_hash(manifest.image_paths()):
            raise ValueError(f"{path} was made from other pictures of the same names: describe this set again.")
        if said.get("sum") != content_hashes([path])[0]:
            raise ValueError(f"{path} is damaged, or not the file that {about.name} is about: describe this set again.")
        array = np.load(path, mmap_mode="r")
    if not np.isfinite(array).all() or (np.abs(array).max(1) == 0).any():
        raise ValueError(f"{path} holds rows that are zero or not finite: those images were not described.")
    content = xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array))
    return array, f"{path.name} {array.shape} {manifest.list_hash[:12]} {content}"


def make_adapter(mode: Mode, student: nn.Module, teacher: LiveTeacher | StoredTeacher, seed: int) -> nn.Module | None:
    """What mode `proj` (a linear layer) and `feature` (a 1x1 convolution) train beside the student; None for the others."""
    if mode not in ("proj", "feature"):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if mode == "proj":
            return nn.Linear(student.dim, teacher.dim)
        channels, *grid = teacher.map_shape
        return MapAdapter(student.backbone.out_channels, channels, tuple(grid))


class RowBatches:
    """Batches of places together with the manifest rows they came from, so that stored targets can be looked up."""

    def __init__(self, batches: PlaceBatches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, np.ndarray]]:
        rows = list(self.batches.sampler.epoch(epoch))[start:]
        for (images, labels), chosen in zip(self.batches.epoch(epoch, start), rows):
            yield images, labels, chosen.ravel()


def distillation_step(loss: DistillationLoss, teacher: Teacher, spec: InputSpec) -> Callable[[nn.Module, Any], dict]:
    """The step `fit` calls on a Pupil: (images uint8, labels, rows) -> loss and its parts.

    With several processes the descriptors are gathered with their gradient, as in `metric_step`; the teacher's are gathered
    only for terms over the whole batch.
    """

    def step(model: nn.Module, batch: tuple[Tensor, Tensor, np.ndarray]) -> dict[str, Any]:
        device = next(model.parameters()).device
        images = batch[0].to(device, non_blocking=True)
        target = teacher(images, batch[2])
        descriptors, matched = model(spec.normalise(images))
        descriptors, labels = gather(descriptors).float(), gather(batch[1].to(device))
        matched, target = (gather(rows) if loss.term.needs_batch else rows for rows in (matched, target))
        values = loss(descriptors, matched.float(), target, labels)
        return values | {"useful": loss.criterion.useful_fraction, "images": float(len(images))}

    return step


def train_distilled(
    model: nn.Module, places: Places, recipe: PlaceRecipe, settings: FitSettings, run: TrainingRun, distillation: Distillation
) -> FitResult:  # fmt: skip
    """Train `model` under a teacher and return where its weights are; its adapter is not among them.

    Batches, augmentation, schedule and the student's start are those of `train_places` with the same arguments, which is
    therefore the control experiment.

    Raises:
        ValueError: as `load_teacher`, or if the folder holds a run under another teacher or term.
    """
    if recipe.parts > 1:
        raise ValueError(f"parts={recipe.parts} does not go with distillation; use fewer places and fit.accumulate.")
    run = run.launched(settings)
    settings = scaled_rate(recipe, settings, run.fabric.world_size)
    batches = place_batches(places, recipe, settings, model.input_spec, run)
    criterion = MetricLoss(recipe.loss, recipe.miner, recipe.miner_margin)
    term = make_term(distillation.mode, criterion, distillation.distance, distillation.temperature)
    teacher = load_teacher(distillation, places.manifest, run.fabric)
    adapter = make_adapter(distillation.mode, model, teacher, settings.seed)
    if distillation.mode == "direct" and model.dim != teacher.dim:
        raise ValueError(
            f"Mode 'direct' compares descriptors of equal length: the student has {model.dim}, the teacher {teacher.dim}. "
            "Use a teacher of that size, or mode proj or relational."
        )
    lesson = {"distillation": distillation.model_dump(exclude={"teacher_weights"}), "teacher": teacher.identity}
    _refuse_another_lesson(run.folder, lesson, run.fabric)
    pupil = Pupil(model, adapter, on_maps=distillation.mode == "feature")
    step = distillation_step(DistillationLoss(criterion, term, distillation.weight), teacher, model.input_spec)
    about = {"recipe": recipe.model_dump(), "data": places.hash, "images": len(places.labels), **lesson}
    return fit(pupil, RowBatches(batches), step, settings, run.saying(**about), lambda pupil: pupil.student)


def _refuse_another_lesson(folder: Path, lesson: dict[str, Any], fabric: Fabric) -> None:
    """A run is resumed only under the teacher and the term it began with."""
    path = folder / "lesson.json"
    if path.is_file() and (stored := json.loads(path.read_text(encoding="utf-8"))) != lesson:
        differing = [
            key for key in lesson["distillation"] if stored["distillation"].get(key) != lesson["distillation"][key]
        ]
        raise ValueError(
            f"{folder} holds a run with another {', '.join(differing) or 'teacher'}. Choose another folder, or remove it to "
            "start again."
        )
    if fabric.global_rank == 0:
        write_text(path, json.dumps(lesson, indent=1))
