"""Crops of queries against loops over single pictures."""

import numpy as np
import pytest
import torch
from pictures import write_picture
from PIL import Image

from vpr_lib.config import Compute
from vpr_lib.data.ground_truth import Benchmark
from vpr_lib.data.images import CROPS, InputSpec, cut_out, load_image
from vpr_lib.data.manifest import build_manifest
from vpr_lib.data.readers.cards import radius_cards
from vpr_lib.models.zoo import build_model
from vpr_lib.results.measure import Variant, measure
from vpr_lib.results.records import Run
from vpr_lib.retrieval import query_modes
from vpr_lib.retrieval.query_modes import MODES, merge
from vpr_lib.retrieval.search import Ranking

COUNT, VOTES = 12, 4


@pytest.fixture
def streets(tmp_path):
    """Queries are wider than database images, so that their crops differ."""
    sides = []
    for role in ("db", "query"):
        names = [f"{role}/{row}.png" for row in range(COUNT)]
        for row, name in enumerate(names):
            write_picture(tmp_path / name, row)
            if role == "query":
                image = Image.open(tmp_path / name)
                image.resize((2 * image.width, image.height + row)).save(tmp_path / name)
        columns = {"image_path": names, "utm_east": np.arange(COUNT) * 100.0, "utm_north": np.zeros(COUNT)}
        sides.append(build_manifest(tmp_path, "streets", "test", role, columns, position_kind="gps", keep_order=True))
    return Benchmark("streets", *sides, radius_cards(*sides, "streets", "streets", 25.0))


def described(model, paths, crop):
    """One picture at a time with PIL: scaled to cover the input, cut, described."""
    height, width = model.config.image_size
    rows = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        scale = max(height / image.height, width / image.width)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = image.width - width, image.height - height
        x = {"left": 0, "right": left}.get(crop.split("_")[-1], left // 2)
        y = {"top": 0, "bottom": top}.get(crop.split("_")[0], top // 2)
        pixels = torch.from_numpy(np.array(image.crop((x, y, x + width, y + height)))).permute(2, 0, 1)[None]
        with torch.no_grad():
            rows.append(model(model.input_spec.normalise(pixels))[0].numpy())
    return np.stack(rows)


def by_loop(mode, database, crops):
    """The ranking of every query, by plain sorting."""
    rankings = []
    for query in range(COUNT):
        near = np.stack([database @ crop[query] for crop in crops])  # (crops, N)
        if mode in ("central_crop", "five_crops"):
            key = [-(database @ np.mean([crop[query] for crop in crops], axis=0))]
        else:
            key = [-near.max(axis=0)]
        if mode == "majority_vote":
            votes = np.zeros(COUNT)
            for own in near:
                votes[np.argsort(-own)[:VOTES]] += 1
            key = [*key, -votes]
        rankings.append(np.lexsort(key))
    return np.stack(rankings)


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_ranks_as_the_loop_does(mode, streets, tmp_path, monkeypatch):
    monkeypatch.setattr(query_modes, "VOTES", VOTES)
    model = build_model("mixvpr_toy_64").eval()
    run, compute = Run("m", system="MixVPR"), Compute(quiet=True)
    found = measure(model, streets, run, tmp_path / "r", compute, Variant(queries=mode))
    crops = [described(model, streets.queries.image_paths(), crop) for crop in MODES[mode]]
    expected = by_loop(mode, np.asarray(found.evaluation.database.array), crops)
    depth = found.evaluation.ranking.indices.shape[1]
    agree = (found.evaluation.ranking.indices == expected[:, :depth]).mean()
    assert agree > 0.9  # our resize rounds otherwise than PIL's: near ties may change places
    assert (found.evaluation.ranking.indices[:, 0] == expected[:, 0]).mean() > 0.9
    assert found.run.model == f"m {mode.replace('_', ' ')}" and found.evaluation.recall[1] == np.mean(
        found.evaluation.ranking.indices[:, 0] == np.arange(COUNT)
    )


def test_crops_lie_where_their_names_say(tmp_path):
    image = torch.arange(3 * 5 * 8).reshape(3, 5, 8)
    cut = {crop: cut_out(image, (2, 4), crop)[0, 0, 0].item() for crop in CROPS}
    assert cut == {"top_left": 0, "top_right": 4, "bottom_left": 24, "bottom_right": 28, "centre": 8 + 2}
    write_picture(tmp_path / "wide.png", 1)
    assert load_image(tmp_path / "wide.png", InputSpec((10, 20), resize="cover", crop="bottom_right")).shape == (
        3,
        10,
        20,
    )


def test_votes_come_before_similarity():
    one = Ranking(np.array([[3, 1, 0]]), np.array([[0.9, 0.5, 0.4]], np.float32))
    other = Ranking(np.array([[1, 2, 0]]), np.array([[0.6, 0.2, 0.1]], np.float32))
    assert merge([one, other]).indices.tolist() == [[3, 1, 0]]
    assert merge([one, other]).scores.tolist()[0] == pytest.approx([0.9, 0.6, 0.4])
    assert merge([one, other], votes=2).indices.tolist() == [[1, 3, 2]]


def test_what_does_not_go_together(streets, tmp_path):
    model, run, compute = build_model("mixvpr_toy_64"), Run("m", system="MixVPR"), Compute(quiet=True)
    for variant, message in [
        (Variant(queries="seven_crops"), "Unknown query mode 'seven_crops'"),
        (Variant(queries="five_crops", index="ivfpq"), "leave index away"),
        (Variant(queries="nearest_crop", rerank=True), "take one of central_crop, five_crops"),
    ]:
        with pytest.raises(ValueError, match=message):
            measure(model, streets, run, tmp_path / "r", compute, variant)
    found = measure(model, streets, run, tmp_path / "r", compute, Variant(queries="five_crops", rerank=True))
    assert found.run.model == "m five crops reranked"
