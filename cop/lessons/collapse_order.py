"""Notebook 3: the calls that its cells make, and its figures and tables."""

import itertools
from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cop import orders
from cop.configs import Profile
from cop.lessons import pipeline
from cop.lessons.comparisons import of_first
from cop.lessons.influence import exact_and_found as exact_and_found
from cop.lessons.influence import first_by_graph as first_by_graph
from cop.lessons.influence import graph_orders as graph_orders
from cop.lessons.influence import graph_seeds as graph_seeds
from cop.lessons.influence import graph_statistics as graph_statistics
from cop.lessons.influence import measured as measured
from cop.lessons.influence import one_pass as one_pass
from cop.lessons.influence import other_readings as other_readings
from cop.lessons.influence import two_graphs as two_graphs
from cop.lessons.ordering import looked_at
from cop.lessons.ordering import sample_orders as sample_orders
from cop.lessons.panels import order_player as order_player
from cop.measure.metrics import of_mean
from cop.orders import mean_order, ranks_of, spearman
from cop.paper.patches import edge_strength
from cop.profiles import for_classifiers
from cop.show import diagrams, figures, report
from cop.show.figures import to_array
from cop.show.records import BESIDE
from cop.show.report import Report
from cop.train.loop import seeded

NOTEBOOK = "03_collapse_order"
shown = partial(report.shown, NOTEBOOK)
CHOSEN = (
    "collapse",
    "in-strength",
    "variance",
    "random",
)  # orders whose statistics are shown, beside those of `COP_ORDERS`
ROWS = {"share of position": "share_position_collapse", "share of class": "share_class_collapse", "share of image": "share_image_collapse",
        "tau within class": "kendall_within_collapse", "tau between classes": "kendall_between_collapse",
        "Spearman with in-strength": "spearman_with_in-strength", "mean weight against variation": "spearman_weight_variation",
        "contrast of the first 22 %": "contrast_of_first", "edges in the first 22 %": "edges_of_first_collapse"}  # fmt: skip


def start(profile: str, seed: int, **parameters) -> tuple[Report, Profile]:
    """Where the notebook writes, and its profile. Raises ValueError for a wrong parameter."""
    return Report(NOTEBOOK, profile, seed, **parameters), for_classifiers(profile)


def in_short(out: Report) -> None:
    """Print in two sentences what all seeds on record say of an order's parts, and of the agreement of two trainings on either graph."""
    seeds = out.seeds()
    position, image = (f"share_{part}_collapse" for part in ("position", "image"))
    if seeds.of(position).empty:
        return report.say("No run of this profile is on record.")
    says = [
        f"Of what one CoMAE's orders consist of, {seeds.cell(position, 100, 1)} % is the patch's position, the same in every image, and "
        f"{seeds.cell(image, 100, 1)} % is the image's own."
    ]
    if not seeds.of("measured_orders_own").empty:
        comae, measured = (seeds.cell(f"{graph}_orders_own", 1, 2) for graph in ("comae", "measured"))
        says += [
            f"Without their mean order, the orders that two seeds give the same image correlate by {comae} on the graphs of CoMAEs that were "
            f"trained to the end, and by {measured} on a graph of ours that is measured (1: the same order, 0: unrelated)."
        ]
    report.say(*says)


def agreement_of(ranks: Mapping[str, Tensor], labels: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """`orders.agreement` of the chosen orders."""
    return {n: orders.agreement(ranks[n], labels, seeded(seed, 4)) for n in (*CHOSEN, *orders.added())}


def nearness(out: Report, ranks: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean Spearman correlation of each order with the collapse order of the same image, which is recorded."""
    pairs = {n: spearman(ranks["collapse"], r).mean().item() for n, r in ranks.items()}
    out.record(**{f"spearman_with_{n.replace(' ', '_')}": v for n, v in pairs.items()})
    return pairs


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


def mean_ranks(ranking: Tensor):
    """The mean position of every patch in rankings (B, N) as a map (G, G)."""
    G = round(ranking.shape[-1] ** 0.5)
    return ranks_of(ranking).double().mean(0).view(G, G).numpy()


@shown("Figure 2", "image, three masks, three reconstructions, the graph, and the patches sorted by PageRank")
def fig2(out: Report, image: Tensor, targets: Tensor, patches: Tensor, A: Tensor, scores: Tensor, order: Tensor):
    """Pipeline on a test image: three masks (for the patches ranked first, middle and last), their reconstructions, the
    dependency graph, and patches sorted by PageRank."""
    G = round(len(order) ** 0.5)
    fig = diagrams.fig2_pipeline(
        to_array(image),
        targets.tolist(),
        A[targets].numpy(),
        to_array(patches),
        A.numpy(),
        scores.numpy(),
        order.numpy(),
        G,
    )
    return fig, pd.DataFrame({"patch": order, "score": scores[order]})


@shown("Figure 3", "MAR and CMAR, ViT and CViT as arrows between circles sized by rank")
def fig3(out: Report, sample, order: Tensor):
    """The orders on a test image: MAR writes patches at random, CMAR in collapse order; ViT sees every patch, CViT the first 22
    percent of the collapse order."""
    chance = orders.random_order(1, len(order), seeded(out.seed, 3))[0]
    return diagrams.fig3_comparison(
        to_array(sample.images[0]),
        order.numpy(),
        chance.numpy(),
        round(len(order) ** 0.5),
        0.22,
    )


@shown("Figure 4", '"top patches outline important shapes in each image"; eight photographs, no number',
       [("contrast of the first 22 % (1: the average patch)", "contrast_of_first", 1, 2)])  # fmt: skip
def fig4(out: Report, sample, order: Tensor, top: int):
    """Eight test images with circles sized by collapse rank (above), the places of their first eight patches (middle) and the
    {top} first patches alone (below)."""
    fig = figures.fig4_order(
        to_array(sample.images[:8]), order.numpy(), round(order.shape[1] ** 0.5), top, sample.titles[:8]
    )
    return fig, pd.DataFrame(order.numpy()), {"top": top}


@shown("Figure 5", 'heat maps of four classes with vertical lines, so orders "exhibit moderate consistency"; no number',
       [("Kendall's tau within a class", "kendall_within_collapse", 1, 2), ("between classes", "kendall_between_collapse", 1, 2)])  # fmt: skip
def fig5(out: Report, sample, ranking: Tensor):
    """Class-wise collapse orders: rows are images, columns rank positions, colour the place of the patch in the image; vertical
    lines are places that come at the same position in every image."""
    panels = {
        sample.class_names[y]: ranking[sample.labels == y][:60].numpy() for y in sample.labels.unique()[:4].tolist()
    }
    return figures.fig5_heatmaps(panels, ranking.shape[1])


@shown(
    "Mean position of each patch",
    here=[("Spearman of an image's order with the mean order", "spearman_mean_collapse", 1, 2)],
)
def mean_rank(out: Report, ranks: Mapping[str, Tensor]):
    """Maps of the mean position of every patch under collapse order, in-strength, patch variance and the greedy order of the
    Gaussian model; bright patches come early."""
    maps = {n: mean_ranks(ranks[n]) for n in ("collapse", "in-strength", "variance", *orders.added())}
    return figures.mean_rank_maps(maps | {"greedy (Gaussian)": mean_ranks(ranks["greedy"])}, ranks["greedy"].shape[1])


@shown(
    "Which patches everybody relies on",
    here=[("Spearman of mean weight and variation", "spearman_weight_variation", 1, 2)],
)
def relied_upon(out: Report, varied: Tensor, relied: Tensor):
    """Each mark a patch position, those of the border in orange: its mean selection weight over all targets and images against the
    standard deviation of its content over images.

    The Spearman correlation of the two is recorded."""
    rho, N = spearman(orders.collapse_order(relied), orders.collapse_order(varied)).item(), len(varied)
    out.record(spearman_weight_variation=rho)
    title = f"Patches that vary more are relied on {'more' if rho > 0 else 'less'}: Spearman {rho:.2f} of {N}"
    labels = "standard deviation over images", "mean weight $w$, all targets"
    fig = figures.score_scatter(varied.numpy(), relied.numpy(), *labels, title, round(N**0.5))
    return fig, pd.DataFrame({"std": varied, "mean_weight": relied})


@shown("What an order consists of", here=[("% of an order that are position", "share_position_collapse", 100, 0),
                                          ("class", "share_class_collapse", 100, 0), ("image", "share_image_collapse", 100, 0)])  # fmt: skip
def shares(out: Report, found: Mapping[str, Mapping[str, float]]):
    """Stacked bars: the share of rank variance explained by position, class and image, for collapse order, in-strength, patch
    variance and random order."""
    parts = {n: {part: a[f"share_{part}"] for part in ("position", "class", "image")} for n, a in found.items()}
    mine = parts["collapse"]
    title = f"Collapse orders are {mine['position']:.0%} position and {mine['image']:.0%} the image's own"
    return figures.shares(parts, title), pd.DataFrame(parts).T.reset_index(names="order")


@shown("Agreement of orders", here=[("Kendall's tau within a class: collapse", "kendall_within_collapse", 1, 2), ("variance", "kendall_within_variance", 1, 2)])
def agreement(out: Report, found: Mapping[str, Mapping[str, float]]):
    """Agreement of orders: Kendall's tau within a class, between classes and with the mean order of the other images; Spearman
    with that mean order; shares of variance.

    All of it is recorded."""
    out.record(**{f"{k}_{n.replace(' ', '_')}": v for n, a in found.items() for k, v in a.items()})
    names = {"kendall_within": "tau within class", "kendall_between": "tau between classes",
             "kendall_mean": "tau with mean order", "spearman_mean": "Spearman with mean order",
             "share_position": "position", "share_class": "class", "share_image": "image"}  # fmt: skip
    return pd.DataFrame([{"order": n, **{v: f"{a[k]:.2f}" for k, v in names.items()}} for n, a in found.items()])


@shown("What an order consists of, by seed", here=[("% of an order that are position", "share_position_collapse", 100, 0)])
def order_seeds(out: Report):
    """What an order consists of and how orders agree, for every seed on record, with the mean over seeds and its 95 percent
    interval."""
    return out.seeds().table(ROWS)


@shown("Mean position of each patch, by seed")
def mean_rank_seeds(out: Report, by_seed: Mapping[str, Tensor]):
    """Maps of the mean position of every patch in collapse order, one per seed of CoMAE; bright patches come early."""
    if len(by_seed) < 2:
        return None
    maps = {f"seed {s}".replace(", ", "\n"): mean_ranks(r) for s, r in by_seed.items()}
    flat = pd.DataFrame({s: m.ravel() for s, m in maps.items()})
    alike = np.mean([flat[a].corr(flat[b]) for a, b in itertools.combinations(maps, 2)])
    return figures.mean_rank_maps(maps, len(flat), f"Mean positions of two runs correlate by {alike:.2f} (1: the same)"), flat


@shown("Orders of the same images by different seeds")
def seeds_agree(out: Report, by_seed: Mapping[str, Tensor]):
    """Spearman correlation between the collapse orders that CoMAEs of different seeds give the same images, and between their
    mean orders."""
    return across_seeds(by_seed) if len(by_seed) > 1 else None


@shown("The first 22 % of the patches", here=[("edges, average patch 1: collapse", "edges_of_first_collapse", 1, 2), ("variance", "edges_of_first_variance", 1, 2)])
def first_of_each(out: Report, sample, ranks: Mapping[str, Tensor]):
    """Eight test images in columns; below each whole image its first 22 percent of the patches in collapse order, mean order,
    by patch variance and at random."""
    first = {n: ranks[n][:8].numpy() for n in ("collapse", "mean order", "variance", "random", *orders.added())}
    N = ranks["collapse"].shape[1]
    return figures.first_of_each(
        to_array(sample.images[:8]), first, round(N**0.5), round(0.22 * N), sample.titles[:8]
    )


@shown("Orders of clothes and of photographs", here=[("% of an order that are position", "share_position_collapse", 100, 0)])
def photographs(out: Report):
    """Statistics of the collapse orders of clothes and of photographs: shares of position, class and image, agreement within
    and between classes, contrast and edges among the first 22 percent."""
    return out.beside(BESIDE, ROWS | {"edges in the first 22 % by variance": "edges_of_first_variance"})


def by_seed(out: Report, ranking: Tensor) -> dict[str, Tensor]:
    """The orders of the same images by the CoMAEs of all seeds on record; those of this run, (images, N), are kept."""
    out.keep("orders", pd.DataFrame(ranking.numpy()))
    return {s: torch.from_numpy(t.to_numpy()) for s, t in out.kept("orders").items()}


def verdicts(out: Report, profile: Profile, sample, ranks: Mapping[str, Tensor], found: Mapping[str, Mapping[str, float]],
             pairs: Mapping[str, float], device: str) -> pd.DataFrame:  # fmt: skip
    """What the paper says of the orders, what this run shows and what all seeds on record do. Contrast and edges of the first patches
    are recorded."""
    contrast = looked_at(pipeline.tokenizer(profile, device), sample.images).double().var(-1, correction=0)
    contrast, a = of_first(contrast, ranks["collapse"], 0.22).mean().item(), found["collapse"]
    edges = {
        n: of_first(edge_strength(sample.images, profile.tokens.patch_size), ranks[n], 0.22).mean().item()
        for n in (*CHOSEN, *orders.added())
    }
    out.record(contrast_of_first=contrast, **{f"edges_of_first_{n}": v for n, v in edges.items()})
    seeds = out.seeds()
    tau, share = partial(seeds.cell, scale=1, digits=2), partial(seeds.cell, scale=100, digits=0)
    rows = [
        (
            "top patches outline the main shapes (C12)",
            "Fig. 4",
            f"contrast of the first 22 % {contrast:.2f} of the average, edges {edges['collapse']:.2f}",
            f"contrast {tau('contrast_of_first')}, edges {tau('edges_of_first_collapse')}",
        ),
        (
            "orders agree moderately (C4)",
            "seen in Fig. 5",
            f"tau {a['kendall_within']:.2f} within, {a['kendall_between']:.2f} between classes",
            f"{tau('kendall_within_collapse')} within, {tau('kendall_between_collapse')} between",
        ),
        (
            "the order follows the image",
            "Fig. 4",
            f"{a['share_position']:.0%} position, {a['share_class']:.0%} class, {a['share_image']:.0%} image",
            ", ".join(f"{share(f'share_{part}_collapse')} % {part}" for part in ("position", "class", "image")),
        ),
        (
            "PageRank is needed",
            "section 3.2",
            f"Spearman with plain in-strength {pairs['in-strength']:.2f}",
            tau("spearman_with_in-strength"),
        ),
        (
            "it is the greedy order (section 6)",
            "Theorem 1",
            f"Spearman with the greedy order {pairs['greedy']:.2f}",
            tau("spearman_with_greedy"),
        ),
    ]
    return pd.DataFrame(rows, columns=["claim", "paper", "this run", "all seeds"])
