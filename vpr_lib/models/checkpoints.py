"""Weights on disk: official checkpoints read strictly, our own written as safetensors with a JSON beside them."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from scipy.io import loadmat
from torch import Tensor, nn

from vpr_lib.files import use
from vpr_lib.models.layouts import translate
from vpr_lib.models.published import find_published
from vpr_lib.paths import atomic_path, cache_root, write_text

log = logging.getLogger(__name__)
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "ema", "module")
WRAPPERS = ("module", "model", "net", "network", "student")
TOY_START = Path(__file__).resolve().parent.parent / "toycity" / "start"


class CheckpointError(ValueError):
    """Weights that do not fit, with what was expected and what came."""


def weights_hash(model: nn.Module, without: tuple[str, ...] = ()) -> str:
    """SHA-256 over names, shapes and bytes of a model's parameters and buffers, but for those with a prefix of `without`."""
    return _tensors_hash({name: t for name, t in model.state_dict().items() if not name.startswith(without)})


def _tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint file: a raw state dict, a Lightning or a training container, safetensors, or MatConvNet's .mat.

    PyTorch files are read with `weights_only=True`: no code in the file runs. Containers in containers are opened; prefixes of
    wrappers (`module.`, `_orig_mod.`, `model.`) go when the tensors meet a model.

    Raises:
        FileNotFoundError, CheckpointError: when the file is absent or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint {path}.")
    use([path])
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix == ".mat":
            return _read_matconvnet(path)
        if is_zipfile(path) and damaged(path):
            raise CheckpointError("bytes of it are not those that were written: get or copy it again")
        with torch.serialization.safe_globals(_numpy_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is cut short: {error}") from error
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it wants to run '{refused[1]}'" if refused else "it is no checkpoint of torch, or damaged"
        raise CheckpointError(
            f"{path} cannot be read as weights only: {what}. Save the state dict alone (torch.save(model.state_dict(), ...))."
        ) from error
    except Exception as error:  # torch raises zip, runtime and EOF errors for damaged or foreign files
        raise CheckpointError(
            f"{path} cannot be read as weights only: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    return _unwrapped(content, path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors; those that `save_weights` wrote must give the sum that stands beside them (CheckpointError)."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        said = (file.metadata() or {}).get("sum")
    if said is not None and said != _tensors_hash(dict(sorted(tensors.items()))):
        raise CheckpointError("bytes of it are not those that were written: make or copy it again")
    return tensors


def damaged(path: Path) -> bool:
    """Whether a file of torch.save is cut short, or its bytes do not give the sums beside them, which torch does not look at."""
    try:
        with ZipFile(path) as parts:
            return parts.testzip() is not None
    except (BadZipFile, EOFError):
        return True


@cache
def _numpy_numbers() -> tuple[Any, ...]:
    """What numpy's numbers and arrays are made of: recalls beside the tensors need no code to run."""
    dtypes = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")]
    rebuild = [np.ndarray, np.dtype, *dtypes, np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
    return (*rebuild, *((part, f"numpy.core.multiarray.{part.__name__}") for part in rebuild[-2:]))  # numpy 1 and 2


def _unwrapped(content: Any, path: Path, depth: int = 4) -> dict[str, Tensor]:
    """The tensors of a state dict, below up to `depth` containers; the names in CONTAINERS are looked into first.

    Raises:
        CheckpointError: when there are none, or several dictionaries of tensors and no name tells which is the model.
    """
    if isinstance(content, Mapping):
        tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        inner = {
            name: part for name, part in content.items() if isinstance(part, Mapping) and _holds_tensors(part, depth)
        }
        chosen = next((name for name in CONTAINERS if name in inner), None)
        if chosen is None and not tensors and len(inner) > 1:
            raise CheckpointError(
                f"{path} holds several dictionaries of tensors ({', '.join(map(str, inner))}); expected one called "
                f"{', '.join(CONTAINERS[:3])} or the like. Save the one that is the model."
            )
        if chosen is None and not tensors and inner:
            chosen = next(iter(inner))
        if chosen is not None and depth:
            return _unwrapped(inner[chosen], path, depth - 1)
        if tensors:
            return tensors
    raise CheckpointError(f"{path} holds a {type(content).__name__} without tensors, not a state dict.")


def _holds_tensors(content: Mapping, depth: int) -> bool:
    values = list(content.values())
    inside = (value for value in values if isinstance(value, Mapping))
    return any(isinstance(value, Tensor) for value in values) or (
        depth > 0 and any(_holds_tensors(value, depth - 1) for value in inside)
    )


def _read_matconvnet(path: Path) -> dict[str, Tensor]:
    """`<layer>.weight` (out, in, h, w) and `<layer>.bias` of every convolution of a MatConvNet SimpleNN file."""
    tensors = {}
    for layer in np.atleast_1d(loadmat(path, struct_as_record=False, squeeze_me=True)["layers"]):
        if hasattr(layer, "weights"):
            filters, bias = layer.weights[:2] if np.size(layer.weights) else (None, None)
        else:  # files before version 1.0-beta9
            filters, bias = getattr(layer, "filters", None), getattr(layer, "biases", None)
        if filters is not None and np.ndim(filters) == 4:
            tensors[f"{layer.name}.weight"] = torch.from_numpy(np.ascontiguousarray(filters.transpose(3, 2, 0, 1)))
            tensors[f"{layer.name}.bias"] = torch.from_numpy(np.ravel(bias).copy())
    return tensors


def load_weights(model: nn.Module, path: Path, ignore: tuple[str, ...] = ()) -> dict[str, Any]:
    """Load a checkpoint strictly into a model and return the metadata stored beside it ({} when there is none).

    Args:
        ignore: prefixes of keys that the file may hold although the model does not (an unused classifier).
    Raises:
        FileNotFoundError; CheckpointError naming the keys that are missing, left over or of another shape, or a damaged
            metadata file.
    """
    path = Path(path)
    tensors = {k: v for k, v in read_state_dict(path).items() if not k.startswith(ignore or ("\0",))}
    load_tensors(model, tensors, path)
    about = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not about.is_file():
        return {}
    try:
        return json.loads(about.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{about}, which says where the weights come from, is damaged ({error}); remove it."
        ) from error


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors that were read from `path` strictly into a model. Raises CheckpointError as `load_weights`."""
    own = model.state_dict()
    tensors = _without_wrappers(model, tensors, own)
    missing = [key for key in own if key not in tensors]
    extra = [key for key in tensors if key not in own]
    shapes = [
        f"{key}: file {tuple(tensors[key].shape)}, model {tuple(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if missing or extra or shapes:
        parts = [
            f"{len(keys)} {what} ({'; '.join(keys[:4])}{'; ...' if len(keys) > 4 else ''})"
            for what, keys in (
                ("keys are missing", missing),
                ("keys are not in the model", extra),
                ("shapes differ", shapes),
            )
            if keys
        ]
        raise CheckpointError(
            f"{path} does not fit this model ({len(tensors)} tensors in the file, {len(own)} in the "
            f"model): {', '.join(parts)}. Is it a checkpoint of another model?"
        )
    if whole := [
        key for key, value in tensors.items() if own[key].is_floating_point() and not value.is_floating_point()
    ]:
        raise CheckpointError(
            f"{path}: {len(whole)} of {len(tensors)} tensors hold {tensors[whole[0]].dtype}, where the model has floating-point numbers "
            f"({'; '.join(whole[:4])}{'; ...' if len(whole) > 4 else ''}): a quantised model is no checkpoint. Give the one before."
        )
    tensors = {key: value.to(own[key].dtype) for key, value in tensors.items()}  # 1e300 is infinite in fp32
    if odd := [key for key, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]:
        raise CheckpointError(
            f"{path}: {len(odd)} of {len(tensors)} tensors hold numbers that are not finite (NaN or infinite): "
            f"{'; '.join(odd[:4])}{'; ...' if len(odd) > 4 else ''}. Take the checkpoint of an earlier epoch."
        )
    model.load_state_dict(tensors)


def _without_wrappers(model: nn.Module, tensors: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without what DataParallel, compilation, Lightning and the like put before them, as `model` spells them."""
    tensors = {re.sub(r"(^|\.)_orig_mod\.", r"\1", key): value for key, value in tensors.items()}
    best = _own_names(model, tensors)
    prefix = ""
    while not own.keys() <= best.keys():
        heads = {key[len(prefix) :].split(".", 1)[0] for key in tensors if key.startswith(prefix)}
        head = next(iter(heads)) if len(heads) == 1 else next((name for name in WRAPPERS if name in heads), None)
        if head is None or not any(key.startswith(f"{prefix}{head}.") for key in tensors):
            break
        prefix += f"{head}."
        inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if own.keys() <= (found := _own_names(model, inside)).keys():
            best = found
            if beside := [key for key in tensors if not key.startswith(prefix)]:
                log.info(
                    "%d tensors beside '%s' are no part of the model: %s", len(beside), prefix, ", ".join(beside[:4])
                )
    return best


def _own_names(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys as `model` spells them: known layouts, an alias of the aggregator, and what a backbone with `own_names` knows."""
    tensors = translate(tensors)
    tensors = {re.sub(r"^aggregation\.", "aggregator.", key): value for key, value in tensors.items()}
    own_names = getattr(getattr(model, "backbone", model), "own_names", None)
    return own_names(tensors) if own_names else tensors


def save_weights(model: nn.Module, path: Path, about: dict[str, Any], half: bool = False) -> Path:
    """Write `path` (.safetensors) and a JSON with `about` beside it, both atomically.

    Args:
        half: store floating-point tensors as fp16.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"sum": _tensors_hash(dict(sorted(tensors.items())))})
    write_text(path.with_suffix(".json"), json.dumps(about, indent=1, default=str))
    use([path])
    return path


def load_toy_start(module: nn.Module, name: str, ignore: tuple[str, ...] = ()) -> None:
    """Load the committed starting point for a toy backbone: what ImageNet weights are to the full-size ones.

    Args:
        ignore: prefixes of keys that a cropped backbone does not have.
    Raises:
        FileNotFoundError: naming the command that makes the file.
    """
    path = toy_start_path(name)
    if not path.is_file():
        raise FileNotFoundError(f"No toy starting point {path}; make it with `vpr toy-start {name}`.")
    load_weights(module, path, ignore)


def load_trunk(backbone: nn.Module, name: str) -> None:
    """Load trunk weights that no library delivers, from where `vpr weights add` keeps them.

    Raises:
        FileNotFoundError: saying which file to add.
    """
    path, published = trained_path(name), find_published(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"No trunk weights {path}. `vpr weights get {name}` fetches {published.file} ({published.source}); a copy of yours "
            f"is taken by `vpr weights add {published.file}`."
        )
    load_weights(backbone, path)


def save_head(model: nn.Module, path: Path, about: dict[str, Any]) -> Path:
    """Write what a model learned on a frozen pre-trained backbone: its aggregator's tensors, fp16. See `load_bundled`."""
    return save_weights(model.aggregator, path, about, half=True)


def load_bundled(model: nn.Module, name: str) -> dict[str, Any]:
    """Give a model, built pre-trained, the head that is part of the package; returns what stands beside it."""
    return load_weights(model.aggregator, bundled_path(name))


def foreign_below(name: str) -> float:
    """Best similarity under which `vpr retrieve` calls a query foreign to the map, as `vpr bundle` measured it."""
    return json.loads(bundled_path(name).with_suffix(".json").read_text(encoding="utf-8"))["foreign"]["threshold"]


def bundled_path(name: str) -> Path:
    """The committed head of a model that works without training or a file from elsewhere; `vpr bundle` makes it."""
    return Path(__file__).resolve().parent / "bundled" / f"{name}.safetensors"


def toy_start_path(name: str) -> Path:
    """The committed file of a toy backbone's starting point; `vpr toy-start` makes it."""
    return TOY_START / f"{name}.safetensors"


def trained_path(model_name: str) -> Path:
    """Where `vpr train` and `vpr weights add` keep the weights that commands use when none are named."""
    return cache_root() / "weights" / f"{model_name}.safetensors"
