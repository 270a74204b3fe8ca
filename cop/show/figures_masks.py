"""Figures of notebook 2 on the agreement of trainings: data in, a matplotlib `Figure` out."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from cop.show.figures import BLUE, GREY, INK, PINK, styled


@styled
def loss_and_agreement(path: pd.DataFrame, levels: Mapping[str, float], title: str) -> Figure:
    """Above the reconstruction loss of every seed over the training, below how alike two seeds see the same image.

    path: columns step, quantity, value of `cop.lessons.masks.on_the_way`; levels: name -> a loss drawn as a line across."""
    fig, (ax, below) = plt.subplots(2, 1, figsize=(6.4, 5.2), sharex=True, height_ratios=(1, 1.15))
    loss = path[path.quantity == "L_r"]
    ax.plot(loss.step, loss.value, ".", color=GREY, ms=5)
    sns.lineplot(loss, x="step", y="value", color=INK, errorbar=None, ax=ax)
    for name, level in levels.items():
        ax.axhline(level, color=BLUE, lw=1, ls=":")
        ax.text(0.005, level, name, transform=ax.get_yaxis_transform(), color=BLUE, fontsize=8, va="bottom")
    ax.set(ylabel="$L_r$ on validation images\n(lower is better)", ylim=(0, None), xscale="log", title=title)
    lines = {
        "graphs_raw": ("graphs", BLUE, ":"),
        "graphs_own": ("graphs, mean graph taken out", BLUE, "-"),
        "orders_raw": ("orders", PINK, "-."),
        "orders_own": ("orders, mean order taken out", PINK, "--"),
    }
    for quantity, (label, colour, dash) in lines.items():
        found = path[path.quantity == quantity]
        below.plot(found.step, found.value, ".", color=colour, ms=4, alpha=0.5)
        sns.lineplot(found, x="step", y="value", color=colour, linestyle=dash, errorbar=None, ax=below, label=label)
    below.axhline(0, color=GREY, lw=0.8)
    below.set(xlabel="training step", ylabel="agreement of two seeds\n(correlation, 1: the same)", ylim=(-0.35, 1))
    below.legend(loc="upper right", ncols=2, fontsize=8)
    return fig


@styled
def agreement_against_share(points: pd.DataFrame, title: str) -> Figure:
    """One point per objective: how much of a graph is the image's own, and how far two seeds agree on that part. Names stand in a
    column of their own, joined to their points by lines.

    points: columns name, share, agreement, and kind, `main`, `further` or `measured`."""
    fig, ax = plt.subplots(figsize=(6.4, 4.8))
    colours, sizes = {"main": BLUE, "further": GREY, "measured": PINK}, {"main": 42, "further": 18, "measured": 42}
    style = {"hue": "kind", "palette": colours, "size": "kind", "sizes": sizes, "legend": False}
    sns.scatterplot(points, x="share", y="agreement", **style, ax=ax)
    points = points.dropna()  # of two images, as in a dry run, there is no share
    ours, theirs = points[points.kind == "measured"], points[points.kind != "measured"].sort_values("agreement")
    width = points.share.max() if len(points) else 1.0
    column = (theirs.share.max() if len(theirs) else 0) + 0.12 * width
    for p, y in zip(theirs.itertuples(), apart(theirs.agreement.tolist(), 0.042), strict=True):
        ax.plot([p.share, column], [p.agreement, y], color=colours[p.kind], lw=0.4, alpha=0.6)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        ax.text(column + 0.01 * width, y, p.name, color=colours[p.kind], fontsize=7.5, va="center", bbox=box)
    for p in ours.itertuples():
        where = {"xytext": (-6, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        ax.annotate(p.name, (p.share, p.agreement), **where, fontsize=7.5, color=PINK)
    ax.axhline(0, color=GREY, lw=0.8, zorder=0)
    ax.set(ylabel="agreement of two seeds on that share\n(correlation, 1: the same)", ylim=(-0.18, 1.03), title=title)
    ax.set(
        xlabel="share of a graph that is the image's own", xlim=(-0.03 * width, max(1.05 * width, column + 0.4 * width))
    )
    return fig


def apart(heights: list[float], gap: float) -> list[float]:
    """Ascending heights moved until neighbours are at least `gap` apart, with the same mean."""
    placed = heights[:1]
    for height in heights[1:]:
        placed.append(max(height, placed[-1] + gap))
    moved = (sum(placed) - sum(heights)) / max(1, len(heights))
    return [y - moved for y in placed]
