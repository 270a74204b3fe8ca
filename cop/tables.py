"""Tables: ours beside the paper's, and the plain verdict on each claim, from numbers the notebooks computed."""

import itertools
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from cop.metrics import Interval, bootstrap
from cop.orders import mean_order, spearman
from cop.report import Seeds, paper_numbers
from cop.train import seeded


def mean_interval(values: Tensor, generator: torch.Generator) -> Interval:
    """Mean of values (n,) over images with its 95 % bootstrap interval."""
    return bootstrap(lambda idx: values[idx].mean().item(), len(values), generator)


def smooth(history: pd.DataFrame, rows: int) -> pd.DataFrame:
    """A running mean over `rows` rows of a history, for curves a reader can follow."""
    return history.rolling(rows, min_periods=1).mean().assign(step=history["step"])


def entropy_table(area: Mapping[str, Tensor], seed_a: torch.Generator, seed_b: torch.Generator):
    """Areas (images,) per order -> (intervals, table): mean, interval, and the paired difference from random."""
    interval = {n: mean_interval(a, seed_a) for n, a in area.items()}
    rows = []
    for name, (mean, low, high) in sorted(interval.items(), key=lambda item: item[1][0]):
        d = mean_interval(area[name] - area["random"], seed_b)
        verdict = "–" if name == "random" else "faster" if d[2] < 0 else "slower" if d[1] > 0 else "no difference found"
        rows.append({"order": name, "area": f"{mean:.3f}", "95 %": f"{low:.3f} … {high:.3f}",
                     "minus random": f"{d[0]:+.3f}", "95 % of it": f"{d[1]:+.3f} … {d[2]:+.3f}", "than random": verdict})
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


def verdicts_comae(history: pd.DataFrame, rows: Mapping[str, Mapping[str, float]], trivial: Mapping[str, float]) -> pd.DataFrame:
    """What the paper says of CoMAE and what this run shows."""
    start, end = history.iloc[0], history.iloc[-10:].mean()
    a, b = rows["without"], rows["with"]

    def change(before: float, after: float) -> str:
        return f"{before:.2f} → {after:.2f}"

    return pd.DataFrame([
        {"claim": "masks polarise as L_r falls (C1)", "paper": "Fig. 6",
         "ours": f"w < .1 or > .9: {start['share_low'] + start['share_high']:.0%} → "
                 f"{end['share_low'] + end['share_high']:.0%} of the entries"},
        {"claim": "mask entropy falls with L_r (C1)", "paper": "Fig. 6",
         "ours": change(start["mask_entropy"], end["mask_entropy"])},
        {"claim": "the contrastive term lowers L_r (C2)", "paper": "8.392 → 1.567",
         "ours": change(a["reconstruction"], b["reconstruction"])},
        {"claim": "and the mask entropy (C2)", "paper": "4.816 → 4.267", "ours": change(a["mask_entropy"], b["mask_entropy"])},
        {"claim": "better than the neighbours' mean", "paper": "not shown",
         "ours": change(trivial["mean of the neighbours"], b["reconstruction"])},
    ])  # fmt: skip


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
    for (i, (a, of_a)), (j, (b, of_b)) in itertools.combinations(enumerate(rankings.items()), 2):
        mean, low, high = mean_interval(spearman(of_a, of_b), seeded(i, j, 90))
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
