"""The pictures of `cop.show.widgets`: data in, a matplotlib `Figure` out.

Letters: N patches, G patches per side. An image is (H, W) or (H, W, 3) in [0, 1].
"""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from cop.show.figures import PINK, UNSEEN, line_of, reveal, show, styled
from cop.show.figures_generation import SYSTEM_COLOURS

MAP = "viridis"  # of nats, doubts and weights: dark is little


def colour(share: float) -> tuple[float, ...]:
    """The colour of a value in a map, from 0 to 1."""
    return plt.get_cmap(MAP)(float(share))


def frames(ax, patches: Iterable[int], size: float, grid: int, colour: str = PINK) -> None:
    """A frame around each of these patches, which are `size` wide in the axes."""
    for n in patches:
        y, x = divmod(int(n), grid)
        ax.add_patch(plt.Rectangle((x * size - 0.5, y * size - 0.5), size, size, fill=False, ec=colour, lw=2))


def heat(ax, values: np.ndarray, top: float, title: str, grid: int, gamma: float = 1.0):
    """One value per patch, (N,), as a map from 0 to `top`; a gamma below 1 tells small values apart."""
    mesh = ax.imshow(values.reshape(grid, grid), cmap=MAP, norm=PowerNorm(gamma, 0, top))
    ax.set_title(title, pad=3)
    ax.set_axis_off()
    return mesh


@styled
def two_orders(sides: Sequence[tuple[str, np.ndarray, np.ndarray]], seen: int, grid: int, label: str) -> Figure:
    """Two orders at once, each over its image, after `seen` patches of each; the newest is framed.

    sides: the name, of an order or of a system that generates along one, the image and the ranking (N,), left and right."""
    fig, axes = plt.subplots(1, 2, figsize=(5.6, 3.2))
    for ax, (name, image, ranking) in zip(axes, sides, strict=True):
        show(ax, reveal(image, ranking[:seen], grid), name)
        colour = SYSTEM_COLOURS.get(name) or line_of(name)[0]
        ax.set_axis_on()
        ax.set(xticks=[], yticks=[])
        [s.set(visible=True, color=colour, linewidth=2) for s in ax.spines.values()]
        frames(ax, ranking[max(seen - 1, 0) : seen], image.shape[0] // grid, grid, colour)  # none before the first
    fig.suptitle(f"{label}: {seen} of {grid**2} patches", fontsize=10)
    return fig


@styled
def entropies(
    image: np.ndarray, seen: Sequence[int], before: np.ndarray, now: np.ndarray, grid: int, title: str
) -> Figure:
    """The patches seen of an image, and the entropy of every patch, in nats, with nothing seen and with these; (N,) each."""
    fig, axes = plt.subplots(1, 3, figsize=(6.4, 2.5))
    show(axes[0], reveal(image, np.array(seen, int), grid), f"{len(seen)} of {grid**2} patches seen")
    heat(axes[1], before, before.max(), f"nothing seen: {before.sum():.0f} nats", grid)
    mesh = heat(axes[2], now, before.max(), f"these seen: {now.sum():.0f} nats", grid)
    frames(axes[2], seen, 1, grid)
    fig.colorbar(mesh, ax=axes, label="entropy of a patch, nats", shrink=0.8)
    fig.suptitle(title, fontsize=10)
    return fig


@styled
def mask_of(image: np.ndarray, target: int, weights: np.ndarray, guess: np.ndarray, grid: int, label: str) -> Figure:
    """The mask (N,) of one target, as a map and over the image, and the target beside its reconstruction, (P, P[, 3])."""
    fig, axes = plt.subplots(1, 4, figsize=(6.4, 2.3), width_ratios=(2, 2, 1, 1))
    size, (y, x) = len(guess), divmod(target, grid)
    mesh = heat(axes[0], weights, 1, "weights $w_n$", grid)
    w = np.kron(weights.reshape(grid, grid), np.ones((size, size)))[..., None]
    colours = image if image.ndim == 3 else image[..., None]
    show(axes[1], w * colours + (1 - w) * UNSEEN, "what they let through")
    frames(axes[0], [target], 1, grid)
    frames(axes[1], [target], size, grid)
    show(axes[2], image[y * size : (y + 1) * size, x * size : (x + 1) * size], "target")
    show(axes[3], guess, "CoMAE")
    fig.colorbar(mesh, ax=axes[0], shrink=0.8, location="left")
    fig.suptitle(label, fontsize=10)
    return fig


@styled
def looked(image: np.ndarray, seen: np.ndarray, after: np.ndarray, guess: np.ndarray, doubt: np.ndarray, top: float,
           grid: int, label: str) -> Figure:  # fmt: skip
    """What is seen of an image, what a predictor expects of the rest, and its doubt (N,), with the patches that come next framed.

    seen, after: patches by index; top: the doubt that is drawn brightest."""
    fig, axes = plt.subplots(1, 3, figsize=(6.4, 2.5))
    show(axes[0], reveal(image, seen, grid), "seen")
    show(axes[1], guess, "expected of the rest")
    mesh = heat(axes[2], doubt, top, "doubt; framed: next", grid, 0.5)
    frames(axes[2], after, 1, grid)
    fig.colorbar(mesh, ax=axes[2], label="predicted scale", shrink=0.8)
    fig.suptitle(f"{label}: {len(seen)} of {grid**2} patches", fontsize=10)
    return fig
