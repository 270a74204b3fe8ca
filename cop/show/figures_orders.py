"""Figures of many orders at once: lines of which a few are told apart, and dots with intervals. Data in, a matplotlib `Figure` out."""

import textwrap
from collections.abc import Container, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cop.orders import added
from cop.show.figures import GREY, line_of, styled

PALE = "#c6c6ce"  # of orders that are drawn for comparison only


def standing(values: Mapping[str, float], better: int) -> str:
    """Which order leads, and the places of collapse and random order: the finding of a comparison. better: +1 or -1."""
    ranked = sorted(values, key=lambda name: -better * values[name])
    places = [f"{name} is no. {ranked.index(name) + 1}" for name in ("collapse", "random") if name in ranked[1:]]
    return f"{ranked[0]} leads, {', '.join(places)} of {len(ranked)}"


def runs_drawn(curves: Mapping[str, np.ndarray]) -> str:
    """`1 run`, or `3 runs, thin, and their mean`."""
    runs = max(map(len, curves.values()))
    return "1 run" if runs == 1 else f"{runs} runs, thin, and their mean"


def lines(ax, x: Sequence[float], curves: Mapping[str, np.ndarray], shown: Mapping[str, tuple[str, str, float]]) -> None:
    """Lines of curves, name -> (runs, len(x)): those of `shown` with colour, dash and width, the rest pale. Several runs are thin
    lines and their mean a thick one."""
    for name, of in curves.items():
        colour, dash, width = shown.get(name, (PALE, "-", 1.0))
        if len(of) > 1:
            ax.plot(x, np.transpose(of), "-", color=colour, lw=0.5, alpha=0.6)
        ax.plot(x, np.mean(of, 0), dash, color=colour, lw=width, label=name, zorder=3 if name in shown else 1)


def named(ax, x: Sequence[float], curves: Mapping[str, np.ndarray], shown: Mapping[str, tuple[str, str, float]],
          left_free: float = 0.06) -> None:  # fmt: skip
    """Name each line of `lines` beside the place where it is farthest from the others. Limits of the axes must be set. No name stands
    at a point in the first `left_free` of the axis."""
    x, means = np.asarray(x, float), {name: np.mean(curves[name], 0) for name in shown if name in curves}
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    at = (x - left) / (right - left)
    height = {name: (y - bottom) / (top - bottom) for name, y in means.items()}
    taken = []
    for name, y in height.items():
        others = np.array([o for other, o in height.items() if other != name] or [np.full(len(x), -1.0)])
        free = np.abs(others - y).min(0).clip(0, 0.15)
        for u, v in taken:
            free = np.minimum(free, np.hypot((at - u) / 2, y - v))
        i = int(np.where((at > left_free) & (at < 0.75) & (y > 0.03) & (y < 0.94), free, -1).argmax())
        taken.append((at[i], y[i]))
        near = others[np.abs(others[:, i] - y[i]).argmin(), i]
        above, falls = y[i] > near, y[-1] < y[0]
        ax.annotate(name, (x[i], means[name][i]), (0, 3 if above else -3), textcoords="offset points", fontsize=8.5,
                    color=shown[name][0], fontweight="bold", ha="left" if above == falls else "right",
                    va="bottom" if above else "top", path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=5)  # fmt: skip


def told_apart(names: Sequence[str], chosen: Sequence[str]) -> dict[str, tuple[str, str, float]]:
    """Colour, dash and width of the chosen orders, and of a reader's own. Where two have the same dash, the later one gets the first that
    none has, while there is one: colours alone are not told apart in grey."""
    looks, dashes = {}, ["-", "--", "-.", ":"]
    for name in [n for n in dict.fromkeys((*chosen, *added())) if n in names]:
        colour, dash, width = line_of(name)
        dash = dash if dash in dashes or not dashes else dashes[0]
        looks[name] = colour, dash, width
        dashes = [d for d in dashes if d != dash]
    return looks


def pale(names: Sequence[str], shown: Container[str]) -> str:
    """A line of text that says which orders are pale."""
    rest = [name for name in names if name not in shown]
    return "\n".join(textwrap.wrap("grey: " + ", ".join(rest), 96)) if rest else ""


@styled
def order_curves(ks: Sequence[int], curves: Mapping[str, np.ndarray], ylabel: str, title: str, chosen: Sequence[str],
                 band: tuple[np.ndarray, np.ndarray] | None = None, ylim: tuple[float, float] | None = None, left_free: float = 0.06) -> Figure:  # fmt: skip
    """What remains (or is gained) against patches seen: curves (runs, len(ks)) per order, the chosen ones in colour, the rest
    grey; band: (low, high) of random orders; ylim: from nothing to a little above the highest, unless given; left_free: as in `named`."""
    fig, ax = plt.subplots(figsize=(6.4, 4.2))
    shown = told_apart(list(curves), chosen)
    low, high = (f(np.min(c) if f is min else np.max(c) for c in curves.values()) for f in (min, max))
    ax.set(xlim=(ks[0], ks[-1]), ylim=ylim or (min(0, low), 1.04 * high), ylabel=ylabel, title=title)
    lines(ax, ks, curves, shown)
    named(ax, ks, curves, shown, left_free)
    if band:
        ax.fill_between(ks, *band, color=line_of("random")[0], alpha=0.25, lw=0)
    ax.set_xlabel(f"patches seen ({runs_drawn(curves)})\n{pale(list(curves), shown)}")
    return fig


def dotted(ax, at: Mapping[str, tuple[float, float, float]], hollow: Container[str] = (), runs: Mapping[str, Sequence[float]] | None = None,
           better: int = 1) -> None:  # fmt: skip
    """A dot with its interval (value, low, high) per name, best on top, a dotted line at random order, and below each one of several
    runs a small dot. better: +1 where more is better, -1 where less is."""
    names = sorted(at, key=lambda n: better * at[n][0])
    for y, name in enumerate(names):
        (value, low, high), colour = at[name], line_of(name)[0]
        ax.errorbar(value, y, xerr=[[value - low], [high - value]], fmt="o", color=colour, mfc="white" if name in hollow else colour,
                    capsize=3, ms=6)  # fmt: skip
        if runs and len(of := runs.get(name, ())) > 1:
            ax.plot(of, np.full(len(of), y - 0.28), ".", color=colour, ms=4, alpha=0.8)
    if "random" in at:
        ax.axvline(at["random"][0], color=GREY, lw=0.8, ls=":")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.7, len(names) - 0.4)
    ax.grid(axis="x", alpha=0.3)


@styled
def dots(at: Mapping[str, tuple[float, float, float]], xlabel: str, title: str, hollow: Container[str] = (),
         runs: Mapping[str, Sequence[float]] | None = None, better: int = 1, percent: bool = False) -> Figure:  # fmt: skip
    """`dotted` as a figure of its own; percent: whether values are per cents."""
    fig, ax = plt.subplots(figsize=(6.2, 0.3 * len(at) + 1.1))
    dotted(ax, at, hollow, runs, better)
    drawn = [v for v, _, _ in at.values()] + [float(x) for name in at for x in (runs or {}).get(name, ())]
    room = 0.15 * (max(drawn) - min(drawn)) + 1e-9
    low, high = ax.get_xlim()
    ax.set_xlim(max(low, min(drawn) - 2 * room), min(high, max(drawn) + 2 * room))  # intervals that say nothing are cut
    if percent:
        ax.xaxis.set_major_formatter(PercentFormatter(100, decimals=0))
        ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))  # 72.5 would be printed as 72
    ax.set(xlabel=xlabel, title=title)
    return fig
