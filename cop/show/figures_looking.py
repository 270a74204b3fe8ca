"""Figures of notebook 6: data in, a matplotlib `Figure` out."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cop.show.figures import BLUE, GREY, INK, line_of, reveal, show, styled


@styled
def glance(images: np.ndarray, rows: Mapping[str, np.ndarray], grid: int) -> Figure:
    """Images (B, H, W) or (B, H, W, 3), a row each: whole, and what some patches show of them, a column per name of `rows`,
    (B, K) patches each."""
    B = len(images)
    fig, axes = plt.subplots(B, 1 + len(rows), figsize=(1.12 * (1 + len(rows)), 1.12 * B + 0.5))
    for line, image in zip(axes, images, strict=True):
        show(line[0], image)
    axes[0, 0].set_title("image", fontsize=8)
    for k, (name, patches) in enumerate(rows.items(), 1):
        for line, image, chosen in zip(axes[:, k], images, patches, strict=True):
            show(line, reveal(image, chosen, grid))
        axes[0, k].set_title("\n".join(name.split(": ")), fontsize=8, color=line_of(name)[0])
    K = next(iter(rows.values())).shape[1]
    fig.suptitle(f"What {K} of {grid**2} patches show along each order", fontsize=10)
    return fig


@styled
def bound(found: np.ndarray) -> Figure:
    """Greedy coverage in units of the best, (images, k): a line per image, with the bound."""
    fig, ax = plt.subplots(figsize=(5.6, 3.0))
    k = np.arange(1, found.shape[1] + 1)
    ax.plot(k, found.T, color=BLUE, lw=0.6, alpha=0.4)
    ax.plot(k, found.min(0), color=INK, lw=1.6)
    ax.text(k[-1], found.min(), "worst image ", ha="right", va="top", fontsize=8)
    ax.axhline(1 - 1 / np.e, color=GREY, ls=":")
    ax.text(k[0], 1 - 1 / np.e, "1 - 1/e: the theorem", color=GREY, fontsize=8, va="bottom")
    ax.set(xlabel=f"patches chosen ({len(found)} images, a line each)", ylabel="covered, best set = 1 (higher is better)", ylim=(0.6, 1.01))
    ax.set_title(f"Greedy covers at least {found.min():.1%} of what the best set does")
    return fig
