"""Invented orders on a leaderboard: one classifier, RViT, is tested along each of them and along four known orders.

RViT was trained on random subsets of the patches and is not trained again, so that a new order takes seconds.
"""

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from cop.configs import Profile
from cop.files import write
from cop.lessons import classification, ordering
from cop.lessons.cross_validation import accuracy, differences, starred
from cop.orders import Order, as_order, registry
from cop.paper.cvit import keep_count
from cop.profiles import for_classifiers, get_profile
from cop.show import figures_orders
from cop.show.figures import STYLE

BESIDE = ("random", "variance", "collapse", "active")  # the known orders
RATE = 0.78  # mask rate

ACROSS = "top-1 accuracy from 22 % of the patches (higher is better)"

def judge(profile: str | Profile) -> Profile:
    """The profile whose RViT tests orders: the demo's in place of a profile of five folds, which would take five networks."""
    profile = for_classifiers(profile)
    return for_classifiers("demo") if profile.classifier.folds else profile


def tested(profile: str | Profile, orders: Iterable[str | Callable | Tensor], rate: float = RATE, seed: int = 0,
           device: str = "auto") -> tuple[dict[str, np.ndarray], dict[str, str]]:  # fmt: skip
    """RViT along the known orders and along these: name -> which test images it gets right at the mask rate, bool (1, n).
    Second, what is left out: the name of each order that fails or is no order, and why, in one line."""
    profile = judge(profile)
    one = [keep_count(profile.num_tokens, rate)]
    found, left_out = {}, {}
    known = ("collapse", "random", *classification.controls()) if rate in classification.SHOWN else ()
    for name in BESIDE:
        counts = None if name in known else one  # None: what notebook 5 has tested and stored
        found[name] = classification.hits(profile, "RViT", name, seed, counts, device=device).at(rate)[None]
    for order in map(as_order, orders):
        try:  # ranked anew: what is stored under the name of an order may be of an earlier version
            ranking = ordering.ranking_of(profile, "test", replace(order, stored=False), seed, device)
        except Exception as error:  # whatever a reader's function may do
            left_out[order.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            continue
        found[order.name] = classification.hits(profile, "RViT", ranking, seed, one, device=device).at(rate)[None]
    return found, left_out


def standings(hits: Mapping[str, np.ndarray], profile: str | Profile) -> pd.DataFrame:
    """The table: orders by top-1 in per cent, with their 95 % interval over the images; of those that are not known, the paired
    difference to each known one in points, with a star where it remains after Holm's correction over the table."""
    new = [name for name in hits if name not in BESIDE]
    table = differences(hits, [(name, known) for name in new for known in BESIDE], judge(profile))
    gap = {(r.order, r.against): starred(r) for r in table.itertuples()}
    rows = []
    for name, (value, low, high) in sorted(intervals(hits).items(), key=lambda x: -x[1][0]):
        against = {f"against {known}": gap.get((name, known), "") for known in BESIDE}
        rows.append({"order": name, "top-1 in %": f"{value:.1f} [{low:.1f}, {high:.1f}]"} | against)
    return pd.DataFrame(rows)


def intervals(hits: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float, float]]:
    """Top-1 in per cent (value, low, high) of each order, with its interval over seeds and images."""
    return {name: accuracy(h) for name, h in hits.items()}


def board(hits: Mapping[str, np.ndarray]) -> Figure:
    """The figure: a dot with its interval per order, the best on top; the known ones are hollow."""
    at = intervals(hits)
    best, *_ = ranked = sorted(at, key=lambda name: -at[name][0])
    new = next((name for name in ranked if name not in BESIDE), best)  # without a new one the best of all
    against = "random" if new == best else best
    title = f"{new}: {at[new][0] - at[against][0]:+.1f} points against {against}"
    return figures_orders.dots(at, f"{ACROSS}\nhollow: known orders", title, set(BESIDE), percent=True)


def in_folder(folder: Path) -> tuple[list[Order], dict[str, str]]:
    """The orders that the Python files of a folder, and of all folders below, register; the files are executed. Second, which files are left out,
    and why. An order whose name several files use has its file in its name. Raises OSError and ValueError if there is none.
    """
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is no folder; expected one of Python files, each of which registers an order"
        )
    files = sorted(f for f in folder.rglob("*.py") if not f.name.startswith((".", "_")))
    if not files:
        raise ValueError(f"{folder} holds no Python file; expected files that register an order each")
    found, left_out = [], {}
    for file in files:
        try:
            new = registry.alone(file)
            if not new:
                raise ValueError(f'{file} registers no order; expected a function under @order("its name")')
            found += [(o, file.relative_to(folder).with_suffix("").as_posix()) for o in new.values()]
        except ValueError as error:
            left_out[str(file)] = str(error)
    names = [order.name for order, _ in found]
    return [replace(o, name=f"{o.name} ({file})") if names.count(o.name) > 1 else o for o, file in found], left_out


def main(folder: Path, profile: str | Profile = "demo", seed: int = 0, out: Path | None = None,
         device: str = "auto") -> tuple[list[Path], list[str]]:  # fmt: skip
    """Write leaderboard.png and leaderboard.csv of the orders of a folder, into it or into `out`. Returns what was written, nothing
    if no order is left; and a line for every file and every order that is left out, while the others go on."""
    profile = get_profile(profile)
    orders, files = in_folder(folder)
    hits, failed = tested(profile, orders, seed=seed, device=device) if orders else ({}, {})
    left_out = [*files.values(), *(f"order {name!r} is left out: {why}" for name, why in failed.items())]
    if len(orders) == len(failed):
        return [], left_out
    buffer = io.BytesIO()
    board(hits).savefig(buffer, format="png", dpi=STYLE["savefig.dpi"])
    written = [(out or folder) / f"leaderboard.{kind}" for kind in ("png", "csv")]
    write(written[0], buffer.getvalue())
    write(written[1], standings(hits, profile).to_csv(index=False).encode())
    return written, left_out
