"""Figures: data in, a matplotlib `Figure` out. No I/O, no global state: the style applies inside each function only.

Letters: B images, N patches, G patches per side. Images are (H, W) or (H, W, 3) arrays in [0, 1].
"""

import functools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
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
def fig1_reveal(image: np.ndarray, rankings: Mapping[str, np.ndarray], certainty: Mapping[str, np.ndarray],
                ks: Sequence[int], grid: int, label: str) -> Figure:  # fmt: skip
    """Fig. 1's arrow on a real image: two orders (top, bottom) revealed in stages, certainty of the class between.

    rankings, certainty: two entries of the same names; ranking (N,), certainty (len(ks),) in [0, 1]."""
    fig = staged({name: image for name in rankings}, rankings, certainty, ks, grid, label)
    fig.suptitle(f"One image: {sure_of(certainty, ks)}", fontsize=10)
    return fig


def sure_of(certainty: Mapping[str, np.ndarray], ks: Sequence[int]) -> str:
    """The finding of `staged`: the certainties in the middle."""
    i = len(ks) // 2
    return f"with {ks[i]} of {ks[-1]} patches " + ", ".join(f"{p[i]:.0%} sure in {name} order" for name, p in certainty.items())


def in_common(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """The share of the first k patches that two rankings (..., N) have in common, on average over their rows."""
    first = [np.isin(np.arange(x.shape[-1]), row[:k]) for x in (a, b) for row in np.atleast_2d(x)]
    half = len(first) // 2
    return float(np.mean([(x & y).sum() / k for x, y in zip(first[:half], first[half:], strict=True)]))


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
    (name, mine), *others = rankings.items()
    shared = ", ".join(f"{other} {in_common(mine, theirs, k):.0%}" for other, theirs in others)
    fig.suptitle(f"The first {k} of {grid**2} patches; in common with {name}: {shared}", fontsize=10)
    return fig


@styled
def fig6_training(history: pd.DataFrame, levels: Mapping[str, float], ends: Mapping[str, Sequence[float]], num_tokens: int,
                  unit: str = "training step") -> Figure:  # fmt: skip
    """Fig. 6: reconstruction loss over training, how many patches a mask shows, exp of its entropy, and the contrastive loss.

    history: columns step, reconstruction, mask_entropy, contrastive of one run; levels: name -> L_r of a reconstruction that needs no
    training steps, a line across; ends: column -> its last value in every run, a dot each; num_tokens: N."""
    curves = history.assign(mask_entropy=np.exp(history.mask_entropy))
    last = dict(ends) | {"mask_entropy": np.exp(ends.get("mask_entropy", ()))}
    fig, axes = plt.subplots(3, 1, figsize=(6.4, 6.0), sharex=True, height_ratios=(2.4, 1.6, 1.2))
    labels = ("$L_r$, L1 of a token\n(lower is better)", f"patches in a mask\n(of {num_tokens - 1}), exp $H$", "$L_c$, nats\n(lower is better)")
    looks = zip(("reconstruction", "mask_entropy", "contrastive"), (BLUE, PINK, TEAL), labels, strict=True)
    for ax, (name, colour, label) in zip(axes, looks, strict=True):
        ax.plot(curves.step, curves[name], color=colour, lw=1.8)
        ax.plot([curves.step.iloc[-1]] * len(last.get(name, ())), last.get(name, ()), "o", color=colour, mec="white", ms=5, clip_on=False, zorder=3)
        ax.set(ylabel=label, ylim=(0, None))
    for name, level in levels.items():
        axes[0].axhline(level, color=GREY, lw=0.9, ls=":")
        axes[0].text(0.98, level, name, transform=axes[0].get_yaxis_transform(), color=GREY, fontsize=7.5, ha="right", va="bottom")
    axes[1].axhline(num_tokens - 1, color=GREY, lw=0.9, ls=":")
    axes[2].set(xlabel=f"{unit} (the line is one run; dots: the ends of all {len(last.get('reconstruction', ()))})",
                xlim=(curves.step.iloc[0], curves.step.iloc[-1]))  # fmt: skip
    first, end = curves.mask_entropy.iloc[0], curves.mask_entropy.iloc[-1]
    below = sum(curves.reconstruction.iloc[-1] < level for level in levels.values())
    axes[0].set_title(f"A mask shows {first:.0f} → {end:.0f} of {num_tokens - 1} patches; $L_r$ ends below {below} of {len(levels)} lines")
    return fig


@styled
def polarisation(weights: np.ndarray, step: np.ndarray, low: np.ndarray, high: np.ndarray,
                 ends: Mapping[str, Sequence[float]]) -> Figure:  # fmt: skip
    """Left: histogram of all entries of w (own entries left out). Right: shares below .1 and above .9 over training of one run.

    ends: `low` and `high` -> the last shares of every run, a dot each."""
    fig, (ax, right) = plt.subplots(1, 2, figsize=(7.2, 3.0))
    sns.histplot(x=weights, bins=np.linspace(0, 1, 41), stat="proportion", color=PINK, alpha=1, lw=0, ax=ax)
    between = np.mean((weights >= 0.1) & (weights <= 0.9))
    ax.set(xlabel="weight $w_n^i$", ylabel="share of entries", title=f"{between:.0%} lie between .1 and .9", xlim=(0, 1))
    looks = ((low, "low", "$w < 0.1$", BLUE, "-"), (high, "high", "$w > 0.9$", ORANGE, "--"))
    for y, name, text, colour, dash in looks:
        up = 1 if y[-1] == max(low[-1], high[-1]) else -1
        right.plot(step, y, dash, color=colour, lw=1.8)
        right.plot([step[-1]] * len(ends.get(name, ())), ends.get(name, ()), "o", color=colour, mec="white", ms=5, clip_on=False, zorder=3)
        right.annotate(text, (step[-1], y[-1]), (-6, 14 * up), textcoords="offset points", color=colour, ha="right", va="center")
    sides = f"{low[-1]:.0%} below .1, {high[-1]:.0%} above .9"
    right.set(xlabel=f"step (dots: all {len(ends.get('low', ()))} runs)", ylabel="share of entries", title=sides, ylim=(0, None))
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
    fig.suptitle(f"A target (framed) lets {weights.mean():.0%} of the others through on average ({weights.mean(-1).min():.0%} to "
                 f"{weights.mean(-1).max():.0%})", fontsize=10)  # fmt: skip
    return fig


def circles(ax, ranking: np.ndarray, grid: int, size: float) -> None:
    """An order drawn over an image with patches of `size` px: circles, large and bright where a patch comes early."""
    radius = np.linspace(1, 0, len(ranking)) ** 2
    x, y = ((ranking % grid + 0.5) * size - 0.5), ((ranking // grid + 0.5) * size - 0.5)
    ax.scatter(x, y, s=(4 + 70 * radius) * (8 / grid) ** 2, c=radius, cmap="plasma", alpha=0.85, lw=0)


def numbered(ax, ranking: np.ndarray, grid: int, size: float, count: int = 8) -> None:
    """The first patches of an order framed, with their places."""
    for place, n in enumerate(ranking[:count], 1):
        y, x = divmod(int(n), grid)
        ax.add_patch(plt.Rectangle((x * size - 0.5, y * size - 0.5), size, size, fc="white", ec=PINK, lw=1.2, alpha=0.85))
        ax.text((x + 0.5) * size - 0.5, (y + 0.5) * size - 0.5, f"{place}", color=INK, fontsize=min(7, 56 / grid), ha="center",
                va="center_baseline", fontweight="bold")  # fmt: skip


@styled
def fig4_order(images: np.ndarray, rankings: np.ndarray, grid: int, top: int, titles: Sequence[str]) -> Figure:
    """Fig. 4: top rows, circles sized by rank (large and bright = seen early); below, the first eight patches by their places; at the
    bottom, the `top` first patches alone."""
    B, size = len(images), images.shape[1] / grid
    fig, axes = plt.subplots(3, B, figsize=(1.35 * B, 4.7), squeeze=False)
    for b in range(B):
        show(axes[0, b], images[b], titles[b])
        circles(axes[0, b], rankings[b], grid, size)
        show(axes[1, b], images[b])
        numbered(axes[1, b], rankings[b], grid, size)
        show(axes[2, b], reveal(images[b], rankings[b][:top], grid))
    for ax, text in zip(axes[:, 0], ("early = large", "the first 8", f"the first {top}"), strict=True):
        ax.text(-0.08, 0.5, text, transform=ax.transAxes, rotation=90, va="center", ha="right")
    chance = top / grid**2
    fig.suptitle(f"Two of these images share {of_pairs(rankings, top):.0%} of their first {top} patches; by chance {chance:.0%}", fontsize=10)
    return fig


def of_pairs(rankings: np.ndarray, k: int) -> float:
    """The share of the first k patches that two of the rankings (n, N) have in common, on average over all pairs; nan for one."""
    seen = np.zeros(rankings.shape)
    np.put_along_axis(seen, rankings[:, :k], 1, 1)
    pairs = seen @ seen.T / k
    return float(pairs[~np.eye(len(seen), dtype=bool)].mean()) if len(seen) > 1 else float("nan")


def place_colours(grid: int) -> np.ndarray:
    """A colour for every place of the grid, (G, G, 3): light to dark from top to bottom, blue to orange from left to right."""
    corners = np.array([[[0.72, 0.86, 1.0], [1.0, 0.84, 0.62]], [[0.02, 0.12, 0.42], [0.50, 0.17, 0.0]]])
    t = np.linspace(0, 1, grid)
    rows = corners[0] * (1 - t)[:, None, None] + corners[1] * t[:, None, None]  # (G, 2, 3)
    return rows[:, :1] * (1 - t)[None, :, None] + rows[:, 1:] * t[None, :, None]


@styled
def fig5_heatmaps(rankings: Mapping[str, np.ndarray], num_tokens: int, fraction: float = 0.22) -> Figure:
    """Fig. 5: one panel per class; rows are images, columns rank positions, colour the place of the patch, with a key."""
    rows, grid = -(-len(rankings) // 2), round(num_tokens**0.5)
    fig, axes = plt.subplots(rows, 3, figsize=(7.6, 1.6 * rows + 0.5), squeeze=False, width_ratios=(3, 3, 1.2))
    colours, k = place_colours(grid), max(1, round(fraction * num_tokens))
    panels = axes[:, :2].ravel()
    for ax in [*axes[1:, 2], *panels[len(rankings) :]]:
        ax.set_axis_off()
    for ax, (name, r) in zip(panels, rankings.items(), strict=False):
        ax.imshow(colours.reshape(-1, 3)[r], aspect="auto", interpolation="nearest")
        ax.set(title=name, yticks=[], ylabel=f"{len(r)} images")
    for ax in axes[-1, :2]:
        ax.set_xlabel("position in the order")
    axes[0, 2].imshow(colours, interpolation="nearest")
    axes[0, 2].set(title="colour: place\nin the image", xticks=[], yticks=[])
    same = np.mean([of_pairs(r, k) for r in rankings.values()])
    fig.suptitle(f"Two images of a class share {same:.0%} of their first {k} patches; by chance {k / num_tokens:.0%}", fontsize=10)
    return fig


@styled
def mean_rank_maps(maps: Mapping[str, np.ndarray], num_tokens: int, title: str = "") -> Figure:
    """Mean position of every patch, as maps (G, G): the part of an order that is mere place. Bright = early. The spread of the
    positions, over each map, is 0 for orders that ignore the place."""
    fig, axes = plt.subplots(1, len(maps), figsize=(max(4.0, 1.45 * len(maps) + 0.9), 2.5), squeeze=False)
    spread = {name: m.std() for name, m in maps.items()}
    most = max(spread, key=spread.get)
    fig.suptitle(title or f"Place matters most to {most}: its mean positions spread by {spread[most]:.0f}", fontsize=10)
    for ax, (name, m) in zip(axes[0], maps.items(), strict=True):
        im = ax.imshow(m, cmap="plasma_r", vmin=0, vmax=num_tokens - 1)
        ax.set(title=name, xticks=[], yticks=[], xlabel=f"spread {spread[name]:.0f}")
    fig.colorbar(im, ax=axes, label="mean position\n(bright: early)", shrink=0.9)
    return fig


@styled
def shares(rows: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Stacked bars of shares that sum to 1, one bar per row: what an order consists of."""
    fig, ax = plt.subplots(figsize=(6.4, 0.5 * len(rows) + 1.2))
    colours = dict(zip(next(iter(rows.values())), (("#27457d", "white"), ("#5aa7a0", INK), ("#f2b5cf", INK)), strict=False))
    for i, (_, parts) in enumerate(rows.items()):
        left = 0.0
        for part, value in parts.items():
            ax.barh(i, value, left=left, color=colours[part][0], label=part if i == 0 else None, height=0.6)
            if value > 0.05:
                ax.text(left + value / 2, i, f"{value:.0%}", ha="center", va="center", color=colours[part][1], fontsize=8)
            left += max(value, 0)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(0, 1), xlabel="share of the variance of ranks", title=title)
    fig.legend(ncols=3, loc="outside lower center")
    return fig


@styled
def score_scatter(a: np.ndarray, b: np.ndarray, xlabel: str, ylabel: str, title: str, grid: int) -> Figure:
    """Two scores of the same patches of a grid against each other; those of its border in another colour."""
    fig, ax = plt.subplots(figsize=(5.2, 3.8))
    y, x = np.divmod(np.arange(grid**2), grid)
    border = np.where((np.minimum(x, y) == 0) | (np.maximum(x, y) == grid - 1), "border of the image", "inside")
    looks = {"palette": {"border of the image": ORANGE, "inside": BLUE}, "markers": {"border of the image": "s", "inside": "o"}}
    sns.scatterplot(x=a, y=b, hue=border, style=border, s=30, lw=0, ax=ax, **looks)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return fig
