"""Which runtime describes on this CPU: torch, or the same network compiled by OpenVINO where that is quicker and as exact.

Found out on the images at hand, once per machine, model and precision, and remembered in the cache; compiling has to pay
for itself on the images that are left.
"""

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vpr_lib.config import Strict
from vpr_lib.machine import cpu_flags, cpu_has_bf16
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.models.export import UInt8Graph, package
from vpr_lib.paths import cache_root, write_text

log = logging.getLogger(__name__)
LEAST = {"fp32": 0.99999, "bf16": 0.9995}  # cosine to torch in fp32, of every image of a batch
WORTH_S = 20.0  # of describing left, from which on an undecided machine tries the other runtime
Call = Callable[[Tensor], Tensor]
_compiled: dict[str, Call] = {}  # the last one that was chosen, by `_name` of its weights


class Decision(Strict):
    """What was found on this machine for a model and precision."""

    runtime: Literal["torch", "openvino"]
    why: str
    torch_s: float  # for an image
    openvino_s: float
    compile_s: float
    cosine: float  # the smallest of a batch


class Describer:
    """A call from uint8 images (B, 3, H, W) to descriptors (B, D) that changes to OpenVINO where that pays.

    Args:
        plain: the same in torch: (images, precision) -> descriptors.
        count: images to come.
    """

    def __init__(
        self, model: nn.Module, plain: Callable[[Tensor, str], Tensor], device: str, precision: str, count: int
    ):
        self.model, self.plain, self.precision, self.left, self.batches = model, plain, precision, count, 0
        fits = torch.device(device).type == "cpu" and precision in LEAST
        fits &= hasattr(getattr(model, "config", None), "model_dump_json")
        fits &= find_spec("openvino") is not None and not hasattr(model, "runs_in")  # an export is a runtime of its own
        self.undecided = fits and (precision == "fp32" or cpu_has_bf16())
        self.call = None
        if self.undecided and _compiled:
            self.call = _compiled.get(_name(model, precision, weights_hash(model)))

    def __call__(self, images: Tensor) -> Tensor:
        self.left -= len(images)
        if self.call is not None:
            return self.call(images)
        start = time.perf_counter()
        descriptors = self.plain(images, self.precision)
        seconds = (time.perf_counter() - start) / len(images)
        self.batches += 1
        if self.undecided and self.batches == 2:  # the first batch warms up
            self.undecided = False
            self._decide(images, seconds)
        return descriptors

    def _decide(self, images: Tensor, torch_s: float) -> None:
        file = cache_root() / "runtimes" / f"{_name(self.model, self.precision)}.json"
        known = _read(file)
        if known is None:
            worth = self.left * torch_s > WORTH_S
        else:
            worth = known.runtime == "openvino" and self.left * (torch_s - known.openvino_s) > known.compile_s
        if not worth:
            return
        decision, call = self._try(images, torch_s)
        write_text(file, decision.model_dump_json(indent=1))
        log.info("describing with %s from here on: %s", decision.runtime, decision.why)
        if decision.runtime == "openvino":
            self.call = call
            _compiled.clear()
            _compiled[_name(self.model, self.precision, weights_hash(self.model))] = call

    def _try(self, images: Tensor, torch_s: float) -> tuple[Decision, Call | None]:
        """Compile, and compare with torch in fp32 on one batch."""
        start = time.perf_counter()
        try:
            call = compile_openvino(self.model, self.precision)
            call(images)
        except Exception as error:  # what a converter cannot do has no common name
            why = f"OpenVINO cannot run it: {type(error).__name__}: {error}"[:300]
            return Decision(runtime="torch", why=why, torch_s=torch_s, openvino_s=0, compile_s=0, cosine=0), None
        compile_s, start = time.perf_counter() - start, time.perf_counter()
        descriptors = call(images)
        openvino_s = (time.perf_counter() - start) / len(images)
        cosine = float(torch.cosine_similarity(descriptors, self.plain(images, "fp32")).min())
        exact, quick = cosine >= LEAST[self.precision], openvino_s < torch_s
        why = f"{1 / openvino_s:.1f} images/s beside {1 / torch_s:.1f} in torch, cosine {cosine:.6f}"
        return Decision(
            runtime="openvino" if exact and quick else "torch", why=why, torch_s=torch_s, openvino_s=openvino_s,
            compile_s=compile_s, cosine=cosine,
        ), call  # fmt: skip


def _read(file: Path) -> Decision | None:
    """What was decided before; None where nothing was, or the file is damaged."""
    try:
        return Decision.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def compile_openvino(model: nn.Module, precision: str) -> Call:
    """A model compiled for this CPU: uint8 images (B, 3, H, W) -> float32 descriptors (B, D).

    By the frontend itself: `openvino.convert_model` reports its use over the network.
    """
    openvino = package("openvino")
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, 3, *model.input_spec.size, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of itself, and of every shape check it turns into a constant
        traced = TorchScriptPythonDecoder(UInt8Graph(model).eval(), example_input=(example,))
        reader = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
        network = reader.convert(reader.load(traced))
    network.inputs[0].node.set_element_type(openvino.Type.u8)
    network.reshape({network.inputs[0]: openvino.PartialShape([-1, *example.shape[1:]])})
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
               "INFERENCE_NUM_THREADS": torch.get_num_threads()}  # fmt: skip
    compiled = openvino.Core().compile_model(network, "CPU", options)
    return lambda images: torch.from_numpy(np.array(compiled([images.contiguous().numpy()])[0], np.float32))


def _name(model: nn.Module, precision: str, weights: str = "") -> str:
    """20 digits over the machine, the model and the precision; with `weights`, of that network alone."""
    parts = [sorted(cpu_flags()), torch.get_num_threads(), torch.__version__, version("openvino"),
             model.config.model_dump_json(), f"{model.input_spec}", precision, weights]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]
