"""What one figure tells apart by colour is told apart in grey and by colour-blind eyes too, measured on the lines and dots as drawn."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from cop.lessons.patch_entropy import CHOSEN
from cop.show import figures_classification, figures_masks, figures_measured, figures_orders

SEEN = {  # of linear RGB. Machado, Oliveira and Fernandes, IEEE TVCG 15 (6), 2009: severity 1.0
    "usual": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# sRGB to XYZ, with D65's white
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
LIGHTNESS, DISTANCE = 15, 20  # the least difference in CIE L* and the least CIE76 distance
CONTRAST = 2.9  # the least against white; the orange line has 2.97
RATES = np.linspace(0, 0.9, 5)
ORDERS = ("collapse", "random", "mean order", "variance", "reversed", "centre-out")
PATH = [(step, q, 0.1) for step in (1, 2) for q in ("L_r", "graphs_raw", "graphs_own", "orders_raw", "orders_own")]
NAMES = ("PageRank", "in-strength", "coverage", "greedy")


def curves(names):
    return {name: np.random.default_rng(i).random((1, 5)) for i, name in enumerate(names)}


DRAWN = {
    **{
        f"order_curves, best {best}": lambda best=best: figures_orders.order_curves(
            range(5), curves([*CHOSEN, best]), "y", "t", (*CHOSEN, best)
        )
        for best in ("greedy", "centre-out", "mean order", "measured")
    },
    "fig8": lambda: figures_classification.fig8_accuracy(RATES, curves(figures_classification.SYSTEMS), {}, 0.1, RATES),
    "order_controls": lambda: figures_classification.order_controls(
        RATES, curves(ORDERS), {"random": (2, 1, 3)}, 0.5, "t", {}, (0.25, 0.9)
    ),
    "loss_and_agreement": lambda: figures_masks.loss_and_agreement(
        pd.DataFrame(PATH, columns=["step", "quantity", "value"]), {}, "t"
    ),
    "exact_and_found": lambda: figures_measured.exact_and_found(
        pd.DataFrame({"samples": [1, 2], "error": 0.1, "error_of_mean": 0.2, "plug_in": 0.3}),
        pd.DataFrame({"field": ["a", "b"] * 4, "order": [*NAMES, *NAMES], "excess": 0.1}),
    ),
}


def linear(colour) -> np.ndarray:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB."""
    xyz = XYZ @ rgb.clip(0, 1) / XYZ.sum(1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def told_apart(a, b) -> bool:
    """Whether two looks (colour, dash, marker) differ in dash or marker, or in grey and to all eyes."""
    (one, two), styled = (linear(x[0]) for x in (a, b)), a[1:] != b[1:]
    lighter = abs(lab(one)[0] - lab(two)[0])
    apart = {eyes: np.linalg.norm(lab(np.array(m) @ one) - lab(np.array(m) @ two)) for eyes, m in SEEN.items()}
    return apart["usual"] >= DISTANCE and (styled or lighter >= LIGHTNESS and min(apart.values()) >= DISTANCE)


def looks_of(ax) -> dict:
    """Colour, dash and marker of all that is named in a legend or could be, but for pale lines."""
    found = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    return {
        n: (h.get_color(), h.get_linestyle(), h.get_marker())
        for n, h in found.items()
        if h.get_color() != figures_orders.PALE
    }


@pytest.mark.parametrize("name", DRAWN)
def test_what_a_figure_highlights_is_told_apart_in_grey_and_by_colour_blind_eyes(name):
    found = [looks for ax in DRAWN[name]().axes if len(looks := looks_of(ax)) > 1]
    assert found, "nothing is named"
    for looks in found:
        assert not [
            (a, b)
            for a, b in combinations(looks, 2)
            if looks[a][0] != looks[b][0] and not told_apart(looks[a], looks[b])
        ]
        assert len(set(looks.values())) == len(looks)
        for colour, *_ in looks.values():
            assert 1.05 / (XYZ[1] @ linear(colour) + 0.05) >= CONTRAST
            if name.startswith("order_c"):
                assert lab(linear(figures_orders.PALE))[0] - lab(linear(colour))[0] >= LIGHTNESS, (
                    "as pale as what is not highlighted"
                )
