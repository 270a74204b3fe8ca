"""Figures of notebook 3 on the measured graph: data in, a matplotlib `Figure` out."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from cop.show.figures import BLUE, GREY, INK, PINK, circles, in_common, numbered, reveal, show, styled

COLOURS = (BLUE, PINK)


@styled
def two_graphs(image: np.ndarray, graphs: Mapping[str, np.ndarray], rankings: Mapping[str, np.ndarray], grid: int, k: int,
               label: str) -> Figure:  # fmt: skip
    """One image with each of its graphs, a row each: the graph as a matrix, what a patch tells all others as a map, and the order:
    as circles, the places of its first patches, and its first k alone.

    graphs: (N, N) by target and source; rankings: (N,), of the same names."""
    fig, axes = plt.subplots(len(graphs), 5, figsize=(8.6, 1.75 * len(graphs) + 0.4), squeeze=False)
    titles = ("graph: target, source", "column sums", "order: early = large", "the first 8", f"the first {k}")
    size = image.shape[0] / grid
    for row, (name, A), colour in zip(axes, graphs.items(), COLOURS, strict=False):
        row[0].imshow(A, cmap="magma", vmin=0, interpolation="nearest")
        row[1].imshow(A.sum(0).reshape(grid, grid), cmap="magma", interpolation="nearest")
        for ax in row[:2]:
            ax.set(xticks=[], yticks=[])
        for ax in row[2:4]:
            show(ax, image)
        circles(row[2], rankings[name], grid, size)
        numbered(row[3], rankings[name], grid, size)
        show(row[4], reveal(image, rankings[name][:k], grid))
        row[0].set_ylabel(name, color=colour, fontweight="bold")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    same = in_common(*rankings.values(), k)
    fig.suptitle(f"One image ({label}): the two orders share {same:.0%} of their first {k} patches", fontsize=10)
    return fig


@styled
def exact_and_found(errors: pd.DataFrame, orders: pd.DataFrame) -> Figure:
    """Left: the error of the measured graph as the predictor is given more samples. Right: how far orders are from the optimum.

    errors: columns samples, error, error_of_mean, plug_in, all with the most steps; orders: columns field, order, excess, one row
    per random field."""
    fig, (ax, right) = plt.subplots(1, 2, figsize=(9.2, 3.6), width_ratios=(1, 1.5))
    lines = {"error": ("graph of one image", PINK, "o-"), "error_of_mean": ("mean graph of all images", PINK, "o:"),
             "plug_in": ("closed form of the samples' covariance", GREY, "s--")}  # fmt: skip
    for column, (label, colour, dash) in lines.items():
        ax.plot(errors.samples, errors[column], dash, color=colour, ms=4, label=label)
    ax.set(xscale="log", ylim=(0, None), xlabel="training samples (one predictor each)", title=f"Error {errors.error.iloc[0]:.2f} → {errors.error.iloc[-1]:.2f} with more samples",
           ylabel="mean error of an edge (lower is better;\n1: a graph without edges)")  # fmt: skip
    ax.legend(fontsize=8)
    names = list(orders.order.unique())
    palette = dict(zip(names, sns.color_palette([BLUE, GREY, PINK, INK], len(names)), strict=True))
    drawn = {"data": orders, "x": "excess", "y": "field", "hue": "order", "hue_order": names, "palette": palette, "ax": right}
    sns.stripplot(**drawn, dodge=True, size=2.5, alpha=0.45, legend=False)
    sns.pointplot(**drawn, dodge=0.6, linestyle="none", errorbar=("ci", 95), seed=0, markersize=5, markers=["o", "s", "D", "^"][: len(names)],
                  err_kws={"linewidth": 1.2})  # fmt: skip
    right.axvline(0, color=INK, lw=0.8)
    right.axvline(1, color=GREY, lw=0.8, ls=":")
    best = orders.groupby("order").excess.mean().idxmin()
    right.set(xlabel="area under the curve of Eq. 8 (lower is better):\n0 the optimal order, 1 a random one", ylabel="",
              title=f"{best} is nearest to the optimum")  # fmt: skip
    right.legend(fontsize=8, title=None)
    return fig
