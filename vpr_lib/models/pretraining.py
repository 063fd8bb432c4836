"""The pre-training that torchvision and timm deliver: fetched by name or with leave, never by building a model."""

import os
from pathlib import Path

import torch
import torchvision
from torch import nn

from vpr_lib.models.published import load_published
from vpr_lib.registry import lookup

LEAVE = "VPR_FETCH"  # environment: 1 lets a model fetch the pre-training it starts from
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")
VGGS = ("vgg16", "vgg19_bn")
EFFICIENTNETS = tuple(f"efficientnet_b{size}" for size in range(5))
SWINS = ("swinv2_tiny_window8_256", "swinv2_small_window8_256", "swinv2_base_window12to16_192to256",
         "swinv2_large_window12to16_192to256")  # fmt: skip
TORCHVISION = (*RESNETS, *VGGS, "mobilenet_v2", "mobilenet_v3_large")
TIMM = (*EFFICIENTNETS, *SWINS)


def is_fetched(backbone: str) -> bool:
    """Whether the pre-training of this backbone comes over the network (that of toy trunks is in the repository)."""
    return backbone in (*TORCHVISION, *TIMM) or load_published().get(backbone) is not None


def torchvision_file(name: str) -> Path:
    """Where torchvision keeps the ImageNet V1 weights of a network once they were fetched."""
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _timm_here(name: str) -> bool:
    import timm
    from huggingface_hub import try_to_load_from_cache

    repository = timm.models.get_pretrained_cfg(name).hf_hub_id
    return any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    )


def is_here(name: str) -> bool:
    """Whether a trunk of torchvision or timm can start pre-trained without a network."""
    return torchvision_file(name).is_file() if name in TORCHVISION else _timm_here(name)


def find_leave() -> bool:
    """Whether the environment allows models to fetch what they start from."""
    return os.environ.get(LEAVE) == "1"


def ask_before_fetching(name: str) -> None:
    """Called before a library would download the pre-training of `name`.

    Raises:
        FileNotFoundError: when it is not on this disk and nobody gave leave, with the two ways to give it.
    """
    if find_leave() or is_here(name):
        return
    raise FileNotFoundError(
        f"The pre-trained weights of {name} are not on this disk, and nothing is fetched without being asked for: "
        f"`vpr weights get {name}` fetches them, {LEAVE}=1 in the environment lets models fetch what they start from."
    )


def torchvision_network(name: str, pretrained: bool) -> nn.Module:
    """A network of torchvision, with its ImageNet V1 weights where asked for; raises as `ask_before_fetching`."""
    if pretrained:
        ask_before_fetching(name)
    return torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)


def timm_network(name: str, pretrained: bool, **options: object) -> nn.Module:
    """A network of timm, with its default weights where asked for; raises as `ask_before_fetching`."""
    import timm

    if pretrained:
        ask_before_fetching(name)
    return timm.create_model(name, pretrained=pretrained, **options)


def fetch_pretraining(name: str) -> bool:
    """Let torchvision or timm fetch the pre-training of a trunk into its own cache; False when it is there already.

    Raises:
        ValueError: for an unknown trunk. OSError: when the download fails.
    """
    import timm

    if name not in TORCHVISION and not timm.is_model(name):
        lookup(dict.fromkeys((*TORCHVISION, *TIMM)), name, "pre-trained trunk")
    if is_here(name):
        return False
    if name in TORCHVISION:
        torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].get_state_dict(progress=True, check_hash=True)
    else:
        timm.create_model(name, pretrained=True)
    return True
