"""Exports: the same descriptors, refused when they changed, messages for what a format cannot do."""

import hashlib
import json
import re
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from vpr_lib.data.images import InputSpec
from vpr_lib.models import export as export_module
from vpr_lib.models import quantise
from vpr_lib.models.checkpoints import weights_hash
from vpr_lib.models.cost import cost_of_model, cost_of_parts, count_parameters, gflops, latency, peak_memory_mb
from vpr_lib.models.export import (
    PRECISIONS,
    ShippedModel,
    check_precision,
    default_precision,
    export,
    export_folder,
    find_export,
)
from vpr_lib.models.quantise import noise_by_layer
from vpr_lib.models.zoo import ZOO, build_model
from vpr_lib.retrieval.describe import cache_key, describe_batch

NAME = "mixvpr_toy_student"
CASES = [(f, p) for f, precisions in PRECISIONS.items() for p in precisions]


@pytest.fixture(scope="module")
def model():
    return build_model(NAME, seed=4, image_size=(48, 64)).eval()


@pytest.fixture(scope="module")
def images():
    blocks = torch.randint(0, 256, (6, 3, 6, 8), generator=torch.Generator().manual_seed(0)).float()
    return torch.nn.functional.interpolate(blocks, (48, 64), mode="bicubic").clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(("format", "precision"), CASES)
def test_an_export_gives_the_models_descriptors(model, images, tmp_path, format, precision):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "nncf"}[format])
    pytest.importorskip("onnx")
    calibration = images.numpy() if precision == "int8" else None
    info = export(model, NAME, tmp_path, format, precision, calibration)
    shipped = ShippedModel(tmp_path)
    expected = describe_batch(model, images, "cpu")
    found = describe_batch(shipped, images, "cpu")
    cosine = (expected * found).sum(1)
    assert found.shape == (6, 512) and found.dtype == torch.float32
    assert cosine.min() > (0.98 if precision == "int8" else 0.9999)
    if precision == "int8":
        assert (expected - found).abs().max() > 1e-4  # it really is another arithmetic
    one = describe_batch(shipped, images[2:3], "cpu")  # another batch size, the same descriptor
    torch.testing.assert_close(one, found[2:3], atol=1e-3, rtol=0)
    assert info.bytes == sum(p.stat().st_size for p in tmp_path.iterdir() if p.suffix != ".json")
    assert shipped.input_spec == InputSpec((48, 64), "bilinear", (0.0,) * 3, (1 / 255,) * 3)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "name", ["salad_toy_256", "salad_dinov2_toy_256", "boq_toy_256", "boq_dinov2_toy_256", "places"]
)
def test_later_heads_are_exported_too(name, format, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "nncf"}[format])
    pytest.importorskip("onnx")
    model = build_model(name, seed=4).eval()
    size, generator = model.input_spec.size, torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    export(model, name, tmp_path, format, "fp32")
    cosine = (describe_batch(model, pictures, "cpu") * describe_batch(ShippedModel(tmp_path), pictures, "cpu")).sum(1)
    assert cosine.min() > 0.9999


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_stays_finite_and_of_unit_length(images, tmp_path, format):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "nncf"}[format])
    model = build_model("gem_toy_160", seed=4, image_size=(48, 64)).train()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.copy_(layer.weight.abs().clamp(min=layer.weight.abs().amax() / 2))
        for _ in range(20):
            model(model.input_spec.normalise(images))  # batch norms take the statistics of these images
    model.eval()
    export(model, "gem_toy_160", tmp_path, format, "int8", images.numpy())
    found = describe_batch(ShippedModel(tmp_path), images, "cpu")
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6), atol=1e-4, rtol=0)
    assert (describe_batch(model, images, "cpu") * found).sum(1).min() > 0.97


def test_onnx_int8_weights_keep_seven_bits(model, images, tmp_path):
    """With eight, sums of two products overflow on processors without VNNI: a trained network's cosine fell to 0.46."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    export(model, NAME, tmp_path, "onnx", "int8", images.numpy())
    weights = [onnx.numpy_helper.to_array(w) for w in onnx.load(tmp_path / "model.onnx").graph.initializer
               if w.data_type == onnx.TensorProto.INT8 and len(w.dims) > 1]  # fmt: skip
    assert len(weights) > 10 and max(int(np.abs(w.astype(int)).max()) for w in weights) <= 64


PARTLY = r"norms, pooling, sums and \d+ of 20 layers"
LADDER = {"onnx": ["norms and pooling", PARTLY, PARTLY, "the backbone"]}
LADDER["openvino"] = [LADDER["onnx"][0], "norms, pooling and sums", *LADDER["onnx"][1:]]


@pytest.mark.parametrize(("first", "then", "taken"), [(0.0, 0.0, 0), (0.04, 0.01, 1), (0.04, 0.03, 1), (0.02, 0.03, 0)])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_what_costs_too_much_stays_in_float(model, images, tmp_path, format, first, then, taken):
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "nncf"}[format])
    seen, weights = [], weights_hash(model)

    def judge(shipped):
        cosine = (describe_batch(model, images, "cpu") * describe_batch(shipped, images, "cpu")).sum(1)
        seen.append((shipped.config.kept_in_float, shipped.config.int8_share, float(cosine.mean())))
        return then if len(seen) > 1 else first

    info = export(model, NAME, tmp_path, format, "int8", images.numpy(), judge)
    says, shares, cosines = zip(*seen)
    assert len(seen) == {0.0: 1, 0.01: 2, 0.03: len(LADDER[format])}[first and then], says
    assert all(re.fullmatch(*pair) for pair in zip(LADDER[format], says)), says
    assert list(shares) == sorted(shares, reverse=True) and shares[0] == 1
    assert (info.kept_in_float, info.int8_share, info.lost) == (*seen[taken][:2], [first, then][taken])
    found = describe_batch(ShippedModel(tmp_path), images, "cpu")
    assert float((describe_batch(model, images, "cpu") * found).sum(1).mean()) == pytest.approx(
        cosines[taken], abs=1e-5
    )
    if len(seen) > 2:
        assert max(cosines[-2:]) > cosines[0] and shares[-1] < 1, "less of the network is rounded"
    assert weights_hash(model) == weights, "the network is as it was"


def test_the_noise_of_a_layer_is_that_of_its_rounding(model, images):
    layers = noise_by_layer(model, images.numpy())
    assert len(layers) == 20 and all(0 < layer.noise < 0.1 for layer in layers)
    assert 2 * sum(layer.work for layer in layers) == pytest.approx(1e9 * gflops(model, torch.zeros(1, 3, 48, 64)))
    convolution = torch.nn.Conv2d(3, 2, 1, bias=False)
    convolution.weight.data = torch.tensor([[255.0, 0.0, 3.6], [0.0, 1.0, 255.0]]).view(2, 3, 1, 1)
    convolution.input_spec = model.input_spec.__class__((1, 1), "bilinear", (0.0,) * 3, (1 / 255,) * 3)
    pixels = np.array([0, 255, 17], np.uint8).reshape(1, 3, 1, 1)
    exact, rounded = np.array([17 * 3.6, 255 + 17 * 255]), np.array([17 * 4.0, 255 + 17 * 255])
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    (layer,) = noise_by_layer(convolution, pixels)
    assert layer.work == 6 and layer.noise == pytest.approx(max(1e-9, 1 - cosine), abs=1e-6)


def test_every_pixel_value_arrives_unchanged(model, tmp_path):
    pytest.importorskip("onnxruntime")
    export(model, NAME, tmp_path)
    shipped, seen = ShippedModel(tmp_path), []
    shipped._call = lambda pixels: seen.append(pixels) or np.zeros((1, 256), np.float32)
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3 * 12).view(1, 3, 48, 64)
    describe_batch(shipped, ramp, "cpu")
    assert (seen[0] == ramp.numpy()).all() and seen[0].dtype == np.uint8


def test_a_file_that_changed_is_refused_and_its_descriptors_are_its_own(model, images, tmp_path):
    pytest.importorskip("onnxruntime")
    export(model, NAME, tmp_path / "a")
    export(build_model(NAME, seed=5, image_size=(48, 64)), NAME, tmp_path / "b")

    class Images:
        list_hash, table = "same", {"image_path": []}
        image_paths = staticmethod(list)

    keys = [cache_key(ShippedModel(tmp_path / x), Images, "fp32") for x in "ab"]
    assert (
        keys[0] != keys[1] and keys[0]["weights"] == keys[1]["weights"]
    )  # no torch weights: the config tells them apart
    with (tmp_path / "a/model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"is not the file that .*describes: export it again"):
        ShippedModel(tmp_path / "a" / "model.onnx")
    with pytest.raises(FileNotFoundError, match=r"No export.json in"):
        ShippedModel(tmp_path)


def test_what_a_format_cannot_do(model, images, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"Unknown format 'tflite'. Known: onnx, openvino"):
        check_precision("tflite", "fp32")
    with pytest.raises(ValueError, match="not in 'bf16'; ONNX Runtime has no bf16"):
        export(model, NAME, tmp_path, "onnx", "bf16")
    with pytest.raises(ValueError, match=r"calibrated on images, uint8 \(N, 3, 48, 64\); got none"):
        export(model, NAME, tmp_path, "onnx", "int8")
    with pytest.raises(ValueError, match=r"got an array of shape \(6, 3, 24, 64\)"):
        export(model, NAME, tmp_path, "openvino", "int8", images[:, :, ::2].numpy())
    monkeypatch.setattr(quantise, "import_module", lambda name: __import__("absent_package"))
    with pytest.raises(ValueError, match=r"needs 'onnx': pip install 'vpr-workbook\[ship\]'"):
        export(model, NAME, tmp_path)


def test_finding_an_export_by_what_the_user_says(tmp_path):
    for precision in ("fp32", "int8"):
        folder = export_folder(NAME, "onnx", precision)
        if precision == "int8":
            assert find_export("onnx", NAME) == export_folder(NAME, "onnx", "fp32")
        folder.mkdir(parents=True)
        (folder / "export.json").write_text(json.dumps({}))
    assert find_export("onnx-int8", NAME).name == "onnx-int8"
    assert find_export(str(tmp_path), NAME) == tmp_path
    with pytest.raises(ValueError, match="say which, onnx-fp32 or onnx-int8"):
        find_export("onnx", NAME)
    with pytest.raises(FileNotFoundError, match=f"vpr export {NAME} --format openvino --precision int8 --images DIR"):
        find_export("openvino-int8", NAME)
    with pytest.raises(ValueError, match="Unknown runtime 'tensorrt'"):
        find_export("tensorrt", NAME)


def test_the_parts_of_one_export_stay_together(model, tmp_path, monkeypatch):
    """Two processes write into one folder: what is there in the end is one of the two, and is accepted."""
    order, copy = [], shutil.copyfile

    def write(graph, path, *rest):
        path.parent.mkdir()
        for part in (path, path.with_suffix(".bin")):
            part.write_text(threading.current_thread().name)
        return []

    def slowly(source, target):
        order.append(threading.current_thread().name)
        time.sleep(0.1)
        return copy(source, target)

    monkeypatch.setattr(export_module, "_write_onnx", lambda *_: None)
    monkeypatch.setitem(export_module._WRITERS, "onnx", write)
    monkeypatch.setattr(shutil, "copyfile", slowly)
    threads = [threading.Thread(target=export, args=(model, "m", tmp_path), name=name) for name in "AB"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order in (["A", "A", "B", "B"], ["B", "B", "A", "A"])
    told = json.loads((tmp_path / "export.json").read_text())
    assert told["sha256"] == hashlib.sha256(2 * order[-1].encode()).hexdigest()


def test_default_precision_by_backbone():
    assert default_precision(ZOO["mixvpr_resnet50_4096"], "openvino") == "int8"
    depthwise = ZOO["mixvpr_resnet50_4096"].model_copy(update={"backbone": "mobilenet_v2"})
    assert (default_precision(depthwise, "openvino"), default_precision(depthwise, "onnx")) == ("bf16", "fp32")


def test_cost_by_hand():
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU())
    images = torch.zeros(2, 3, 10, 12)
    assert count_parameters(layer) == 8 * 27 + 8
    assert gflops(layer, images) == pytest.approx(2 * 2 * 10 * 12 * 8 * 27 / 1e9)
    inside = 2 * 2 * 8 * 120 * 4  # the convolution's result and the rectifier's, alive together
    assert peak_memory_mb(layer, images) == pytest.approx((inside + 2 * 3 * 120 * 4 + 224 * 4) / 1e6)
    layer[1].inplace = True
    assert peak_memory_mb(layer, images) == pytest.approx((inside / 2 + 2 * 3 * 120 * 4 + 224 * 4) / 1e6)
    layer[0].requires_grad_(False)
    assert count_parameters(layer, trainable=True) == 0


def test_latency_counts_calls():
    calls = []
    timed = latency(lambda: calls.append(1), 4, seconds=0.0)
    assert timed.repeats == 3 == len(calls) - 1 and 0 < timed.best_ms <= timed.median_ms <= timed.p90_ms
    assert timed.images_per_s == pytest.approx(4000 / timed.best_ms)


def test_cost_of_parts_sums_to_the_model(model):
    rows = cost_of_parts(model, seconds=0.0)
    assert [row["part"] for row in rows] == ["backbone", "aggregator"]
    assert sum(row["parameters (M)"] for row in rows) == pytest.approx(count_parameters(model) / 1e6)
    assert sum(row["GFLOP"] for row in rows) == pytest.approx(gflops(model, torch.zeros(1, 3, 48, 64)))


def test_a_row_of_the_cost_table(model):
    row = cost_of_model(model, (1, 3), seconds=0.0)
    assert row["GFLOP"] == pytest.approx(gflops(model, torch.zeros(1, 3, 48, 64))) and row["dim"] == 512
    assert row["MB, batch 3"] == pytest.approx(
        peak_memory_mb(model, torch.zeros(3, 3, 48, 64)), rel=1e-3
    )  # as with real tensors
    assert row["images/s, batch 3"] == pytest.approx(3000 / row["ms, batch 3"])


def test_flops_and_sizes_of_the_published_student():
    model = build_model("mixvpr_resnet18_512")
    assert gflops(model, torch.zeros(1, 3, 320, 320)) == pytest.approx(6.407, abs=0.001)  # spec lightweight §1.3
