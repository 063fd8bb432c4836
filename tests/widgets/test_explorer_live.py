"""What the explorer asks a network when somebody clicks: attention of a pair, and matches of an own image."""

from pathlib import Path

import numpy as np
import pytest

from vpr_lib.data.images import ImageError
from vpr_lib.models.checkpoints import save_weights
from vpr_lib.models.zoo import build_model
from vpr_lib.results.records import Run, query_records
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.widgets.explorer import Explorer
from vpr_lib.widgets.live import Live, Network


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory):
    """A small model's weights on disk and the records it gives."""
    folder = tmp_path_factory.mktemp("trained")
    model = build_model("gem_toy_160", pretrained=True)
    save_weights(model, folder / "best.safetensors", {})
    result = evaluate(model, benchmark, None, (1, 5), quiet=True)
    return folder / "best.safetensors", query_records(
        benchmark, result.scores[0], result.ranking.scores, Run("gem_toy_160")
    )


@pytest.fixture
def live(benchmark, trained, tmp_path):
    weights, records = trained
    return Live(
        Explorer(benchmark, records),
        {"gem_toy_160": Network("gem_toy_160", weights)},
        tmp_path / "maps",
        tmp_path / "descriptors",
    )


def test_maps_are_computed_once_and_kept(live, monkeypatch):
    match = int(live.explorer.answers["gem_toy_160"].top[1, 1])
    assert live.kept("gem_toy_160", 1, match) is None
    maps = live.attention("gem_toy_160", 1, match)
    assert maps.ndim == 3 and maps.shape[0] == 2 and maps.min() == 0 and maps.max() == 1
    monkeypatch.setattr(live, "_network", lambda name: pytest.fail("asked a network"))
    assert np.array_equal(live.attention("gem_toy_160", 1, match), maps)
    assert np.array_equal(live.kept("gem_toy_160", 1, match), maps)


def test_other_weights_than_the_records_are_refused(live, tmp_path):
    weights = tmp_path / "other.safetensors"
    save_weights(build_model("gem_toy_160", seed=3), weights, {})
    live.networks["gem_toy_160"] = Network("gem_toy_160", weights)
    with pytest.raises(ValueError, match="of another training"):
        live.attention(
            "gem_toy_160", 1, int(live.explorer.answers["gem_toy_160"].top[1, 1])
        )  # the first is the same picture
    assert not list(tmp_path.glob("maps/*"))


def test_some_queries_at_once_say_how_far_they_came(live, tmp_path):
    assert live.keep("gem_toy_160", [0, 2]) == "gem_toy_160: 2 attention maps kept"
    assert live.kept("gem_toy_160", 2, int(live.explorer.answers["gem_toy_160"].top[2, 0])) is not None
    live.explorer.answers["gem_toy_160"].score[3] -= 0.5
    told = live.keep("gem_toy_160", [0, 3, 1])
    assert told.startswith("gem_toy_160: 1 attention maps kept. The records") and "of another training" in told


def test_models_without_a_network_are_named(live):
    with pytest.raises(ValueError, match=r"No network is at hand for 'b', only for: gem_toy_160"):
        live.attention("b", 0, 0)
    assert live.kept("b", 0, 0) is None


def test_an_own_image_finds_itself(live):
    name = live.explorer.path("database", 4)
    ranking = live.matches("gem_toy_160", "holiday.jpg", Path(name).read_bytes(), 3)
    assert (
        ranking.indices.shape == (1, 3)
        and ranking.indices[0, 0] == 4
        and ranking.scores[0, 0] == pytest.approx(1, abs=1e-3)
    )


def test_a_file_that_is_no_image_is_named(live):
    with pytest.raises(ImageError, match=r"^notes\.txt: not an image"):
        live.matches("gem_toy_160", "../notes.txt", b"Dear diary")
