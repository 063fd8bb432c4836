"""Weights on disk: official checkpoints read strictly, our own written as safetensors with a JSON beside them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.io import loadmat
from torch import Tensor, nn

from vpr_lib.models.layouts import translate
from vpr_lib.models.published import find_published
from vpr_lib.paths import atomic_path, cache_root, write_text

OFFICIAL_PREFIXES = {"base_model.base.": "backbone.model.features.", "net_vlad.": "aggregator."}  # OpenIBL, ClusVPR
TOY_START = Path(__file__).resolve().parent.parent / "toycity" / "start"


class CheckpointError(ValueError):
    """Weights that do not fit, with what was expected and what came."""


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint file: a raw state dict, a Lightning or a training container, safetensors, or MatConvNet's .mat.

    PyTorch files are read with `weights_only=True`: no code in the file runs. A `module.` prefix (DataParallel) is
    removed.

    Raises:
        FileNotFoundError, CheckpointError: when the file is absent or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".mat":
            return _read_matconvnet(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is cut short: {error}") from error
    except Exception as error:  # torch raises pickle, zip, runtime and EOF errors for damaged or foreign files
        raise CheckpointError(f"{path} cannot be read as weights only: {error}") from error
    for container in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
            break
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds a {type(content).__name__} without tensors, not a state dict.")
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    for official, own in OFFICIAL_PREFIXES.items():
        tensors = {
            own + key.removeprefix(official) if key.startswith(official) else key: tensors[key] for key in tensors
        }
    return tensors


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
        FileNotFoundError; CheckpointError naming the keys that are missing, left over or of another shape.
    """
    path = Path(path)
    tensors = {k: v for k, v in read_state_dict(path).items() if not k.startswith(ignore or ("\0",))}
    load_tensors(model, tensors, path)
    about = path.with_suffix(".json")
    return json.loads(about.read_text()) if path.suffix == ".safetensors" and about.is_file() else {}


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors that were read from `path` strictly into a model. Raises CheckpointError as `load_weights`."""
    tensors = _own_names(model, tensors)
    own = model.state_dict()
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
    model.load_state_dict({key: value.to(own[key].dtype) for key, value in tensors.items()})


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
        save_file(tensors, temporary)
    write_text(path.with_suffix(".json"), json.dumps(about, indent=1, default=str))
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


def toy_start_path(name: str) -> Path:
    """The committed file of a toy backbone's starting point; `vpr toy-start` makes it."""
    return TOY_START / f"{name}.safetensors"


def trained_path(model_name: str) -> Path:
    """Where `vpr train` and `vpr weights add` keep the weights that commands use when none are named."""
    return cache_root() / "weights" / f"{model_name}.safetensors"
