"""What the explorer asks a network, on a click and never while browsing: attention of a pair, matches of an own image."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vpr_lib.data.images import ImageError, load_image, stack_images
from vpr_lib.models.attention import attend
from vpr_lib.models.checkpoints import load_weights
from vpr_lib.models.heatmaps import unit_range
from vpr_lib.models.zoo import build_model
from vpr_lib.paths import atomic_path
from vpr_lib.retrieval.describe import describe, describe_batch
from vpr_lib.retrieval.search import Ranking, search
from vpr_lib.retrieval.store import file_fingerprints
from vpr_lib.widgets.explorer import Explorer

SAME_SCORE = 0.02  # records of another precision differ by less, those of other weights by more


@dataclass(frozen=True)
class Network:
    """A model of the zoo with its weights on disk; built when it is first asked."""

    model: str
    weights: Path
    changes: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        network = build_model(self.model, **self.changes)
        load_weights(network, self.weights)
        return network.eval()


class Live:
    """Networks at hand for some of the explorer's models.

    Args:
        networks: by the name that the records give the model.
        folder: keeps the attention maps.
        descriptors: the folder of descriptor files; the database is described there if it is not yet.
    """

    def __init__(
        self,
        explorer: Explorer,
        networks: Mapping[str, Network],
        folder: Path,
        descriptors: Path,
        device: str = "cpu",
        precision: str = "fp32",
    ):
        self.explorer, self.networks = explorer, dict(networks)
        self.folder, self.descriptors, self.device, self.precision = Path(folder), descriptors, device, precision
        self._built: dict[str, nn.Module] = {}

    def attention(self, model: str, query: int, match: int) -> np.ndarray:
        """Where a query and a match resemble each other: Grad-CAM of their similarity, float16 (2, h, w) in 0..1, kept on disk.

        The first map lies on the query, the second on the match. This score is ours, not a paper's.

        Raises:
            ValueError: when no network is at hand, or its weights are not those the records were made with.
        """
        if (maps := self.kept(model, query, match)) is not None:
            return maps
        network = self._network(model)
        spec = network.input_spec
        pair = stack_images([load_image(path, spec) for path in self._paths(query, match)])
        both = torch.cat([describe_batch(network, image[None], self.device) for image in pair])  # (2, D)
        self._check_score(model, query, match, float(both[0] @ both[1]))
        maps = (
            unit_range(attend(network, pair, "similarity", reference=both.flip(0)).raw).cpu().numpy().astype(np.float16)
        )
        with atomic_path(self._file(model, query, match)) as temporary, temporary.open("wb") as file:
            np.save(file, maps)
        return maps

    def keep(self, model: str, queries: Iterable[int]) -> str:
        """Compute and keep `attention` of some queries and their first matches; in words how many, or why none."""
        done = 0
        for query in queries:
            try:
                self.attention(model, int(query), int(self.explorer.answers[model].top[query, 0]))
            except ValueError as error:
                return f"{model}: {done} attention maps kept. {error}"
            done += 1
        return f"{model}: {done} attention maps kept"

    def kept(self, model: str, query: int, match: int) -> np.ndarray | None:
        """The maps of `attention` if they were computed before; asks no network."""
        file = self._file(model, query, match) if model in self.networks else None
        return np.load(file) if file is not None and file.is_file() else None

    def matches(self, model: str, name: str, image: bytes, count: int = 5) -> Ranking:
        """The database views most like an image from outside, (1, count).

        Args:
            name: of the file, for messages.
        Raises:
            ImageError: when the bytes are no usable image; ValueError: when no network is at hand.
        """
        network = self._network(model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name or "image")
            path.write_bytes(image)
            try:
                own = load_image(path, network.input_spec)
            except ImageError as error:
                raise ImageError(str(error).replace(f"{folder}/", "")) from None
        database = describe(
            network,
            self.explorer.benchmark.database,
            self.descriptors,
            self.device,
            precision=self.precision,
            quiet=True,
        )
        return search(database.array, describe_batch(network, own[None], self.device, self.precision), count)

    def _network(self, model: str) -> nn.Module:
        if model not in self.networks:
            raise ValueError(f"No network is at hand for '{model}', only for: {', '.join(self.networks) or 'none'}.")
        if model not in self._built:
            self._built[model] = self.networks[model].build().to(self.device)
        return self._built[model]

    def _check_score(self, model: str, query: int, match: int, score: float) -> None:
        answer = self.explorer.answers[model]
        recorded = answer.score[query][answer.top[query] == match]
        if len(recorded) and abs(float(recorded[0]) - score) > SAME_SCORE:
            raise ValueError(
                f"The records of '{model}' give this pair the similarity {recorded[0]:.3f}, the weights {self.networks[model].weights} "
                f"give {score:.3f}: they are of another training. Run the notebook that measures '{model}' again."
            )

    def _paths(self, query: int, match: int) -> list[str]:
        return [self.explorer.path("queries", query), self.explorer.path("database", match)]

    def _file(self, model: str, query: int, match: int) -> Path:
        files = [str(self.networks[model].weights), *self._paths(query, match)]
        about = repr((model, files, file_fingerprints(files).tolist()))
        return self.folder / f"{sha256(about.encode()).hexdigest()[:20]}.npy"
