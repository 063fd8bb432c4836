"""A network in whole numbers: calibrated on images, with what costs too much left in float. Needs the extra `ship`."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

NORMS_AND_POOLING = ("ReduceL2", "ReduceMean", "Divide", "Power", "Clamp", "Maximum", "MVN", "NormalizeL2")
SUMS = r".*/Add(_\d+)?"
NOISE_IMAGES = 8  # on which it is found out which layers int8 hurts
MADE_BY_KEPT = (0.5, 0.9)  # of the noise of all layers


class Rung(NamedTuple):
    """How much of a network stays in float."""

    says: str
    kept: tuple[str, ...]  # patterns over the names of the graph's nodes, beside norms and pooling
    int8_share: float  # of the multiply-adds of convolutions and linear layers


class Layer(NamedTuple):
    """A convolution or linear layer: what computing it alone in int8 does to the descriptors."""

    name: str  # in the module
    noise: float  # mean of 1 - cosine
    work: int  # multiply-adds for one image


def rungs(model: nn.Module, images: np.ndarray, graph: Path, format: str) -> Iterator[Rung]:
    """From all in int8 to all of the backbone in float; in between, the layers with the most noise for their work stay.

    Args:
        images: uint8 (N, 3, height, width).
        graph: the model as ONNX.
    """
    yield Rung("norms and pooling", (), 1.0)
    if format == "openvino":  # ONNX's quantiser leaves sums in float
        yield Rung("norms, pooling and sums", (SUMS,), 1.0)
    layers, nodes = noise_by_layer(model, images[:NOISE_IMAGES]), _nodes_with_weights(graph)
    work, trunk = sum(layer.work for layer in layers), [r".*/backbone/.*", SUMS]
    if len(layers) == len(nodes):  # otherwise a layer is hidden in a function, and names cannot be told
        trunk += [
            rf"{re.escape(node)}(/.*)?" for layer, node in zip(layers, nodes) if layer.name.startswith("backbone.")
        ]
        order = sorted(range(len(layers)), key=lambda row: -layers[row].noise / layers[row].work)
        noise = np.cumsum([layers[row].noise for row in order])
        for part in MADE_BY_KEPT:
            kept = order[: int(np.searchsorted(noise, part * noise[-1])) + 1]
            yield Rung(
                f"norms, pooling, sums and {len(kept)} of {len(layers)} layers",
                (SUMS, *(rf"{re.escape(nodes[row])}(/.*)?" for row in kept)),
                1 - sum(layers[row].work for row in kept) / work,
            )
    outside = sum(layer.work for layer in layers if not layer.name.startswith("backbone."))
    yield Rung("the backbone", tuple(trunk), outside / work)


def _nodes_with_weights(graph: Path) -> list[str]:
    """Names of the convolutions and matrix products with a constant factor, in the order in which the model calls them."""
    content = package("onnx").load(graph).graph
    constants = {weights.name for weights in content.initializer}
    return [node.name for node in content.node
            if node.op_type in ("Conv", "MatMul", "Gemm") and constants & set(node.input[:2])]  # fmt: skip


@torch.no_grad()
def noise_by_layer(model: nn.Module, images: np.ndarray) -> list[Layer]:
    """Every call of a layer in its order. Inputs and weights of that layer alone are rounded to 256 steps between extremes."""
    model.eval()
    pictures, calls = model.input_spec.normalise(torch.from_numpy(images)), []
    names = {layer: name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        calls.append((layer, layer.weight[0].numel() * out.numel() // len(images)))

    hooks = [layer.register_forward_hook(count) for layer in names]
    exact = model(pictures)
    for hook in hooks:
        hook.remove()
    noise = {}
    for layer in dict.fromkeys(layer for layer, _ in calls):
        weight = layer.weight.clone()
        layer.weight.copy_(_in_steps(weight.flatten(1)).view_as(weight))
        hook = layer.register_forward_pre_hook(
            lambda layer, inputs: (_in_steps(inputs[0].reshape(1, -1)).view_as(inputs[0]), *inputs[1:])
        )
        noise[layer] = max(1e-9, 1 - float(torch.cosine_similarity(model(pictures), exact).mean()))
        hook.remove()
        layer.weight.copy_(weight)
    return [Layer(names[layer], noise[layer], work) for layer, work in calls]


def _in_steps(rows: Tensor) -> Tensor:
    low, high = rows.aminmax(dim=1, keepdim=True)
    step = ((high - low) / 255).clamp(min=1e-12)
    return ((rows - low) / step).round() * step + low


def package(name: str) -> ModuleType:
    """Raises ValueError, saying what to install."""
    try:
        if name in ("openvino", "nncf"):
            _let_openvino_see_the_processor()
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"Exporting and running exports needs '{name}': pip install 'vpr-workbook[ship]'.") from error


@cache
def _let_openvino_see_the_processor() -> None:
    """Where oneDNN's variable hides instructions of the processor, OpenVINO's depthwise convolutions end in a segmentation
    fault: part of its kernels does not ask. It reads the variable once, so that happens here, with the variable away.
    """
    hidden = {name: os.environ.pop(name) for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if name in os.environ}
    try:
        if hidden:
            openvino = import_module("openvino")
            image = openvino.opset13.parameter([1, 1, 2, 2], np.float32)
            openvino.Core().compile_model(openvino.Model([openvino.opset13.relu(image)], [image]), "CPU")
    finally:
        os.environ |= hidden


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
    logging.getLogger("nncf").setLevel(logging.ERROR)  # nncf.set_log_level sets the handlers, which may be others' too
    images = nncf.Dataset([image[None] for image in calibration])
    scope = nncf.IgnoredScope(types=list(NORMS_AND_POOLING), patterns=list(kept), validate=False)
    return nncf.quantize(
        network, images, subset_size=len(calibration), preset=nncf.QuantizationPreset.MIXED, ignored_scope=scope
    )
