"""Figures: data in, a matplotlib `Figure` out. No I/O, no global state: the style applies inside each function only.

Letters: B images, N patches, G patches per side. Images are (H, W) or (H, W, 3) arrays in [0, 1].
"""

import functools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from cop.orders import registered

PINK, BLUE, TEAL, ORANGE, INK, GREY = "#cf4a8d", "#4a76c9", "#1b8a7a", "#d98026", "#2b2b33", "#8d8d96"

STYLE = {
    "figure.dpi": 110, "savefig.dpi": 160, "figure.facecolor": "white", "font.size": 9, "axes.titlesize": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "text.color": INK, "legend.frameon": False, "figure.constrained_layout.use": True, "svg.hashsalt": "cop",
    "svg.fonttype": "none", "axes.prop_cycle": plt.cycler(color=[BLUE, PINK, TEAL, ORANGE, INK, GREY]),
}  # fmt: skip


def line_of(order: str) -> tuple[str, str, float]:
    """Colour, dash pattern and width of an order's line in every figure; the dashes keep orders apart in greyscale. A name
    that is not registered is drawn as a plain dark line."""
    known = registered().get(order)
    return (known.colour, known.dash, known.width) if known else (INK, "-", 1.6)


def styled(function):
    """Run a figure function under STYLE and close its figure, so that a notebook shows it once."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs) -> Figure:
        with plt.rc_context(STYLE):
            fig = function(*args, **kwargs)
            fig.canvas.draw()  # lay out under this style, not under the caller's
            plt.close(fig)
        return fig

    return wrapper


def to_array(images) -> np.ndarray:
    """Tensor (..., C, H, W) in [-1, 1] -> array (..., H, W) for one channel, (..., H, W, 3) for three, in [0, 1]."""
    x = ((images.detach().cpu().float() + 1) / 2).clamp(0, 1).movedim(-3, -1).numpy()
    return x[..., 0] if x.shape[-1] == 1 else x


def show(ax, image: np.ndarray, title: str = "") -> None:
    """An image without axes; grey images in grey."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title, pad=3)
    ax.set_axis_off()


UNSEEN = (0.82, 0.87, 0.96)  # pale blue: neither the white of a garment nor the black behind it


def reveal(image: np.ndarray, patches: np.ndarray, grid: int) -> np.ndarray:
    """The image as (H, W, 3) with all but some patches, by index, in pale blue."""
    size, seen = image.shape[0] // grid, np.isin(np.arange(grid**2), patches)
    mask = np.kron(seen.reshape(grid, grid), np.ones((size, size), bool))[..., None]
    colour = image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)
    return np.where(mask, colour, UNSEEN)


@styled
def order_curves(ks: Sequence[int], curves: Mapping[str, np.ndarray], ylabel: str, title: str,
                 spread: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None) -> Figure:  # fmt: skip
    """What remains (or is gained) against patches seen, one line per order; `spread` draws bands (low, high)."""
    fig, ax = plt.subplots(figsize=(6.4, 4))
    for name, y in curves.items():
        colour, dash, width = line_of(name)
        ax.plot(ks, y, dash, color=colour, lw=width, label=name, zorder=3 if name == "collapse" else 2)
        if spread and name in spread:
            ax.fill_between(ks, *spread[name], color=colour, alpha=0.2, lw=0)
    ax.set(xlabel="patches seen", ylabel=ylabel, title=title, xlim=(ks[0], ks[-1]))
    ax.legend(ncols=2, fontsize=8)
    return fig


@styled
def area_bars(areas: Mapping[str, tuple[float, float, float]], xlabel: str, title: str, reference: str = "random") -> Figure:
    """Mean and interval (mean, low, high) per order, best on top, with a line at the reference."""
    names = sorted(areas, key=lambda n: areas[n][0], reverse=True)
    fig, ax = plt.subplots(figsize=(6.0, 0.3 * len(names) + 1.0))
    for i, name in enumerate(names):
        mean, low, high = areas[name]
        ax.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="o", color=line_of(name)[0], capsize=3, ms=5)
    if reference in areas:
        ax.axvline(areas[reference][0], color=GREY, lw=0.8, ls=":")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel=xlabel, title=title, ylim=(-0.6, len(names) - 0.4))
    ax.grid(axis="x", alpha=0.3)
    return fig


@styled
def fig1_reveal(image: np.ndarray, rankings: Mapping[str, np.ndarray], certainty: Mapping[str, np.ndarray],
                ks: Sequence[int], grid: int, label: str) -> Figure:  # fmt: skip
    """Fig. 1's arrow on a real image: two orders (top, bottom) revealed in stages, certainty of the class between.

    rankings, certainty: two entries of the same names; ranking (N,), certainty (len(ks),) in [0, 1]."""
    fig = staged({name: image for name in rankings}, rankings, certainty, ks, grid, label)
    fig.suptitle(f"One image in {' and in '.join(rankings)} order", fontsize=10)
    return fig


def staged(images: Mapping[str, np.ndarray], rankings: Mapping[str, np.ndarray], certainty: Mapping[str, np.ndarray],
           ks: Sequence[int], grid: int, label: str) -> Figure:  # fmt: skip
    """Two images, each in its own order, at the same stages, with a certainty between them; for a styled function."""
    names = list(rankings)
    fig, axes = plt.subplots(3, len(ks), figsize=(1.45 * len(ks), 4.3), height_ratios=(2, 1, 2))
    for column, k in enumerate(ks):
        for row, name in ((0, names[0]), (2, names[1])):
            ax = axes[row, column]
            show(ax, reveal(images[name], rankings[name][:k], grid), f"{k} patches" if row == 0 else "")
            ax.set_axis_on()
            ax.set(xticks=[], yticks=[], ylabel=f"{name} order" if column == 0 else "")
            [s.set(visible=True, color=line_of(name)[0], linewidth=1.5) for s in ax.spines.values()]
        ax = axes[1, column]
        for name, sign in ((names[0], 1), (names[1], -1)):
            p = certainty[name][column]
            ax.bar(0, sign * p, color=line_of(name)[0], width=0.5)
            ax.text(0, sign * (p + 0.06), f"{p:.0%}", ha="center", va="bottom" if sign > 0 else "top", fontsize=8)
        ax.axhline(0, color=INK, lw=1)
        ax.set(ylim=(-1.35, 1.35), xlim=(-0.6, 0.6))
        ax.set_axis_off()
    axes[1, 0].text(-0.66, 0, f"certainty of\n“{label}”", fontsize=7.5, rotation=90, ha="right", va="center")
    return fig


@styled
def first_of_each(images: np.ndarray, rankings: Mapping[str, np.ndarray], grid: int, k: int, names: Sequence[str]) -> Figure:
    """B images in columns, whole in the first row, and below it the first k patches of each order; rankings: (B, N) each."""
    rows = ["all patches", *rankings]
    fig, axes = plt.subplots(len(rows), len(images), figsize=(1.25 * len(images), 1.27 * len(rows) + 0.3), squeeze=False)
    for b, image in enumerate(images):
        show(axes[0, b], image, names[b])
        for row, ranking in enumerate(rankings.values(), 1):
            show(axes[row, b], reveal(image, ranking[b, :k], grid))
    for ax, name in zip(axes[:, 0], rows, strict=True):
        colour = line_of(name)[0]
        ax.text(-0.06, 0.5, name, transform=ax.transAxes, rotation=90, ha="right", va="center", color=colour, fontweight="bold")
    fig.suptitle(f"The first {k} of {grid**2} patches ({k / grid**2:.0%})", fontsize=10)
    return fig


@styled
def fig6_training(step: np.ndarray, reconstruction: np.ndarray, entropy: np.ndarray, contrastive: np.ndarray,
                  levels: Mapping[str, float], unit: str = "training step") -> Figure:  # fmt: skip
    """Fig. 6: reconstruction loss and mask entropy over training on twin axes, and below the contrastive loss.

    levels: name -> L_r of a reconstruction that needs no training steps, drawn as a line across."""
    step = np.asarray(step)
    fig, (ax, below) = plt.subplots(2, 1, figsize=(6.4, 4.6), sharex=True, height_ratios=(3, 1.3))
    (a,) = ax.plot(step, reconstruction, color=BLUE, lw=1.8, label="reconstruction loss $L_r$")
    for name, level in levels.items():
        ax.axhline(level, color=GREY, lw=0.9, ls=":")
        ax.text(0.995, level, name, transform=ax.get_yaxis_transform(), color=GREY, fontsize=7.5, ha="right", va="bottom")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("$L_r$ (L1, sum over a token)", color=BLUE)
    twin = ax.twinx()
    (b,) = twin.plot(step, entropy, "--", color=PINK, lw=1.8, label="mask entropy (normalised)")
    twin.set_ylabel("mask entropy, nats", color=PINK)
    twin.spines["right"].set_visible(True)
    ax.legend(handles=[a, b], loc="upper right", bbox_to_anchor=(1, 0.92))
    ax.set_title("Training of CoMAE")
    below.plot(step, contrastive, color=TEAL, lw=1.8)
    below.set(xlabel=unit, ylabel="$L_c$, nats", xlim=(step[0], step[-1]))
    return fig


@styled
def polarisation(weights: np.ndarray, step: np.ndarray, low: np.ndarray, high: np.ndarray) -> Figure:
    """Left: histogram of all entries of w (own entries left out). Right: shares below .1 and above .9 over training."""
    fig, (ax, right) = plt.subplots(1, 2, figsize=(7.2, 2.9))
    ax.hist(weights, bins=np.linspace(0, 1, 41), weights=np.full(len(weights), 1 / len(weights)), color=PINK)
    ax.set(xlabel="weight $w_n^i$", ylabel="share of entries", title="Do masks polarise?", xlim=(0, 1))
    right.plot(step, low, color=BLUE, lw=1.8, label="$w < 0.1$")
    right.plot(step, high, "--", color=ORANGE, lw=1.8, label="$w > 0.9$")
    right.set(xlabel="training step", ylabel="share of entries", title="over training", ylim=(0, None))
    right.legend()
    return fig


@styled
def masks(images: np.ndarray, targets: Sequence[Sequence[int]], weights: np.ndarray, reconstructions: np.ndarray,
          grid: int) -> Figure:  # fmt: skip
    """Per image (row) and target: the patches weighted by w, target framed; beside it the target and its reconstruction.

    images (B, H, W[, 3]); targets (B, K); weights (B, K, N); reconstructions (B, K, P, P[, 3])."""
    B, K = len(images), len(targets[0])
    fig, axes = plt.subplots(B, 1 + 3 * K, figsize=(1.0 + 2.2 * K, 1.15 * B),
                             width_ratios=[2] + [2, 0.8, 0.8] * K, squeeze=False)  # fmt: skip
    size = images.shape[1] // grid
    for b in range(B):
        show(axes[b, 0], images[b], "image" if b == 0 else "")
        for k, n in enumerate(targets[b]):
            y, x = divmod(int(n), grid)
            w = np.kron(weights[b, k].reshape(grid, grid), np.ones((size, size)))
            w = w if images.ndim == 3 else w[..., None]
            ax, truth, guess = axes[b, 1 + 3 * k : 4 + 3 * k]
            show(ax, w * images[b] + (1 - w), "weights $w_n$" if b == 0 else "")
            ax.add_patch(plt.Rectangle((x * size - 0.5, y * size - 0.5), size, size, fill=False, ec=PINK, lw=1.8))
            show(truth, images[b][y * size : (y + 1) * size, x * size : (x + 1) * size], "true" if b == 0 else "")
            show(guess, reconstructions[b, k], "CoMAE" if b == 0 else "")
    fig.suptitle("What the encoder lets through for a target (framed), and its reconstruction", fontsize=10)
    return fig


def circles(ax, ranking: np.ndarray, grid: int, size: float) -> None:
    """An order drawn over an image with patches of `size` px: circles, large and bright where a patch comes early."""
    radius = np.linspace(1, 0, len(ranking)) ** 2
    x, y = ((ranking % grid + 0.5) * size - 0.5), ((ranking // grid + 0.5) * size - 0.5)
    ax.scatter(x, y, s=(4 + 70 * radius) * (8 / grid) ** 2, c=radius, cmap="plasma", alpha=0.85, lw=0)


def joined(ax, first: np.ndarray, grid: int, size: float) -> None:
    """The first patches of an order joined by a line that grows thinner."""
    points = np.stack([(first % grid + 0.5) * size - 0.5, (first // grid + 0.5) * size - 0.5], 1)
    widths = np.linspace(3.2, 0.8, max(len(first) - 1, 0))
    ax.add_collection(LineCollection(np.stack([points[:-1], points[1:]], 1), colors=PINK, linewidths=widths, alpha=0.85))


@styled
def fig4_order(images: np.ndarray, rankings: np.ndarray, grid: int, top: int, titles: Sequence[str]) -> Figure:
    """Fig. 4: top rows, circles sized by rank (large and bright = seen early); bottom, the `top` first patches joined."""
    B, size = len(images), images.shape[1] / grid
    fig, axes = plt.subplots(2, B, figsize=(1.35 * B, 3.3), squeeze=False)
    fig.suptitle("Collapse order on images", fontsize=10)
    for b in range(B):
        show(axes[0, b], images[b], titles[b])
        circles(axes[0, b], rankings[b], grid, size)
        show(axes[1, b], images[b])
        joined(axes[1, b], rankings[b][:top], grid, size)
    axes[0, 0].text(-0.08, 0.5, "early = large", transform=axes[0, 0].transAxes, rotation=90, va="center", ha="right")
    axes[1, 0].text(-0.08, 0.5, f"first {top} joined", transform=axes[1, 0].transAxes, rotation=90, va="center", ha="right")
    return fig


@styled
def fig5_heatmaps(rankings: Mapping[str, np.ndarray], num_tokens: int) -> Figure:
    """Fig. 5: one panel per class; rows are images, columns rank positions, colour the patch index."""
    columns = 2
    rows = -(-len(rankings) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(7.2, 1.55 * rows + 0.4), squeeze=False, sharex=True)
    for ax in axes.flat[len(rankings) :]:
        ax.set_axis_off()
    for ax, (name, r) in zip(axes.flat, rankings.items(), strict=False):
        mesh = ax.imshow(r, aspect="auto", cmap="plasma", vmin=0, vmax=num_tokens - 1, interpolation="nearest")
        ax.set(title=name, yticks=[], ylabel=f"{len(r)} images")
    for ax in axes[-1]:
        ax.set_xlabel("position in the order")
    fig.colorbar(mesh, ax=axes, label="patch index", shrink=0.8)
    fig.suptitle("Class-wise collapse orders", fontsize=10)
    return fig


@styled
def mean_rank_maps(maps: Mapping[str, np.ndarray], num_tokens: int) -> Figure:
    """Mean position of every patch, as maps (G, G): the part of an order that is mere place. Bright = early."""
    fig, axes = plt.subplots(1, len(maps), figsize=(max(4.0, 1.35 * len(maps) + 0.9), 2.1), squeeze=False)
    fig.suptitle("Where orders start: mean position of every patch", fontsize=10)
    for ax, (name, m) in zip(axes[0], maps.items(), strict=True):
        im = ax.imshow(m, cmap="plasma_r", vmin=0, vmax=num_tokens - 1)
        ax.set(title=name, xticks=[], yticks=[])
    fig.colorbar(im, ax=axes, label="mean position", shrink=0.9)
    return fig


@styled
def shares(rows: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Stacked bars of shares that sum to 1, one bar per row: what an order consists of."""
    fig, ax = plt.subplots(figsize=(6.4, 0.5 * len(rows) + 1.2))
    colours = dict(zip(next(iter(rows.values())), (BLUE, TEAL, PINK), strict=False))
    for i, (_, parts) in enumerate(rows.items()):
        left = 0.0
        for part, value in parts.items():
            ax.barh(i, value, left=left, color=colours[part], label=part if i == 0 else None, height=0.6)
            if value > 0.05:
                ax.text(left + value / 2, i, f"{value:.0%}", ha="center", va="center", color="white", fontsize=8)
            left += max(value, 0)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(0, 1), xlabel="share of the variance of ranks", title=title)
    fig.legend(ncols=3, loc="outside lower center")
    return fig


@styled
def score_scatter(a: np.ndarray, b: np.ndarray, xlabel: str, ylabel: str, title: str) -> Figure:
    """Two scores of the same patches against each other."""
    fig, ax = plt.subplots(figsize=(3.4, 3.0))
    sns.scatterplot(x=a, y=b, s=9, color=PINK, alpha=0.5, lw=0, ax=ax)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return fig
