"""Notebook 6: the calls that its cells make, and its figures and tables.

Letters: B images, N patches, K of them seen.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cop.configs import Profile
from cop.lessons import classification, cross_validation, leaderboard, ordering, pipeline, yardstick
from cop.lessons.costs import looking_costs as looking_costs
from cop.lessons.cross_validation import COMPARED, accuracy, at_rate, differences, known
from cop.lessons.cross_validation import asked as asked
from cop.lessons.cross_validation import compared as compared
from cop.lessons.cross_validation import runs as runs
from cop.lessons.panels import look_player as look_player
from cop.lessons.unmade import along_doubt as along_doubt
from cop.lessons.unmade import made_by_doubt as made_by_doubt
from cop.orders import Order, get
from cop.orders.looking import CACHED, bilateral_graph, coverage_order, mean_colours
from cop.paper.cvit import keep_count
from cop.profiles import for_classifiers
from cop.show import figures_looking, figures_orders, report
from cop.show.figures import to_array
from cop.show.records import BESIDE, Seeds
from cop.show.report import Report
from cop.train.loop import seeded

NOTEBOOK = "06_an_order_that_looks"
shown = partial(report.shown, NOTEBOOK)
ACCURACIES = (
    ("top-1 in %: active", "top1_active", 1, 1),
    ("coverage", "top1_coverage", 1, 1),
    ("collapse", "top1_collapse", 1, 1),
    ("low-discrepancy", "top1_low-discrepancy", 1, 1),
    ("random", "top1_random", 1, 1),
)  # of the gallery
GLANCE = ("random", "low-discrepancy", "variance", "collapse", "coverage", "surprise", "active")  # rows of the first picture
CONTROLS = ("random", "low-discrepancy", "variance", "its own mean")
OWN = ("collapse", "coverage", "surprise", "active")  # orders of an image's own whose mean is compared too
MEANS = {"collapse": "mean order"}  # of the others it is "mean of ..."
CHEAPER = ("active", CACHED)
RULES = ("PageRank bilateral", "coverage")  # on one graph
ISOLATED = ("PageRank bilateral", "coverage", "coverage gaussian", "coverage measured", "coverage comae")


def start(profile: str, seed: int, **parameters) -> tuple[Report, Profile]:
    """Where the notebook writes, and its profile. Raises ValueError for a wrong parameter."""
    return Report(NOTEBOOK, profile, seed, **parameters), for_classifiers(profile)


def in_short(out: Report, rate: float) -> None:
    """Print in a few sentences what is on record of the orders at one mask rate."""
    found = recorded(out.seeds())
    if "top1_active" not in found:
        return report.say(f"No run is on record with {rate:.0%} of the patches masked.")
    names = ("random", "low-discrepancy", "variance", "collapse", "coverage", "active")
    top1 = ", ".join(f"{name} {top1_of(found, name)}" for name in names)
    own = ", ".join(f"{order} {gain_of(found, order, own_mean(order))}" for order in OWN if f"gain_{order} - {own_mean(order)}" in found)
    apart = ", ".join(f"{name} {found[f'spread_{name}']:.1f}" for name in (*names, "mean order") if f"spread_{name}" in found)
    report.say(
        f"Right from {1 - rate:.0%} of the patches, in % of the images, by networks that were fine-tuned along the order "
        f"({found.get('trainings', 1):.0f} of each and of each fold): {top1}.",
        f"What an order of the image's own gains over one order for all images, its own mean, in points: {own}.",
        *([f"Between the best and the worst seed of one order lie, in points: {apart}."] if apart else []),
    )


def recorded(seeds: Seeds) -> pd.Series:
    """The numbers of this notebook on record, by name. A run compares all of its seeds at once, so that there is one: the first."""
    return seeds.values.iloc[:, 0].dropna() if seeds.values.size else pd.Series(dtype=float)


def top1_of(found: pd.Series, order: str) -> str:
    """`48.7 [47.8, 49.6]`, or a dash."""
    at = [found.get(f"{of}_{order}") for of in ("top1", "low", "high")]
    return "–" if None in at else "{:.1f} [{:.1f}, {:.1f}]".format(*at)


def gain_of(found: pd.Series, order: str, control: str, none: str = "–") -> str:
    """`+1.3 *`, the star where it remains after Holm's correction; `none` where it is not on record."""
    gain, p = (found.get(f"{of}_{order} - {control}") for of in ("gain", "holm"))
    return none if gain is None else f"{gain:+.1f}{' *' if p < 0.05 else ''}"


def orders_of(profile: Profile, count: int, names: Sequence[str], seed: int, device: str) -> dict[str, Tensor]:
    """Orders of `count` validation images, by name, (count, N) each."""
    images = val_images(profile, seed, device)
    chosen = pipeline.selection(pipeline.load_data(profile, "val"), count)
    return {name: images.ranked(get(name), chosen).long() for name in names}


def val_images(profile: Profile, seed: int, device: str) -> ordering.Images:
    return ordering.of_split(profile, "val", seed, pipeline.resolve_device(device), seeded(seed, 40))


@shown("What each order sees")
def glance(out: Report, sample, orders: Mapping[str, Tensor], rate: float):
    """Four images, a row each, and what is seen of them at 22 percent of the patches along each order, a column each."""
    return seen(sample, orders, rate)


def seen(sample, orders: Mapping[str, Tensor], rate: float) -> Figure:
    """What is seen of the first four images along each order."""
    N = sample.tokens.shape[1]
    rows = {name: order[:4, : keep_count(N, rate)].numpy() for name, order in orders.items()}
    return figures_looking.glance(to_array(sample.images[:4]), rows, round(N**0.5))


# -------------------------------------------------------------------------------------------------- coverage


def covered(A: Tensor, u: Tensor, chosen: Sequence[int]) -> float:
    """F(S) of one graph A (N, N), A_ii = 1, with weights u (N,): how much of what there is to learn the patches `chosen` give away."""
    return float((u * (1 - (1 - A[:, list(chosen)]).prod(1))).sum())


def greedy_against_best(A: Tensor, u: Tensor) -> np.ndarray:
    """F of the first k patches of the greedy order, in units of the best set of k patches, for k = 1, ..., N: by all subsets, so
    for a dozen patches. A (N, N), u (N,): (N,)."""
    A, u, N = A.double().fill_diagonal_(1), u.double(), len(u)
    order = coverage_order(A[None], u[None])[0].tolist()
    best = [max(covered(A, u, s) for s in combinations(range(N), k)) for k in range(1, N + 1)]
    return np.array([covered(A, u, order[: k + 1]) / best[k] for k in range(N)])


def graph_and_weights(sample, profile: Profile) -> tuple[Tensor, Tensor]:
    """The graph (B, N, N) of patches that are near and alike, and the contrast (B, N), of `coverage`."""
    c, shape = profile.looking, (profile.grid, profile.grid)
    A = bilateral_graph(mean_colours(sample.images, shape), shape, c.near, c.alike)
    patches = ordering.looked_at(pipeline.tokenizer(profile), sample.images)
    return A, patches.var(-1, correction=0) ** c.gamma


@shown("Greedy coverage against the best sets", here=[("% of the best set's coverage, worst image", "greedy_worst", 100, 1)])
def theorem(out: Report, A: Tensor, u: Tensor, count: int = 12):
    """How much of what the best set of k patches covers the greedy choice covers, for each k, on the middle patches of test images,
    with a line at the bound 1 - 1/e."""
    G = round(A.shape[-1] ** 0.5)
    rows, columns = range(G // 2 - 2, G // 2 + 1), range(G // 2 - 2, G // 2 + 2)
    middle = [r * G + c for r in rows for c in columns][:count]
    found = np.stack([greedy_against_best(a[middle][:, middle], w[middle]) for a, w in zip(A, u, strict=True)])
    out.record(greedy_worst=found.min(), greedy_mean=found.mean())
    return figures_looking.bound(found), pd.DataFrame(found, columns=[f"{k + 1}" for k in range(found.shape[1])])


def crowded(ranking: Tensor, grid: int, K: int) -> Tensor:
    """What share of the first K patches of each order touch another one of them, (B,)."""
    row, column = ranking[:, :K] // grid, ranking[:, :K] % grid
    apart = torch.maximum((row[:, :, None] - row[:, None]).abs(), (column[:, :, None] - column[:, None]).abs())
    return (apart + (grid * torch.eye(K, dtype=torch.long)) <= 1).any(-1).double().mean(-1)


@shown("One graph, two rules", here=[("share of patches that touch another: PageRank", "crowded_PageRank", 1, 2), ("coverage", "crowded_coverage", 1, 2)])
def two_rules(out: Report, sample, orders: Mapping[str, Tensor], rate: float):
    """One graph per image, the patches that are near and alike: the first {patches} patches by PageRank, which scores each patch
    alone, and by coverage, which asks what is left; in the titles what share of them touch another one of them.

    orders: by name, those of RULES."""
    N = sample.tokens.shape[1]
    G, K = round(N**0.5), keep_count(N, rate)
    rules = {name.removesuffix(" bilateral"): orders[name] for name in RULES}
    share = {name: float(crowded(r, G, K).mean()) for name, r in rules.items()}
    out.record(**{f"crowded_{name}": v for name, v in share.items()})
    titles = {f"{name}: {share[name]:.0%} touch": r[:4, :K].numpy() for name, r in rules.items()}
    return figures_looking.glance(to_array(sample.images[:4]), titles, G), None, {"patches": K}


# ------------------------------------------------------------------------------------------------ comparison


def own_mean(order: str) -> str:
    return MEANS.get(order, f"mean of {order}")


def pairs(hits: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """The comparisons of the table: each order of an image's own with the controls, and with its own mean order."""
    own = [o for o in hits if own_mean(o) in COMPARED]
    return [(o, c) for o in own for c in (*CONTROLS[:3], own_mean(o)) if c in hits]


@shown("Accuracy along each order", here=ACCURACIES)
def accuracies(out: Report, hits: Mapping[str, np.ndarray]):
    """Top-1 accuracy with 78 percent of the patches masked, fine-tuned and tested along each order, with intervals over seeds and
    images, cut where they leave the picture, and a dot for every seed; the mean order of each order beside it."""
    at = leaderboard.intervals(hits)
    runs = {name: 100 * h.mean(1) for name, h in hits.items()}
    spread = {f"spread_{name}": np.ptp(of) for name, of in runs.items() if len(of) > 1}
    out.record(trainings=len(next(iter(hits.values()))), **spread)
    for name, (value, low, high) in at.items():
        out.record(**{f"top1_{name}": value, f"low_{name}": low, f"high_{name}": high})
    at.pop("ViT", None)  # the whole image
    best = max(value for value, _, _ in at.values())
    near = sum(value > best - 1 for value, _, _ in at.values())
    title = f"{near} of {len(at)} orders lie within a point of the best"
    if "spread_collapse" in spread:
        title += f"\nseeds of the paper's order lie {spread['spread_collapse']:.1f} points apart"
    shared = {name for name in at if get(name).shared}
    return figures_orders.dots(at, f"{leaderboard.ACROSS}\nhollow: one order for all images", title, shared, runs, percent=True)


@shown("Differences between orders, on the same images", here=ACCURACIES)
def order_differences(out: Report, hits: Mapping[str, np.ndarray], profile: Profile):
    """Paired differences of top-1 in points between each order of an image's own and the controls, with 95 percent intervals over
    seeds and images, stars after Holm's correction over the table, and in how many trainings it is ahead."""
    table = differences(hits, pairs(hits), profile)
    out.record(**{f"gain_{r.order} - {r.against}": r.difference for r in table.itertuples()},
               **{f"holm_{r.order} - {r.against}": r.holm for r in table.itertuples()})  # fmt: skip
    means = {own_mean(o): "its own mean" for o in hits}
    return cross_validation.shown(table.assign(against=[means.get(a, a) for a in table["against"]]))


@shown("Only the graph differs, only the rule differs", here=[("top-1 in %: PageRank", "top1_PageRank bilateral", 1, 1), ("coverage", "top1_coverage", 1, 1)])
def isolation(out: Report, hits: Mapping[str, np.ndarray]):
    """Top-1 accuracy of one rule on four graphs, and of two rules on one graph, with intervals over seeds and images."""
    rows = []
    for name, (value, low, high) in leaderboard.intervals(hits).items():
        if name not in COMPARED:  # those are on record with all of their trainings
            out.record(**{f"top1_{name}": value})
        rule, graph = ("PageRank", "near and alike") if name == "PageRank bilateral" else ("coverage", GRAPHS[name])
        rows.append({"rule": rule, "graph": graph, "top-1 in %": f"{value:.1f} [{low:.1f}, {high:.1f}]"})
    return pd.DataFrame(rows)


GRAPHS = {"coverage": "near and alike", "coverage gaussian": "near", "coverage measured": "measured", "coverage comae": "CoMAE's"}


@shown("What there is to win", here=[(f"top-1 in %: {n}", f"bound_{n}", 1, 1) for n in ("random", *yardstick.RULES)])
def to_win(out: Report, profile: Profile, rate: float, images: int, seed: int, device: str):
    """Top-1 accuracy of one classifier, trained on random patches, against the number of patches: along orders, and along patches that
    it chose after it had tried each of them, so as to be certain, to answer as for the whole image, to be right or to be wrong."""
    found = yardstick.bounds(classification.first_fold(profile), GLANCE, rate, images, seed, device)
    at = {name: accuracy(h[None, -1])[0] for name, h in found.items()}
    out.record(**{f"bound_{name}": value for name, value in at.items()})
    orders = [at[name] for name in GLANCE]
    title = f"Orders: {min(orders):.0f} to {max(orders):.0f} %. Most certain: {at['most certain']:.0f} %"
    curves = {name: 100 * h.mean(1)[None] for name, h in found.items()}
    ks = range(1, len(found["random"]) + 1)
    numbers = pd.DataFrame({"patches": ks} | {name: c[0] for name, c in curves.items()})
    drawn = figures_orders.order_curves(ks, curves, "top-1 accuracy in % (higher is better)", title, (*yardstick.RULES, "random", "active"),
                                        ylim=(-6, 112), left_free=0.3)  # fmt: skip
    return drawn, numbers


@shown("The same order for a quarter of the price")
def cheaper(out: Report, profile: Profile, rate: float, seed: int, device: str):
    """Top-1 accuracy in per cent along the order of a predictor that starts anew at each look, and of one that keeps what it has
    encoded, fine-tuned along each, with 95 percent intervals, and their paired difference."""
    if profile.classifier.folds and not all(known(at_rate(profile, rate), o, seed) for o in CHEAPER):
        return None  # five networks each are not trained in passing
    found = compared(profile, CHEAPER, rate, runs(profile, rate, seed, 0, CHEAPER), device)
    at = leaderboard.intervals(found)
    (gap,) = differences(found, [CHEAPER[::-1]], profile).itertuples()
    out.record(**{f"top1_{CHEAPER[1]}": at[CHEAPER[1]].value, "cached_gain": gap.difference, "cached_low": gap.low, "cached_high": gap.high})
    rows = [{"order": o, "top-1 in %": "{:.1f} [{:.1f}, {:.1f}]".format(*at[o]), "seeds": len(found[o])} for o in CHEAPER]
    rows[1]["less the first"] = f"{gap.difference:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}], ahead in {gap.runs}"
    return pd.DataFrame(rows).fillna("")


@shown("What an order costs, end to end")
def looking_cost(out: Report, profile: Profile, rate: float):
    """Multiply-adds of order and classifier from 22 percent of the patches in units of the whole image, and images per second."""
    return looking_costs(profile, rate)


@shown("Orders on clothes and on photographs", here=ACCURACIES)
def both(out: Report):
    """Top-1 accuracy in per cent with 78 percent masked per order, with intervals over seeds and images, and differences in points
    with stars after Holm's correction, on clothes and on photographs."""
    columns = {}
    for column, profile in BESIDE.items():
        found = recorded(out.seeds() if profile == out.profile else Seeds(profile, NOTEBOOK))
        cells = [top1_of(found, order) for order in COMPARED]
        cells += [gain_of(found, order, control) for order, control in told_apart()]
        columns[f"{column}, {found.get('trainings', 1):.0f} of each"] = cells
    return pd.DataFrame({"": [*COMPARED, *(f"{o} − {c}" for o, c in told_apart())]} | columns)


def told_apart() -> list[tuple[str, str]]:
    """The comparisons that the table of both data sets shows."""
    return [(o, c) for o in reversed(OWN) for c in ("random", "low-discrepancy", own_mean(o))]


def verdicts(out: Report, hits: Mapping[str, np.ndarray], profile: Profile) -> pd.DataFrame:
    """Which orders of an image's own beat all four controls in this run, after Holm's correction over all comparisons."""
    table, rows = differences(hits, pairs(hits), profile), []
    for order in table["order"].unique():
        found = table[table["order"] == order]
        beaten = found[(found["difference"] > 0) & (found["holm"] < 0.05)]["against"]
        ahead = found[found["difference"] > 0]["against"]
        rows.append({"order": order, "beats": ", ".join(beaten) or "none", "is ahead of": ", ".join(ahead) or "none",
                     "better for being the image's own?": "yes" if len(beaten) == len(CONTROLS) else "not shown"})  # fmt: skip
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------ an order of the reader's


def batch_of(profile: Profile, count: int, seed: int, device: str) -> ordering.Batch:
    """`count` validation images as an order sees them."""
    return ordering.Batch(val_images(profile, seed, device), pipeline.selection(pipeline.load_data(profile, "val"), count))


def is_new(batch: ordering.Batch) -> Callable[[Tensor], bool]:
    """The check of an invented order: a ranking of every image, and not row by row."""

    def check(answer: Tensor) -> bool:
        return bool((Order("mine", lambda _: answer)(batch) != torch.arange(batch.num_tokens)).any())

    return check


@shown("An invented order")
def invented(out: Report, sample, orders: Mapping[str, Tensor], rate: float):
    """Four images, a row each, and what is seen of them at 22 percent of the patches along an invented order and three known ones,
    a column each."""
    return seen(sample, orders, rate)


@shown("Leaderboard of orders")
def standing(out: Report, hits: Mapping[str, np.ndarray]):
    """Top-1 accuracy of one classifier, trained on random patches, at 22 percent of the patches along an invented order and four
    known ones, with 95 percent intervals over the images."""
    at = leaderboard.intervals(hits)
    return leaderboard.board(hits), pd.DataFrame([[n, *at[n]] for n in at], columns=["order", "top-1", "low", "high"])
