"""Write subsets of the toy city to disk, once, in the formats of the public data sets."""

import hashlib
import json
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL
import psutil
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky import get_reusable_executor
from PIL import Image

from vpr_lib.digests import digest_code
from vpr_lib.files import check_seal, locked, publish_folder, seal
from vpr_lib.paths import content_memory, data_root, write_text
from vpr_lib.progress import track
from vpr_lib.seeds import derive_seed
from vpr_lib.toycity.city import Site, ToyCitySpec, build_street, sites
from vpr_lib.toycity.conditions import Condition, Visit
from vpr_lib.toycity.formats import write_tables
from vpr_lib.toycity.lidar import submap
from vpr_lib.toycity.looks import TABLE
from vpr_lib.toycity.plan import Frame, check_subset, plan
from vpr_lib.toycity.render import render
from vpr_lib.toycity.view import Pose

DESCRIPTION = "toycity.json"
_IN_PROCESS = 64  # fewer frames than this per worker do not pay for its start
_CHUNK = 16  # frames per request to a worker; neighbours share a street


@lru_cache(maxsize=1)
def code_version() -> str:
    """16 hex digits over the generator's own source and table: other code, other pictures, other folder."""
    return digest_code([*sorted(Path(__file__).parent.glob("*.py")), TABLE])


def spec_hash(spec: ToyCitySpec) -> str:
    """16 hex digits over the spec and the code that renders it."""
    text = json.dumps(asdict(spec), sort_keys=True) + code_version()
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ensure(spec: ToyCitySpec, subset: str, root: Path | None = None, workers: int | None = None) -> Path:
    """The folder of a subset, generated on first use.

    It is made in a temporary folder beside its place and renamed when complete, so a killed run leaves nothing that a
    later one would believe; of two processes that ask at once one waits for the other. The pictures do not depend on `workers`.

    Args:
        subset: places, start, benchmark, traverse or runs.
        root: default `data_root()/toycity`.
        workers: processes to render in; default all cores that this process may use.
    Raises:
        ValueError: for an unknown subset.
        FileExistsError: if a folder of that name exists without its description: something else wrote it. ValueError: if
            files in it came, went or changed since.
    """
    check_subset(subset)
    folder = Path(root or data_root() / "toycity") / spec_hash(spec) / subset
    if not (folder / DESCRIPTION).is_file():
        with locked(folder, "generating it"):
            if not (folder / DESCRIPTION).is_file():
                _generate(spec, subset, folder, workers)
    check_seal(folder, content_memory())
    return folder


def _generate(spec: ToyCitySpec, subset: str, folder: Path, workers: int | None) -> None:
    if folder.exists():
        raise FileExistsError(f"{folder} exists but holds no {DESCRIPTION}; move it away and run again.")
    _remove_abandoned(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{subset}.{socket.gethostname()}.{os.getpid()}.", dir=folder.parent))
    try:
        _fill(spec, subset, temporary, workers)
        seal(temporary)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(spec: ToyCitySpec, subset: str, folder: Path, workers: int | None) -> None:
    frames = plan(spec, subset)
    for parent in sorted({str(Path(frame.path).parent) for frame in frames}):
        (folder / parent).mkdir(parents=True, exist_ok=True)
    workers = min(workers or cpu_count(), math.ceil(len(frames) / _IN_PROCESS))
    description = f"toy city, {subset}"
    write = partial(write_frame, spec, folder)
    for _ in track(in_workers(write, frames, workers) if workers > 1 else map(write, frames), description, len(frames)):
        pass
    write_tables(spec, subset, frames, folder)
    _frame_table(frames).to_csv(folder / "frames.csv", index=False)
    write_text(folder / DESCRIPTION, json.dumps(_describe(spec, subset, frames), indent=1) + "\n")


def _publish(temporary: Path, folder: Path) -> None:
    """Move a finished folder to its place, unless another process was first."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)  # mkdtemp makes private folders; others of the group read ours
    try:
        publish_folder(temporary, folder)
    except OSError:
        if not (folder / DESCRIPTION).is_file():
            raise


def _remove_abandoned(folder: Path) -> None:
    """Delete what killed runs of this machine left beside `folder`."""
    for path in folder.parent.glob(f".{folder.name}.{socket.gethostname()}.*"):
        if not psutil.pid_exists(int(path.name.split(".")[-2])):
            shutil.rmtree(path, ignore_errors=True)


def in_workers(task: Callable[[Any], None], items: Sequence[Any], workers: int) -> Iterator[None]:
    """Do `task` on every item in so many processes; yields once per item. The processes end with the work.

    They are joblib's loky: its workers do not import the caller's main module, so notebooks and scripts without a guard
    work, and never are forks of a process that holds threads.

    Raises:
        RuntimeError: if one fails, with its reason; the traceback is its cause.
    """
    chunks = [items[first : first + _CHUNK] for first in range(0, len(items), _CHUNK)]
    parallel = Parallel(workers, return_as="generator_unordered", batch_size=1)
    try:
        for done in parallel(delayed(_each)(task, chunk) for chunk in chunks):
            yield from [None] * done
    except Exception as error:
        raise RuntimeError(f"A worker of the toy city failed: {type(error).__name__}: {error}") from error
    finally:
        get_reusable_executor().shutdown(kill_workers=True)


def _each(task: Callable[[Any], None], items: Sequence[Any]) -> int:
    for item in items:
        task(item)
    return len(items)


def write_frame(spec: ToyCitySpec, folder: Path, frame: Frame) -> None:
    """Render one frame into its file. All its randomness follows from the spec's seed and the frame's name."""
    path, visit_seed = folder / frame.path, derive_seed(spec.seed, "visit", frame.visit)
    if path.suffix == ".bin":
        # both folders of clouds hold the same points where they share a time stamp
        cloud_seed = derive_seed(spec.seed, "cloud", frame.visit, path.stem)
        path.write_bytes(_cloud(frame.site, frame.pose, frame.condition, visit_seed, cloud_seed))
        return
    visit, seed = Visit.sample(frame.condition, visit_seed), derive_seed(spec.seed, "frame", frame.path)
    size = spec.run_image_size if path.suffix == ".png" else spec.image_size
    street = build_street(frame.site)
    pixels = render(street, visit, frame.pose, size, seed, frame.occluded, spec.supersampling)
    Image.fromarray(pixels).save(path, quality=spec.jpeg_quality)


@lru_cache(maxsize=1)  # the plan names the same cloud twice in a row
def _cloud(site: Site, pose: Pose, condition: Condition, visit_seed: int, seed: int) -> bytes:
    """The content of a .bin file: 4096 x 3 float64, little-endian."""
    return submap(build_street(site), Visit.sample(condition, visit_seed), pose, seed).astype("<f8").tobytes()


def _frame_table(frames: Sequence[Frame]) -> pd.DataFrame:
    """What the file names do not say: street, pose in UTM metres, condition."""
    rows = []
    for frame in frames:
        east, north = frame.site.to_utm(frame.pose.x, frame.pose.y)
        rows.append(dict(path=frame.path, street=frame.site.name, east=east, north=north,
                         heading_deg=frame.site.heading_deg(frame.pose.yaw_deg), **asdict(frame.condition),
                         occluded=frame.occluded))  # fmt: skip
    return pd.DataFrame(rows)


def _describe(spec: ToyCitySpec, subset: str, frames: Sequence[Frame]) -> dict:
    suffixes = [Path(frame.path).suffix for frame in frames]
    description = dict(
        subset=subset, spec=asdict(spec), code_version=code_version(), images=sum(s != ".bin" for s in suffixes),
        clouds=suffixes.count(".bin"), streets=sorted({frame.site.name for frame in frames}),
        versions=dict(numpy=np.__version__, pillow=PIL.__version__),
    )  # fmt: skip
    if subset == "runs":  # squares around (northing, easting), as the test regions of Oxford RobotCar
        centres = [site.to_utm(site.length_m / 2, 0)[::-1] for site in sites(spec, "runs_test")]
        description["test_regions"] = dict(centres=centres, half_width_m=spec.run_street_m / 2 + 40)
    return description
