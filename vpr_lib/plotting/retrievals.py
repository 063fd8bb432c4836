"""Grids of queries with their best matches, for notebooks and the report."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from vpr_lib.data.images import read_image
from vpr_lib.plotting.picture import Picture
from vpr_lib.plotting.strips import verdict
from vpr_lib.retrieval.metrics import distances_m
from vpr_lib.retrieval.protocol import Evaluation


def choose_queries(first_hits: np.ndarray, counted: np.ndarray, rows: int, seed: int = 0) -> np.ndarray:
    """Half successes and half failures at rank one, drawn at random under `seed`; successes first."""
    rng = np.random.default_rng(seed)
    right, wrong = (np.flatnonzero(counted & hit) for hit in (first_hits == 1, first_hits != 1))
    n_wrong = min(len(wrong), rows // 2)
    chosen = [rng.permutation(part)[:n] for part, n in ((right, min(len(right), rows - n_wrong)), (wrong, n_wrong))]
    return np.concatenate(chosen)


def _show(ax: Axes, path: str, caption: str, correct: bool | None) -> None:
    show_match(ax, read_image(path).permute(1, 2, 0).numpy(), correct, caption)
    ax.set_axis_off()


def show_match(ax: Axes, image: np.ndarray, correct: bool | None, caption: str = "") -> None:
    """Draw an image (H, W, 3) with the frame and sign of its verdict: solid and ✓, dashed and ✗, neither where None."""
    sign, colour = verdict(correct) if correct is not None else ("", "#333333")
    height, width = image.shape[:2]
    ax.imshow(image)
    ax.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=colour, linewidth=4, clip_on=False,
                           linestyle=(0, (2, 1.2)) if correct is False else "-"))  # fmt: skip
    caption = f"{sign} {caption}".strip()
    ax.set_title(caption, fontsize=9, color=colour, loc="left", fontweight="normal", pad=5)


def picture_of_retrievals(evaluation: Evaluation, name: str, seed: int = 0, rows: int = 6) -> Picture:
    """Queries drawn at random, half of them found, each with its five best matches on a line.

    Correct ones are ticked in a solid frame, wrong ones crossed in a dashed one, with the distance in metres where positions
    are known.
    """
    scored, benchmark, columns = evaluation.scores[0], evaluation.benchmark, 5
    chosen = choose_queries(scored.first_hits, scored.counted, rows, seed)
    top = scored.ranking[chosen, :columns]
    metres = distances_m(benchmark.database, benchmark.queries.take(chosen), top)
    queries, database = (manifest.image_paths() for manifest in (benchmark.queries, benchmark.database))
    words = benchmark.queries.table.get("conditions")
    size = (1.75 * (columns + 1), 1.95 * len(chosen))
    figure, axes = plt.subplots(len(chosen), columns + 1, figsize=size, squeeze=False)
    for line, query, matches, gaps in zip(axes, chosen, top, metres):
        _show(line[0], queries[query], ("" if words is None else " ".join(words.iloc[query])) or "query", None)
        correct = scored.protocol.positives.contains(np.full(len(matches), query), matches)
        for ax, match, gap, hit in zip(line[1:], matches, gaps, correct):
            _show(ax, database[match], "" if np.isnan(gap) else f"{gap:.0f} m", bool(hit))
    right = int((scored.first_hits[chosen] == 1).sum())
    return Picture(
        figure,
        f"{rows} queries with their five best database images: the upper {right} found at rank one, the others not. Correct matches have a "
        "solid frame and a tick, wrong ones a dashed frame and a cross.",
        f"{name} on {benchmark.name}: {right} successes, {len(chosen) - right} failures, drawn at random; distances in metres.",
    )


def picture_of_cases(answers: Mapping[str, Evaluation], queries: Sequence[int], names: Sequence[str]) -> Picture:
    """One line per query, and in it the first match of every method, right or wrong.

    Args:
        answers: method -> its evaluation, all on one benchmark. queries: rows of the queries, named by `names`.
    """
    benchmark = next(iter(answers.values())).benchmark
    paths = [manifest.image_paths() for manifest in (benchmark.queries, benchmark.database)]
    size = 1 + len(answers)
    figure, axes = plt.subplots(len(queries), size, figsize=(1.9 * size, 2.0 * len(queries)), squeeze=False)
    right = dict.fromkeys(answers, 0)
    for line, query, name in zip(axes, queries, names):
        _show(line[0], paths[0][query], name, None)
        for ax, (method, answer) in zip(line[1:], answers.items()):
            match, hit = answer.scores[0].ranking[query, 0], answer.scores[0].first_hits[query] == 1
            _show(ax, paths[1][match], method, bool(hit))
            right[method] += int(hit)
    numbers = ", ".join(f"{method} {count} of {len(queries)}" for method, count in right.items())
    return Picture(
        figure,
        f"Queries ({', '.join(names)}) with the first match of every method; right: {numbers}.",
        f"{benchmark.name}: one query per condition; ✓ and a solid frame: right, ✗ and a dashed one: wrong.",
    )
