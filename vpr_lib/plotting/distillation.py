"""What a student has of its teacher: similarity matrices, curves and gains over seeds."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vpr_lib.plotting.curves import plot_runs
from vpr_lib.plotting.picture import Picture, listed
from vpr_lib.plotting.style import BLACK, BLUE, GREEN, GREY, MARKERS, ORANGE, PURPLE, SKY, VERMILION, panels
from vpr_lib.results.seeds import seed_table
from vpr_lib.results.tables import recall_table

MODE_COLOURS = {"control": GREY, "repo": BLACK, "direct": BLUE, "proj": SKY, "relational": GREEN, "feature": ORANGE,
                "teacher": PURPLE, "none": GREY, "S": GREEN, "C": ORANGE, "SC": BLUE}  # fmt: skip


def mode_look(mode: str) -> dict:
    """Colour and marker of a distillation mode, the same in every figure."""
    place = list(MODE_COLOURS).index(mode) if mode in MODE_COLOURS else len(MODE_COLOURS)
    return {"color": MODE_COLOURS.get(mode, VERMILION), "marker": MARKERS[place % len(MARKERS)]}


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation of two similarity matrices (B, B) over their pairs, the diagonal left out."""
    pairs = ~np.eye(len(first), dtype=bool)
    return float(np.corrcoef(np.asarray(first)[pairs], np.asarray(second)[pairs])[0, 1])


def show_pairs(ax: Axes, matrix: np.ndarray, colours: str) -> tuple[float, float]:
    """Draw a matrix (B, B) between the 1st and 99th percentile of its pairs, the diagonal left out; returns both."""
    matrix = np.asarray(matrix)
    low, high = np.percentile(matrix[~np.eye(len(matrix), dtype=bool)], (1, 99))
    ax.imshow(matrix, cmap=colours, vmin=low, vmax=high)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    return low, high


def plot_mode_curves(
    histories: Mapping[tuple[str, int], Sequence[Mapping[str, float]]], key: str, scale: float, ax: Axes
) -> Axes:
    """`key` of the training history over epochs: a thin line per seed, a thick one with markers for the mean of a mode."""
    for mode in dict.fromkeys(mode for mode, _ in histories):
        plot_runs(ax, histories, mode, key, scale, 0.7, **mode_look(mode))
    ax.set(xlabel="epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)  # ty: ignore[unknown-argument]  (a MaxNLocator)
    ax.legend(fontsize=9)
    return ax


def plot_seed_gains(table: pd.DataFrame, runs: pd.DataFrame, control: str, k: int, ax: Axes) -> Axes:
    """Mean R@k per mode with its interval, every seed as a mark, the control's mean as a line.

    Args:
        table: from `results.seeds.seed_table`. runs: a recall table with one row per model and seed.
    """
    name = f"R@{k}"
    table = table.sort_values(name)
    ax.axvline(float(table.loc[table["model"] == control, name].iloc[0]), color=GREY, linestyle="--", linewidth=1.2)
    reach = 0.0
    for place, (_, row) in enumerate(table.iterrows()):
        look = mode_look(row["model"])
        seeds = runs.loc[runs["model"] == row["model"], name]
        ax.barh(place, row[name], color=look["color"], alpha=0.35, height=0.6)
        if np.isfinite(row[f"{name} low"]):
            ax.plot(
                [max(0, row[f"{name} low"]), min(100, row[f"{name} high"])], [place] * 2, color="#222222", linewidth=1.3
            )
        ax.plot(seeds, np.full(len(seeds), place), look["marker"], color=look["color"], markersize=7, markeredgecolor="#222222",
                markeredgewidth=0.8, linestyle="none")  # fmt: skip
        gain = row.get(f"{name} gain", float("nan"))
        end = np.nanmax([row[name], *seeds, row[f"{name} high"]])
        words = f"{row[name]:.1f}" + (f"  ({gain:+.1f})" if np.isfinite(gain) else "")
        ax.text(min(end, 100) + 1.5, place, words, va="center", fontsize=9.5)
        reach = max(reach, min(end, 100))
    ax.set_yticks(range(len(table)), table["model"])
    ax.set(xlabel=f"recall@{k} (%); bar: mean, marks: seeds, line: 95 % interval", xlim=(0, reach + 24))
    ax.set_xticks(range(0, int(min(reach + 24, 100)) + 1, 20))
    ax.grid(axis="y", visible=False)
    return ax


def picture_of_gains(records: pd.DataFrame, control: str, ks: Sequence[int] = (1, 5)) -> tuple[Picture, pd.DataFrame]:
    """`plot_seed_gains` at several cut-offs side by side, and the table they are drawn from (`results.seeds.seed_table`).

    Args:
        records: of one data set and protocol, control among them.
    """
    table, runs = seed_table(records, control), recall_table(records)
    figure, axes = plt.subplots(1, len(ks), figsize=(6.3 * len(ks), 0.5 * len(table) + 1.4), squeeze=False)
    for ax, k in zip(axes[0], ks):
        plot_seed_gains(table, runs, control, k, ax)
    gains = table.set_index("model")["R@1 gain"].dropna() if "R@1 gain" in table else pd.Series(dtype=float)
    numbers = ", ".join(f"{name} {value:+.1f}" for name, value in gains.items())
    seeds = int(table["seeds"].max())
    return Picture(
        figure,
        f"Mean recall per model as bars with a mark per seed. R@1 gained over {control}: {numbers or 'nothing to compare'} points.",
        f"{records['dataset'].iloc[0]}, {seeds} seed{'s' * (seeds != 1)}; in brackets the gain over {control}, which is the dashed line.",
    ), table


def picture_of_lessons(histories: Mapping[tuple[str, int], Sequence[Mapping[str, float]]]) -> Picture:
    """Left, validation recall over epochs, or where there was none the labels' share of the loss; right, what is left to imitate.

    Args:
        histories: of `train`, by (mode, seed); the control has no distillation term.
    """
    known = {key: [{"student": row["loss"], **row} for row in history] for key, history in histories.items()}
    validated = all("recall@1" in history[0] for history in known.values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
    key, label, scale = (
        ("recall@1", "validation recall@1 (%)", 100) if validated else ("student", "the labels' loss", 1)
    )
    plot_mode_curves(known, key, scale, left).set(ylabel=label, title=label[:1].upper() + label[1:])
    plot_mode_curves(known, "distillation", 1, right).set(ylabel="distillation term", title="What is left to imitate")
    modes = dict.fromkeys(mode for mode, _ in known)
    last = {mode: float(np.mean([h[-1]["student"] for (m, _), h in known.items() if m == mode])) for mode in modes}
    return Picture(
        figure,
        f"Two panels over epochs, {label} and the distillation term. The labels' loss at the end: {listed(last, '', 2)}.",
        "Thin lines are seeds, thick ones their mean; the terms of different modes have different scales.",
    )


def picture_of_similarity(matrices: Mapping[str, np.ndarray], reference: str) -> tuple[Picture, dict[str, float]]:
    """Cosine similarities of the same images under several models, and the correlation of every panel with the reference's.

    Args:
        matrices: name -> (B, B); every panel is stretched between its own 1st and 99th percentile off the diagonal, because
            it is the pattern that the models share and not the level.
    """
    alike = {name: agreement(matrix, matrices[reference]) for name, matrix in matrices.items()}
    lines = -(-len(matrices) // 4)
    figure, axes = panels(len(matrices), -(-len(matrices) // lines), 3.1, 3.8, layout="constrained")
    for ax, (name, matrix) in zip(axes, matrices.items()):
        low, high = show_pairs(ax, matrix, "viridis")
        ax.set_title(name, fontsize=11)
        words = "" if name == reference else f"r = {alike[name]:.2f} with {reference}\n"
        digits = 2 if high - low > 0.05 else 4
        ax.set(xlabel=f"{words}colours from {low:.{digits}f} to {high:.{digits}f}")
    others = {name: value for name, value in alike.items() if name != reference}
    return Picture(
        figure,
        f"Similarity matrices of the same images. Correlation with the {reference}'s: {listed(others, '', 2)}.",
        f"Cosine similarities of {len(matrices[reference])} database images; every panel has its own colour range.",
    ), alike
