"""Notebook 2: the calls that its cells make, and its figures and tables."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from cop.configs import Profile
from cop.lessons import comparisons
from cop.lessons import masks as comparison
from cop.lessons.panels import mask_map as mask_map
from cop.measure.metrics import holm, of_mean
from cop.paper.comae import CoMAE
from cop.profiles import get_profile
from cop.show import diagrams, figures, figures_masks, report
from cop.show.report import Report

NOTEBOOK = "02_dependency_autoencoder"
shown = partial(report.shown, NOTEBOOK)
PAPER = {"without": (4.816, 8.392), "with": (4.267, 1.567), "trained": ("–", "–")}  # Table 1: mask entropy and reconstruction loss


def start(profile: str, seed: int, **parameters) -> tuple[Report, Profile]:
    """Where the notebook writes, and its profile. Raises ValueError for a wrong parameter."""
    return Report(NOTEBOOK, profile, seed, **parameters), get_profile(profile)


def in_short(out: Report) -> None:
    """Print in two sentences what all seeds on record say of CoMAE's loss, and of the orders of two trainings of the printed objective."""
    seeds, ours = out.seeds(), "reconstruction_trained"
    if seeds.of(ours).empty:
        return report.say("No run of this profile is on record.")
    pairs = {
        "ridge regression": (ours, "reconstruction_ridge_regression"),
        "as much training without the contrastive term (Table 1)": ("reconstruction_with", "reconstruction_without"),
    }
    against = [
        f"{seeds.cell(pair, 1, 2)} against {name}, lower {seeds.wins(pair, -1)}"
        for name, pair in pairs.items()
        if not seeds.of(pair).empty
    ]
    says = [f"CoMAE reconstructs a patch with a loss of {seeds.cell(ours, 1, 2)}: {'; '.join(against)}."]
    if not seeds.of("long_L_r").empty:
        says += [
            f"Trained until the loss is {seeds.cell('long_L_r', 1, 2)}, CoMAEs of two seeds give the same image orders that correlate by "
            f"{seeds.cell('long_orders_raw', 1, 2)}, and by {seeds.cell('long_orders_own', 1, 2)} when the mean order is taken out."
        ]
    report.say(*says)


def smooth(history: pd.DataFrame, rows: int = 5) -> pd.DataFrame:
    """A running mean over `rows` rows of a history, for curves a reader can follow."""
    return history.rolling(rows, min_periods=1).mean().assign(step=history["step"])


def swap_table(out: Report, swaps: Mapping[str, Tensor]) -> pd.DataFrame:
    """`reconstruction.mask_swaps`, L_r of each image (n,) per row: the mean, which is recorded, and the paired difference from the row
    with its own mask, with 95 % intervals and p corrected by Holm over the table. What the encoder tells the decoder by the
    mask alone is in the row of its own mask over the mean image, which is compared with the mean mask over that image."""
    out.record(**{f"swap_{i}": v.mean() for i, v in enumerate(swaps.values())})
    own, message, silent = "its own mask", "its own mask over the mean image", "the mean mask over the mean image"
    against = {name: silent if name == message else own for name in swaps if name != own}
    found = {name: of_mean(swaps[name].double() - swaps[other].double()) for name, other in against.items()}
    adjusted = dict(zip(found, holm([p for _, p in found.values()]), strict=True))
    rows = [{"what the decoder gets": own, "L_r": f"{swaps[own].mean():.2f}"}]
    for name, ((value, low, high), _) in found.items():
        row = {"what the decoder gets": name, "L_r": f"{swaps[name].mean():.2f}", "less that of": against[name]}
        row |= {"difference": f"{value:+.3f} [{low:+.3f}, {high:+.3f}]", "p (Holm)": f"{adjusted[name]:.2g}"}
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


@shown("Figure 10", "encoder and decoder of twelve blocks each, of width 64 and 256, read out at a [cls] token")
def fig10(out: Report, profile: Profile, model: CoMAE):
    """Architecture of the CoMAE that was trained: encoder with {enc_depth} blocks of width {enc_dim}, decoder with {dec_depth}
    blocks of width {dec_dim}."""
    count = [sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.decoder)]
    return (
        diagrams.fig10_architecture(profile.comae, profile.num_tokens, profile.tokens.dim, tuple(count)),
        None,
        vars(profile.comae),
    )


@shown(
    "Figure 6",
    "over the last 140 of 512 epochs the loss goes from about 1.575 to 1.573, the mask entropy from 4.268 to 4.267",
    [("after training: loss", "reconstruction_trained", 1, 2), ("mask entropy", "mask_entropy_trained", 1, 2)],
)
def fig6(out: Report, history: pd.DataFrame, trivial: Mapping[str, float]):
    """Reconstruction loss of CoMAE over training, with lines at the losses of four reconstructions without a network; below it how
    many patches a mask shows, the exponential of its entropy, and the contrastive loss. Dots are the ends of all runs on record.

    trivial: the losses of these four, which are recorded."""
    out.record(**{f"reconstruction_{n.replace(' ', '_')}": v for n, v in trivial.items()})
    ends = {k: out.seeds().of(f"{k}_trained").tolist() for k in ("reconstruction", "mask_entropy", "contrastive")}
    return figures.fig6_training(smooth(history), trivial, ends, out.settings.num_tokens), history


@shown(
    "Polarisation of the masks",
    'said in section 4.1 ("polarized selections"), not drawn',
    [("% of the weights below .1", "share_low_trained", 100, 0), ("% above .9", "share_high_trained", 100, 0)],
)
def polarisation(out: Report, history: pd.DataFrame, A: Tensor):
    """Histogram of all selection weights on validation images, and the shares below .1 and above .9 over training."""
    s, others = smooth(history), ~torch.eye(A.shape[-1], dtype=torch.bool).expand_as(A)
    ends = {k: out.seeds().of(f"share_{k}_trained").tolist() for k in ("low", "high")}
    fig = figures.polarisation(A[others].numpy(), *(s[k].to_numpy() for k in ("step", "share_low", "share_high")), ends)
    return fig, s[["step", "share_low", "share_high", "mean_weight"]]


@shown("Masks and reconstructions", "three masks and reconstructions of one image, in Fig. 2a")
def masks(out: Report, images: Tensor, targets: Tensor, weights: Tensor, patches: Tensor):
    """For four images and three targets each: the patches shown in proportion to their selection weight, the true target and
    its reconstruction."""
    G = round(weights.shape[-1] ** 0.5)
    return figures.masks(figures.to_array(images), targets.tolist(), weights.numpy(), figures.to_array(patches), G)


def of_table_1(profile: Profile, change: str) -> Profile:
    """A row of Table 1: the profile with a change of `masks.CHANGES`. Of clothes and photographs it is a short training of `masks.changed`, which the
    figure of all changes shows too; otherwise as long a training as the profile says."""
    if profile.name in comparison.SHORT:
        return comparison.changed(profile, change)
    return replace(profile, comae=replace(profile.comae, **comparison.CHANGES[change]))


@shown("Table 1", 'in its columns "paper: …"', here=[("loss with the contrastive term", "reconstruction_with", 1, 2), ("without", "reconstruction_without", 1, 2)])
def tab1(out: Report, rows: Mapping[str, Mapping[str, float]], trivial: Mapping[str, float]):
    """Table 1, ours beside the paper's: mask entropy and reconstruction loss with and without the contrastive term, and the
    losses of four reconstructions without a network. In the row `trained` is the profile's CoMAE, whose orders are those of the other
    notebooks.

    Our numbers are recorded, and stand in it for this run and for all seeds on record."""
    out.record(**{f"{k}_{name}": v for name, row in rows.items() for k, v in row.items()})
    columns, seeds = (
        {
            "mask entropy": "mask_entropy",
            "raw (Eq. 7)": "mask_entropy_raw",
            "L_r": "reconstruction",
            "L_c": "contrastive",
        },
        out.seeds(),
    )
    table = [
        {"contrastive": name}
        | {c: f"{r[k]:.3f}" for c, k in columns.items()}
        | dict(zip(("paper: mask entropy", "paper: L_r"), PAPER[name], strict=True))
        for name, r in rows.items()
    ]
    table += [
        {"contrastive": f"{name}, all seeds"} | {c: seeds.cell(f"{k}_{name}") for c, k in columns.items()}
        for name in rows
    ]
    table += [{"contrastive": f"– ({name})", "L_r": f"{loss:.3f}"} for name, loss in trivial.items()]
    return pd.DataFrame(table).fillna("–")


@shown("Loss and agreement over a long training", here=[("after the last step: loss", "long_L_r", 1, 2), ("rank correlation of two trainings' orders", "long_orders_raw", 1, 2)])
def on_the_way(out: Report, profile: Profile, ridge: float, device: str):
    """Above, the reconstruction loss of CoMAE with several seeds over a long training, with the loss of ridge regression. Below,
    how alike the graphs and orders of the same images are with two seeds, before and after their mean is taken out.

    The data are those of `cop.lessons.masks.on_the_way`; the last values are recorded. None where these trainings are not stored and
    take hours (`masks.LONG`)."""
    if (path := comparison.on_the_way(profile, device=device, train=profile.name not in comparison.LONG)) is None:
        return None
    last = path[path.step == path.step.max()].groupby("quantity").value.mean()
    out.record(**{f"long_{name}": value for name, value in last.items()})
    better = "below" if last["L_r"] < ridge else "above"
    title = f"$L_r$ ends {better} ridge regression; orders agree by {last['orders_own']:.2f} without their mean"
    return figures_masks.loss_and_agreement(path, {"ridge regression": ridge}, title), path


def doubling(out: Report, profile: Profile, device: str) -> str:
    """What a training of half or twice the length ends with: a sentence, whose numbers are recorded. None of them is trained here."""
    lengths = comparison.doubling(profile, device=device, train=False)
    found = {steps: loss for steps, loss in lengths.items() if loss is not None}
    out.record(**{f"L_r_after_{steps}": loss for steps, loss in found.items()})
    says = [f"L_r of seed 0 after a whole schedule of {steps:,} steps: {loss:.2f}" for steps, loss in found.items()]
    says += [
        f"A doubling from {steps:,} to {2 * steps:,} steps changes it by {found[2 * steps] / loss - 1:+.1%}"
        for steps, loss in found.items()
        if 2 * steps in found
    ]
    says += [f"A training of {steps:,} steps is not stored, and is left out" for steps in lengths if steps not in found]
    return ". ".join(says) + "."


def changes_of(profile: Profile, device: str) -> dict[str, dict[str, Tensor]]:
    """`cop.lessons.masks.compared` of every change that the notebook shows, by name; where trainings take hours, of those stored."""
    train = profile.name not in comparison.LONG
    found = {c: comparison.compared(profile, c, device=device, train=train) for c in comparison.rows(profile)}
    return {change: r for change, r in found.items() if r}


@shown("CoMAE's objective, changed in one thing at a time", here=[("agreement of two trainings' graphs, own part: as printed", "graphs_own_as printed", 1, 2), ("with a budget and any mask", "graphs_own_budget and any-mask", 1, 2)])
def objectives(out: Report, changes: Mapping[str, Mapping[str, Tensor]]):
    """For each change of the objective: losses under the encoder's own mask and under others, density, the image's share of
    graphs and orders, and how far two seeds agree.

    changes: of `cop.lessons.masks.compared`, by name. Means over seeds; intervals over images."""
    for name, r in changes.items():
        numbers = {"L_r": r["losses"][:, 0], "graph: image": comparison.of_images(r, "graphs"), "graphs_own": r["graphs_own"]}
        out.record(**{f"{column}_{name}": value.mean() for column, value in numbers.items()})
    return comparison.table(changes).reset_index(names="objective")


def mean_of_seeds(out: Report, changes: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Whether the mean graph of the other seeds knows more of a seed's than one of them does: a sentence, whose numbers are recorded.

    changes: as of `objectives`."""
    says = []
    for name in [n for n in ("as printed", comparison.ANY_MASK) if n in changes]:
        one, two = (float(changes[name][f"graphs_own{of}"].mean()) for of in ("", "_mean_of_two"))
        out.record(**{f"graphs_own_mean_of_two_{name}": two})
        says.append(f"{name.capitalize()}: {one:.2f} with one other seed, {two:.2f} with the mean graph of the others")
    return f"Agreement of a seed on the image's own part of a graph. {'; '.join(says)}."


def seeds_of_the_measured_graph(profile: Profile, device: str) -> Mapping[str, Tensor] | None:
    """`comparisons.seeds_agree` of the measured graph where it is stored, else None: three predictors are not trained for a point."""
    return comparisons.seeds_agree(profile, "measured", device=device, train=False)


@shown("What two trainings agree on", here=[("agreement of two trainings' graphs, own part: as printed", "graphs_own_as printed", 1, 2), ("with a budget and any mask", "graphs_own_budget and any-mask", 1, 2)])
def own_part(out: Report, changes: Mapping[str, Mapping[str, Tensor]], measured: Mapping[str, Tensor] | None):
    """One point per objective, after equally many steps: how much of a graph is the image's own, against the agreement of two
    seeds on that part; and the same of the graph that notebook 3 measures. Blue: price, budget and decoder; grey: other changes.

    measured: of `cop.lessons.comparisons.seeds_agree`, or None where it is not stored."""
    found = {name: (r, "main" if name in comparison.MAIN else "further") for name, r in changes.items()}
    if measured:
        found["measured graph (notebook 3)"] = (measured, "measured")
    points = pd.DataFrame(
        [name, kind, float(comparison.of_images(r, "graphs").mean()), float(r["graphs_own"].mean())]
        for name, (r, kind) in found.items()
    ).set_axis(["name", "kind", "share", "agreement"], axis=1)
    best = points[points.kind != "measured"].agreement.max()
    title = f"Two seeds of CoMAE agree by at most {best:.2f} on what is the image's own"
    return figures_masks.agreement_against_share(points, title), points


@shown("Different patches reconstruct a target", here=[("loss from nine patches: best set", "disjoint_9_patches,_set_1", 1, 1), ("second, without these", "disjoint_9_patches,_set_2", 1, 1), ("third", "disjoint_9_patches,_set_3", 1, 1)])
def redundancy(out: Report, profile: Profile, device: str):
    """What sets of patches without a patch in common reconstruct of a target, the best set first, beside everything and nothing
    shown: L_r with 95 % intervals over the targets.

    The losses are those of `cop.lessons.masks.disjoint`."""
    losses, size = comparison.disjoint(profile, device=device)
    names = ["everything shown", "nothing shown", *(f"{size} patches, set {k}" for k in range(1, losses.shape[1] - 1))]
    found = [of_mean(column)[0] for column in losses.double().T]
    out.record(**{f"disjoint_{name.replace(' ', '_')}": i.value for name, i in zip(names, found, strict=True)})
    cells = [f"{i.value:.1f} ({i.low:.1f} to {i.high:.1f})" for i in found]
    return pd.DataFrame({"the decoder sees": names, "L_r": cells})


def verdicts(
    out: Report,
    history: pd.DataFrame,
    rows: Mapping[str, Mapping[str, float]],
    trivial: Mapping[str, float],
    num_tokens: int,
) -> pd.DataFrame:
    """What the paper says of CoMAE, what this run shows, and what all seeds on record do.

    Masks polarise: `yes` where nine in ten weights end below .1 or above .9, `partly` where more do than at the start."""
    start, end, seeds = history.iloc[0], history.iloc[-10:].mean(), out.seeds()
    a, b, most = rows["without"], rows["with"], math.log(num_tokens - 1)
    before, after = (r["share_low"] + r["share_high"] for r in (start, rows["trained"]))
    polarised = "yes" if after > 0.9 else "partly" if after > before else "no"
    lowest = history.loc[history["mask_entropy"].rolling(10, min_periods=1).mean().idxmin(), "step"]

    def change(before: float, after: float) -> str:
        return f"{before:.2f} → {after:.2f}"

    def seen(name: str, other: str) -> str:
        return seeds.verdict((f"{name}_with", other), -1)

    low, high = seeds.cell("share_low_trained", 1, 2), seeds.cell("share_high_trained", 1, 2)
    ended = f"{change(start['mask_entropy'], end['mask_entropy'])} of at most {most:.2f}"
    table = [
        (
            "masks polarise as L_r falls (C1)",
            "Fig. 6",
            f"{polarised}: {before:.0%} → {after:.0%} of the weights below .1 or above .9, {1 - after:.0%} between",
            f"below .1 {low}, above .9 {high}",
        ),
        (
            "mask entropy falls with L_r (C1)",
            "Fig. 6",
            f"{ended} ({end['mask_entropy'] / most:.0%}); lowest at step {lowest:.0f}",
            seeds.cell("mask_entropy_trained", 1, 2),
        ),
    ]
    losses = {"the contrastive term lowers L_r (C2)": ("reconstruction", "8.392 → 1.567")}
    losses |= {"and the mask entropy (C2)": ("mask_entropy", "4.816 → 4.267")}
    for claim, (k, paper) in losses.items():
        table.append((claim, paper, change(a[k], b[k]), seen(k, f"{k}_without")))
    for name, loss in trivial.items():
        found = seeds.verdict(("reconstruction_trained", f"reconstruction_{name.replace(' ', '_')}"), -1)
        table.append((f"reconstructs better than: {name}", "not shown", change(loss, rows["trained"]["reconstruction"]), found))
    return pd.DataFrame(table, columns=["claim", "paper", "this run", "all seeds"])
