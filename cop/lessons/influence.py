"""Notebook 3, second half: the graph that is measured beside CoMAE's, its figures and tables.

The tables speak of clothes and of photographs whatever the notebook's profile is: what is released of them is shown, and what
is not is left out. Of the notebook's own profile everything is computed that is not stored.
"""

from functools import partial

import pandas as pd
import torch
from torch import Tensor

from cop.configs import Profile
from cop.lessons import comparisons, exactness, masks, pipeline
from cop.profiles import get_profile
from cop.show import figures, figures_measured, report
from cop.show.records import DATA
from cop.show.report import Report

NOTEBOOK = "03_collapse_order"
shown = partial(report.shown, NOTEBOOK)
COLUMNS = {
    "share_position": "position",
    "share_class": "class",
    "share_image": "image",
    "kendall_within": "tau within class",
    "kendall_between": "between classes",
    "in_strength": "Spearman with in-strength",
    "contrast": "contrast of the first 22 %",
    "edges": "edges of the first 22 %",
}


def studied(profile: Profile) -> dict[str, tuple[Profile, bool]]:
    """What the tables have rows of: name -> profile, and whether that is computed if it must be. The notebook's own profile is,
    where it has no more than 64 patches: trainings of several seeds and N passes for each of 256 take a machine with a GPU."""
    own = {DATA.get(profile.name, profile.name): (profile, profile.num_tokens <= 64)}
    return {name: (get_profile(of), False) for of, name in DATA.items()} | own


def proof(profile: Profile) -> bool:
    """Whether a run only proves that the code works."""
    return profile.name not in ("demo", "natural", "evening", "paper")


def measured(profile: Profile, tokens: Tensor, seed: int, device: str) -> Tensor:
    """The measured graphs of images, tokens (B, N, C) -> (B, N, N) on the CPU."""
    return comparisons.graphs_of("measured", profile, tokens, seed, pipeline.resolve_device(device))


@shown("One image and its two graphs", "a graph drawn over an image, in Fig. 2")
def two_graphs(out: Report, sample, A: Tensor, M: Tensor, example: int = 0):
    """One test image with CoMAE's graph above and the measured graph below: the graph as a matrix, what each patch gives all
    others as a map, the order as circles, the places of its first patches, and these patches alone."""
    graphs = {name: G[example].numpy() for name, G in zip(comparisons.GRAPHS, (A, M), strict=True)}
    both = torch.stack([A[example], M[example]])
    rankings = dict(zip(graphs, pipeline.ranked(both, out.settings).numpy(), strict=True))
    N, label = A.shape[-1], sample.class_names[int(sample.labels[example])]
    k = max(1, round(comparisons.FRACTION * N))
    return figures_measured.two_graphs(
        figures.to_array(sample.images[example]), graphs, rankings, round(N**0.5), k, label
    )


@shown("The first 22 % by either graph", '"top patches outline important shapes in each image" (Fig. 4)')
def first_by_graph(out: Report, sample, A: Tensor, M: Tensor):
    """Test images in columns; below each whole image its first 22 percent of the patches by PageRank on CoMAE's graph, on the measured
    graph, and on the measured graph from the end."""
    theirs, ours = (pipeline.ranked(G, out.settings) for G in (A, M))
    first = {"CoMAE": theirs, "measured": ours, "… reversed": ours.flip(-1)}
    N, names = A.shape[-1], [sample.class_names[int(y)] for y in sample.labels[: len(A)]]
    k = max(1, round(comparisons.FRACTION * N))
    return figures.first_of_each(
        figures.to_array(sample.images[: len(A)]), {n: r.numpy() for n, r in first.items()}, round(N**0.5), k, names
    )


def own_statistics(out: Report, profile: Profile, device: str):
    """The statistics of the notebook's own profile; of few images where one takes seconds."""
    count = comparisons.IMAGES if profile.num_tokens <= 64 else 40
    return comparisons.statistics(profile, out.seed, device, count)


@shown("Class-wise orders of the measured graph", 'Fig. 5, of CoMAE: orders "exhibit moderate consistency"; no number')
def graph_orders(out: Report, profile: Profile, class_names: list[str], device: str):
    """Class-wise orders by PageRank on the measured graph, drawn as Fig. 5: rows are images, columns rank positions, colour the
    place of the patch."""
    found = own_statistics(out, profile, device).tensors
    order, labels = found["measured"].long(), found["labels"]
    panels = {class_names[y]: order[labels == y][:60].numpy() for y in labels.unique()[:4].tolist()}
    return figures.fig5_heatmaps(panels, order.shape[1])


@shown(
    "Statistics of orders by either graph",
    here=[
        ("% of an order by the measured graph that are the image's own", "measured_share_image", 100, 0),
        ("contrast of its first 22 %", "measured_contrast", 1, 2),
    ],
)
def graph_statistics(out: Report, profile: Profile, device: str):
    """What the orders by CoMAE's and by the measured graph consist of, how alike those of different images are, and the contrast and
    edges of their first 22 percent of the patches over the image's mean.

    The notebook's own numbers of the measured graph are recorded."""
    found = {name: comparisons.statistics(of, 0, device, train=False) for name, (of, _) in studied(profile).items()}
    found[DATA.get(profile.name, profile.name)] = own_statistics(out, profile, device)
    rows = []
    for name, artefact in found.items():
        for row in artefact.history.to_dict("records") if artefact else ():
            rows.append({"data": name, "graph": row["graph"]} | {says: row[k] for k, says in COLUMNS.items()})
    own = own_statistics(out, profile, device).history.set_index("graph").loc["measured"]
    out.record(**{f"measured_{k}": own[k] for k in COLUMNS})
    return pd.DataFrame(rows).round(2)


@shown("Other readings of the measured graph", here=[("contrast of the first 22 %, average patch 1: each patch seen alone", "measured_contrast", 1, 2), ("hidden alone", "contrast_lost when hidden", 1, 2)])
def other_readings(out: Report, profile: Profile, device: str):
    """Other orders that the measured graph gives: contrast of their first 22 percent of the patches over the image's mean, how far these
    lie apart over the distance of any two patches, and Spearman with the order by patch variance.

    The notebook's own contrasts are recorded."""
    tables = {}
    for name, (of, train) in studied(profile).items():
        if (found := comparisons.variants(of, 0, device, train=train)) is None:
            continue
        if train:
            out.record(**{f"contrast_{row.reading}": row.contrast for row in found.itertuples()})
        columns = {"contrast": "contrast", "spread": "spread", "variance": "Spearman with variance"}
        tables[name] = found.set_index("reading").rename(columns=columns).round(2).add_prefix(f"{name}: ")
    if not tables:
        return pd.DataFrame(columns=["order by"])
    return pd.concat(tables.values(), axis=1).reset_index(names="order by")


@shown(
    "Agreement of trainings, by either graph",
    here=[
        ("agreement of two seeds on the image's own part of the measured graph", "measured_graphs_own", 1, 2),
        ("of its order", "measured_orders_own", 1, 2),
    ],
)
def graph_seeds(out: Report, profile: Profile, device: str):
    """How alike trainings that differ in the seed, or in the number of threads, see the same test images: correlation of the graphs and
    Spearman of the orders, as they are and after the mean of all images is taken out, with 95 percent intervals over images.

    The CoMAEs are those that were trained to the end, but for the row of threads: those of notebook 2's table. What is computed of the notebook's own profile is recorded."""
    rows = []
    for name, (of, train) in studied(profile).items():
        for graph in comparisons.GRAPHS:
            threads = comparisons.threads_agree(of, graph, device=device, train=False)
            found = {"seeds 0, 1, 2": comparisons.seeds_agree(of, graph, device=device, train=train)}
            found |= {"one and two threads" + (", short" if graph == "CoMAE" else ""): threads}
            for between, r in found.items():
                if r is not None:
                    row = {"data": name, "graph": graph, "between": between}
                    row |= {"image's share of a graph": f"{r['shares_of_graphs'][:, 2].mean():.0%}"}
                    rows.append(row | masks.agree_cells(r))
            if train and (r := found["seeds 0, 1, 2"]):
                out.record(**{f"{graph.lower()}_{k}": v.mean() for k, v in r.items() if not k.startswith("shares")})
    return pd.DataFrame(rows)


@shown(
    "Where the truth is known",
    "Theorem 1 (section 6), without a test",
    [
        ("distance of PageRank's order from the optimum, redundant patches", "excess_pagerank_redundant", 1, 2),
        ("of coverage's", "excess_coverage_redundant", 1, 2),
    ],
)
def exact_and_found(out: Report):
    """Left, the error of the measured graph of Gaussian samples against the closed form, falling as the predictor is given more of
    them. Right, how far the orders by PageRank, in-strength, coverage and the greedy order are from the optimal one, with and
    without patches that tell the same.

    Dots are random fields, marks their means with 95 % intervals. Means of the redundant fields are recorded."""
    if proof(out.settings):
        errors = exactness.convergence((50, 100), (2, 4))
        orders = exactness.orders_against_optimum(seeds=(0, 1))
    else:
        errors, orders = exactness.convergence(), exactness.orders_against_optimum()
    most = errors[errors.steps == errors.steps.max()].sort_values("samples")
    orders = orders[orders.order != "optimal"]
    redundant = orders[(orders.redundancy == 1) & (orders.strength == 1)].groupby("order").excess.mean()
    out.record(**{f"excess_{name.lower()}_redundant": v for name, v in redundant.items()})
    out.record(graph_error=most.error.iloc[-1])
    weak = [f",\nweak ({s:.0%})" if s < 1 else "" for s in orders.strength]
    orders = orders.assign(field=[f"hubs alike to {r:.0%}{w}" for r, w in zip(orders.redundancy, weak, strict=True)])
    return figures_measured.exact_and_found(most, orders), orders


@shown(
    "Graphs in one pass",
    here=[
        ("Spearman of the one-pass order with the exact one", "one_pass_orders", 1, 3),
        ("on the image's own part", "one_pass_orders_own", 1, 3),
        ("times as fast", "one_pass_ratio", 1, 0),
    ],
)
def one_pass(out: Report, profile: Profile, device: str):
    """Networks that know a graph in one pass, against the exact graphs: multiply-adds and images per second of both, their ratio,
    and agreement of graphs and orders, as they are and after the mean of all images is taken out, on the grid of the training
    and on another one.

    Timings and their ratio are of the run that computed the table. The numbers of the profile's own ranker are recorded."""
    parts = []
    for name, (of, train) in studied(profile).items():
        found = comparisons.one_pass_table(of, 0, device, train=train)
        if found is None:
            continue
        if train:
            mine = found.set_index("network").loc[comparisons.KINDS[of.onepass.kind]].iloc[0]
            out.record(**{f"one_pass_{k}": mine[k] for k in ("orders", "orders_own", "graphs", "ratio")})
        parts.append(found.assign(data=name))
    if not parts:
        return pd.DataFrame(columns=["data", "graph", "network"])
    found = pd.concat(parts, ignore_index=True)
    table = found[["data", "graph", "network", "grid"]].copy()
    for name, says in {"exact": "exact", "one_pass": "one pass"}.items():
        table[f"M multiply-adds, {says}"] = (found[f"{name}_macs"] / 1e6).round(1)
        table[f"images/s, {says}"] = found[f"{name}_per_second"].round(0)
    table["× as fast"] = found["ratio"].round(0)
    names = dict(zip(("graphs", "graphs_own", "orders", "orders_own"), masks.AGREE, strict=True))
    return table.join(found[list(names)].rename(columns=names).round(3)).astype(object).where(lambda t: t.notna(), "–")
