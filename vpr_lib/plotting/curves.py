"""Recall over N, whether a match can be trusted (precision over recall), and recall over the length of a sequence."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vpr_lib.plotting.style import method_colour, method_marker
from vpr_lib.results.precision import curve
from vpr_lib.results.statistics import wilson_interval


def plot_recall_at_n(
    records: pd.DataFrame, ns: Sequence[int] = (1, 2, 3, 4, 5, 10, 15, 20, 25), ax: Axes | None = None
) -> Axes:
    """Recall@N of every model in `records` (one data set and protocol), with the 95 % Wilson band.

    Paper figure: MixVPR Fig. 'Recall@N' (spec mixvpr §7.3); the x axis counts candidates, evenly spaced.
    """
    ax = ax or plt.subplots(figsize=(6.4, 4.2))[1]
    places = np.arange(len(ns))
    for model, group in records.groupby("model", sort=False):
        ranks = group.loc[group["counted"], "first_hit"].to_numpy()
        hits = [int(((ranks > 0) & (ranks <= n)).sum()) for n in ns]
        low, high = np.array([wilson_interval(h, len(ranks)) for h in hits]).T * 100
        colour, system = method_colour(group["system"].iloc[0]), group["system"].iloc[0]
        label = f"{system} ({model})" if system not in model else model
        ax.plot(places, 100 * np.array(hits) / len(ranks), color=colour, marker=method_marker(model), label=label)
        ax.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
    ax.set_xticks(places, [str(n) for n in ns])
    ax.set(xlabel="N, top candidates", ylabel="recall@N (%)", ylim=(0, 101))
    ax.legend(loc="lower right", fontsize=9)
    return ax


def plot_precision_recall(records: pd.DataFrame) -> Axes:
    """One line per model over the similarity of its best match; the marker is the largest recall at 100 % precision.

    Args:
        records: of one data set and protocol; models without similarities (panorama suppression) raise ValueError.
    Source: the curves of VPR-Bench (Zaffar et al., IJCV 2021).
    """
    ax = plt.subplots(figsize=(9, 4.2))[1]
    for model, group in records.groupby("model", sort=False):
        precision, colour = curve(group), method_colour(group["system"].iloc[0])
        label = f"{model}, AP {100 * precision.average_precision:.0f} %"
        ax.step(100 * precision.recall, 100 * precision.precision, where="post", color=colour)
        at = (100 * precision.recall_at_full_precision, 100)
        ax.plot(*at, method_marker(model), color=colour, clip_on=False, label=label, markersize=8)
    ax.set(xlabel="recall (% of the queries that have a match)", ylabel="precision (%)", ylim=(0, 101))
    ax.set_xlim(left=0)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    return ax


def plot_sequences(recalls: Mapping[str, Mapping[int, float]], systems: Mapping[str, str]) -> Axes:
    """Recall@1 over the frames that are matched together: {model: {length: share}}, and each model's system."""
    ax = plt.subplots(figsize=(5.6, 3.8))[1]
    for model, values in recalls.items():
        lengths = sorted(values)
        shares = [100 * values[length] for length in lengths]
        ax.plot(lengths, shares, marker=method_marker(model), color=method_colour(systems[model]), label=model)
    ax.set_xticks(sorted({length for values in recalls.values() for length in values}))
    ax.set(xlabel="frames of a sequence", ylabel="recall@1 (%)")
    ax.legend(fontsize=8)
    return ax


def plot_runs(
    ax: Axes, histories: Mapping[tuple[str, int], Sequence[Mapping[str, float]]], name: str, key: str, scale: float,
    thin: float, **look,
) -> None:  # fmt: skip
    """`key` of what `name` was trained to, over epochs: a line per seed, and their mean where all are equally long.

    Args:
        histories: of `train`, by (name, seed); those without the key are passed over.
        thin: width of a seed's line. look: of the mean's line.
    """
    runs = [[scale * row[key] for row in h] for (own, _), h in histories.items() if own == name and key in h[0]]
    for run in runs:
        ax.plot(range(1, len(run) + 1), run, color=look["color"], linewidth=thin, alpha=0.5)
    if runs and len({len(run) for run in runs}) == 1:
        ax.plot(range(1, len(runs[0]) + 1), np.mean(runs, axis=0), label=name, **look)
