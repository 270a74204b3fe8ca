"""Tables: ours beside the paper's, and the plain verdict on each claim, from numbers the notebooks computed."""

import itertools
import math
from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from cop.measure.metrics import Interval, holm, of_mean
from cop.orders import mean_order, spearman
from cop.show.report import Seeds, paper_numbers


def over_seeds(seeds: Seeds, name: str | tuple[str, str], better: int = 1, digits: int = 2, scale: float = 1) -> str:
    """A number of the record, or a difference of two, over all seeds: mean, interval, and how many say that the first is
    better. better: +1 where more is better, -1 where less is."""
    of = seeds.of(name)
    if of.empty:
        return "–"
    return f"{seeds.cell(name, scale, digits)}; better with {int((better * of > 0).sum())} of {len(of)} seeds"


def smooth(history: pd.DataFrame, rows: int) -> pd.DataFrame:
    """A running mean over `rows` rows of a history, for curves a reader can follow."""
    return history.rolling(rows, min_periods=1).mean().assign(step=history["step"])


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


def table1(rows: Mapping[str, Mapping[str, float]], trivial: Mapping[str, float], seeds: Seeds | None = None) -> pd.DataFrame:
    """Table 1: without and with the contrastive term, the paper's numbers, what trivial reconstructions cost, and our
    mean over the seeds on record."""
    paper = {"with" if flag else "without": (h, loss) for flag, h, loss in paper_numbers()["table1"]["rows"]}
    columns = {"mask entropy": "mask_entropy", "raw (Eq. 7)": "mask_entropy_raw", "L_r": "reconstruction", "L_c": "contrastive"}
    table = [{"contrastive": name} | {c: f"{r[k]:.3f}" for c, k in columns.items()}
             | {"paper: mask entropy": paper[name][0], "paper: L_r": paper[name][1]} for name, r in rows.items()]  # fmt: skip
    if seeds:
        table += [{"contrastive": f"{name}, all seeds"} | {c: seeds.cell(f"{k}_{name}") for c, k in columns.items()} for name in rows]
    table += [{"contrastive": f"– ({name})", "L_r": f"{loss:.3f}"} for name, loss in trivial.items()]
    return pd.DataFrame(table).fillna("–")


def verdicts_comae(history: pd.DataFrame, rows: Mapping[str, Mapping[str, float]], trivial: Mapping[str, float],
                   num_tokens: int, seeds: Seeds) -> pd.DataFrame:  # fmt: skip
    """What the paper says of CoMAE, what this run shows, and what all seeds on record do.

    Masks polarise: `yes` where nine in ten weights end below .1 or above .9, `partly` where more do than at the start."""
    start, end = history.iloc[0], history.iloc[-10:].mean()
    a, b, most = rows["without"], rows["with"], math.log(num_tokens - 1)
    before, after = (r["share_low"] + r["share_high"] for r in (start, b))
    polarised = "yes" if after > 0.9 else "partly" if after > before else "no"
    lowest = history.loc[history["mask_entropy"].rolling(10, min_periods=1).mean().idxmin(), "step"]

    def change(before: float, after: float) -> str:
        return f"{before:.2f} → {after:.2f}"

    def seen(name: str, other: str) -> str:
        return over_seeds(seeds, (f"{name}_with", other), -1)

    table = [
        {"claim": "masks polarise as L_r falls (C1)", "paper": "Fig. 6",
         "this run": f"{polarised}: {before:.0%} → {after:.0%} of the weights below .1 or above .9, {1 - after:.0%} between",
         "all seeds": f"below .1 {seeds.cell('share_low_with', 1, 2)}, above .9 {seeds.cell('share_high_with', 1, 2)}"},
        {"claim": "mask entropy falls with L_r (C1)", "paper": "Fig. 6",
         "this run": f"{change(start['mask_entropy'], end['mask_entropy'])} of at most {most:.2f} ({end['mask_entropy'] / most:.0%}); "
                     f"lowest at step {lowest:.0f}", "all seeds": seeds.cell("mask_entropy_with", 1, 2)},
        {"claim": "the contrastive term lowers L_r (C2)", "paper": "8.392 → 1.567",
         "this run": change(a["reconstruction"], b["reconstruction"]), "all seeds": seen("reconstruction", "reconstruction_without")},
        {"claim": "and the mask entropy (C2)", "paper": "4.816 → 4.267", "this run": change(a["mask_entropy"], b["mask_entropy"]),
         "all seeds": seen("mask_entropy", "mask_entropy_without")},
    ]  # fmt: skip
    return pd.DataFrame(table + [
        {"claim": f"reconstructs better than: {name}", "paper": "not shown", "this run": change(loss, b["reconstruction"]),
         "all seeds": seen("reconstruction", f"reconstruction_{name.replace(' ', '_')}")}
        for name, loss in trivial.items()])  # fmt: skip


def swap_table(swaps: Mapping[str, Tensor]) -> pd.DataFrame:
    """`reconstruction.mask_swaps`, L_r of each image (n,) per row: the mean, and the paired difference from the row with its own mask,
    with 95 % intervals and p corrected by Holm over the table. What the encoder tells the decoder by the mask alone is in
    the row of its own mask over the mean image, which is compared with the mean mask over that image."""
    own, message, silent = "its own mask", "its own mask over the mean image", "the mean mask over the mean image"
    against = {name: silent if name == message else own for name in swaps if name != own}
    found = {name: of_mean(swaps[name].double() - swaps[other].double()) for name, other in against.items()}
    adjusted = dict(zip(found, holm([p for _, p in found.values()]), strict=True))
    rows = [{"what the decoder gets": own, "L_r": f"{swaps[own].mean():.2f}"}]
    for name, ((value, low, high), _) in found.items():
        rows.append({"what the decoder gets": name, "L_r": f"{swaps[name].mean():.2f}", "less that of": against[name],
                     "difference": f"{value:+.3f} [{low:+.3f}, {high:+.3f}]", "p (Holm)": f"{adjusted[name]:.2g}"})  # fmt: skip
    return pd.DataFrame(rows).fillna("–")


def agreement_table(agreement: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Agreement statistics, one row per order."""
    names = {"kendall_within": "tau within class", "kendall_between": "tau between classes",
             "kendall_mean": "tau with mean order", "spearman_mean": "Spearman with mean order",
             "share_position": "position", "share_class": "class", "share_image": "image"}  # fmt: skip
    rows = [{"order": n, **{v: f"{a[k]:.2f}" for k, v in names.items()}} for n, a in agreement.items()]
    return pd.DataFrame(rows)


def across_seeds(rankings: Mapping[str, Tensor]) -> pd.DataFrame:
    """Orders of the same images by CoMAEs of different seeds, rankings: seed -> (images, N). One row per pair of seeds:
    the mean Spearman correlation of the two orders of an image with its 95 % interval over images, and that of the two
    mean orders."""
    rows = []
    for (a, of_a), (b, of_b) in itertools.combinations(rankings.items(), 2):
        mean, low, high = of_mean(spearman(of_a, of_b))[0]
        means = spearman(mean_order(of_a)[None], mean_order(of_b)[None]).item()
        rows.append([f"{a} and {b}", f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]", f"{means:+.2f}"])
    return pd.DataFrame(rows, columns=["seeds", "Spearman, same image", "Spearman, mean orders"])


def of_first(values: Tensor, ranking: Tensor, fraction: float) -> Tensor:
    """The mean of `values` (B, N), one a patch, over the first `fraction` of the patches, over their mean in the image: (B,).
    With contrast or edges for values it is above 1 when an order starts where something is to be seen."""
    first = values.gather(1, ranking[:, : max(1, round(fraction * ranking.shape[1]))])
    return first.mean(1) / values.mean(1).clamp_min(1e-12)


def verdicts_order(a: Mapping[str, float], pairs: Mapping[str, float], contrast: float, edges: float) -> pd.DataFrame:
    """What the paper says of the orders and what this run shows."""
    return pd.DataFrame([
        {"claim": "top patches outline the main shapes (C12)", "paper": "Fig. 4",
         "ours": f"contrast of the first 22 %: {contrast:.2f} of the average, edges {edges:.2f}"},
        {"claim": "orders agree moderately (C4)", "paper": "seen in Fig. 5",
         "ours": f"tau {a['kendall_within']:.2f} within, {a['kendall_between']:.2f} between classes"},
        {"claim": "the order follows the image", "paper": "Fig. 4",
         "ours": f"{a['share_position']:.0%} position, {a['share_class']:.0%} class, {a['share_image']:.0%} image"},
        {"claim": "PageRank is needed", "paper": "section 3.2",
         "ours": f"Spearman with plain in-strength {pairs['in-strength']:.2f}"},
        {"claim": "it is the greedy order (section 6)", "paper": "Theorem 1",
         "ours": f"Spearman with the greedy order {pairs['greedy']:.2f}"},
    ])  # fmt: skip
