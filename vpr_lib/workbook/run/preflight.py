"""Before a long run: what of a profile is here, what will be left out and why, whether disk and GPU suffice, how long it takes."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from vpr_lib.config import Profile, load_profile
from vpr_lib.data.catalogue import default_root, find, is_here, status
from vpr_lib.data.get import disk_need_gb
from vpr_lib.models.published import load_published
from vpr_lib.models.registration import kept_at, may_start
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.paths import data_root
from vpr_lib.retrieval.approximate import gpus
from vpr_lib.training.recipes import load_recipe
from vpr_lib.workbook.run.needs import COUNTED, Needs, absent, needs_of, values_of, words_of
from vpr_lib.workbook.run.plan import load_workbook

YARDSTICK = "mixvpr_resnet50_4096"  # every network is taken to cost as much as this one
BACKWARD = 3  # a training step costs about three forward passes
IMAGES_PER_GB = 22_600  # of GSV-Cities, for a set whose images nobody counted
WAYS = {"fetch": "fetched", "account": "fetched with Kaggle's key", "by hand": "says what to do by hand"}
SPARE = 3  # a notebook may take so many times its estimate before it is ended


@dataclass(frozen=True)
class Preflight:
    """What a run of a profile would find on this machine."""

    profile: Profile
    needs: Needs
    missing: dict[str, str]  # data set, weights or trunk -> the command that gets it
    left_out: dict[str, str]  # notebook -> why it would show nothing
    to_fetch_gb: float  # of the missing data sets whose size is known
    to_write_gb: float  # descriptors of the data sets at hand
    free_gb: float
    gpu_gb: float | None  # memory of the GPU that would be used
    images_per_s: float | None  # of the yardstick, measured here; None when it was not measured
    hours: dict[str, float]  # notebook -> estimate from that throughput, for what is here

    def timeout_s(self, notebook: str) -> float:
        """How long a cell may take: what the profile says, or longer where this machine needs longer."""
        stated = self.profile.notebooks[notebook].timeout_s
        return max(stated, 3600 * SPARE * self.hours.get(notebook, 0.0))

    @property
    def limits(self) -> dict[str, float]:
        """`timeout_s` of every notebook that would run."""
        return {name: self.timeout_s(name) for name in self.profile.notebooks if name not in self.left_out}


def look_ahead(profile: str | Path | Profile, measure: bool = True) -> Preflight:
    """Look at data, weights, disk, GPU; with `measure` also at the speed of one network (some seconds).

    Raises:
        ValueError: for an unknown profile.
    """
    profile = profile if isinstance(profile, Profile) else load_profile(profile)
    needs, entries = needs_of(profile), {entry.name: entry for entry in load_workbook().notebooks}
    values = {name: values_of(entries[name], settings) for name, settings in profile.notebooks.items()}
    left_out = {name: why for name in profile.notebooks if (why := absent(entries[name], values[name]))}
    images = {name: _images(own) for name, own in values.items() if name not in left_out}
    seen = any(described + trained for described, trained, _ in images.values())
    rate = images_per_second(profile) if measure and seen else None
    hours = (
        {name: (described + trained) / rate / 3600 for name, (described, trained, _) in images.items()} if rate else {}
    )
    data_root().mkdir(parents=True, exist_ok=True)
    return Preflight(
        profile=profile, needs=needs, missing=_missing(needs), left_out=left_out,
        to_fetch_gb=_to_fetch_gb([name for name in needs.data if not is_here(name)]),
        to_write_gb=sum(written for _, _, written in images.values()) / 1e9,
        free_gb=shutil.disk_usage(data_root()).free / 1e9, gpu_gb=_gpu_gb(profile), images_per_s=rate, hours=hours,
    )  # fmt: skip


def _to_fetch_gb(names: list[str]) -> float:
    """Sets that share a folder, as the splits of Pittsburgh do, are one download: the largest counts."""
    folders: dict[Path | None, float] = {}
    for name in names:
        folder = default_root(name)
        folders[folder] = max(folders.get(folder, 0.0), disk_need_gb(name) or 0.0)
    return sum(folders.values())


def _missing(needs: Needs) -> dict[str, str]:
    missing = {}
    for name in needs.data:
        if (found := status(name))["here"] == "no":
            size = f", {need:.1f} GB" if (need := disk_need_gb(name)) else ""
            missing[name] = f"vpr data get {name} ({WAYS[found['get']]}{size})"
    for name in needs.weights:
        if not kept_at(name).is_file():
            missing[name] = _how_to_get_weights(name)
    return missing | {name: f"vpr weights get {name}" for name in needs.trunks if not may_start(name)}


def _how_to_get_weights(name: str) -> str:
    if (known := load_published().get(name)) is None:
        return f"nobody publishes them: train the model, then vpr weights add FILE --as {name}"
    return f"vpr weights get {name} ({'tells where: not for programs' if known.by_hand else known.size_in_words})"


def _images(values: dict) -> tuple[float, float, float]:
    """Images a notebook describes, images its trainings see (in forward passes), bytes of descriptors it writes."""
    words = [word for key, value in values.items() for word in words_of(value) if key not in COUNTED]
    models = [ZOO[word] for word in dict.fromkeys(words) if word in ZOO]
    sizes = [_size(word, "database") + _size(word, "queries") for word in dict.fromkeys(words) if _shown(word)]
    described = sum(sizes) * max(1, len(models))
    released = values.get("weights") == "registered"
    trained = 0.0 if released else sum(runs * _passes(recipe) for recipe, runs in trainings(values))
    width = sum(
        int(name.rsplit("_", 1)[-1])
        for name in dict.fromkeys(words)
        if name in ZOO and name.rsplit("_", 1)[-1].isdecimal()
    )
    return described, trained, 4.0 * width * sum(sizes)


def _shown(word: str) -> bool:
    try:
        return not find(word).generated and find(word).kind == "benchmark" and is_here(word)
    except ValueError:
        return False


def _size(name: str, side: str) -> int:
    return find(name).expected.get(side, (0, ""))[0]


def trainings(values: dict) -> list[tuple[str, int]]:
    """The recipes that a notebook of these parameters trains to, each with the number of its runs."""
    count = lambda *names: sum(len(values.get(name, ())) for name in names)
    seeds, found = max(1, count("seeds")), [(recipe, 1) for recipe in values.get("cnn_recipes", ())]
    if "family" in values:
        return [(recipe, seeds) for recipe in values["family"].values()]
    if "student_recipe" in values:
        own = count("methods") * seeds + count("manifolds") * values["manifold_seeds"]
        further = [
            ((teacher, 1), (student, len(methods) * seeds))
            for student, (teacher, _, *methods) in values["further"].items()
        ]
        return [
            (values["teacher_recipe"], 1),
            (values["student_recipe"], own),
            *(run for both in further for run in both),
        ]
    if "modes" in values:
        return [(values["teacher_recipe"], 1), (values["recipe"], 1 + (1 + count("modes")) * seeds + count("once"))]
    if "ablations" in values:
        arms = (1 + count("ablations")) * count("ablation_seeds") if values["ablations"] else 0
        return [(values["recipe"], 2 + arms)]
    if "rivals" in values:
        return [(values["recipe"], (1 + count("rivals", "smaller", "backbones", "depths", "shares")) * seeds)]
    return found + ([(values["recipe"], 1 + count("backbones"))] if "recipe" in values else [])


def _passes(recipe: str) -> float:
    """Forward passes of one run: epochs, images of each, and what a step costs beside its forward pass."""
    own = load_recipe(recipe)
    try:
        entry = find(own.train_set)
    except ValueError:  # places that the toy city makes
        return 0.0
    places = _size(own.train_set, "places") * (own.places.images_per_place if hasattr(own, "places") else 1)
    images = places or _size(own.train_set, "images") or _size(own.train_set, "queries")
    return BACKWARD * own.fit.epochs * float(images or IMAGES_PER_GB * (entry.size_gb or (0.0, ""))[0])


def _gpu_gb(profile: Profile) -> float | None:
    import torch

    if profile.device == "cpu" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 1e9


def images_per_second(profile: Profile, batch: int = 16, seconds: float = 2.0) -> float:
    """Forward passes of the yardstick on the device the profile would use, random weights, fp32, images per second."""
    import torch

    device = "cuda" if profile.device != "cpu" and torch.cuda.is_available() else "cpu"
    model = build_model(YARDSTICK).eval().to(device)
    images = torch.zeros(batch if device == "cuda" else 2, 3, *model.config.image_size, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    with torch.inference_mode():
        model(images)  # warms up
        wait()
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            model(images)
            wait()
            done += len(images)
    return done / (time.perf_counter() - start)


def in_words(found: Preflight) -> list[str]:
    """The lines of `vpr check`, and the first ones of `vpr run`."""
    profile, needs = found.profile, found.needs
    lines = [f"profile {profile.name}: {profile.description}; written for {profile.hardware}"]
    for title, names in (("data", needs.data), ("weights", needs.weights), ("pre-training", needs.trunks)):
        if names:
            here = [name for name in names if name not in found.missing]
            lines.append(f"{title}: {len(here)} of {len(names)} here" + (f" ({', '.join(here)})" if here else ""))
            lines += [f"  ○ {name}: {found.missing[name]}" for name in names if name in found.missing]
    if found.missing:
        lines.append(
            f"what can be fetched, at once: vpr weights get --profile {profile.name}; vpr data get --profile {profile.name}"
        )
    memory = f"GPU with {found.gpu_gb:.0f} GB" if found.gpu_gb else "no GPU: computing on the CPU"
    lines.append(f"disk: {found.free_gb:.0f} GB free, about {found.to_write_gb:.1f} GB of descriptors to write"
                 + (f", {found.to_fetch_gb:.0f} GB to fetch for what is missing" if found.to_fetch_gb else ""))  # fmt: skip
    if found.to_write_gb > found.free_gb:
        lines.append("  ✗ the disk is too small for the descriptors: set VPR_CACHE to another one")
    if profile.device == "cuda" and not found.gpu_gb:
        lines.append("  ✗ the profile asks for a GPU and torch sees none")
    lines.append(memory)
    if found.gpu_gb and not gpus():
        lines.append("faiss-cpu: its indexes stay on the CPU; `make gpu` puts faiss-gpu in its place")
    if found.images_per_s:
        lines.append(f"about {sum(found.hours.values()):.1f} h for what is here: {found.images_per_s:.0f} images/s measured "
                     f"({YARDSTICK}, forward), every network taken to cost as much")  # fmt: skip
    else:
        lines.append(f"about {sum(s.minutes for s in profile.notebooks.values()) / 60:.1f} h, as the profile says")
    lines += [f"left out: {name}: {why}" for name, why in found.left_out.items()]
    return lines
