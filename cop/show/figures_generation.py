"""Figures of notebook 4: arrays in, a matplotlib `Figure` out, in the style of `cop.show.figures`.

Letters: B images, N patches. Images are (H, W) or (H, W, 3) arrays in [0, 1].
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cop.show.figures import BLUE, GREY, INK, ORANGE, reveal, show, staged, styled, sure_of

# The frames of the paper's Fig. 7 (MAR purple, MAR+C blue, CMAR green) and ours for the two controls.
SYSTEM_COLOURS = {"MAR": "#7d4bb3", "MAR+C": BLUE, "CMAR": "#2f9e44", "continued random": GREY, "ascending": ORANGE}


def frame(ax, colour: str, width: float = 2.2) -> None:
    """A coloured frame round an image."""
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)


@styled
def fig1_generation(images: Mapping[str, np.ndarray], rankings: Mapping[str, np.ndarray], certainty: Mapping[str, np.ndarray],
                    ks: Sequence[int], grid: int, label: str) -> Figure:  # fmt: skip
    """Fig. 1: two generations of a class, in random (top) and collapse order (bottom), class certainty between them.

    images, rankings, certainty: entries `random` and `collapse`; image (H, W), ranking (N,), certainty (len(ks),)."""
    fig = staged(images, rankings, certainty, ks, grid, label)
    fig.suptitle(f"Two generations of one class, {sure_of(certainty, ks)}", fontsize=10)
    return fig


@styled
def fig7_systems(images: Mapping[str, np.ndarray], titles: Sequence[str]) -> Figure:
    """Fig. 7: one row per system, one column per image; a column shares class and noise. images: name -> (B, H, W)."""
    B = len(titles)
    fig, axes = plt.subplots(len(images), B, figsize=(0.95 * B + 0.5, 1.05 * len(images) + 0.25), squeeze=False)
    for row, (name, batch) in enumerate(images.items()):
        for column in range(B):
            ax = axes[row, column]
            show(ax, batch[column], titles[column] if row == 0 else "")
            ax.title.set_fontsize(7.5)
            frame(ax, SYSTEM_COLOURS[name])
        axes[row, 0].set_ylabel(name, color=SYSTEM_COLOURS[name])
    (first, start), *others = images.items()
    moved = ", ".join(f"{name} {np.abs(batch - start).mean():.0%}" for name, batch in others)
    fig.suptitle(f"Same class and noise per column; difference from {first}, of the range of grey: {moved}", fontsize=9.5)
    return fig


@styled
def made(images: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray], titles: Sequence[str], grid: int) -> Figure:
    """Generated images by the order in which they were made, two rows each: images, name -> (B, H, W), and of each the patches that
    were made first, name -> (B, K). A column shares class and noise."""
    B, rows = len(titles), 2 * len(images)
    fig, axes = plt.subplots(rows, B, figsize=(0.95 * B + 0.7, 1.02 * rows + 0.4), squeeze=False)
    for pair, (name, batch), colour in zip(axes.reshape(-1, 2, B), images.items(), (GREY, BLUE, ORANGE), strict=True):
        for column in range(B):
            show(pair[0, column], batch[column], titles[column] if pair[0, 0] is axes[0, 0] else "")
            show(pair[1, column], reveal(batch[column], first[name][column], grid))
            for ax in pair[:, column]:
                ax.title.set_fontsize(7.5)
                frame(ax, colour)
        pair[0, 0].set_ylabel(name, color=colour)
        pair[1, 0].set_ylabel(f"its first {first[name].shape[1]}", color=colour)
    shared = {name: np.mean([np.isin(a, b).mean() for a, b in combinations(rows, 2)]) for name, rows in first.items()}
    fig.suptitle("First patches that two images have in common: " + ", ".join(f"{n} {s:.0%}" for n, s in shared.items()), fontsize=9.5)
    return fig


@styled
def fig9_samples(images: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Fig. 9: samples, one column per class. images: (rows * len(classes), H, W), the classes in turn."""
    columns = min(len(classes), len(images), 10)
    rows = len(images) // columns
    fig, axes = plt.subplots(rows, columns, figsize=(0.85 * columns, 0.88 * rows + 0.5), squeeze=False)
    for i, ax in enumerate(axes.flat):
        show(ax, images[i], classes[i % len(classes)] if i < columns or columns < len(classes) else "")
        ax.title.set_fontsize(7.5)
    fig.suptitle(title, fontsize=9.5)
    return fig


@styled
def metric_dots(intervals: Mapping[str, Mapping[str, Mapping[str, tuple]]], floor: Mapping[str, float], metrics: Mapping[str, tuple[str, int]],
                runs: Mapping[tuple[str, str, str], Sequence[float]], title: str) -> Figure:  # fmt: skip
    """One panel per metric: a dot with its 95 % interval per system, filled without guidance, hollow with it, and a small dot for
    each of several runs.

    intervals: metric -> guidance -> system -> (value, low, high); floor: metric -> value of real images; metrics: metric -> its heading,
    and 1 where more is better, -1 where less is; runs: (metric, guidance, system) -> one value per run."""
    fig, axes = plt.subplots(1, len(intervals), figsize=(2.05 * len(intervals) + 0.9, 3.3), sharey=True, squeeze=False)
    names = list(next(iter(next(iter(intervals.values())).values())))
    for ax, (metric, by_guidance) in zip(axes[0], intervals.items(), strict=True):
        for g, (guidance, systems) in enumerate(by_guidance.items()):
            for i, name in enumerate(names):
                value, low, high = systems[name]
                y, colour = i + 0.18 * (2 * g - 1), SYSTEM_COLOURS.get(name.split(" ·")[0], INK)
                ax.errorbar(value, y, xerr=[[max(0, value - low)], [max(0, high - value)]], fmt="o" if g == 0 else "s",
                            color=colour, mfc=colour if g == 0 else "white", capsize=2, ms=4.5)  # fmt: skip
                if len(of := runs.get((metric, guidance, name), ())) > 1:
                    ax.plot(of, [y + 0.13] * len(of), ".", color=colour, ms=3)
        if metric in floor:
            ax.axvline(floor[metric], color=GREY, lw=0.9, ls=":")
        heading, better = metrics[metric]
        ax.set_title(heading.replace(" (", "\n("), fontsize=8)
        ax.set_xlabel("better →" if better > 0 else "← better", fontsize=8)
        ax.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    handles = [plt.Line2D([], [], marker=m, color=INK, mfc=INK if m == "o" else "white", ls="", label=g)
               for m, g in zip("os", next(iter(intervals.values())), strict=False)]  # fmt: skip
    handles.append(plt.Line2D([], [], color=GREY, ls=":", label="real images"))
    fig.legend(handles=handles, ncols=3, loc="outside lower center", fontsize=8)
    fig.suptitle(title, fontsize=10)
    return fig


@styled
def losses(gaps: Mapping[str, Mapping[str, tuple]], runs: Mapping[tuple[str, str], Sequence[float]], xlabel: str, title: str) -> Figure:
    """Paired differences with intervals: one group per order, one dot per system, and a small one for each of several runs.

    gaps: order -> system -> interval; runs: (order, system) -> one value per run."""
    fig, ax = plt.subplots(figsize=(6.4, 0.34 * sum(map(len, gaps.values())) + 1.4))
    y, ticks = 0, []
    for order, systems in gaps.items():
        for name, (value, low, high) in systems.items():
            colour, of = SYSTEM_COLOURS[name], runs.get((order, name), ())
            ax.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color=colour, capsize=3, ms=5)
            if len(of) > 1:
                ax.plot(of, [y + 0.28] * len(of), ".", color=colour, ms=4, alpha=0.8)
            ticks.append((y, f"{name}, hidden by {order}"))
            y += 1
        y += 0.5
    ax.axvline(0, color=GREY, lw=0.9, ls=":")
    ax.set_yticks(*zip(*ticks, strict=True))
    ax.invert_yaxis()
    ax.set_xlabel(xlabel)
    fig.suptitle(title, fontsize=10)
    ax.grid(axis="x", alpha=0.3)
    return fig
