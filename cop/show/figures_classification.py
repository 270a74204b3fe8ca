"""Figures of notebook 5: data in, a matplotlib `Figure` out, in the style and colours of `cop.show.figures`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cop.show.figures import BLUE, GREY, INK, ORANGE, PINK, TEAL, line_of, reveal, show, styled

# Table 5's systems. RViT and CViT wear the colours of the orders they are trained along.
SYSTEMS = {
    "ViT": (INK, "--", 1.8), "DynamicViT": (BLUE, "-.", 1.8), "ViT+C": (TEAL, ":", 2.2), "RViT": line_of("random"),
    "CViT": line_of("collapse"), "DynamicViT, tokens matched": ("#6fb7e9", ":", 1.8),
}  # fmt: skip
PERCENT = PercentFormatter(1, decimals=0)


@styled
def fig8_accuracy(rates: Sequence[float], curves: Mapping[str, np.ndarray], knees: Mapping[str, float | None],
                  chance: float) -> Figure:  # fmt: skip
    """Fig. 8: top-1 against mask ratio, one line per system, a dot at the knee of each curve."""
    fig, ax = plt.subplots(figsize=(6.4, 4.0))
    for name, y in curves.items():
        colour, dash, width = SYSTEMS[name]
        ax.plot(rates, y, dash, color=colour, lw=width, label=name, zorder=3 if name == "CViT" else 2)
        knee = knees.get(name)
        if knee is not None:
            at = np.interp(knee, rates, y)
            ax.plot(knee, at, "o", color=colour, ms=5.5, mec="white", zorder=4)
            if name == "CViT":
                ax.annotate(f"knee of CViT: {knee:.0%} masked", (knee, at), (max(knee - 0.6, 0.02), 0.03), color=colour,
                            arrowprops={"arrowstyle": "-", "color": colour})  # fmt: skip
    ax.axhline(chance, color=GREY, lw=0.8, ls=":")
    ax.text(0.995, chance, "chance", color=GREY, fontsize=8, ha="right", va="bottom")
    ax.axvline(0.78, color=GREY, lw=0.6)
    ax.text(0.79, 0.97, "78 %, the paper's knee", color=GREY, fontsize=8, transform=ax.get_xaxis_transform(), va="top")
    ax.set(
        xlabel="mask ratio",
        ylabel="top-1 accuracy",
        xlim=(0, 1),
        ylim=(0, None),
        title="Five classifiers, fewer and fewer patches",
    )
    ax.xaxis.set_major_formatter(PERCENT)
    ax.yaxis.set_major_formatter(PERCENT)
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.02, max(0.13, chance / ax.get_ylim()[1] + 0.01)))  # above chance
    return fig


@styled
def knee_range(ends: Sequence[float], knees: Mapping[str, Sequence[float | None]], asked: float = 0.78) -> Figure:
    """The knee of each system's curve when it is drawn up to a mask rate of `ends` only; a line where the knee is the end.

    knees: name -> one knee per end, None where the curve has none; asked: the knee that the paper reports."""
    fig, ax = plt.subplots(figsize=(5.6, 3.2))
    for name, found in knees.items():
        colour, dash, width = SYSTEMS[name]
        ax.plot(ends, [np.nan if k is None else k for k in found], dash, color=colour, lw=width, marker="o", ms=3, label=name)
    ax.plot(ends, ends, color=GREY, lw=0.8, ls=":")
    ax.text(ends[-1], ends[-1] + 0.003, "knee = end", color=GREY, fontsize=8, ha="right", va="bottom")
    ax.axhline(asked, color=GREY, lw=0.6)
    ax.text(ends[0], asked, f"{asked:.0%}, the paper's knee", color=GREY, fontsize=8, va="top")
    ax.set(xlabel="the curve ends at this mask ratio", ylabel="knee", title="The knee against the end of its curve")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PERCENT)
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    fig.legend(fontsize=8, loc="outside right upper")
    return fig


@styled
def order_controls(rates: Sequence[float], curves: Mapping[str, np.ndarray], at: Mapping[str, tuple[float, float, float]],
                   rate: float, left: str, title: str, coarser: tuple[float, float] | None = None) -> Figure:  # fmt: skip
    """Left: top-1 against mask ratio per order. Right: (mean, low, high) at one rate, best on top.

    coarser: share of tokens and accuracy of a plain ViT on larger patches, drawn as a star.
    """
    fig, (ax, right) = plt.subplots(1, 2, figsize=(8.6, 3.8), width_ratios=(1.5, 1))
    for name, y in curves.items():
        colour, dash, width = line_of(name)
        ax.plot(rates, y, dash, color=colour, lw=width, label=name, zorder=3 if name == "collapse" else 2)
    if coarser:
        ax.plot(1 - coarser[0], coarser[1], "*", color=INK, ms=11, zorder=4, label="coarser patches")
    ax.axvline(rate, color=GREY, lw=0.6)
    ax.set(xlabel="mask ratio", ylabel="top-1 accuracy", xlim=(0, 1), title=left)
    ax.xaxis.set_major_formatter(PERCENT)
    ax.yaxis.set_major_formatter(PERCENT)
    ax.legend(fontsize=8, loc="lower left")
    names = sorted(at, key=lambda n: at[n][0])
    for i, name in enumerate(names):
        mean, low, high = at[name]
        colour = line_of(name)[0]
        right.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, capsize=3, ms=5)
    if "random" in at:
        right.axvline(at["random"][0], color=GREY, lw=0.8, ls=":")
    right.set_yticks(range(len(names)), names)
    right.set(xlabel="top-1 accuracy, 95 % over images", title=title)
    right.xaxis.set_major_formatter(PERCENT)
    for axis in (ax.yaxis, right.xaxis):
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # whole per cents: 22.5 would be printed as 22
    right.grid(axis="x", alpha=0.3)
    return fig


@styled
def cost_chart(bars: Mapping[str, Mapping[str, float]], fractions: Sequence[float], gain: Sequence[float],
               ideal: Sequence[float]) -> Figure:  # fmt: skip
    """Left: multiply-adds in units of classifying the whole image, per size (group) and part (bar), logarithmic.
    Right: measured gain in throughput against the share of patches kept, beside what the multiply-adds promise."""
    fig, (ax, right) = plt.subplots(1, 2, figsize=(8.6, 3.4), width_ratios=(1.5, 1))
    colours, height = (GREY, PINK, ORANGE, INK), 0.19
    for g, parts in enumerate(bars.values()):
        for i, (part, value) in enumerate(parts.items()):
            y = g + (i - 1.5) * height
            ax.barh(y, value, height * 0.9, color=colours[i], label=part if g == 0 else None)
            ax.text(value * 1.08, y, f"{value:.2g}×" if value < 100 else f"{value:.0f}×", va="center", fontsize=8)
    ax.set_yticks(range(len(bars)), list(bars))
    ax.set(xscale="log", xlabel="multiply-adds, whole-image classifier = 1", title="Multiply-adds with 22 % of the patches")
    ax.set_xlim(right=max(v for p in bars.values() for v in p.values()) * 4)
    ax.axvline(1, color=INK, lw=0.8, ls=":")
    ax.invert_yaxis()
    fig.legend(*ax.get_legend_handles_labels(), ncols=4, fontsize=8, loc="outside lower center")
    right.plot(fractions, ideal, color=GREY, lw=1.8, label="by multiply-adds")
    right.plot(fractions, gain, "o--", color=PINK, lw=1.8, ms=4, label="measured")
    right.axvline(0.22, color=GREY, lw=0.6)
    right.set(
        xlabel="share of patches kept",
        ylabel="images per second, all kept = 1",
        title="Measured throughput",
        xlim=(0, 1),
    )
    right.xaxis.set_major_formatter(PERCENT)
    right.legend(fontsize=8)
    return fig


@styled
def first_patches(image: np.ndarray, ranking: np.ndarray, grid: int, ks: Sequence[int],
                  guesses: Sequence[tuple[str, float, bool]]) -> Figure:  # fmt: skip
    """An image at each number of patches, and under it the classifier's guess: (class, probability, right?)."""
    fig, axes = plt.subplots(1, len(ks), figsize=(1.5 * len(ks), 2.35), squeeze=False)
    for ax, k, (name, p, right) in zip(axes[0], ks, guesses, strict=True):
        show(ax, reveal(image, ranking[:k], grid), f"{k} patches")
        ax.text(0.5, -0.06, f"{name}\n{p:.0%}", transform=ax.transAxes, ha="center", va="top", fontsize=8.5,
                color=TEAL if right else PINK, fontweight="bold" if right else "normal")  # fmt: skip
    fig.suptitle("What CViT says of the first patches", fontsize=10)
    return fig


@styled
def one_guess(image: np.ndarray, ranking: np.ndarray, seen: int, grid: int, probabilities: np.ndarray,
              class_names: Sequence[str], label: int) -> Figure:  # fmt: skip
    """An image at its first `seen` patches, and beside it the probability of every class: the guess is teal if it is the
    label (bold), pink if not."""
    guess = int(probabilities.argmax())
    fig, (ax, right) = plt.subplots(1, 2, figsize=(6.4, max(2.6, 0.2 * len(class_names) + 0.8)), width_ratios=(1, 1.3))
    show(ax, reveal(image, ranking[:seen], grid), f"{seen} of {grid**2} patches")
    colours = [GREY] * len(class_names)
    colours[guess] = TEAL if guess == label else PINK
    right.barh(range(len(class_names)), probabilities, color=colours, height=0.7)
    right.set_yticks(range(len(class_names)), class_names)
    right.get_yticklabels()[label].set_fontweight("bold")
    right.invert_yaxis()
    right.set(xlim=(0, 1), xlabel="probability", title=f"CViT says {class_names[guess]} ({probabilities[guess]:.0%})")
    right.xaxis.set_major_formatter(PERCENT)
    return fig
