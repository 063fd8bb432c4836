"""Search through a low-precision screen: the rankings of fp32, bounds that hold, and fp32 where they do not help."""

import numpy as np
import pytest
import torch

from vpr_lib.retrieval import screen as screen_module
from vpr_lib.retrieval import search as search_module
from vpr_lib.retrieval.screen import HalfScreen, Int8Screen, above, highest, int8_levels
from vpr_lib.retrieval.search import search

needs_int8 = pytest.mark.skipif(int8_levels() is None, reason="no int8 products on this CPU")
SCREENS = [pytest.param(Int8Screen, marks=needs_int8), HalfScreen]


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows.astype(np.float32)


def places(database: int, queries: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Five noisy views of each place in the database, one more per query: near neighbours that have to be told apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(database // 5, width))
    view = lambda rows: unit(centres[rows] + 0.5 * rng.normal(size=(len(rows), width)))
    return view(np.arange(database) // 5 % (database // 5)), view(rng.integers(0, database // 5, queries))


def exact(database: np.ndarray, queries: np.ndarray, top_k: int) -> np.ndarray:
    scores = queries.astype(np.float64) @ database.T.astype(np.float64)
    return np.argsort(-scores.round(12), axis=1, kind="stable")[
        :, :top_k
    ]  # copies tie: a product's last bits differ by place


@pytest.fixture
def screened(monkeypatch):
    """Use a screen at small sizes; returns the queries it was asked about and those it left to fp32."""
    monkeypatch.setitem(search_module.CHUNKS, "cpu", (64, 700))
    monkeypatch.setattr(search_module, "SCREENED", 8)
    seen, real = [], search_module._screened

    def counted(*given):
        found = real(*given)
        seen.append((len(found[0]), found[2]))  # one entry per block and part of the queries; threads set the parts
        return found

    monkeypatch.setattr(search_module, "_screened", counted)
    return seen


def use(monkeypatch, kind) -> None:
    monkeypatch.setattr(search_module, "_screen", lambda queries, *_: kind(queries))


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("width", [96, 1024])
def test_the_ranking_is_that_of_fp32(screened, monkeypatch, kind, width):
    use(monkeypatch, kind)
    database, queries = places(3001, 100, width)
    found = search(database, queries, 10)
    assert (found.indices == exact(database, queries, 10)).all()
    np.testing.assert_allclose(found.scores, np.take_along_axis(queries @ database.T, found.indices, 1), atol=1e-6)
    assert sum(asked for asked, _ in screened) == 5 * 100 and sum(left for _, left in screened) < 50, (
        "most were decided by it"
    )


@needs_int8
def test_threads_change_nothing_and_are_given_back(screened):
    database, queries = places(3001, 100, 96)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = search(database, queries, 5)
        torch.set_num_threads(3)
        three = search(database, queries, 5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert (one.indices == three.indices).all() and (one.scores == three.scores).all()
    assert sorted(asked for asked, _ in screened) == sorted(5 * [64, 36, 34, 34, 32])


@pytest.mark.parametrize("kind", SCREENS)
@pytest.mark.parametrize("tails", ["gauss", "heavy", "one coordinate", "short codes", "common mean"])
def test_no_score_is_further_off_than_its_bound(kind, tails):
    rng = np.random.default_rng(1)
    make = {"gauss": rng.normal, "heavy": lambda size: rng.standard_t(2, size),
            "one coordinate": lambda size: rng.normal(size=size) * 0.01 + np.eye(size[1])[rng.integers(0, size[1], size[0])],
            "short codes": lambda size: rng.choice([-1.0, 1.0], size),
            "common mean": lambda size: 3 + rng.normal(size=size)}[tails]  # fmt: skip
    database, queries = unit(make(size=(500, 256))), unit(make(size=(200, 256)))
    ours = kind(torch.from_numpy(queries))
    ours.take(torch.from_numpy(database))
    y, scale, shift, error = ours.scores(slice(0, 200))
    off = np.abs(
        (y.float() * scale[:, None] + shift[:, None]).double().numpy()
        - queries.astype(np.float64) @ database.T.astype(np.float64)
    )
    assert (off <= error.double().numpy()[:, None]).all()
    assert off.max() > error.max() / 200 or tails == "short codes", "the bound means something"


@needs_int8
def test_the_error_has_no_bias():
    """Rounding by chance: over many draws a coded row is the row itself, which the bound rests on."""
    row, sums, draws = torch.rand(1, 64, generator=torch.Generator().manual_seed(0)) - 0.5, torch.zeros(1, 64), 2000
    for seed in range(draws):
        codes, steps = screen_module._coded(row, 63, seed)
        sums += codes * steps[:, None]
    assert (sums / draws - row).abs().max() < 5 * float(steps) / 2 / np.sqrt(draws)  # a draw deviates by half a step


@needs_int8
def test_products_are_whole_numbers_exactly():
    levels = int8_levels()
    codes = torch.randint(-levels, levels + 1, (40, 300), dtype=torch.int8)
    rows = torch.randint(-127, 128, (70, 300), dtype=torch.int8)
    found = screen_module.whole_products(
        codes, levels, torch.ops.onednn.qlinear_prepack(rows, None), torch.full((70,), 0.5)
    )
    assert torch.equal(found, 0.5 * (codes.double() @ rows.T.double()).float())


@pytest.mark.parametrize("kind", SCREENS)
def test_queries_that_cannot_be_thinned_out_go_through_fp32(screened, monkeypatch, kind):
    """A database of near copies: everything is a candidate, the screen is given up after the first block."""
    use(monkeypatch, kind)
    rng = np.random.default_rng(2)
    database = unit(np.ones((2100, 128)) + 1e-4 * rng.normal(size=(2100, 128)))
    queries = unit(np.ones((100, 128)) + 1e-1 * rng.normal(size=(100, 128)))
    found = search(database, queries, 10)
    assert sum(left for _, left in screened) == sum(asked for asked, _ in screened) == 100
    scores = np.take_along_axis(queries.astype(np.float64) @ database.T.astype(np.float64), found.indices, 1)
    best = -np.sort(-(queries.astype(np.float64) @ database.T.astype(np.float64)), axis=1)[:, :10]
    np.testing.assert_allclose(scores, best, atol=2e-7)


@pytest.mark.parametrize("kind", SCREENS)
def test_queries_beside_those_that_go_through_fp32_keep_their_candidates(screened, monkeypatch, kind):
    use(monkeypatch, kind)
    rng = np.random.default_rng(3)
    database, queries = places(2100, 100, 128)
    shared = rng.normal(size=128)
    database[::2] = unit(shared + 1e-5 * rng.normal(size=(1050, 128)))
    queries[:3] = unit(shared + 1e-1 * rng.normal(size=(3, 128)))
    found = search(database, queries, 10)
    assert 0 < sum(left for _, left in screened) < sum(asked for asked, _ in screened)
    assert (found.indices[3:] == exact(database, queries[3:], 10)).all()


@pytest.mark.parametrize("kind", SCREENS)
def test_zeros_copies_and_short_blocks(screened, monkeypatch, kind):
    """Unreadable images are zero rows, the same image may come twice, and the last block may be shorter than a ranking."""
    use(monkeypatch, kind)
    database, queries = places(1405, 100, 128)
    database[3] = 0
    database[1404] = database[10] = database[700]
    queries[0], queries[1] = database[700], 0
    found = search(database, queries, 12)
    assert found.indices[0, :3].tolist() == [10, 700, 1404]
    assert (found.indices == exact(database, queries, 12)).all() and (found.scores[1] == 0).all()


@pytest.mark.parametrize("kind", SCREENS)
def test_a_row_that_is_no_number_is_never_found_and_disturbs_nobody(screened, monkeypatch, kind):
    use(monkeypatch, kind)
    database, queries = places(1400, 64, 128)
    wanted = exact(database, queries, 5)
    wanted[wanted == 800] = -1
    database[800] = np.nan
    found = search(database, queries, 5).indices
    clean = (wanted >= 0).all(1)
    assert (found[clean] == wanted[clean]).all() and clean.sum() > 50 and not (found == 800).any()
    assert sum(asked for asked, _ in screened) == 64, "the second block went through fp32"


@needs_int8
def test_a_mean_that_all_share_does_not_blur_the_scores(screened, monkeypatch):
    use(monkeypatch, Int8Screen)
    database, queries = (unit(rows + 0.15) for rows in places(3001, 100, 256))
    assert (queries @ database.T).mean() > 0.5
    assert (search(database, queries, 10).indices == exact(database, queries, 10)).all()
    assert sum(left for _, left in screened) < 100


def test_listing_what_is_above():
    y = torch.randn(30, 500, generator=torch.Generator().manual_seed(0))
    threshold = torch.linspace(0.5, 4, 30)
    listed, unsure = above(y, threshold, 60)
    counts = (y >= threshold[:, None]).sum(1)
    assert (unsure == (counts > 60)).all() and unsure.any() and not unsure.all() and (counts == 0).any()
    for row in range(30):
        wanted = [] if unsure[row] else (y[row] >= threshold[row]).nonzero()[:, 0].tolist()
        assert listed[row][listed[row] >= 0].tolist() == wanted
    assert (highest(y, 9).sort(1).values == y.topk(9).indices.sort(1).values).all()


def test_without_int8_products_faiss_searches(monkeypatch):
    monkeypatch.setattr(search_module, "SCREENED", 8)
    monkeypatch.setattr(search_module, "int8_levels", lambda: None)
    monkeypatch.setattr(search_module, "_screened", None)
    database, queries = places(1000, 20, 64)
    assert (search(database, queries, 5).indices == exact(database, queries, 5)).all()


@needs_int8
def test_int8_is_chosen_where_it_can_help(screened):
    database, queries = places(1500, 20, 64)
    assert (search(database, queries, 5).indices == exact(database, queries, 5)).all()
    assert screened
    screened.clear()
    search(database, queries, 5, "euclidean")
    search(database, queries[:7], 5)
    search(database[:100], queries, 5)
    assert not screened


def as_with_vnni(codes, levels, packed, steps):
    """Whole numbers without overflow, computed in float64; `packed` is what was to be packed."""
    return ((codes.double() @ packed.double().T) * steps).float()


def as_without_vnni(codes, levels, packed, steps):
    """Pairs of products added in 16 bits, which stop at the largest."""
    shifted = codes.to(torch.int32) + levels + 1
    pairs = (shifted[:, None] * packed.to(torch.int32)).unflatten(2, (-1, 2)).sum(3).clamp(-32768, 32767)
    return ((pairs.sum(2) - (levels + 1) * packed.to(torch.int32).sum(1)) * steps).float()


@pytest.mark.parametrize(("product", "levels"), [(as_with_vnni, 127), (as_without_vnni, 63)])
def test_both_kinds_of_processor(screened, monkeypatch, product, levels):
    """What the other kind would do, whichever this machine is."""
    monkeypatch.setattr(screen_module, "whole_products", product)
    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", lambda codes, shape: codes)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert int8_levels.__wrapped__() == levels
    monkeypatch.setattr(screen_module, "int8_levels", lambda: levels)
    use(monkeypatch, Int8Screen)
    database, queries = places(1500, 80, 64)
    assert (search(database, queries, 8).indices == exact(database, queries, 8)).all()
    assert sum(left for _, left in screened) < 80


@pytest.mark.parametrize("answer", ["wrong", "none", "another machine"])
def test_a_cpu_that_computes_whole_numbers_wrongly_is_not_used(monkeypatch, answer):
    def product(codes, *rest):
        if answer == "none":
            raise RuntimeError("no kernel")
        return torch.zeros(len(codes), 64)

    if answer == "another machine":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    else:
        monkeypatch.setattr(screen_module, "whole_products", product)
    assert int8_levels.__wrapped__() is None


def test_full_precision_is_set_on_gpus_and_given_back():
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        with search_module._full_precision(torch.device("cuda")):
            assert not matmul.allow_tf32 and not matmul.allow_fp16_reduced_precision_reduction
        assert matmul.allow_tf32 and matmul.allow_fp16_reduced_precision_reduction
        with search_module._full_precision(torch.device("cpu")):
            assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before
