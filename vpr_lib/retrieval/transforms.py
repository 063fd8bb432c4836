"""How papers bring images to a model when they evaluate: part of their protocol, so it goes onto the card."""

import copy
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.registry import lookup


@dataclass(frozen=True)
class Transform:
    """The resize of an evaluation, and its arithmetic."""

    resize_after_normalising: bool
    antialias: bool
    precision: Literal["fp32", "fp16"]
    query_shorter_side: int | None = None  # pixels: queries keep their own shape, the database does not

    def in_words(self) -> str:
        """For cards and captions."""
        order = "resized after normalising" if self.resize_after_normalising else "resized before normalising"
        shape = (
            f", queries in their own shape, shorter side {self.query_shorter_side}" if self.query_shorter_side else ""
        )
        return f"{order}, {'antialiased' if self.antialias else 'not antialiased'}, {self.precision}{shape}"


TRANSFORMS = {  # DINO-Mix, spec §4.1: its 92.03 on Pitts30k-test is 'validation', its 91.68 'evaluator' (§9, row 17)
    "validation": Transform(resize_after_normalising=False, antialias=True, precision="fp16"),
    "evaluator": Transform(resize_after_normalising=True, antialias=True, precision="fp32"),
    "evaluator_2022": Transform(resize_after_normalising=True, antialias=False, precision="fp32"),  # torchvision 0.14
    # Tokyo 24/7 as OpenIBL and ClusVPR evaluate it, spec clusvpr §5; for heads that take maps of any size
    "free_queries": Transform(resize_after_normalising=False, antialias=True, precision="fp32", query_shorter_side=640),
}


def under(name: str, model: nn.Module, benchmark: Benchmark) -> tuple[nn.Module, Benchmark, str]:
    """A model and a benchmark as one of TRANSFORMS evaluates them, and the precision that goes with it.

    The model shares its weights with the one given; every protocol gets a card of its own, `<name>+<transform>`.

    Raises:
        ValueError: for an unknown transform, listing the known ones.
    """
    transform = lookup(TRANSFORMS, name, "evaluation transform")
    twin = copy.copy(model)
    twin.config = model.config.model_copy(
        update=dict(
            resize_after_normalising=transform.resize_after_normalising,
            antialias=transform.antialias,
            query_shorter_side=transform.query_shorter_side,
        )
    )
    protocols = tuple(
        replace(protocol, card=protocol.card.model_copy(
            update=dict(name=f"{protocol.card.name}+{name}", transform=transform.in_words())
        ))
        for protocol in benchmark.protocols
    )  # fmt: skip
    return twin, replace(benchmark, protocols=protocols), transform.precision
