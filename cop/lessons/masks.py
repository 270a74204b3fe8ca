"""Why CoMAE's masks are arbitrary: its objective changed in one thing at a time, and what each change does to the agreement
of two trainings (notebook 2).

Letters: S seeds, n images, N patches, K targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cop.configs import Profile
from cop.data.loading import load_data
from cop.lessons import pipeline
from cop.measure.metrics import of_mean
from cop.orders import ranks_of
from cop.orders.concordance import correlation, shares
from cop.paper.comae import mask_statistics
from cop.paper.reconstruction import disjoint_sets, mask_swaps
from cop.profiles import get_profile
from cop.train.artefacts import load_or_compute, stored, unless_missing, versioned
from cop.train.loop import seeded

SEEDS = (0, 1, 2)
IMAGES = 100  # validation images that graphs and orders are compared on
LOSSES = ("its own mask", "everything shown, w = 1", "its own weights, shuffled", "nothing shown, w = 0")
CHANGES: dict[str, dict] = {
    "as printed": {},
    "L1 price": {"sparsity_weight": 2.0},
    "information price": {"objective": "information", "sparsity_weight": 0.5},
    "budget 15 %": {"budget": 0.15},
    "any-mask decoder": {"any_mask": 0.5},
    "budget and any-mask": {"budget": 0.15, "any_mask": 0.5},
    "no contrastive term": {"contrastive_weight": 0.0},
    "contrastive term x 10": {"contrastive_weight": 0.1},
    "contrastive over the batch": {"contrastive_scope": "batch"},
    "sigma .1": {"sigma": 0.1},
    "sigma 1": {"sigma": 1.0},
    "|tanh|": {"weight_act": "abs_tanh"},
    "relu(tanh)": {"weight_act": "relu_tanh"},
    "sigmoid": {"weight_act": "sigmoid"},
}  # what is changed in the objective -> fields of CoMAEConfig; as book/decisions.md lists them
WHITENED = "whitened tokens"  # every principal component with variance 1, where `natural` has all in one scale
ANY_MASK = "budget and any-mask"  # the row whose decoder knows any mask and whose encoder has to choose
MAIN = ("as printed", "L1 price", "information price", "budget 15 %", "any-mask decoder", ANY_MASK)
TARGETS = 6  # images that are searched for equally good sets of patches


def rows(profile: str | Profile) -> tuple[str, ...]:
    """The changes that the notebook shows: all of the demo, otherwise two, and of photographs whitened tokens too."""
    name = get_profile(profile).name
    return tuple(CHANGES) if name == "demo" else ("as printed", *[WHITENED] * (name in LONG), ANY_MASK)


def changed(profile: Profile, change: str) -> Profile:
    """The profile of one row of the table, a change of CHANGES or WHITENED: the same steps for all. Raises ValueError for another
    name."""
    if change == WHITENED:
        profile, change = replace(profile, tokens=replace(profile.tokens, kind="pca")), "as printed"
    if change not in CHANGES:
        raise ValueError(f"unknown change {change!r}; expected one of {', '.join([*CHANGES, WHITENED])}")
    steps = min(SHORT.get(profile.name, 1500), profile.comae.steps)
    short = replace(profile.comae, optimizer="muon", lr=2e-3, steps=steps, watched=(), **CHANGES[change])
    return replace(profile, comae=short)


LONG = ("natural",)  # profiles of which the notebook shows trainings of several seeds only where they are stored
SHORT = {"demo": 1400, "natural": 1500}  # steps of the trainings that are compared; of other profiles 1,500
WATCHED = get_profile("demo").comae.watched


def converged(profile: str | Profile, steps: int | None = None) -> Profile:
    """The objective as printed, trained to the end (or for `steps` steps), with a look at the validation images on the way."""
    profile = get_profile(profile)
    steps = steps or profile.comae.steps
    watched = tuple(w for w in WATCHED if w < steps) + (steps,)
    return replace(profile, comae=replace(profile.comae, steps=steps, watched=watched))


QUANTITIES = ("L_r", "graphs_raw", "graphs_own", "orders_raw", "orders_own")


def on_the_way(
    profile: str | Profile, seeds: Sequence[int] = SEEDS, device: str = "auto", train: bool = True
) -> pd.DataFrame | None:
    """The converged CoMAE of several seeds while it was trained: columns `step`, `quantity`, `value`. Quantities: `L_r`, one
    row per seed, and `graphs_raw`, `graphs_own`, `orders_raw`, `orders_own`, the mean agreement over the images, one row per
    pair of seeds. Without `train` None where it is not stored."""
    profile = converged(profile)
    config = {"runs": [pipeline.comae_config(profile, seed) for seed in seeds]}

    def compute(_: Path):
        runs = [pipeline.comae(profile, seed, device)[1].tensors for seed in seeds]
        rows = []
        for i, step in enumerate(profile.comae.watched):
            rows += [(step, 0, float(run["watched.loss"][i])) for run in runs]
            for a, b in combinations(runs, 2):
                graphs = alike(*(off_diagonal(r["watched.graphs"][i].float()) for r in (a, b)))
                orders = alike(*(ranks_of(r["watched.orders"][i].long()) for r in (a, b)))
                values = (graphs["raw"], graphs["own"], orders["raw"], orders["own"])
                rows += [(step, k, float(v.mean())) for k, v in enumerate(values, 1)]
        return {"rows": torch.tensor(rows)}, None

    artefact = unless_missing("masks", versioned("masks-way", 1, config), compute, train)
    if artefact is None:
        return None
    found = artefact.tensors["rows"]
    quantity = [QUANTITIES[int(k)] for k in found[:, 1]]
    return pd.DataFrame({"step": found[:, 0].int(), "quantity": quantity, "value": found[:, 2]})


def doubling(
    profile: str | Profile, seed: int = 0, device: str = "auto", train: bool = True
) -> dict[int, float | None]:
    """Does training longer still help? L_r on validation images of the objective as printed, trained for half the steps of
    `converged`, for all of them and for twice as many, each a whole schedule: steps -> L_r. Without `train` None for a
    training that is not stored."""
    steps = converged(profile).comae.steps
    return {n: loss_after(converged(profile, n), seed, device, train) for n in (steps // 2, steps, 2 * steps)}


def loss_after(profile: Profile, seed: int, device: str, train: bool) -> float | None:
    """The last L_r that the training of a `converged` profile watched. Without `train` None if it is not stored."""
    config = pipeline.comae_config(profile, seed)

    def compute(_: Path):
        return {"loss": pipeline.comae(profile, seed, device)[1].tensors["watched.loss"][-1]}, None

    stage = versioned("masks-length", 1, {"run": config})
    found = unless_missing("masks", stage, compute, train or stored("comae", config))
    return found and float(found.tensors["loss"])


def alike(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """How alike two seeds see each image, values (n, ...) each: `raw` (n,), and `own` (n,) after the mean over the images is
    taken out of both. Pearson's correlation; of ranks it is Spearman's."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    return {"raw": correlation(a, b), "own": correlation(a - a.mean(0), b - b.mean(0))}


def off_diagonal(A: Tensor) -> Tensor:
    """Graphs (n, N, N) without their zero diagonals: (n, N (N - 1))."""
    n, N, _ = A.shape
    return A.flatten(1)[:, 1:].view(n, N - 1, N + 1)[:, :, :-1].flatten(1)


def agreements(graphs: Sequence[Tensor], ranks: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
    """What several trainings make of the same images: `alike` of every pair of them, `graphs_raw`, `graphs_own`, `orders_raw` and
    `orders_own` (pairs, n), and `shares_of_graphs` and `shares_of_orders` (S, 3), position, class and image.

    graphs: `off_diagonal` of each of S trainings; ranks: (n, N) of each; labels: (n,)."""
    found = {}
    for name, values in (("graphs", graphs), ("orders", ranks)):
        both = [alike(a, b) for a, b in combinations(values, 2)]
        found |= {f"{name}_{part}": torch.stack([b[part] for b in both]).float() for part in ("raw", "own")}
        found[f"shares_of_{name}"] = torch.tensor([list(shares(x, labels).values()) for x in values])
    return found


def compared(
    profile: Profile, change: str, seeds: Sequence[int] = SEEDS, device: str = "auto", train: bool = True
) -> dict[str, Tensor] | None:
    """Everything that the table says about one change, from CoMAEs of S seeds: `losses` (S, 4), `weights` (S, 4),
    `shares_of_orders` and `shares_of_graphs` (S, 3), and the agreements of images between seeds: `graphs_raw`,
    `graphs_own`, `orders_raw`, `orders_own` (pairs, n); the same with `_mean_of_two` (S, n) compare a seed with the mean of
    the others. Without `train` None where it is not stored."""
    profile, device = changed(get_profile(profile), change), pipeline.resolve_device(device)
    runs = [(profile, s) for s in seeds]
    config = {"runs": [pipeline.comae_config(*run) for run in runs], "images": IMAGES}

    def compute(_: Path):
        data = load_data(profile, "val")
        labels = data.labels[pipeline.selection(data, IMAGES)]
        tokens = pipeline.sample_tokens(profile, "val", IMAGES, device).to(device)
        losses, weights, graphs, ranks = [], [], [], []
        for run in runs:
            model, _ = pipeline.comae(*run, device)
            A = model.dependencies(tokens, profile.ranking.chunk_bytes)
            ranks.append(ranks_of(pipeline.ranked(A, profile)).cpu())
            A = A.cpu()
            graphs.append(off_diagonal(A))
            swaps = mask_swaps(model, tokens, seeded(0, 4))
            stats = mask_statistics(A, torch.arange(A.shape[1]).expand(len(A), -1))
            losses.append([float(swaps[k].mean()) for k in LOSSES])
            weights.append([float(stats[k]) for k in ("mean_weight", "share_low", "share_high", "mask_entropy")])
        found = {"losses": torch.tensor(losses), "weights": torch.tensor(weights)} | agreements(graphs, ranks, labels)
        for name, values in (("graphs", graphs), ("orders", ranks)):
            rest = [alike(sum(x.double() for x in values) - own, own) for own in values]
            found |= {f"{name}_{k}_mean_of_two": torch.stack([r[k] for r in rest]).float() for k in ("raw", "own")}
        return found, None

    found = unless_missing("masks", versioned("masks", 1, config), compute, train)
    return found and found.tensors


def disjoint(profile: str | Profile, seed: int = 0, device: str = "auto") -> tuple[Tensor, int]:
    """L_r of targets that a decoder of any mask reconstructs from disjoint sets of patches: (targets, 2 + sets), with everything
    shown, with nothing, and with each set (`reconstruction.disjoint_sets`); and the number of patches in a set. Four targets
    around the middle of each of `TARGETS` validation images, where all others count."""
    profile = get_profile(profile)
    short, G, N = changed(profile, ANY_MASK), profile.grid, profile.num_tokens
    size = max(1, round(0.15 * (N - 1)))
    count = min(6, (N - 2) // size)
    targets = [G * (G // 2 - r) + G // 2 - c for r in (0, 1) for c in (0, 1)]

    def compute(_: Path):
        model = pipeline.comae(short, seed, device)[0].cpu()
        rows = []
        for i, x in enumerate(pipeline.sample_tokens(profile, "val", TARGETS, device).cpu().split(1)):
            for k, target in enumerate(targets):
                g = seeded(seed, 5, i, k)
                sets = disjoint_sets(model, x, target, size, count, g)[0]
                w = torch.tensor([1.0, 0.0])[None, :, None].expand(1, 2, N)
                noise = torch.randn(1, 1, *x.shape[1:], generator=g).expand(1, 2, -1, -1)
                with torch.no_grad():
                    ends = model.reconstruct(x, torch.full((1, 2), target), w, noise)[0]
                rows.append(torch.cat([(ends - x[0, target]).abs().sum(-1), sets]))
        return {"losses": torch.stack(rows)}, None

    config = {"run": pipeline.comae_config(short, seed), "targets": targets, "images": TARGETS, "sets": [count, size]}
    return load_or_compute("masks", versioned("masks-disjoint", 1, config), compute).tensors["losses"], size


AGREE = ("graphs agree", "own part", "orders agree", "own part of orders")  # columns of tables, as of `agreements`


def of_images(found: Mapping[str, Tensor], what: str) -> Tensor:
    """What share of the graphs or orders of each training is an image's own (S,), from `compared`; where no class has two images,
    the class's share is in it."""
    position, _, image = found[f"shares_of_{what}"].T
    return torch.where(image.isnan(), 1 - position, image)


def agree_cells(found: dict[str, Tensor]) -> dict[str, str]:
    """The cells of AGREE from `agreements`."""
    keys = (f"{what}_{part}" for what in ("graphs", "orders") for part in ("raw", "own"))
    return {column: agreed(found[key]) for column, key in zip(AGREE, keys, strict=True)}


def agreed(values: Tensor) -> str:
    """Agreements of two trainings (pairs, n) as a mean ± half its 95 % interval: an image's mean over the pairs is one observation."""
    interval, _ = of_mean(values.mean(0))
    return f"{interval.value:.2f} ± {(interval.high - interval.low) / 2:.2f}"


def table(rows: dict[str, dict[str, Tensor]]) -> pd.DataFrame:
    """One row per change, means over the seeds; agreements of two seeds with 95 % intervals over the images."""
    out = {}
    for name, r in rows.items():
        (own, *others), weights = r["losses"].mean(0).tolist(), r["weights"].mean(0)
        graph, order = (of_images(r, what).mean() for what in ("graphs", "orders"))
        out[name] = {
            "L_r": f"{own:.2f}",
            "everything, shuffled, nothing shown": ", ".join(f"{loss:.2f}" for loss in others),
            "mean weight (polarised)": f"{weights[0]:.2f} ({weights[1:3].sum():.0%})",
            "image's share of graph, order": f"{graph:.1%}, {order:.0%}",
        } | agree_cells(r)
    return pd.DataFrame(out).T
