"""A network in whole numbers: calibrated on images, with what costs too much left in float. Needs the extra `ship`."""

import logging
import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

NORMS_AND_POOLING = ("ReduceL2", "ReduceMean", "Divide", "Power", "Clamp", "Maximum", "MVN", "NormalizeL2")
# What stays in float beside norms and pooling, as patterns over the module names in the graph, tried in this order. It is the
# convolutions that lose: of the toy MixVPR's descriptors the mean cosine to fp32 was 0.975 with all in int8, 0.975 with
# the aggregator in float, 0.9997 with the backbone in float.
KEPT_IN_FLOAT: dict[str, tuple[str, ...]] = {"norms and pooling": (), "the backbone": (r".*/backbone/.*",)}


def package(name: str) -> ModuleType:
    """Raises ValueError, saying what to install."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"Exporting and running exports needs '{name}': pip install 'vpr-workbook[ship]'.") from error


def quantise_onnx(graph: Path, path: Path, calibration: np.ndarray, kept: Sequence[str]) -> None:
    """Static quantisation with scales per channel: quantised and restored around convolutions and matrix products (QDQ).

    Sums, norms and the final normalisation stay in float. Weights keep 7 bits: without VNNI, sums of two 8-bit products
    overflow their 16 bits on x86 processors and the descriptors are ruined.

    Args:
        calibration: uint8 images (N, 3, height, width).
        kept: patterns of node names that stay in float.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.images = iter(calibration)

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {"images": image[None]}

    prepared = graph.with_name("prepared.onnx")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the quantiser logs through the root logger
    try:
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        nodes = [node.name for node in onnx.load(prepared).graph.node]
        quantization.quantize_static(
            str(prepared), str(path), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8, reduce_range=True,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            nodes_to_exclude=[node for node in nodes if any(re.fullmatch(pattern, node) for pattern in kept)],
        )  # fmt: skip
    finally:
        root.setLevel(level)


def quantise_openvino(network: Any, calibration: np.ndarray, kept: Sequence[str]) -> Any:
    """An openvino.Model in int8 where `kept` and norms and pooling do not stay in float. Args as `quantise_onnx`."""
    os.environ.setdefault("NNCF_CI", "1")  # otherwise nncf reports its use over the network
    nncf = package("nncf")
    nncf.set_log_level(logging.ERROR)
    images = nncf.Dataset([image[None] for image in calibration])
    scope = nncf.IgnoredScope(types=list(NORMS_AND_POOLING), patterns=list(kept), validate=False)
    return nncf.quantize(
        network, images, subset_size=len(calibration), preset=nncf.QuantizationPreset.MIXED, ignored_scope=scope
    )
