"""The sheet of the scorecard: data in, a matplotlib `Figure` out."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from cop.show.figures import BLUE, GREY, INK, ORANGE, PINK, TEAL, styled

COLOURS = {"holds": TEAL, "fails": PINK, "depends on the run": ORANGE}


class Panel(NamedTuple):
    """One claim: a number with the bounds within which it holds (None: open), the paper's number if it has one, and a row for each kind
    of data: (label, one value per seed, verdict, as `fails (0 of 3)`)."""

    title: str
    xlabel: str
    above: float | None
    below: float | None
    paper: float | None
    rows: Sequence[tuple[str, Sequence[float], str]]


@styled
def sheet(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """Small plots, one per claim, with the verdict beside each row."""
    lines = -(-len(panels) // columns)
    fig, axes = plt.subplots(lines, columns, figsize=(4.0 * columns, 1.75 * lines), squeeze=False)
    for ax, panel in zip(axes.flat, panels, strict=False):
        one(ax, panel)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    return fig


def one(ax, panel: Panel) -> None:
    """Draw one claim."""
    shown = [x for _, values, _ in panel.rows for x in values]
    shown += [x for x in (panel.above, panel.below, panel.paper) if x is not None]
    low, high = min(shown), max(shown)
    margin = 0.15 * (high - low) or 1.0
    low, high = low - margin, high + margin
    ax.axvspan(
        low if panel.above is None else panel.above,
        high if panel.below is None else panel.below,
        color=TEAL,
        alpha=0.12,
        lw=0,
    )
    for y, (_, values, verdict) in enumerate(panel.rows):
        colour = COLOURS.get(verdict.partition(" (")[0], GREY)
        if len(values):
            n = len(values)
            half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5 if n > 1 else 0
            ax.errorbar(np.mean(values), y, xerr=half or None, fmt="o", color=colour, capsize=3, ms=6)
            if n > 1:
                ax.plot(values, np.full(n, y + 0.28), ".", color=INK, ms=3)
        ax.text(
            1.01,
            y,
            "\n".join(textwrap.wrap(verdict, 18)),
            transform=ax.get_yaxis_transform(),
            color=colour,
            fontsize=7,
            va="center",
        )
    if panel.paper is not None:
        ax.plot(panel.paper, len(panel.rows) - 0.35, "D", color=BLUE, ms=5)
        ax.text(panel.paper, len(panel.rows) - 0.35, "  paper", color=BLUE, fontsize=7, va="center")
    ax.set_yticks(range(len(panel.rows)), [label.replace(", ", ",\n") for label, _, _ in panel.rows], fontsize=7)
    ax.set(xlim=(low, high), ylim=(len(panel.rows) - 0.1, -0.5))
    ax.tick_params(axis="x", labelsize=7)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(panel.xlabel, fontsize=7)
    ax.set_title("\n".join(textwrap.wrap(panel.title, 52)), fontsize=8, loc="left")
