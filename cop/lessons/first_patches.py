"""Notebook 5: the calls that its cells make, and its figures and tables. Systems and orders are given by their `Hits`."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cop.configs import Profile
from cop.data.images import ImageSet
from cop.lessons.classification import RATES, SHOWN, Hits
from cop.lessons.classification import first_fold as first_fold
from cop.lessons.costs import affordable as affordable
from cop.lessons.costs import bills as bills
from cop.lessons.costs import cost_table as cost_table
from cop.lessons.costs import end_to_end
from cop.lessons.costs import order_costs as order_costs
from cop.lessons.costs import throughput as throughput
from cop.lessons.ordering import ranking_of as ranking_of
from cop.measure.metrics import Interval, holm, knee, mcnemar, of_mean, share_interval
from cop.paper.cvit import CViT, keep_count
from cop.paper.cvit import mask_rate_schedule as mask_rate_schedule
from cop.profiles import for_classifiers
from cop.show import figures_classification, report
from cop.show.figures import to_array
from cop.show.records import BESIDE
from cop.show.report import Report
from cop.show.widgets import PatchSlider as PatchSlider

NOTEBOOK = "05_first_patches"
shown = partial(report.shown, NOTEBOOK)
ENDS = [round(0.89 + i / 100, 2) for i in range(11)]  # mask rates at which curves are cut to find their knees again
PAPER = {  # Table 5, in per cent: top-1 and top-5 at mask rates 0, 30, 50 and 78 %, and AuC; its second "T1@30%" is read as T5@30%
    "ViT": (82.91, 96.28, 80.03, 94.8, 74.38, 91.48, 22.38, 36.76, 57.16),
    "DynamicViT": (81.74, 95.64, 81.44, 95.46, 77.54, 93.3, 20.66, 37.09, 56.32),
    "ViT+C": (82.84, 96.23, 78.09, 93.82, 71.67, 89.58, 31.04, 49.45, 57.27),
    "RViT": (83.1, 96.46, 81.33, 95.6, 78.94, 94.5, 67.27, 87.23, 70.86),
    "CViT": (83.11, 96.5, 81.37, 95.69, 79.39, 94.63, 70.57, 88.94, 72.19),
}


def start(profile: str, seed: int, **parameters) -> tuple[Report, Profile]:
    """Where the notebook writes, and its profile. Raises ValueError for a wrong parameter."""
    return Report(NOTEBOOK, profile, seed, **parameters), for_classifiers(profile)


def in_short(out: Report, rate: float) -> None:
    """Print in two sentences what all seeds on record say of the collapse order at one mask rate."""
    seeds = out.seeds()
    top1 = {n: f"top1_own_{n}_{rate:.0%}" for n in ("collapse", "random", "mean order", "variance", "coarser patches")}
    if seeds.of(top1["collapse"]).empty:
        return report.say(f"No run is on record with {rate:.0%} of the patches masked.")
    against = {n: (top1["collapse"], top1[n]) for n in ("random", "mean order", "variance")}
    gain, mean, variance = (f"{seeds.cell(pair, 100, 1)} points" for pair in against.values())
    report.say(
        f"With {1 - rate:.0%} of the patches, a network that is trained and tested along collapse orders is right on "
        f"{seeds.cell(top1['collapse'], 100, 1)} % of the images: {gain} against random patches, better {seeds.wins(against['random'])}.",
        f"Against one mean order for all images the difference is {mean}, better {seeds.wins(against['mean order'])}; against plain "
        f"patch variance {variance}; and a plain ViT on a quarter as many, coarser patches of the whole image has "
        f"{seeds.cell(top1['coarser patches'], 100, 1)} %.",
    )


# --------------------------------------------------------------------------------------------------- accuracy


def intervals(hits: Mapping[str, Hits], rate: float) -> dict[str, Interval]:
    """Top-1 at one mask rate with Wilson's 95 % interval."""
    return {n: share_interval(h.at(rate)) for n, h in hits.items()}


def accuracies(rows: Mapping[str, tuple[int, Interval]]) -> pd.DataFrame:
    """Top-1 with its interval of systems that see so many tokens, rows: system -> (tokens, interval)."""
    cells = [(n, k, f"{v:.1%} [{low:.1%}, {high:.1%}]") for n, (k, (v, low, high)) in rows.items()]
    return pd.DataFrame(cells, columns=["system", "tokens", "top-1"])


def matched_table(matched: Hits, systems: Mapping[str, Hits], num_tokens: int) -> pd.DataFrame:
    """DynamicViT pruned to as many tokens as CViT beside its published rule, at rates where both were tested."""
    shown = [r for r in (0.0, 0.3, 0.5, 0.72) if keep_count(num_tokens, r) in matched.counts]
    columns = {"DynamicViT, tokens matched": matched, "published rule": systems["DynamicViT"], "CViT": systems["CViT"]}
    return pd.DataFrame(
        [{"mask rate": f"{r:.0%}"} | {n: f"{h.at(r).mean():.1%}" for n, h in columns.items()} for r in shown]
    )


def gains(own: Mapping[str, Interval], one: Mapping[str, Interval]) -> pd.DataFrame:
    """What an order gains over random by training along it, and how much of that one RViT has as well."""
    rows = []
    for n in own:
        if n in one and n != "random":
            trained, tested = (100 * (at[n].value - at["random"].value) for at in (own, one))
            rows.append({"order": n, "gain of its own training over random, points": f"{trained:+.1f}", "of it RViT has": f"{tested:+.1f}",
                         "training along it adds": f"{trained - tested:+.1f}"})  # fmt: skip
    return pd.DataFrame(rows)


def crossed(hits: Mapping[tuple[str, str], Hits], rate: float) -> pd.DataFrame:
    """Top-1 of systems (rows) tested along orders (columns), hits: (system, order) -> hits."""
    systems, orders = (list(dict.fromkeys(names)) for names in zip(*hits, strict=True))
    return pd.DataFrame(
        [{"trained": s} | {f"tested {o}": f"{hits[s, o].at(rate).mean():.1%}" for o in orders} for s in systems]
    )


def p_values(differences: pd.DataFrame, rate: float) -> pd.DataFrame:
    """The p-values of `compare` at one mask rate, before and after Holm's correction."""
    p = differences[(differences["at"] == f"{rate:.0%}")][["comparison", "difference", "p", "holm"]]
    shown = {"difference": "{:+.1f}", "p": "{:.2g}", "holm": "{:.2g}"}
    return p.assign(**{k: p[k].map(f.format) for k, f in shown.items()}).rename(columns={"p": "McNemar p", "holm": "p (Holm)"})


def by_seed(rate: float, own: Sequence[str], one: Sequence[str]) -> dict[str, str | tuple[str, str]]:
    """The rows of the tables over seeds and over profiles: accuracies of the orders, and differences from collapse."""
    rows = {f"own training: {n}": f"top1_own_{n}_{rate:.0%}" for n in own} | {
        f"one RViT: {n}": f"top1_one_{n}_{rate:.0%}" for n in one
    }
    for kind, short in (("own training", "own"), ("one RViT", "one")):
        rows |= {f"{kind}: collapse − {n}": (f"top1_{short}_collapse_{rate:.0%}", f"top1_{short}_{n}_{rate:.0%}")
                 for n in ("random", "mean order", "variance", "reversed")}  # fmt: skip
    return rows


def compare(pairs: Mapping[str, tuple[Hits, Hits]], rates: Sequence[float] = SHOWN) -> pd.DataFrame:
    """Difference of accuracy in points, first minus second, on the same images: at each rate and in the AuC.

    Columns: comparison, at, difference, low, high (Student's 95 % over the images' differences), p (exact McNemar; of the AuC
    Student's), holm (p corrected for all rows of this table, which are one family).
    """
    rows = []
    for name, (a, b) in pairs.items():
        for rate in rates:
            x, y = a.at(rate), b.at(rate)
            p = mcnemar(torch.from_numpy(x), torch.from_numpy(y))["p"]
            rows.append([name, f"{rate:.0%}", *of_mean(100.0 * x - 100.0 * y)[0], p])
        gap, p = of_mean(a.area() - b.area())
        rows.append([name, "AuC", *gap, p])
    table = pd.DataFrame(rows, columns=["comparison", "at", "difference", "low", "high", "p"])
    return table.assign(holm=holm(table["p"]))


def show_comparisons(table: pd.DataFrame) -> pd.DataFrame:
    """`compare` for a reader: one row per comparison, one column per rate; a star where the corrected p is below .05."""

    def cell(r) -> str:
        return f"{r.difference:+.1f} [{r.low:+.1f}, {r.high:+.1f}]{' *' if r.holm < 0.05 else ''}"

    shown = table.assign(text=[cell(r) for r in table.itertuples()])
    wide = shown.pivot(index="comparison", columns="at", values="text")
    return wide.loc[table["comparison"].unique(), table["at"].unique()].reset_index().rename_axis(columns=None)


def verdict(table: pd.DataFrame, comparison: str, at: str) -> str:
    """One row of `compare` in words, by its corrected p-value."""
    row = table[(table["comparison"] == comparison) & (table["at"] == at)].iloc[0]
    words = "no difference found" if not row.holm < 0.05 else "better" if row.difference > 0 else "worse"
    return f"{words}: {row.difference:+.1f} points [{row.low:+.1f}, {row.high:+.1f}]"


def at_knee(short: str, orders: Sequence[tuple[str, str]]) -> list[tuple[str, str, float, int]]:
    """Rows of the gallery: top-1 at 78 % masked of some orders, as `shown` takes them."""
    first, *others = [(label, f"top1_{short}{n}_78%", 100, 1) for label, n in orders]
    return [(f"top-1 at 78 % masked, in %: {first[0]}", *first[1:]), *others]


OWN = at_knee("own_", [(name, name) for name in ("collapse", "mean order", "variance", "random")])


@shown("Figure 8", "CViT above all others at every mask rate; its knee at 78 % masked, with 70.6 %",
       [*at_knee("", [("CViT", "CViT"), ("RViT", "RViT"), ("ViT", "ViT")]), ("knee of CViT at % masked", "knee_CViT", 100, 0)])  # fmt: skip
def fig8(out: Report, systems: Mapping[str, Hits], chance: float):
    """Top-1 accuracy of ViT, DynamicViT, ViT+C, RViT and CViT against the mask ratio, with a dot at the knee of each curve and
    a line at the paper's 78 percent."""
    curves = {name: h.curve() for name, h in systems.items()}
    runs, one = out.over_runs("systems", curves), systems["CViT"]
    bends, tested = {n: knee(RATES, y.mean(0)) for n, y in runs.items()}, [1 - k / one.num_patches for k in one.counts]
    fig = figures_classification.fig8_accuracy(RATES, runs, bends, chance, tested)
    return fig, pd.DataFrame({"mask rate": RATES} | curves)


@shown("Table 5", 'in its rows "paper"', here=[("top-1 at 78 % masked, in %: CViT", "top1_CViT_78%", 100, 1), ("RViT", "top1_RViT_78%", 100, 1)])
def tab5(out: Report, systems: Mapping[str, Hits]):
    """Table 5: top-1 and top-5 accuracy in per cent of five systems at mask rates 0, 30, 50 and 78 percent, mean over all mask
    rates (AuC) and knee; intervals over test images, over seeds, and the paper's rows.

    Per system our accuracies with the half-width of their interval; under it the mean over the seeds on record, and the
    paper's row. Ours are recorded."""
    bends = {n: knee(RATES, h.curve()) for n, h in systems.items()}
    out.record(**{f"top{t}_{n}_{r:.0%}": h.at(r, t).mean() for n, h in systems.items() for r in SHOWN for t in (1, 5)},
               **{f"auc_{n}": h.area().mean() for n, h in systems.items()}, **{f"knee_{n}": k for n, k in bends.items() if k is not None})  # fmt: skip
    measured = [(f"T{top}@{rate:.0%}", f"top{top}", rate, top) for rate in SHOWN for top in (1, 5)]
    rows, seeds = [], out.seeds()
    for name, h in systems.items():
        found = [100 * np.array(share_interval(h.at(rate, top))) for *_, rate, top in measured]
        found.append(of_mean(h.area())[0])
        shown = [f"{v:.1f} ± {(high - low) / 2:.1f}" for v, low, high in found]
        rows.append([name, f"seed {out.seed}", *shown, "–" if bends[name] is None else f"{bends[name]:.0%}"])
        cells = [seeds.cell(f"{kind}_{name}_{rate:.0%}", 100, 1) for _, kind, rate, _ in measured]
        mean, _, n = seeds.interval(f"knee_{name}")
        rows.append(["", "all seeds", *cells, seeds.cell(f"auc_{name}", 1, 1), f"{mean:.0%}" if n else "–"])
        if name in PAPER:
            rows.append(["", "paper", *(f"{v:.2f}" for v in PAPER[name]), "78%" if name == "CViT" else "–"])
    return pd.DataFrame(rows, columns=["system", "", *(m[0] for m in measured), "AuC", "knee"])


def cut_knees(curve: np.ndarray) -> list[float | None]:
    """The knee of a curve over `RATES` when it ends at each of `ENDS`."""
    return [knee(RATES[: RATES.index(e) + 1], curve[: RATES.index(e) + 1]) for e in ENDS]


@shown("The knee against the range of its curve", "one knee, at 78 %, of one curve up to 99 %; no other range",
       [("knee of CViT, in % masked", "knee_CViT", 100, 0)])  # fmt: skip
def knee_range(out: Report, systems: Mapping[str, Hits]):
    """The knee of each classifier's accuracy curve against the mask rate at which the curve ends, from 89 to 99 percent, with a
    line where the knee is the end itself."""
    curves = {n: h.curve() for n, h in systems.items()}
    cut = {n: cut_knees(curve) for n, curve in curves.items()}
    runs = {n: np.array([cut_knees(y) for y in of], float) for n, of in out.over_runs("systems", curves).items()}
    return figures_classification.knee_range(ENDS, runs), pd.DataFrame({"end": ENDS} | cut)


def compared(out: Report, short: str, hits: Mapping[str, Hits], at: Mapping[str, Interval], rate: float, says: str,
             coarser: tuple[float, float] | None = None) -> tuple:  # fmt: skip
    """The figure of accuracies along orders, of all runs on record, and the curves of this one. short: own or one, of the record."""
    curves, seeds = {n: h.curve() for n, h in hits.items()}, out.seeds()
    runs = {n: seeds.of(f"top1_{short}_{n}_{rate:.0%}").tolist() for n in at}
    every = out.over_runs(f"curves_{short}", curves)
    fig = figures_classification.order_controls(RATES, every, at, rate, says, runs, coarser)
    return fig, pd.DataFrame({"mask rate": RATES} | curves)


@shown("Other orders, trained and tested like CViT",
       here=at_knee("own_", [(n, n) for n in ("collapse", "random", "mean order", "reversed", "variance")]))  # fmt: skip
def controls(out: Report, own: Mapping[str, Hits], at: Mapping[str, Interval], coarse: float, rate: float):
    """Left: top-1 accuracy against mask ratio of one network per order, trained and tested along it. Right: accuracies with 78
    percent masked, with intervals, best on top."""
    return compared(out, "own", own, at, rate, "Trained and tested along one order", (0.25, coarse))


@shown("One network tested along every order", here=at_knee("one_", [(n, n) for n in ("collapse", "random", "variance")]))
def cross(out: Report, one: Mapping[str, Hits], rate: float):
    """Left: top-1 accuracy of one network trained on random patches, tested along nine orders. Right: its accuracies with 78
    percent masked, with intervals."""
    return compared(out, "one", one, intervals(one, rate), rate, "One RViT, tested along each order")


def all_differences(systems: Mapping[str, Hits], own: Mapping[str, Hits], one: Mapping[str, Hits]) -> pd.DataFrame:
    """`compare` of the collapse order with every other one, and of ViT along it with ViT at random."""
    pairs = {f"own training: collapse − {o}": (own["collapse"], h) for o, h in own.items() if o != "collapse"}
    pairs |= {f"one RViT: collapse − {o}": (one["collapse"], h) for o, h in one.items() if o != "collapse"}
    return compare(pairs | {"one ViT: collapse − random (C9)": (systems["ViT+C"], systems["ViT"])})


@shown("Differences on the same images", here=OWN)
def comparisons(out: Report, differences: pd.DataFrame):
    """Paired differences of top-1 accuracy in points between the collapse order and each other order, at four mask rates and in
    the AuC, with 95 percent intervals."""
    return show_comparisons(differences)


@shown("Accuracy from the first 22 % of the patches, by seed", here=OWN)
def classification_seeds(
    out: Report, own: Mapping[str, Hits], one: Mapping[str, Hits], at: Mapping[str, Interval], rate: float
):
    """Top-1 accuracy in per cent with 78 percent masked per order, trained along it and tested with one RViT, for every seed on
    record, and differences.

    at: of `own` and of whatever else was trained; what it holds of this seed is recorded."""
    at_one = intervals(one, rate)
    out.record(**{f"top1_own_{n}_{rate:.0%}": v.value for n, v in at.items()}, **{f"top1_one_{n}_{rate:.0%}": v.value for n, v in at_one.items()},
               **{f"auc_own_{n}": h.area().mean() for n, h in own.items()}, **{f"auc_one_{n}": h.area().mean() for n, h in one.items()})  # fmt: skip
    return out.seeds().table(by_seed(rate, list(at), list(one)), 100, 1)


@shown(
    "What the first patches cost",
    "95.16 % less computation (section 4.5): the attention's quadratic term alone, without the ranking",
)
def cost(out: Report, bills: Mapping[str, Mapping[str, int]], speed: pd.DataFrame):
    """Left: multiply-adds of the classifier on all and on the first patches, of the ranking, and end to end, for this profile
    and the paper's size with either width of CoMAE. Right: measured throughput gain against kept share."""
    bars = {n: {"whole image": 1.0, "first patches": b["kept"] / b["all"], "ranking": (b["ranking"] + b["tokenizer"]) / b["all"],
                "end to end": end_to_end(b)} for n, b in bills.items()}  # fmt: skip
    return figures_classification.cost_chart(bars, speed["share"], speed["gain"], speed["ideal"]), speed


# --------------------------------------------------------------------------------------------------- one image


def first_known(hits: Hits, example: int) -> int:
    """The test image of that number among those whose class is right when everything is seen."""
    known = np.flatnonzero(hits.at(0.0))
    return int(known[example]) if len(known) > example else example


@torch.no_grad()
def guesses(model, image: Tensor, label: int, ranking: Tensor, ks: Sequence[int], class_names: Sequence[str]) -> list:
    """What the classifier says of one image (1, C, H, W) at its first k patches: [(class, probability, right?)]."""
    found = []
    for k in ks:
        p, y = model(image, ranking[None, :k]).softmax(-1)[0].max(0)
        found.append((class_names[int(y)], float(p), int(y) == label))
    return found


@shown("An image from its first patches")
def first_patches(out: Report, model: CViT, data: ImageSet, order: Tensor, pick: int):
    """A test image ({label}) revealed in collapse order in {steps} steps, with the class that CViT guesses at each and its
    probability."""
    N, (image, label) = order.shape[1], data.batch([pick])
    ks = sorted({max(1, round(N * f)) for f in (0.03, 0.08, 0.14, 0.22, 0.36, 0.6, 1.0)})
    said = guesses(model, image, int(label), order[pick], ks, data.class_names)
    fig = figures_classification.first_patches(to_array(image)[0], order[pick].numpy(), round(N**0.5), ks, said)
    table = pd.DataFrame(said, columns=["guess", "probability", "right"]).assign(patches=ks)
    return fig, table, {"label": data.class_names[int(label)], "steps": len(ks)}


@shown("Clothes and photographs from the first 22 % of the patches", here=OWN)
def photographs_classified(out: Report, own: Sequence[str], one: Sequence[str], rate: float):
    """Top-1 accuracy in per cent with 78 percent masked, of clothes and of photographs: per order, trained along it and tested
    with one RViT, and differences."""
    return out.beside(BESIDE, by_seed(rate, own, one), 100, 1)


def verdicts(
    out: Report, systems: Mapping[str, Hits], differences: pd.DataFrame, bills: Mapping[str, Mapping[str, int]]
) -> pd.DataFrame:
    """What the paper says of CViT, what this run shows, and what all seeds on record do."""
    asked = {"CViT ≥ RViT, most at 78 % (C8)": ("+3.3 points at 78 %", "own training: collapse − random", ("own_collapse", "own_random")),
             "ViT+C > ViT at 78 % (C9)": ("+8.7 points", "one ViT: collapse − random (C9)", ("ViT+C", "ViT")),
             "better than its own mean order": ("not shown", "own training: collapse − mean order", ("own_collapse", "own_mean order")),
             "better than patch variance": ("not shown", "own training: collapse − variance", ("own_collapse", "own_variance")),
             "better than its reversal": ("not shown", "own training: collapse − reversed", ("own_collapse", "own_reversed")),
             "shows RViT, which knows no order, more than random": ("not shown", "one RViT: collapse − random", ("one_collapse", "one_random"))}  # fmt: skip
    seeds, cut = out.seeds(), cut_knees(systems["CViT"].curve())
    claims = [{"claim": claim, "paper": paper, "this run": verdict(differences, row, "78%"),
               "all seeds": seeds.verdict(tuple(f"top1_{n}_78%" for n in pair), 1, 1, 100)} for claim, (paper, row, pair) in asked.items()]  # fmt: skip
    bend = " → ".join("none" if k is None else f"{k:.0%}" for k in (cut[0], cut[-1]))
    eight, four = bills["paper, section 8"], bills["paper, section 4"]
    return pd.DataFrame(claims + [
        {"claim": "the knee of CViT lies near 78 % (C10)", "paper": "78 %", "all seeds": f"{seeds.cell('knee_CViT', 100, 0)} %",
         "this run": f"{bend}, for a curve that ends at {ENDS[0]:.0%} → {ENDS[-1]:.0%}"},
        {"claim": "95.16 % less computation (C11)", "paper": "attention only", "all seeds": "–",
         "this run": f"classifier {1 - eight['kept'] / eight['all']:.0%} less; end to end, of the whole image: {end_to_end(four):.1f}× (section 4) "
                     f"to {end_to_end(eight):.1f}× (section 8)"}])  # fmt: skip
