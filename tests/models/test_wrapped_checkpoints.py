"""The same tensors, however they were wrapped when they were saved; code in a file never runs, and the message is one line.

Covers cli.run.
"""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vpr_lib.models.checkpoints import CheckpointError, load_weights, read_state_dict, save_weights, weights_hash
from vpr_lib.models.zoo import build_model

PREFIXES = [
    "",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "model.module.",
    "net.",
    "a.b.c.",
]
CONTAINERS = {
    "raw": lambda t: t, "state_dict": lambda t: {"state_dict": t, "epoch": 3}, "nested": lambda t: {"state": {"model": t}},
    "beside others": lambda t: {"optimizer": {"state": {0: {"step": torch.ones(1)}}}, "model": t},
    "one dictionary": lambda t: {"whatever": t}, "numpy": lambda t: {"model_state_dict": t, "recalls": np.array([0.5, 0.9]),
    "best": np.float64(0.9), "epoch": np.int64(3), "half": np.float16(1), "flag": np.bool_(True)},
    "in a list of epochs": lambda t: {"checkpoint": {"net": {"state_dict": t}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return build_model("gem_toy_160", seed=3)


def loaded(path):
    other = build_model("gem_toy_160")
    load_weights(other, path)
    return weights_hash(other)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefixes_of_wrappers(model, tmp_path, prefix, suffix):
    tensors = {prefix + key: value.clone() for key, value in model.state_dict().items()}
    torch.save(tensors, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    assert loaded(tmp_path / f"w{suffix}") == weights_hash(model)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_containers(model, tmp_path, container, prefix):
    tensors = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save(CONTAINERS[container](tensors), tmp_path / "w.pth")
    assert loaded(tmp_path / "w.pth") == weights_hash(model)


def test_a_part_compiled_alone_and_a_loss_beside_the_model(model, tmp_path):
    tensors = {key.replace("backbone.", "backbone._orig_mod.", 1): value for key, value in model.state_dict().items()}
    torch.save(tensors, tmp_path / "a.pth")
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()} | {"loss_fn.weight": torch.ones(2)}},
        tmp_path / "b.ckpt",
    )
    assert loaded(tmp_path / "a.pth") == loaded(tmp_path / "b.ckpt") == weights_hash(model)


def test_what_is_inside_must_still_fit(model, tmp_path):
    tensors = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save(tensors | {"module.extra.weight": torch.ones(2)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"1 keys are not in the model \(extra\.weight\)"):
        loaded(tmp_path / "more.pth")
    tensors.pop(next(iter(tensors)))
    torch.save(tensors, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match="1 keys are missing"):
        loaded(tmp_path / "less.pth")


def test_two_models_in_one_file_are_not_guessed_between(model, tmp_path):
    torch.save({"teacher_a": model.state_dict(), "teacher_b": model.state_dict()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"several dictionaries of tensors \(teacher_a, teacher_b\)"):
        loaded(tmp_path / "w.pth")


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/silent_evil",)


@pytest.mark.parametrize(
    "content", [{"state_dict": {"a": torch.ones(1)}, "x": Evil()}, Evil(), b"", b"\x80", b"x" * 99]
)
def test_code_never_runs_and_the_message_is_one_line(tmp_path, content):
    path = tmp_path / "evil.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    assert (
        len(str(caught.value).splitlines()) == 1
        and "evil.ckpt" in str(caught.value)
        and "\x1b" not in str(caught.value)
    )
    assert "weights_only" not in str(caught.value) and not os.path.exists("/tmp/silent_evil")


def test_a_damaged_file_of_facts_is_named(tmp_path, model):
    save_file(model.state_dict(), path := tmp_path / "a.safetensors")
    assert loaded(path) == weights_hash(model)
    path.with_suffix(".json").write_text('{"source": "he')
    with pytest.raises(CheckpointError, match=r"a\.json.*damaged.*remove it"):
        loaded(path)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.999])
def test_flipped_bytes_of_our_weights_are_refused(tmp_path, model, place):
    path = save_weights(model, tmp_path / "a.safetensors", {})
    assert loaded(path) == weights_hash(model)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.safetensors.*not those that were written"):
        loaded(path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64])
def test_whole_numbers_in_the_place_of_weights_are_refused(model, tmp_path, dtype):
    tensors = {key: (10 * value).to(dtype) for key, value in model.state_dict().items()}
    torch.save(tensors, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"tensors hold {dtype}, where the model has floating-point"):
        load_weights(build_model("gem_toy_160"), tmp_path / "a.pth")
