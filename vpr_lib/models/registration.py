"""Weights of others, checked strictly and kept for all commands; their published files, fetched when asked for."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from vpr_lib.data.download import DownloadError, check_disk, fetch, fetch_from_hub, fetch_member, remember
from vpr_lib.digests import digest_file
from vpr_lib.models.backbones import build_backbone
from vpr_lib.models.checkpoints import CheckpointError, load_weights, save_weights, trained_path
from vpr_lib.models.minkloc import load_official
from vpr_lib.models.pretraining import find_leave, is_fetched, is_here
from vpr_lib.models.published import Published, find_published, load_published
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.paths import atomic_path, cache_root

UNKNOWN = Published(file="", source="", licence="not stated", by_hand="")


@dataclass(frozen=True)
class Registered:
    """Weights that fit and are kept: the file, and what is recorded of it."""

    path: Path
    about: dict[str, str]


def kept_at(name: str) -> Path:
    """Where the weights of that name are kept: DINOv2's pre-training as published, everything else as safetensors."""
    known = load_published().get(name)
    if known is not None and known.kind == "dinov2":
        return cache_root() / "weights" / known.file
    return trained_path(name)


def may_start(trunk: str) -> bool:
    """Whether a network may start from the pre-training of this backbone: it is here, or leave was given to fetch it."""
    if not is_fetched(trunk) or find_leave():
        return True
    return kept_at(trunk).is_file() if trunk in load_published() else is_here(trunk)


def register_weights(file: Path, name: str, source: str = "", licence: str = "") -> Registered:
    """Load a checkpoint strictly into the network of that name and keep it, with name, sha256, source and licence.

    Args:
        name: a model of the zoo, or a published trunk.
    Raises:
        FileNotFoundError, ValueError (unknown name), CheckpointError.
    """
    known = load_published().get(name, UNKNOWN)
    if not Path(file).is_file():
        raise FileNotFoundError(f"No checkpoint {file}.")
    network, path = _network(name, known), kept_at(name)
    if "cloud" in getattr(network, "reads", ()) and Path(file).suffix != ".safetensors":
        load_official(network, file)
    else:
        load_weights(network, file)
    about = {"model": name, "file": Path(file).name, "sha256": digest_file(file), "source": source or known.source,
             "licence": licence or known.licence, "added": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
    if known.kind == "dinov2":
        with atomic_path(path) as temporary:
            shutil.copyfile(file, temporary)
    else:
        save_weights(network, path, about)
    return Registered(path, about)


def _network(name: str, known: Published) -> nn.Module:
    if known.kind in ("trunk", "dinov2"):
        return build_backbone(known.backbone or name)
    return build_model(name)


def fetch_weights(name: str, quiet: bool = False, **options: object) -> Registered | None:
    """Fetch a published file, load it strictly, keep it; None when it is kept already.

    A file that does not fit is deleted; one that does has its sum recorded, and the next copy must have the same.

    Args:
        options: as `data.download.fetch`.
    Raises:
        ValueError: for an unknown name. DownloadError: also for what no program can fetch, with what to do by hand.
        CheckpointError: when the address gives another file than the model's.
    """
    if name in ZOO and name not in load_published():
        raise DownloadError(
            f"Nobody publishes weights of {name}: train it, or keep a file of yours: vpr weights add FILE --as {name}"
        )
    known = find_published(name)
    if kept_at(name).is_file():
        return None
    if known.by_hand is not None:
        raise DownloadError(
            f"{known.file} is not for programs: {known.by_hand}. Then: vpr weights add FILE --as {name}"
        )
    folder = cache_root() / "downloads" / name
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, 2 * (known.bytes or int(1e6 * (known.about_mb or 0))), known.file)  # the file, and what is kept
    file = _fetch(known, folder / known.file, quiet, options)
    try:
        registered = register_weights(file, name)
    except CheckpointError as error:
        file.unlink()
        raise CheckpointError(
            f"{known.address} gave another file than {known.file}; it was deleted. {error}"
        ) from error
    remember(known.address, file)
    shutil.rmtree(folder)
    return registered


def _fetch(known: Published, file: Path, quiet: bool, options: dict) -> Path:
    if known.hub:
        return fetch_from_hub(*known.hub, file, known.sha256)
    if known.drive_folder:
        return fetch_member(known.drive_folder, known.member, file, quiet=quiet, **options)
    return fetch(known.address, file, known.bytes, known.sha256, quiet=quiet, **options)
