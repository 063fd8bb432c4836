"""A model as a file that runs without torch: ONNX or OpenVINO, in fp32, bf16 or int8. Needs the extra `ship`.

The graph takes uint8 RGB images (B, 3, height, width) of the model's input size and gives unit-norm descriptors (B, D);
normalisation is inside. `export.json` beside it says what it was made from and, once measured, how close it is.
"""

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.data.images import InputSpec
from vpr_lib.digests import digest_file
from vpr_lib.files import locked
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.models.quantise import Rung, package, quantise_onnx, quantise_openvino, rungs
from vpr_lib.models.zoo import ModelConfig
from vpr_lib.paths import atomic_path, cache_root, write_text

Packages = list[ModuleType]
Format = Literal["onnx", "openvino"]
ExportPrecision = Literal["fp32", "bf16", "int8"]
PRECISIONS: dict[str, tuple[str, ...]] = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8")}
FILES = {"onnx": "model.onnx", "openvino": "model.xml"}
OPSET = 17
MOST_LOST = 0.01  # of R@1, and of the cosine, that int8 may cost
LEAST_INT8 = 0.5  # of the arithmetic, below which int8 is not worth it
INT8_BACKBONES = ("resnet", "resnext", "wide_resnet", "tinyresnet", "vgg", "dinov2", "vit")


class ExportInfo(Strict):
    """What an exported model was made from; together with the file's hash it is the model's identity."""

    model: str
    system: str
    format: Format
    precision: ExportPrecision
    dim: int
    image_size: tuple[int, int]  # (height, width)
    interpolation: Literal["bilinear", "bicubic"]
    weights: str  # sha256 of the torch model's state
    sha256: str  # of the exported file (for OpenVINO of the .bin beside the .xml too)
    bytes: int
    calibration_images: int = 0
    kept_in_float: str = ""
    int8_share: float | None = None  # of the multiply-adds of convolutions and linear layers
    lost: float | None = None  # int8: what the judge of the export said
    made_with: dict[str, str] = {}  # package -> version


class UInt8Graph(nn.Module):
    """The model behind its own normalisation: uint8 (B, 3, H, W) -> descriptors."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, spec = model, model.input_spec
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(spec.std).view(1, 3, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images.float() - self.mean) * self.scale)


def default_precision(config: ModelConfig, format: Format) -> ExportPrecision:
    """What loses next to nothing and runs fast, by kind of backbone (measured: lab report §A, notebook 03).

    Plain convolutions and transformers keep their descriptors in int8; depthwise networks with squeeze-and-excitation or
    swish lose too much there and run in bf16, which ONNX Runtime has not on the CPU.
    """
    if config.backbone.startswith(INT8_BACKBONES):
        return "int8"
    return "bf16" if "bf16" in PRECISIONS[format] else "fp32"


def export_folder(model: str, format: str, precision: str) -> Path:
    """Where `vpr export` puts a model unless it is told otherwise, and where `vpr retrieve --runtime` looks."""
    return cache_root() / "exports" / model / f"{format}-{precision}"


def check_precision(format: str, precision: str) -> None:
    """Refuse what a format cannot do (ValueError)."""
    if format not in PRECISIONS:
        raise ValueError(f"Unknown format '{format}'. Known: {', '.join(PRECISIONS)}.")
    if precision not in PRECISIONS[format]:
        why = "; ONNX Runtime has no bf16 convolutions on the CPU, OpenVINO has" if precision == "bf16" else ""
        raise ValueError(f"{format} exports in {', '.join(PRECISIONS[format])}, not in '{precision}'{why}.")


def export(
    model: nn.Module,
    name: str,
    folder: Path,
    format: Format = "onnx",
    precision: ExportPrecision = "fp32",
    calibration: np.ndarray | None = None,
    judge: Callable[[nn.Module], float] | None = None,
) -> ExportInfo:
    """Write a model below `folder` with its `export.json`, replacing what was there.

    Args:
        name: of the model, for the record.
        calibration: uint8 images (N, 3, height, width) of the model's input size; int8 needs them.
        judge: what an int8 export loses on images that were not calibrated on, as a share of R@1 or of the cosine. More and more of the
            network is kept in float (`quantise.rungs`) until that is at most MOST_LOST; where nothing keeps it there, the
            best is taken.
    Raises:
        ValueError: for a precision the format has not, int8 without calibration images, or a missing package.
    """
    check_precision(format, precision)
    spec: InputSpec = model.input_spec
    if precision == "int8" and (
        calibration is None or calibration.shape[1:] != (3, *spec.size) or not len(calibration)
    ):
        got = "none" if calibration is None else f"an array of shape {calibration.shape}"
        raise ValueError(f"int8 is calibrated on images, uint8 (N, 3, {spec.size[0]}, {spec.size[1]}); got {got}.")
    tried: list[ExportInfo] = []
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "float.onnx"
        _write_onnx(model, graph)
        for rung in rungs(model, calibration, graph, format) if precision == "int8" else [Rung("", (), 0.0)]:
            place = Path(scratch) / str(len(tried))
            packages = _WRITERS[format](graph, place / FILES[format], precision, calibration, rung.kept)
            about = dict(model=name, format=format, precision=precision)
            if precision == "int8":
                about |= dict(kept_in_float=rung.says, int8_share=rung.int8_share, calibration_images=len(calibration))
            tried.append(_record(model, place, packages, about))
            if judge is not None and precision == "int8":
                tried[-1] = tried[-1].model_copy(update={"lost": judge(ShippedModel(place))})
            if (tried[-1].lost or 0.0) <= MOST_LOST:
                break
        best = min(range(len(tried)), key=lambda number: tried[number].lost or 0.0)
        with locked(Path(folder) / "export.json", "exporting to it"):  # the parts of one export stay together
            for part in _parts(Path(scratch) / str(best) / FILES[format]):
                with atomic_path(Path(folder) / part.name) as temporary:
                    shutil.copyfile(part, temporary)
            write_text(Path(folder) / "export.json", json.dumps(tried[best].model_dump(), indent=1))
    return tried[best]


def _record(model: nn.Module, place: Path, packages: Packages, about: dict[str, Any]) -> ExportInfo:
    """Write what the export in `place` was made from beside it."""
    spec, path = model.input_spec, place / FILES[about["format"]]
    info = ExportInfo(
        **about, system=model.config.system, dim=model.dim, image_size=spec.size, interpolation=spec.interpolation,
        weights=weights_hash(model), sha256=digest_file(*_parts(path)), bytes=sum(part.stat().st_size for part in _parts(path)),
        made_with={"torch": torch.__version__} | {package.__name__: package.__version__ for package in packages},
    )  # fmt: skip
    write_text(place / "export.json", json.dumps(info.model_dump(), indent=1))
    return info


def _write_onnx(model: nn.Module, path: Path) -> None:
    package("onnx")
    height, width = model.input_spec.size
    graph = UInt8Graph(model).eval().cpu().to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every shape check it turns into a constant
        torch.onnx.export(
            graph, (example,), str(path), dynamo=False, opset_version=OPSET, input_names=["images"],
            output_names=["descriptors"], dynamic_axes={"images": {0: "batch"}, "descriptors": {0: "batch"}},
        )  # fmt: skip


def _to_onnx(graph: Path, path: Path, precision: str, calibration: np.ndarray | None, kept: Sequence[str]) -> Packages:
    packages = [package("onnx"), package("onnxruntime")]
    with atomic_path(path) as temporary:
        if precision == "fp32":
            shutil.copyfile(graph, temporary)
        else:
            quantise_onnx(graph, temporary, calibration, kept)
    return packages


def _to_openvino(
    graph: Path, path: Path, precision: str, calibration: np.ndarray | None, kept: Sequence[str]
) -> Packages:
    openvino = package("openvino")
    packages, network = [openvino], openvino.Core().read_model(graph)
    if precision == "int8":
        packages.append(package("nncf"))
        network = quantise_openvino(network, calibration, kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(network, path, compress_to_fp16=precision == "bf16")  # fp16 has no 1e-12
    return packages


_WRITERS = {"onnx": _to_onnx, "openvino": _to_openvino}


def _parts(path: Path) -> list[Path]:
    return [part for part in (path, path.with_suffix(".bin")) if part.is_file()]


class ShippedModel(nn.Module):
    """An exported model with the interface of a VPRModel: `describe`, `evaluate` and `vpr retrieve` take it as it is.

    `config` is its ExportInfo with the file's hash: descriptors of another file are never reused for it.

    Args:
        path: folder that `export` wrote, or the model file in it.
        device: "cpu", or "cuda" where ONNX Runtime has it.
    Raises:
        FileNotFoundError; ValueError for a file that was changed since, a device or a package that is not there.
    """

    reads = ("image",)

    def __init__(self, path: Path, device: str = "cpu"):
        super().__init__()
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        about = folder / "export.json"
        if not about.is_file():
            raise FileNotFoundError(f"No export.json in {folder}: make an export with `vpr export MODEL`.")
        content = json.loads(about.read_text(encoding="utf-8"))
        self.config = ExportInfo.model_validate({k: v for k, v in content.items() if k in ExportInfo.model_fields})
        file = folder / FILES[self.config.format]
        if not file.is_file() or digest_file(*_parts(file)) != self.config.sha256:
            raise ValueError(f"{file} is not the file that {about} describes: export it again.")
        self.dim = self.config.dim
        self.input_spec = InputSpec(self.config.image_size, self.config.interpolation, (0.0,) * 3, (1 / 255,) * 3)
        self.runs_in, self._call = _RUNNERS[self.config.format](file, self.config.precision, device)

    @property
    def computed_in(self) -> str:
        """Format and precision, for records: an export's precision is in its file."""
        return f"{self.config.format} {self.runs_in}"

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) as `input_spec` gives them, values 0..255 -> descriptors (B, D)."""
        pixels = images.round().to(torch.uint8).cpu().contiguous().numpy()
        return torch.from_numpy(self._call(pixels))


Runner = tuple[str, Callable[[np.ndarray], np.ndarray]]  # the precision really computed in, and the call


def _run_onnx(file: Path, precision: str, device: str) -> Runner:
    runtime = package("onnxruntime")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device.split(":")[0]]
    if provider not in runtime.get_available_providers():
        raise ValueError(f"This onnxruntime has no {provider}: install onnxruntime-gpu, or use --device cpu.")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(file), options, providers=[provider])
    return precision, lambda pixels: session.run(None, {"images": pixels})[0]


def _run_openvino(file: Path, precision: str, device: str) -> Runner:
    openvino = package("openvino")
    if not device.startswith("cpu"):
        raise ValueError(f"OpenVINO runs on the CPU here, not on '{device}': use --device cpu, or --format onnx.")
    core = openvino.Core()
    hint = "bf16" if precision == "bf16" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint,
               "INFERENCE_NUM_THREADS": torch.get_num_threads()}  # fmt: skip
    compiled = core.compile_model(core.read_model(file), "CPU", options)
    ran = precision if precision == "int8" else {"f32": "fp32", "bf16": "bf16"}[hint]
    return ran, lambda pixels: compiled([pixels])[0].copy()


_RUNNERS: dict[str, Callable[[Path, str, str], Runner]] = {"onnx": _run_onnx, "openvino": _run_openvino}


def missing_packages(format: str, precision: str) -> list[str]:
    """What is not installed of the packages an export of that kind needs."""
    needed = ["onnx", *(["onnxruntime"] if format == "onnx" else ["openvino"])]
    needed += ["nncf"] if (format, precision) == ("openvino", "int8") else []
    return [name for name in needed if find_spec(name) is None]


def find_export(runtime: str, model: str) -> Path:
    """The export that `--runtime` means: a path, a format ("openvino"), or a format and precision ("openvino-int8").

    Raises:
        FileNotFoundError: naming the command that makes it. ValueError: for an unknown runtime, or two that fit.
    """
    if os.sep in runtime or Path(runtime).exists():
        return Path(runtime)
    format, _, precision = runtime.partition("-")
    if precision:
        check_precision(format, precision)
        found = [export_folder(model, format, precision)]
    elif format in PRECISIONS:
        found = [export_folder(model, format, p) for p in PRECISIONS[format]]
    else:
        raise ValueError(
            f"Unknown runtime '{runtime}'. Known: torch, {', '.join(f'{f}-{p}' for f in PRECISIONS for p in PRECISIONS[f])}, "
            "or the path of an export."
        )
    there = [folder for folder in found if (folder / "export.json").is_file()]
    if not there:
        wanted = f" --precision {precision}" if precision else ""
        raise FileNotFoundError(
            f"No {runtime} export of '{model}'. Make it with `vpr export {model} --format {format}{wanted} --images DIR`."
        )
    if len(there) > 1:
        raise ValueError(f"Several exports fit '{runtime}': say which, {' or '.join(folder.name for folder in there)}.")
    return there[0]


def read_export(folder: Path) -> dict[str, Any]:
    """Everything `export.json` says, with the parity report once it was measured."""
    return json.loads((Path(folder) / "export.json").read_text(encoding="utf-8"))
