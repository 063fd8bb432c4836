"""What a training is made from: another recipe, start, data, teacher or code is another training, whatever its folder."""

import ast
import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from vpr_lib import seeds
from vpr_lib.data import clouds, images, pixels, places, tuples
from vpr_lib.data.audit import file_paths
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.prepare import Content, manifests_of
from vpr_lib.data.run_pairs import RunPairs
from vpr_lib.data.tuples import TupleSet
from vpr_lib.files import content_hashes, locked, use, write_text
from vpr_lib.models import unit, voxel_grid
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.paths import content_memory
from vpr_lib.retrieval import feature_maps, rerank
from vpr_lib.training.fit import Recipe
from vpr_lib.training.optimisation import FitSettings

log = logging.getLogger(__name__)
ROOM = Path(__file__).resolve().parent
DECIDES_NOTHING = {
    *("claim", "expected", "hardware", "variants", "workers", "keep_images", "keep_in_memory", "train_root"),
    *("validation_root",),  # where data lies: its content is compared
}
MADE_FROM = "made_from.json"
OF_A_START = ("centres.hdf5", "tuples_*")  # what a training makes before its first state, and would find again


class OtherTraining(ValueError):
    """A folder that holds the training of something else."""


def made_from(experiment: Recipe, model: nn.Module, data: Mapping[str, Content | None], **more: Any) -> dict[str, Any]:
    """Everything that decides the weights of a training, as JSON.

    Args:
        model: before its first step; its weights carry the pretraining and the seed.
        data: training and validation sets by name; the bytes of every file count.
        more: a teacher's weights and the like.
    """
    recipe = experiment.model_dump(mode="json", exclude=DECIDES_NOTHING)
    neutral = FitSettings.model_validate(recipe["fit"]).neutral
    recipe["fit"] = {name: value for name, value in recipe["fit"].items() if name not in neutral}
    hashes = {name: _content_hash(content) for name, content in data.items() if content is not None}
    made = {"recipe": recipe, "start": weights_hash(model), "data": hashes, "code": code_hash(model),
            "zoo": model.config.model_dump(mode="json"), **more}  # fmt: skip
    return json.loads(json.dumps(made, sort_keys=True, default=str))


@contextmanager
def training_folder(folder: Path, made: dict[str, Any], experiment: Recipe) -> Iterator[None]:
    """Hold the folder of a training: one process trains in it, and only what it was begun with goes on; what a start left that
    was killed before its first state is made again.

    A folder that the program named after the experiment (`Recipe.folder_in`) is cleared and trained anew when its start,
    data, teacher or code differ; one that a person named is refused.

    Raises:
        OtherTraining: naming what differs.
    """
    folder = Path(folder)
    if int(os.environ.get("RANK", "0")) > 0:  # of the processes of one training the first one holds it
        yield
        return
    with locked(folder, "training in it"):
        if differing := _differing(folder, made):
            differences = "; ".join(differing[:6]) + (f"; and {len(differing) - 6} more" if len(differing) > 6 else "")
            if folder.name != experiment.folder_in(folder.parent).name:
                raise OtherTraining(
                    f"{folder} holds a training that was made otherwise: {differences}. Choose another folder (--folder), or train "
                    "anew in this one (--anew)."
                )
            log.warning("%s is trained anew: %s", folder, differences)
            shutil.rmtree(folder)
        if not (folder / "state.pt").is_file():
            for left in (path for name in OF_A_START for path in folder.glob(name)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        write_text(folder / MADE_FROM, json.dumps(made, indent=1))
        yield


def _differing(folder: Path, made: dict[str, Any]) -> list[str]:
    if not (folder / "state.pt").is_file():
        return []
    try:
        stored = json.loads((folder / MADE_FROM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [f"it does not say what it was made from (no readable {MADE_FROM})"]
    then, now = _flat(stored), _flat(made)
    words = lambda value: str(value)[:40]
    return [
        f"{name} was {words(then.get(name, 'absent'))}, is {words(now.get(name, 'absent'))}"
        for name in sorted(then | now)
        if then.get(name, "absent") != now.get(name, "absent")
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    inside = [_flat(part, f"{name}.{key}" if name else key) for key, part in value.items()]
    return {key: part for one in inside for key, part in one.items()}


def _content_hash(content: Content) -> str:
    """Over the bytes of every listed file, in order, and over the labels and pairs that are learned from."""
    digest = hashlib.sha256()
    for manifest in manifests_of(content).values():
        choices = (image["path"] for row in manifest.table.get("image_candidates", ()) for image in row)
        paths = file_paths(manifest) + [f"{manifest.root}/{path}" for path in choices]
        hashes = content_hashes(paths, content_memory())
        use(paths, hashes)
        digest.update(str(hashes).encode())
        for column in [name for name in ("place_id", "city") if name in manifest.table]:
            digest.update("\n".join([column, *manifest.table[column].astype(str)]).encode())
    if isinstance(content, Benchmark):
        digest.update("".join(protocol.card.hash for protocol in content.protocols).encode())
    if isinstance(content, TupleSet):
        digest.update((content.positives.hash + content.non_negatives.hash).encode())
    if isinstance(content, RunPairs):
        digest.update("".join(found.hash for found in content.positives.values()).encode())
    return digest.hexdigest()


def code_hash(model: nn.Module) -> str:
    """Over the code of the model's modules, of losses and training, and of what these call to read, mine and compute;
    comments and docstrings are no code."""
    own = {inspect.getfile(type(part)) for part in model.modules() if type(part).__module__.startswith("vpr_lib.")}
    called = (images, pixels, places, tuples, clouds, voxel_grid, unit, rerank, feature_maps, seeds)
    files = {Path(file).resolve() for file in own} | {Path(room.__file__).resolve() for room in called}
    files |= {*ROOM.glob("*.py"), *(ROOM.parent / "losses").glob("*.py")}
    return hashlib.sha256("".join(_bare(file) for file in sorted(files)).encode()).hexdigest()


@cache
def _bare(file: Path) -> str:
    """The syntax tree of a source file without its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    return f"{file.name}:{ast.dump(tree)}"
