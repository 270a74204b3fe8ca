"""Notebook 1: the calls that its cells make, and its figures and tables."""

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from cop.configs import Profile
from cop.lessons import pipeline
from cop.lessons.evaluation import judge as judge
from cop.lessons.ordering import sample_orders as sample_orders
from cop.lessons.panels import entropy_map as entropy_map
from cop.measure.metrics import Interval, holm, of_mean
from cop.paper import entropy
from cop.profiles import all_classes, for_classifiers
from cop.show import figures, figures_orders, report
from cop.show.report import Report

NOTEBOOK = "01_patch_entropy"
shown = partial(report.shown, NOTEBOOK)
AREAS = tuple((label, f"area_{name}", 1, 3) for label, name in (
    ("area under the curve: collapse", "collapse"), ("random", "random"), ("variance", "variance"), ("greedy", "greedy")))  # fmt: skip


def start(profile: str, seed: int, **parameters) -> tuple[Report, Profile]:
    """Where the notebook writes, and its profile. Raises ValueError for a wrong parameter."""
    return Report(NOTEBOOK, profile, seed, **parameters), for_classifiers(profile)


def in_short(out: Report) -> None:
    """Print in two sentences what all seeds on record say of the collapse order and of patch variance, against random."""
    seeds = out.seeds()
    collapse, variance = ((recorded(n), recorded("random")) for n in ("collapse", "variance"))
    if seeds.of(collapse).empty:
        return report.say("No run of this profile is on record.")
    told = [f"{seeds.cell(f'told_{n}', 1, 0)} along {n}" for n in ("collapse", "random", "variance")]
    report.say(
        f"The area under the curve of uncertainty is {seeds.cell(recorded('collapse'))} along collapse orders and differs by "
        f"{seeds.cell(collapse)} from random ones: it is smaller, which is faster, {seeds.wins(collapse, -1)}.",
        f"Patch variance, which needs no training, differs by {seeds.cell(variance)}, smaller {seeds.wins(variance, -1)}; about the rest "
        f"the first patches tell, in nats, {told[0]}, {told[1]} and {told[2]}.",
    )


def training_tokens(profile: Profile, device: str) -> Tensor:
    """Tokens of 10,000 training images of all classes, (images, N, C)."""
    return pipeline.sample_tokens(all_classes(profile), "train", 10_000, device)


def recorded(order: str) -> str:
    """The name of an order's area in the record."""
    return f"area_{order.replace(' ', '_')}"


def entropy_table(area: Mapping[str, Tensor]) -> tuple[dict[str, Interval], pd.DataFrame]:
    """Areas (images,) per order -> (intervals, table): mean, interval, the paired difference from random, its p-value after
    Holm's correction over the orders of this table, and by that the verdict."""
    interval = {n: of_mean(a)[0] for n, a in area.items()}
    found = {n: of_mean(a - area["random"]) for n, a in area.items() if n != "random"}
    adjusted = dict(zip(found, holm([p for _, p in found.values()]), strict=True))
    rows = []
    for name, (mean, low, high) in sorted(interval.items(), key=lambda item: item[1][0]):
        row = {"order": name, "area": f"{mean:.3f}", "95 %": f"{low:.3f} … {high:.3f}"}
        if name == "random":
            rows.append(row | dict.fromkeys(("minus random", "95 % of it", "p (Holm)", "than random"), "–"))
            continue
        d, p = found[name][0], adjusted[name]
        verdict = "no difference found" if not p < 0.05 else "faster" if d.value < 0 else "slower"
        rows.append(row | {"minus random": f"{d.value:+.3f}", "95 % of it": f"{d.low:+.3f} … {d.high:+.3f}", "p (Holm)": f"{p:.2g}",
                           "than random": verdict})  # fmt: skip
    return interval, pd.DataFrame(rows)


def area_table(out: Report, area: Mapping[str, Tensor]) -> pd.DataFrame:
    """The table of `entropy_table`; the mean areas are recorded."""
    out.record(**{recorded(n): a.mean() for n, a in area.items()})
    return entropy_table(area)[1]


def told_table(
    out: Report, learned: Mapping[str, Tensor], removed: Mapping[str, Tensor], ks: Sequence[int]
) -> pd.DataFrame:
    """How much the cost of the unseen patches falls over the first patches, of it by their removal, and the rest, which is
    recorded. learned: (images, len(ks)) per order; removed: (images,), at the fifth of the prefixes `ks`."""
    told = {n: c[:, 0] - removed[n] - c[:, 4] for n, c in learned.items()}
    out.record(**{f"told_{n.replace(' ', '_')}": v.mean() for n, v in told.items()})
    return pd.DataFrame([{"order": n, f"cost of the rest after {ks[4]} patches": f"{c[:, 4].mean():.0f}",
                          "removed with them": f"{removed[n].mean():.0f}", "told about the rest": f"{told[n].mean():.0f}"}
                         for n, c in learned.items()])  # fmt: skip


@shown("Figure 1 (on a real image)", "Fig. 1, of two generated roosters: certainty of the class at six stages 0, 11, 16, 21, 23 and "
       "26 % in random order, 1, 20, 42, 57, 67 and 79 % in collapse order",
       [("area under the entropy curve (lower is sooner): collapse", "area_collapse", 1, 3), ("random", "area_random", 1, 3)])  # fmt: skip
def fig1_reveal(
    out: Report, model: nn.Module, sample, zoo: Mapping[str, Tensor], certainty: Mapping[str, Mapping[str, Tensor]]
):
    """One test image ({label}) revealed in six stages in random order (top) and collapse order (bottom), with the classifier's
    certainty of its class between.

    The image is the first that the judge `model` gets right when it sees everything; the first of all, if it gets none right.
    """
    i = int(certainty["random"]["hit"][:, -1].argmax())
    N, image, label = sample.tokens.shape[1], sample.images[i : i + 1], sample.labels[i : i + 1]
    stages = [round(N * f) for f in (0.06, 0.12, 0.25, 0.5, 0.75, 1.0)]
    pair = {n: zoo[n][i : i + 1] for n in ("random", "collapse")}
    p = {n: entropy.certainty_curve(model, image, label, r, stages)["prob"][0].numpy() for n, r in pair.items()}
    name = sample.class_names[int(label)]
    fig = figures.fig1_reveal(
        figures.to_array(image[0]), {n: r[0].numpy() for n, r in pair.items()}, p, stages, round(N**0.5), name
    )
    return fig, pd.DataFrame({"patches": stages} | p), {"label": name}


CHOSEN = ("collapse", "random", "variance")  # in colour, with the best; the other orders are grey


def drawn(out: Report, name: str, ks: Sequence[int], curves: Mapping[str, Tensor], ylabel: str, says: str, better: int = -1,
          band: tuple | None = None):  # fmt: skip
    """The figure of the mean curves of orders, (images, len(ks)) each, of all runs on record, and the means of this one."""
    mean = {n: c.mean(0).numpy() for n, c in curves.items()}
    runs = out.over_runs(name, mean)
    level = {n: float(c.mean()) for n, c in runs.items()}
    best = max(level, key=lambda n: better * level[n])
    title = f"{says}: {figures_orders.standing(level, better)}"
    return figures_orders.order_curves(ks, runs, ylabel, title, (*CHOSEN, best), band), mean


@shown("Remaining entropy, Gaussian tokens")
def entropy_gaussian(out: Report, curves: Mapping[str, Tensor]):
    """Curves of remaining entropy against patches seen under a Gaussian model, one line per order; greedy falls fastest, the
    band shows 90 % of random orders."""
    band = tuple(curves["random"].quantile(torch.tensor([0.05, 0.95]).double(), 0).numpy())
    ks, ylabel = range(curves["random"].shape[1]), "remaining entropy, nats (lower is better)"
    fig, mean = drawn(out, "gaussian", ks, curves, ylabel, "Gaussian tokens", band=band)
    return fig, pd.DataFrame(mean)


@shown("Remaining entropy, learned predictor", here=AREAS)
def entropy_learned(out: Report, learned: Mapping[str, Tensor], ks: Sequence[int]):
    """Curves of the learned predictor's cost of all unseen patches against the number of patches seen, one line per order."""
    ylabel = "cost of the unseen patches, nats (lower is better)"
    fig, mean = drawn(out, "learned", ks, learned, ylabel, "Learned predictor")
    return fig, pd.DataFrame({"patches": ks} | mean)


@shown("Area under the entropy curves", here=AREAS)
def entropy_areas(out: Report, area: Mapping[str, Tensor]):
    """Mean area under the learned entropy curve per order with 95 % intervals over images, best on top, and a dot for every run on
    record; a dotted line marks the random order."""
    interval, table = entropy_table(area)
    runs = {n: out.seeds().of(recorded(n)).tolist() for n in interval}
    title = figures_orders.standing({n: value for n, (value, _, _) in interval.items()}, -1)
    return figures_orders.dots(interval, "area under the curve (lower is better)", title, runs=runs, better=-1), table


@shown("Area under the entropy curves, by seed", here=AREAS)
def entropy_seeds(out: Report, names: Sequence[str]):
    """Area under the learned entropy curve per order for every seed on record, with the mean over seeds and its 95 percent
    interval."""
    rows = {n: recorded(n) for n in names} | {"collapse − random": (recorded("collapse"), recorded("random"))}
    return out.seeds().table(rows)


@shown("Class certainty along orders", "bars for two single images in Fig. 1, no mean over images")
def certainty(out: Report, found: Mapping[str, Mapping[str, Tensor]], ks: Sequence[int]):
    """Mean probability of the true class against patches seen, one line per order."""
    curves, ylabel = {name: c["prob"] for name, c in found.items()}, "probability of the true class (higher is better)"
    fig, mean = drawn(out, "certainty", ks, curves, ylabel, "Certainty", better=1)
    return fig, pd.DataFrame({"patches": ks} | mean)


def verdicts(out: Report, area: Mapping[str, Tensor], found: Mapping[str, Mapping[str, Tensor]], told: pd.DataFrame,
             ks: Sequence[int]) -> pd.DataFrame:  # fmt: skip
    """The verdict on every order in this run and over all seeds, its certainty after the fifth of the prefixes, and what it tells."""
    table, seeds = entropy_table(area)[1], out.seeds()
    than_random = dict(zip(table["order"], table["than random"], strict=True))
    every = {n: seeds.verdict((recorded(n), recorded("random")), -1, 3) for n in than_random if n != "random"}
    rows = [{"order": n, "uncertainty falls": verdict, "area less random, all seeds": every.get(n, "–"),
             f"certainty after {ks[4]} patches": f"{found[n]['prob'][:, 4].mean():.2f}"} for n, verdict in than_random.items()]  # fmt: skip
    return pd.DataFrame(rows).merge(told[["order", "told about the rest"]])
