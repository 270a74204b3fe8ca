"""Orders compared on photographs: one base, fine-tuned along each of them at one mask rate, in folds in which every image is
tested once, and the differences of the same images.

Letters: S seeds, F folds, n images of the pool.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from cop.configs import FOLDS, Profile
from cop.lessons import classification, pipeline
from cop.measure.metrics import Interval, holm, of_trainings
from cop.profiles import get_profile, in_fold
from cop.train.artefacts import stored

COMPARED = ("random", "low-discrepancy", "variance", "collapse", "mean order", "measured", "coverage", "mean of coverage",
            "surprise", "mean of surprise", "active", "mean of active")  # fmt: skip
SYSTEMS = {"random": "RViT"}  # whose orders are drawn anew in every step of the training


def at_rate(profile: str | Profile, rate: float) -> Profile:
    """The profile with classifiers that are trained and tested at one mask rate: a third of the time of the paper's schedule."""
    profile = get_profile(profile)
    return replace(profile, classifier=replace(profile.classifier, rate=rate))


def runs(profile: Profile, rate: float, seed: int, seeds: int, orders: Sequence[str] = COMPARED) -> list[int]:
    """The seeds that are compared: `seeds` of them from `seed` on. 0: all in a row that are stored with every order that `seed` is stored
    with, and `seed` itself; a seed other than 0 is then alone, since the run of seed 0 has all."""
    if seeds or seed:
        return list(range(seed, seed + max(1, seeds)))
    profile, found = at_rate(profile, rate), [seed]
    names = [o for o in orders if known(profile, o, seed)]
    while names and all(known(profile, o, found[-1] + 1) for o in names):
        found.append(found[-1] + 1)
    return found


def asked(profile: Profile, rate: float, seeds: Sequence[int], orders: Sequence[str] = COMPARED) -> list[str]:
    """Those of the orders that are compared: those whose results are stored, for each takes minutes a seed, and all if none is. What
    is left out is printed, and how many trainings there are if it is more than one."""
    found = [o for o in orders if all(known(at_rate(profile, rate), o, seed) for seed in seeds)] or list(orders)
    if len(seeds) > 1:
        print(f"{len(seeds)} trainings of each order and fold, seeds {seeds[0]} to {seeds[-1]}")
    if missing := [o for o in orders if o not in found]:
        print("not trained here:", ", ".join(missing))
    return found


def known(profile: Profile, order: str, seed: int) -> bool:
    """Whether the system of an order has been tested, in all folds where there are some."""
    system = SYSTEMS.get(order, order)
    if not profile.classifier.folds:
        return stored("hits", classification.hits_config(profile, system, None, seed, None, False))
    whole = classification.folds_config(profile, system, None, seed, None, False)
    parts = [classification.hits_config(in_fold(profile, f), system, None, seed, None, False) for f in range(FOLDS)]
    return stored("hits", whole) or all(stored("hits", part) for part in parts)


def compared(profile: str | Profile, orders: Iterable[str], rate: float, seeds: Sequence[int] = (0,),
             device: str = "auto") -> dict[str, np.ndarray]:  # fmt: skip
    """Order -> which images are classified right at the mask rate, bool (S, n), by the system that was fine-tuned along it.
    `ViT` is the whole image. Random orders are drawn anew in every step of the training."""
    profile = at_rate(profile, rate)
    found = {}
    for order in orders:
        system = SYSTEMS.get(order, order)
        runs = [classification.hits(profile, system, seed=seed, device=device) for seed in seeds]
        found[order] = np.stack([run.at(0.0 if order == "ViT" else rate) for run in runs])
    return found


def accuracy(hits: np.ndarray) -> Interval:
    """Top-1 in per cent of hits (S, n), with its interval over seeds and images (`metrics.of_trainings`)."""
    return of_trainings(100.0 * hits)[0]


def differences(hits: Mapping[str, np.ndarray], pairs: Iterable[tuple[str, str]], profile: Profile) -> pd.DataFrame:
    """Paired differences of top-1 in points, first minus second, on the same images with the same seeds: `difference`, `low`,
    `high` (95 % over seeds and images, `metrics.of_trainings`), `p`, `holm` (corrected for all pairs given), and `runs`, in how
    many of the S F trainings the first is ahead."""
    tested = [pipeline.rows_of(in_fold(profile, f), "test").numpy() for f in range(FOLDS)] if profile.classifier.folds else [slice(None)]
    rows = []
    for a, b in pairs:
        gap = 100.0 * hits[a] - 100.0 * hits[b]  # (S, n)
        interval, p = of_trainings(gap)
        ahead = [run[rows].mean() > 0 for run in gap for rows in tested]
        rows.append([a, b, *interval, p, f"{sum(ahead)} of {len(ahead)}"])
    table = pd.DataFrame(rows, columns=["order", "against", "difference", "low", "high", "p", "runs"])
    return table.assign(holm=holm(table["p"]))


def starred(row) -> str:
    """A row of `differences` as a text: the difference, its interval, and a star where the corrected p is below .05."""
    return f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]{' *' if row.holm < 0.05 else ''}"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """`differences` for a reader: one row per order, one column per control; a star where the corrected p is below .05."""
    text = [f"{starred(r)}, {r.runs}" for r in table.itertuples()]
    wide = table.assign(text=text).pivot(index="order", columns="against", values="text")
    return wide.loc[table["order"].unique(), table["against"].unique()].fillna("").reset_index().rename_axis(columns=None)
