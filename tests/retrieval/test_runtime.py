"""`describe` goes over to OpenVINO where that is as exact and pays, and says so once per machine."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from vpr_lib.data.readers.folders import folder_manifest
from vpr_lib.machine import cpu_has_bf16
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import cache_root
from vpr_lib.retrieval import runtime
from vpr_lib.retrieval.describe import describe

pytest.importorskip("openvino")


@pytest.fixture
def model():
    return build_model("gem_toy_160", seed=4, image_size=(48, 64)).eval()


@pytest.fixture
def manifest(two_folders, monkeypatch):
    monkeypatch.setattr(runtime, "_compiled", {})
    monkeypatch.setattr(runtime, "WORTH_S", 0.0)
    return folder_manifest(two_folders[0], "db", "pictures", "test")


def decisions() -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted((cache_root() / "runtimes").glob("*.json"))]


def torch_takes(monkeypatch, seconds: float) -> None:
    """For an image, as the comparison with OpenVINO is told."""
    real = runtime.Describer._try
    monkeypatch.setattr(runtime.Describer, "_try", lambda self, images, _: real(self, images, seconds))


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("bf16", marks=pytest.mark.skipif(not cpu_has_bf16(), reason="no bf16"))]
)
def test_the_same_descriptors_from_openvino(model, manifest, monkeypatch, precision):
    plain = describe(model, manifest, batch_size=12, quiet=True).array  # one batch: nothing to decide
    assert not decisions()
    torch_takes(monkeypatch, 1e9)
    found = describe(model, manifest, precision=precision, batch_size=4, quiet=True).array
    (decision,) = decisions()
    assert (found * plain).sum(1).min() > runtime.LEAST[precision]
    assert (decision["runtime"] == "openvino") == (decision["cosine"] >= runtime.LEAST[precision])
    if precision == "fp32":
        assert decision["runtime"] == "openvino" and len(runtime._compiled) == 1
        monkeypatch.setattr(runtime, "compile_openvino", None)  # what was compiled is used again
        again = describe(model, manifest, batch_size=12, quiet=True).array
        np.testing.assert_allclose(again, plain, atol=1e-4)


def test_nothing_is_reported_over_the_network(model, monkeypatch):
    telemetry = pytest.importorskip("openvino_telemetry")
    for told in ("__init__", "init", "send_event", "start_session"):
        monkeypatch.setattr(telemetry.Telemetry, told, lambda *_, **__: pytest.fail("reports its use"))
    images = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    assert runtime.compile_openvino(model, "fp32")(images).shape == (2, 160)


def test_slower_stays_torch_and_is_not_tried_again(model, manifest, monkeypatch):
    plain = describe(model, manifest, batch_size=4, quiet=True, spec=replace(model.input_spec, mean=(0.1, 0.2, 0.3)))
    assert not decisions() and plain.array.any(), "another input than the network's own is left alone"
    torch_takes(monkeypatch, 1e-9)
    describe(model, manifest, batch_size=4, quiet=True)
    assert [d["runtime"] for d in decisions()] == ["torch"] and not runtime._compiled
    (file,) = (cache_root() / "runtimes").glob("*.json")
    decided = file.read_text()
    file.write_text(decided[:40])
    describe(model, manifest, batch_size=4, quiet=True)  # damaged: found out again
    assert [d["runtime"] for d in decisions()] == ["torch"]
    file.write_text(decided)
    monkeypatch.setattr(runtime, "compile_openvino", None)
    describe(model, manifest, batch_size=4, quiet=True)


@pytest.mark.parametrize("fault", ["other descriptors", "cannot"])
def test_what_is_not_as_exact_or_cannot_run_stays_torch(model, manifest, monkeypatch, fault):
    def compiled(model, precision):
        if fault == "cannot":
            raise NotImplementedError("aten::odd")
        return lambda images: torch.nn.functional.normalize(torch.ones(len(images), model.dim), dim=1)

    plain = describe(model, manifest, batch_size=12, quiet=True).array
    monkeypatch.setattr(runtime, "compile_openvino", compiled)
    found = describe(model, manifest, batch_size=4, quiet=True).array
    np.testing.assert_allclose(found, plain, atol=1e-5)
    (decision,) = decisions()
    assert decision["runtime"] == "torch" and ("aten::odd" in decision["why"]) == (fault == "cannot")


def test_few_images_are_not_worth_it(model, manifest, monkeypatch):
    monkeypatch.setattr(runtime, "WORTH_S", 20.0)
    monkeypatch.setattr(runtime, "compile_openvino", None)
    describe(model, manifest, batch_size=2, quiet=True)
    assert not decisions()


def test_compiling_has_to_pay_for_itself_where_it_is_known(model, manifest, monkeypatch):
    torch_takes(monkeypatch, 1e9)
    describe(model, manifest, batch_size=4, quiet=True)
    (file,) = (cache_root() / "runtimes").glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"openvino_s": 0.0, "compile_s": 1e9}))
    runtime._compiled.clear()
    monkeypatch.setattr(runtime, "compile_openvino", None)
    describe(model, manifest, batch_size=4, quiet=True)
    assert not runtime._compiled


def test_openvino_on_a_processor_that_is_told_to_hold_back():
    """It fell with a segmentation fault in depthwise convolutions where the processor has AVX-512 and oneDNN may not use it."""
    script = """
import os, torch
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.runtime import compile_openvino
model = build_model("mixvpr_lite0_512", pretrained=False).eval()
images = torch.randint(0, 256, (8, 3, 224, 224), dtype=torch.uint8)
with torch.no_grad():
    expected = model(model.input_spec.normalise(images))
assert torch.cosine_similarity(compile_openvino(model, "fp32")(images), expected).min() > 0.9999
assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
"""
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert done.returncode == 0
