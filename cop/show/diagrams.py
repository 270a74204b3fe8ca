"""The paper's drawings, made by code from real outputs and real configurations: Figs. 2, 3 and 10; and the handout."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from cop.configs import CoMAEConfig
from cop.show.figures import BLUE, GREY, INK, PINK, TEAL, reveal, show, styled


def box(ax, x: float, y: float, w: float, h: float, text: str, colour: str, size: float = 8.5) -> None:
    """A rounded box with centred text, in axes units."""
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.006,rounding_size=0.02", fc=colour, ec=INK,
                                lw=0.8, alpha=0.9))  # fmt: skip
    ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=size, color="white", linespacing=1.25)


def arrow(ax, start: tuple[float, float], end: tuple[float, float], colour: str = INK) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=colour, lw=1.3))


def heading(ax, text: str) -> None:
    """A bold line above a panel's title."""
    ax.text(0, 1.3, text, transform=ax.transAxes, fontsize=9.5, fontweight="bold", color=INK)


@styled
def fig2_pipeline(image: np.ndarray, targets: Sequence[int], weights: np.ndarray, reconstructions: np.ndarray,
                  A: np.ndarray, scores: np.ndarray, ranking: np.ndarray, grid: int) -> Figure:  # fmt: skip
    """Fig. 2: image -> masks of three targets -> reconstructions -> dependency graph -> patches by PageRank.

    image (H, W[, 3]); targets (3,); weights (3, N); reconstructions (3, P, P[, 3]); A (N, N), scores, ranking (N,):
    all outputs of the model for this image. Of the graph the edges into the patch that is ranked first are drawn, at the patches'
    places: an edge leads from a target to a patch that its mask lets through."""
    with plt.rc_context({"figure.constrained_layout.use": False}):  # every panel is placed by hand
        fig = plt.figure(figsize=(9.4, 3.7))
    size, N = image.shape[0] // grid, grid**2
    show(fig.add_axes((0.01, 0.34, 0.13, 0.33)), image, "image")
    for k, n in enumerate(targets):
        y0 = 0.67 - 0.285 * k
        w = np.kron(weights[k].reshape(grid, grid), np.ones((size, size)))
        w = w if image.ndim == 2 else w[..., None]
        ax = fig.add_axes((0.225, y0, 0.11, 0.235))
        show(ax, w * image + (1 - w), f"$w_{{{n}}}$")
        y, x = divmod(int(n), grid)
        ax.add_patch(plt.Rectangle((x * size - 0.5, y * size - 0.5), size, size, fill=False, ec=PINK, lw=2))
        show(fig.add_axes((0.42, y0 + 0.06, 0.055, 0.13)), reconstructions[k], "")
    graph = fig.add_axes((0.52, 0.14, 0.22, 0.66))
    xy = np.stack([np.arange(N) % grid, -(np.arange(N) // grid)], 1)
    first = int(ranking[0])
    for n in set(range(N)) - {first}:
        look = {"arrowstyle": "-|>", "color": PINK, "lw": 0.2 + 1.2 * A[n, first], "alpha": 0.15 + 0.7 * A[n, first], "shrinkA": 3, "shrinkB": 7}
        graph.annotate("", xy[first], xy[n], arrowprops=look | {"mutation_scale": 6})
    spread = (scores - scores.min()) / max(np.ptp(scores), 1e-12)
    graph.scatter(*xy.T, s=(8 + 110 * spread) * min(1, 64 / N), c=[PINK if n == first else BLUE for n in range(N)], zorder=2, lw=0)  # neighbours do not touch
    graph.set_aspect("equal")
    graph.set_axis_off()
    graph.margins(0.06)
    shown = np.concatenate([ranking[:5], ranking[-3:]])
    for row, n in enumerate(shown):
        y, x = divmod(int(n), grid)
        ax = fig.add_axes((0.865, 0.83 - 0.1 * row - (0.06 if row >= 5 else 0), 0.04, 0.085))
        show(ax, image[y * size : (y + 1) * size, x * size : (x + 1) * size])
        place = row + 1 if row < 5 else N - len(shown) + row + 1
        fig.text(0.91, 0.87 - 0.1 * row - (0.06 if row >= 5 else 0), f"{place}.  r = {scores[n]:.4f}", fontsize=7,
                 va="center")  # fmt: skip
    over = fig.add_axes((0, 0, 1, 1), facecolor="none")
    over.set(xlim=(0, 1), ylim=(0, 1))
    over.set_axis_off()
    box(over, 0.155, 0.12, 0.045, 0.76, "e\nn\nc\no\nd\ne\nr", BLUE)
    box(over, 0.352, 0.12, 0.045, 0.76, "d\ne\nc\no\nd\ne\nr", BLUE)
    box(over, 0.765, 0.12, 0.05, 0.76, "P\na\ng\ne\nR\na\nn\nk", BLUE)
    over.text(0.01, 0.955, f"From an image to its collapse order: patch {first} is first", fontsize=10.5, fontweight="bold")
    arrow(over, (0.825, 0.5), (0.855, 0.5), PINK)
    arrow(over, (0.485, 0.5), (0.515, 0.5), PINK)
    for x, text in ((0.24, "(a) collapse masked autoencoder"), (0.63, f"(b) graph: who lets patch {first} through\n(size: score $r$)"),
                    (0.89, "(c) collapse order")):  # fmt: skip
        over.text(x, 0.045, text, ha="center", va="center", linespacing=1.1, fontsize=8.5, color=GREY)
    return fig


@styled
def fig3_comparison(image: np.ndarray, ranking: np.ndarray, random: np.ndarray, grid: int, fraction: float) -> Figure:
    """Fig. 3: generators (a, b) write patches in random or in collapse order; classifiers (c, d) see all patches or the first
    `fraction` of the collapse order. The patches are those of a real image, in its real orders; no network speaks here."""
    N = grid**2
    with plt.rc_context({"figure.constrained_layout.use": False}):  # headings run over several panels
        fig, axes = plt.subplots(2, 7, figsize=(9.2, 3.9), width_ratios=[1, 1, 1, 1, 0.25, 1, 1.25])
    fig.subplots_adjust(left=0.02, right=0.98, top=0.78, bottom=0.02, hspace=0.62, wspace=0.12)
    fig.suptitle("What the order decides: which patch is written next, and which are seen (a real image)", fontsize=10.5)
    stages = [round(N * f) for f in (0.08, 0.25, 0.6, 1.0)]
    for row, (name, order, colour) in enumerate((("(a) MAR would write in random order", random, GREY), ("(b) CMAR would write in collapse order", ranking, PINK))):
        for column, k in enumerate(stages):
            show(axes[row, column], reveal(image, order[:k], grid), f"{k} of {N}")
            axes[row, column].add_patch(plt.Rectangle((-0.5, -0.5), *image.shape[1::-1], fill=False, ec=colour, lw=2))
        heading(axes[row, 0], name)
        axes[row, 4].set_axis_off()
    keep = max(1, round(fraction * N))
    for row, (name, k) in enumerate((("(c) ViT, every patch", N), ("(d) CViT, the first patches", keep))):
        show(axes[row, 5], reveal(image, ranking[:k], grid), f"{k} of {N}")
        heading(axes[row, 5], name)
        ax = axes[row, 6]
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.set_axis_off()
        arrow(ax, (0.0, 0.5), (0.13, 0.5))
        box(ax, 0.16, 0.32, 0.32, 0.36, "ViT" if row == 0 else "CViT", BLUE if row == 0 else PINK, 8)
        ax.text(0.53, 0.5, "a class", va="center", fontsize=8)
    return fig


@styled
def fig10_architecture(config: CoMAEConfig, num_tokens: int, token_dim: int, parameters: tuple[int, int]) -> Figure:
    """Fig. 10: the CoMAE that was actually built; parameters: of encoder and decoder."""
    c = config
    act = {"shifted_tanh": "(1 + tanh) / 2", "relu_tanh": "relu(tanh)", "abs_tanh": "|tanh|", "sigmoid": "sigmoid"}[c.weight_act]
    fig, axes = plt.subplots(1, 2, figsize=(7.6, 5.0))
    columns = (
        ("Encoder $f$", parameters[0], [
            (f"{num_tokens - 1} patches of {token_dim} values\n(target dropped)", GREY),
            (f"linear {token_dim} → {c.enc_dim},  [cls] + $q_n$ in front", BLUE),
            (f"{c.enc_depth} × (self-attention, {c.enc_heads} heads, 2-D RoPE\n+ feed-forward × {c.mlp_ratio:g})", BLUE),
            (f"[cls] → linear {c.enc_dim} → {num_tokens}", BLUE), (f"{act},  own entry 0", TEAL),
            (f"selection weights $w_n$ ∈ [0, 1]$^{{{num_tokens}}}$", PINK)]),
        ("Decoder $g$", parameters[1], [
            (f"noised patches, Eqs. 3–4, σ = {c.sigma:g}\n(target dropped)", PINK),
            (f"linear {token_dim} → {c.dec_dim},  [tgt] + $q_n$ in front", BLUE),
            (f"{c.dec_depth} × (self-attention, {c.dec_heads} heads, 2-D RoPE\n+ feed-forward × {c.mlp_ratio:g})", BLUE),
            (f"[tgt] → {c.head_depth}-layer residual MLP", BLUE), (f"linear {c.dec_dim} → {token_dim}", BLUE),
            (f"reconstructed target $e^*_n$ ∈ ℝ$^{{{token_dim}}}$", PINK)]),
    )  # fmt: skip
    for ax, (title, count, rows) in zip(axes, columns, strict=True):
        ax.set(xlim=(0, 1), ylim=(0, 1), title=f"{title}   ({count / 1e3:,.0f} k parameters)")
        ax.set_axis_off()
        step = 1 / len(rows)
        for i, (text, colour) in enumerate(rows):
            box(ax, 0.03, i * step + 0.02, 0.94, step * 0.66, text, colour, 8)
            if i:
                arrow(ax, (0.5, i * step - step * 0.24), (0.5, i * step + 0.015))
    fig.suptitle("CoMAE as configured (read from bottom to top; weights $w_n$ steer the decoder's noise)", fontsize=9.5)
    return fig


STEPS = (  # of the handout: box, what stands below it, colour
    ("image", "N patches", GREY),
    ("tokens", "$e_1,\\ldots,e_N$", GREY),
    ("encoder $f$", "masks $w_n$\nEq. 2", BLUE),
    ("decoder $g$", "noise, guess $e^*_n$\nEqs. 3–5", BLUE),
    ("graph $A$", "row $n$: mask of\ntarget $n$", TEAL),
    ("PageRank", "scores $r$\nEq. 15", TEAL),
    ("collapse order", "sorted by $r$", PINK),
)
EQUATIONS = (
    ("Uncertainty along an order (1)", r"$H_c=\sum_n H\,[P(e_n \mid \{e_i;\,R(e_i)>R(e_n)\})]$"),
    ("Mask of target n (2)", r"$w_n=f(\{e_i\}_{i\neq n};\,q_n)\in[0,1]^N$"),
    ("Noise (3, 4)", r"$e^m_i=\alpha_i e_i+(1-\alpha_i)\,\mathcal{N}(0,I),\quad\alpha_i=\exp(-(1-w_n^i)^2/2\sigma^2)$"),
    ("Reconstruction and loss (5)", r"$e^*_n=g(\{e^m_i\}_{i\neq n};\,q_n),\quad L_r=\Vert e_n-e^*_n\Vert_1$"),
    (
        "Contrast of the masks (6)",
        r"$L_c=\frac{1}{N}\sum_i -\log\frac{\exp(\mathrm{sim}(w_i,w_i)/\tau)}{\sum_j\exp(\mathrm{sim}(w_i,w_j)/\tau)}$",
    ),
    ("Entropy of the masks (7)", r"$H_{mask}=-\frac{1}{M}\sum_m\sum_j w_j\,\log w_j$"),
    ("What is left when S is seen (8)", r"$H_c(S)=\sum_n H\,[e_n\mid\{e_j:\,j\in S\}]$"),
    ("PageRank (15)", r"$r=(1-c)\,\beta+c\,P\,r$"),
)


@styled
def handout(findings: Sequence[tuple[str, str]], accuracies: Mapping[str, Sequence[float]], source: str) -> Figure:
    """One page of A4: the pipeline, the paper's equations, and what was found.

    findings: a question and its answer each. accuracies: order -> top-1 in per cent, one per seed. source: where the numbers
    come from."""
    with plt.rc_context({"figure.constrained_layout.use": False}):  # every block is placed by hand
        fig = plt.figure(figsize=(8.27, 11.69))
    page = fig.add_axes((0.06, 0.03, 0.88, 0.94), xlim=(0, 1), ylim=(0, 1))
    page.set_axis_off()

    def block(y: float, text: str) -> None:
        page.text(0, y, text, fontsize=12, fontweight="bold", color=PINK)
        page.axhline(y - 0.008, color=GREY, lw=0.6)

    page.text(0, 0.98, "The Collapse of Patches", fontsize=19, fontweight="bold")
    page.text(0, 0.957, "arXiv 2511.22281, and what a reproduction on two cores finds", fontsize=10, color=GREY)
    block(0.915, "From an image to its order")
    width = 1 / len(STEPS)
    for i, (name, below, colour) in enumerate(STEPS):
        box(page, i * width + 0.008, 0.845, width - 0.032, 0.042, name.replace(" order", "\norder"), colour, 9)
        page.text(i * width + width / 2 - 0.008, 0.835, below, ha="center", va="top", fontsize=8, linespacing=1.3)
        if i:
            arrow(page, (i * width - 0.022, 0.866), (i * width + 0.004, 0.866))
    use = "A generator writes the patches in this order (CMAR); a classifier sees the first of them only (CViT)."
    page.text(0, 0.782, use, fontsize=9)
    block(0.745, "The equations")
    for i, (name, formula) in enumerate(EQUATIONS):
        y = 0.712 - 0.036 * i
        page.text(0, y, name, fontsize=9, va="center")
        page.text(0.32, y, formula, fontsize=11, va="center")
    block(0.408, "What was found")
    y = 0.378
    for i, (question, answer) in enumerate(findings, 1):
        lines = textwrap.wrap(answer, 62)
        page.text(0, y, f"{i}. {question}", fontsize=9.5, fontweight="bold", va="top")
        page.text(0.02, y - 0.019, "\n".join(lines), fontsize=9, va="top", linespacing=1.35)
        y -= 0.034 + 0.0162 * len(lines)
    page.text(0, 0.0, source, fontsize=7.5, color=GREY)
    ax = fig.add_axes((0.735, 0.1, 0.21, 0.265))
    names = sorted(accuracies, key=lambda name: sum(accuracies[name]) / len(accuracies[name]))
    for row, name in enumerate(names):
        colour = PINK if name == "collapse" else INK
        ax.plot(accuracies[name], [row] * len(accuracies[name]), ".", color=colour, alpha=0.5)
        ax.plot(sum(accuracies[name]) / len(accuracies[name]), row, "|", color=colour, ms=14, mew=2)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xlabel("top-1 accuracy in %, higher is better;\na dot is a seed, a bar their mean", fontsize=8)
    ax.set_title("22 % of the patches,\ntrained and tested along one order", fontsize=8.5)
    return fig
