"""Figures of notebook 5: data in, a matplotlib `Figure` out, in the style and colours of `cop.show.figures`."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cop.show.figures import BLUE, GREY, INK, ORANGE, PINK, TEAL, line_of, reveal, show, styled
from cop.show.figures_orders import dotted, lines, named, runs_drawn, standing, told_apart

# Table 5's systems. RViT and CViT wear the colours of the orders they are trained along.
SYSTEMS = {
    "ViT": (INK, "--", 1.8), "DynamicViT": (BLUE, "-.", 1.8), "ViT+C": (TEAL, ":", 2.2), "RViT": line_of("random"),
    "CViT": line_of("collapse"),
}  # fmt: skip
PERCENT = PercentFormatter(1, decimals=0)


@styled
def fig8_accuracy(rates: Sequence[float], curves: Mapping[str, np.ndarray], knees: Mapping[str, float | None], chance: float,
                  tested: Sequence[float], rate: float = 0.78) -> Figure:  # fmt: skip
    """Fig. 8: top-1 against mask ratio, one line per system, named in place, with a ring at its knee.

    curves: (runs, len(rates)) per system; tested: the mask ratios at which the images were classified, between which the lines are
    interpolated, as small dots; rate: the knee that the paper reports."""
    fig, ax = plt.subplots(figsize=(6.4, 4.2))
    ax.set(xlim=(0, 1), ylim=(0, 1.05 * max(np.max(c) for c in curves.values())))
    looks = {name: SYSTEMS[name] for name in curves}
    lines(ax, rates, curves, looks)
    named(ax, rates, curves, looks)
    means = {name: np.mean(c, 0) for name, c in curves.items()}
    for name, y in means.items():
        colour = SYSTEMS[name][0]
        ax.plot(tested, np.interp(tested, rates, y), ".", color=colour, ms=4.5, zorder=4)
        if (knee := knees.get(name)) is not None:
            ax.plot(knee, np.interp(knee, rates, y), "o", color=colour, mfc="none", ms=9, mew=1.5, zorder=4)
    ax.axhline(chance, color=GREY, lw=0.8, ls=":")
    ax.text(0.01, chance, "chance", color=GREY, fontsize=8, va="bottom")
    ax.axvline(rate, color=GREY, lw=0.6)
    ax.text(rate + 0.01, 0.99, f"{rate:.0%}, the\npaper's knee", color=GREY, fontsize=8, transform=ax.get_xaxis_transform(), va="top")
    at = {name: f"{name} {np.interp(rate, rates, y):.0%}" for name, y in means.items()}
    ax.set(ylabel="top-1 accuracy (higher is better)", title=f"Right with {rate:.0%} of the patches masked: {', '.join(at[n] for n in ('CViT', 'RViT', 'ViT') if n in at)}",
           xlabel=f"mask ratio ({runs_drawn(curves)}; dots: tested, rings: knees)")  # fmt: skip
    ax.xaxis.set_major_formatter(PERCENT)
    ax.yaxis.set_major_formatter(PERCENT)
    return fig


@styled
def knee_range(ends: Sequence[float], knees: Mapping[str, np.ndarray], asked: float = 0.78) -> Figure:
    """The knee of each system's curve when it is drawn up to a mask rate of `ends` only; a line where the knee is the end.

    knees: name -> (runs, len(ends)), nan where the curve has none; asked: the knee that the paper reports."""
    fig, ax = plt.subplots(figsize=(6.4, 3.6))
    for name, found in knees.items():
        colour, dash, width = SYSTEMS[name]
        for k, run in enumerate(found):
            ax.plot(ends, run, dash, color=colour, lw=width, marker="o", ms=3, label=None if k else name)
    ax.plot(ends, ends, color=GREY, lw=0.8, ls=":")
    ax.text(ends[-1], ends[-1] + 0.003, "knee = end", color=GREY, fontsize=8, ha="right", va="bottom")
    ax.axhline(asked, color=GREY, lw=0.6)
    ax.text(ends[0], asked, f"{asked:.0%}, the paper's knee", color=GREY, fontsize=8, va="top")
    ours = knees["CViT"]
    low, high = (f"{f(ours):.0%}" if np.isfinite(ours).any() else "none" for f in (np.nanmin, np.nanmax))
    ax.set(xlabel="the curve ends at this mask ratio (a line per run)", ylabel="knee",
           title=f"CViT's knee lies between {low} and {high}, by where its curve ends")  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PERCENT)
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    fig.legend(fontsize=8, loc="outside right upper")
    return fig


@styled
def order_controls(rates: Sequence[float], curves: Mapping[str, np.ndarray], at: Mapping[str, tuple[float, float, float]], rate: float,
                   says: str, runs: Mapping[str, Sequence[float]], coarser: tuple[float, float] | None = None) -> Figure:  # fmt: skip
    """Left: top-1 against mask ratio per order. Right: (mean, low, high) at one rate, best on top, and a dot for each of several runs.

    curves: (runs, len(rates)) per order; coarser: share of tokens and accuracy of a plain ViT on larger patches, a star.
    """
    fig, (ax, right) = plt.subplots(1, 2, figsize=(8.6, 4.2), width_ratios=(1.4, 1))
    shown = told_apart(list(curves), ("collapse", "random", "mean order", "variance"))
    tops = [np.max(c) for c in curves.values()] + [coarser[1] if coarser else 0]
    ax.set(xlim=(0, 1), ylim=(0, 1.05 * max(tops)), ylabel="top-1 accuracy (higher is better)",
           xlabel=f"mask ratio ({runs_drawn(curves)}; grey: the other orders)")  # fmt: skip
    lines(ax, rates, curves, shown)
    if coarser:
        ax.plot(1 - coarser[0], coarser[1], "*", color=INK, ms=11, zorder=4, label="coarser patches")
    handles = {h.get_label(): h for h in ax.get_lines() if h.get_label() in (*shown, "coarser patches")}
    ax.legend(handles=handles.values(), fontsize=8, loc="lower left", handlelength=3)
    ax.axvline(rate, color=GREY, lw=0.6)
    ax.text(rate - 0.01, 0.02, f"{rate:.0%}", color=GREY, fontsize=8, transform=ax.get_xaxis_transform(), ha="right")
    ax.xaxis.set_major_formatter(PERCENT)
    ax.yaxis.set_major_formatter(PERCENT)
    dotted(right, at, runs=runs)
    right.set(xlabel="top-1 accuracy, 95 % over images", title=f"{rate:.0%} masked")
    right.xaxis.set_major_formatter(PERCENT)
    for axis in (ax.yaxis, right.xaxis):
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # whole per cents: 22.5 would be printed as 22
    fig.suptitle(f"{says}, {rate:.0%} masked: {standing({n: v for n, (v, _, _) in at.items()}, 1)}", fontsize=10)
    return fig


@styled
def cost_chart(bars: Mapping[str, Mapping[str, float]], fractions: Sequence[float], gain: Sequence[float], ideal: Sequence[float],
               kept: float = 0.22) -> Figure:  # fmt: skip
    """Left: multiply-adds in units of classifying the whole image, per size (row) and part (dot), logarithmic. Right: measured gain in
    throughput against the share of patches kept, beside what the multiply-adds promise.

    bars: size -> part -> value, with `end to end` among the parts."""
    fig, (ax, right) = plt.subplots(1, 2, figsize=(8.6, 3.4), width_ratios=(1.5, 1))
    looks = dict(zip(("first patches", "ranking", "end to end"), ((TEAL, "o", 0), (ORANGE, "s", -0.13), (INK, "D", 0.13)), strict=True))
    for y, parts in enumerate(bars.values()):
        for part, (colour, marker, down) in looks.items():
            value, text = parts[part], f"{parts[part]:.2g}×" if parts[part] < 100 else f"{parts[part]:.0f}×"
            ax.plot(value, y + down, marker, color=colour, ms=6.5, label=None if y else part)
            ax.text(1.2 * value, y + down, text, color=colour, fontsize=8, va="center")
    ax.axvline(1, color=GREY, lw=1, ls=":")
    ax.text(1, len(bars) - 0.45, "the whole image", color=GREY, fontsize=8, ha="center", va="bottom")
    ax.set_yticks(range(len(bars)), list(bars))
    total = [parts["end to end"] for parts in bars.values()]
    dear = "Ranking costs more than it saves" if min(total) > 1 else "Ranking pays" if max(total) < 1 else "Ranking pays at some sizes only"
    least = min(parts["first patches"] for parts in bars.values())
    ax.set(xscale="log", xlim=(least / 2, 4 * max(total)), xlabel="multiply-adds, whole-image classifier = 1 (less is better)", ylim=(len(bars) - 0.4, -0.6),
           title=f"{dear}: {min(total):.1f}× to {max(total):.1f}×")  # fmt: skip
    fig.legend(*ax.get_legend_handles_labels(), ncols=3, fontsize=8, loc="outside lower center")
    right.plot(fractions, ideal, color=GREY, lw=1.8)
    right.plot(fractions, gain, "o--", color=PINK, lw=1.8, ms=4)
    right.axvline(kept, color=GREY, lw=0.6)
    fast, promised = (np.interp(kept, fractions, y) for y in (gain, ideal))
    named = sorted([(fast, "measured", PINK), (promised, "by multiply-adds", GREY)])
    for (y, text, colour), up in zip(named, (0, 13), strict=True):  # the higher one above, however near they are
        right.annotate(f"{text} {y:.1f}×", (kept, y), (15, up), textcoords="offset points", color=colour, fontsize=8)
    right.set(xlabel="share of patches kept", ylabel="images per second, all kept = 1\n(more is better)", xlim=(0, 1),
              title=f"Classifier alone: {fast:.1f}× as fast")  # fmt: skip
    right.xaxis.set_major_formatter(PERCENT)
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
    wrong = [k for k, (*_, right) in zip(ks, guesses, strict=True) if not right]
    since = next((k for k in ks if k > max(wrong, default=0)), None)
    fig.suptitle("CViT is wrong with every patch" if since is None else f"CViT is right from {since} patches on", fontsize=10)
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
