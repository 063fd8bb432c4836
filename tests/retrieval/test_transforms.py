import hashlib
import json
from dataclasses import replace

import pytest
import torch
from pictures import picture
from torch.nn import functional as F

from vpr_lib.data.ground_truth import Positives, ProtocolCard, make_protocol
from vpr_lib.data.images import InputSpec, load_image, read_image, resize
from vpr_lib.data.readers.folders import read_folders
from vpr_lib.models.whitening import Whitened, fit_whitening
from vpr_lib.models.zoo import build_model
from vpr_lib.retrieval.protocol import evaluate
from vpr_lib.retrieval.transforms import under


def test_normalising_first_differs_by_rounding_only():
    image = torch.tensor(picture(1, 90, 130)).permute(2, 0, 1)
    ours = InputSpec((42, 56), resize_after_normalising=True)
    late = ours.normalise(resize(image, ours)[None])
    early = InputSpec().normalise(image[None])  # the authors' order, spelled out
    expected = F.interpolate(early, (42, 56), mode="bilinear", antialias=True)
    torch.testing.assert_close(late, expected, atol=2e-5, rtol=0)
    rounded = InputSpec((42, 56)).normalise(resize(image, InputSpec((42, 56)))[None])
    assert 1e-4 < (rounded - late).abs().max() <= 1.02 / 255 / 0.224  # both passes of a uint8 resize round


def test_antialiasing_is_a_switch():
    noise = torch.randint(0, 256, (3, 120, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    spec = InputSpec((30, 30), antialias=False, resize_after_normalising=True)
    expected = F.interpolate(noise[None].float(), (30, 30), mode="bilinear")
    torch.testing.assert_close(resize(noise, spec)[None], expected)
    assert (resize(noise, spec) - resize(noise, InputSpec((30, 30))).float()).abs().max() > 20


def test_normalise_leaves_floating_images_alone():
    image = torch.rand(1, 3, 4, 4).to(memory_format=torch.channels_last) * 255
    before = image.clone()
    InputSpec().normalise(image)
    assert torch.equal(image, before)


@pytest.fixture
def plain(two_folders):
    """Six queries among twelve views, each with its own, under one card."""
    plain = read_folders(*two_folders)
    same = Positives.from_lists([[2 * index] for index in range(6)], 12)
    rule = dict(name="p", dataset="d", rule="list")
    return replace(plain, protocols=(make_protocol(plain.database, plain.queries, same, **rule),))


def test_every_transform_has_a_card_of_its_own(plain, tmp_path):
    model = build_model("avg_toy_160")
    recalls, hashes = {}, {plain.protocol.card.hash}
    for name in ("validation", "evaluator", "evaluator_2022"):
        twin, benchmark, precision = under(name, model, plain)
        assert precision == ("fp16" if name == "validation" else "fp32")
        assert twin.input_spec.antialias == (name != "evaluator_2022") and model.input_spec == InputSpec((112, 112))
        assert twin.backbone is model.backbone
        found = evaluate(twin, benchmark, tmp_path / "cache", (1,), precision=precision, quiet=True)
        recalls[name] = found.recall[1]
        hashes.add(benchmark.protocol.card.hash)
        assert benchmark.protocol.card.name == f"p+{name}" and precision in benchmark.protocol.card.rule_in_words()
    assert len(hashes) == 4 and all(recall == 1 for recall in recalls.values())
    assert len(list((tmp_path / "cache").glob("*.json"))) == 6  # descriptors are not shared between transforms
    with pytest.raises(ValueError, match=r"Unknown evaluation transform 'evaluators'. Did you mean 'evaluator'"):
        under("evaluators", model, plain)


def test_queries_in_their_own_shape(plain, tmp_path):
    model = build_model("clusvpr_toy_640")
    shapes = []
    model.backbone.register_forward_hook(lambda _, images, __: shapes.append(tuple(images[0].shape)))
    twin, benchmark, _ = under("free_queries", model, plain)
    assert "shorter side 640" in benchmark.protocol.card.rule_in_words()
    whitened = Whitened(model, fit_whitening(torch.randn(40, 640), 8))
    assert under("free_queries", whitened, plain)[0].query_spec == twin.query_spec
    for network in (twin, under("free_queries", whitened, plain)[0]):
        shapes.clear()
        small = network.config.model_copy(update={"query_shorter_side": 160})
        network.config = small
        found = evaluate(network, benchmark, tmp_path, (1,), quiet=True)
        assert shapes[0] == (12, 3, 128, 128) and len(shapes) == 1 + 6
        height, width = read_image(plain.queries.image_paths()[0]).shape[1:]
        expected = (round(160 * height / min(height, width)), round(160 * width / min(height, width)))
        assert shapes[1:] == [(1, 3, *expected)] * 6 and height != width
        assert found.queries.array.shape == (6, network.dim)
    one = load_image(plain.queries.image_paths()[2], twin.query_spec)[None]
    alone = model.eval()(twin.query_spec.normalise(one)).detach().numpy()
    found = evaluate(twin, benchmark, None, (1,), quiet=True)
    assert (found.queries.array[2] @ alone[0]) == pytest.approx(1, abs=1e-5)


def test_cards_without_a_transform_keep_their_hash():
    card = ProtocolCard(name="p", dataset="s", rule="radius_m", threshold=25.0, database_hash="a")
    old = card.model_dump(exclude={"notes", "transform", "images_hash"})
    assert card.hash == hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()[:16]
    assert card.model_copy(update={"transform": "t"}).hash != card.hash
