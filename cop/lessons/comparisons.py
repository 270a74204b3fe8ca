"""CoMAE's graph and the measured one compared, as small artefacts: what takes trained models, many images or a clock is computed
once and kept, so that a notebook shows it without any of them (notebook 3).

Letters: n images, N patches, S trainings.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cop.configs import Profile, as_dict
from cop.devices import at_a_time
from cop.lessons import masks, measured, pipeline
from cop.lessons.ordering import looked_at
from cop.orders import agreement, collapse_order, ranks_of, small_type, spearman, variance_order
from cop.paper.patches import edge_strength
from cop.paper.ranking import in_strength
from cop.profiles import for_classifiers, get_profile
from cop.train.artefacts import Artefact, unless_missing, versioned
from cop.train.loop import seeded

GRAPHS = ("CoMAE", "measured")
IMAGES = 500  # test images of the statistics
ALIKE = 200  # test images that two trainings are compared on
VARIED = 60  # test images of other readings of the measured graph, one of which takes N / 2 times as many passes
FRACTION = 0.22  # of the patches that count as the first ones


def graph_config(graph: str, profile: Profile, seed: int) -> dict:
    """What determines a graph of GRAPHS. Raises ValueError for another one."""
    if graph not in GRAPHS:
        raise ValueError(f"unknown graph {graph!r}; expected one of {', '.join(GRAPHS)}")
    return pipeline.comae_config(profile, seed) if graph == "CoMAE" else pipeline.measured_config(profile, seed)


def graphs_of(graph: str, profile: Profile, tokens: Tensor, seed: int, device: str) -> Tensor:
    """The graphs of images, tokens (n, N, C) -> (n, N, N) on the CPU."""
    exact = pipeline.exact_graph(pipeline.with_graph(profile, graph.lower()), seed, device)
    return torch.cat([exact(x.to(device)).float().cpu() for x in tokens.split(at_a_time(pipeline.RANKED))])


def of_first(values: Tensor, ranking: Tensor, fraction: float) -> Tensor:
    """The mean of `values` (B, N), one a patch, over the first `fraction` of the patches, over their mean in the image: (B,).
    With contrast or edges for values it is above 1 when an order starts where something is to be seen."""
    first = values.gather(1, ranking[:, : max(1, round(fraction * ranking.shape[1]))])
    return first.mean(1) / values.mean(1).clamp_min(1e-12)


def spread(ranking: Tensor, fraction: float) -> Tensor:
    """The mean distance between two of the first `fraction` of the patches, over that of any two: ranking (B, N) -> (B,) float64. It is
    1 for a random order, and small where an order starts in one place."""
    B, N = ranking.shape
    rows, columns = ranking // round(N**0.5), ranking % round(N**0.5)
    places = torch.stack([rows, columns], -1).double()

    def apart(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum((1, 2)) / (x.shape[1] * (x.shape[1] - 1))

    return apart(places[:, : max(2, round(fraction * N))]) / apart(places)


def statistics(
    profile: str | Profile, seed: int = 0, device: str = "auto", count: int = IMAGES, train: bool = True
) -> Artefact | None:
    """What orders of `count` test images by each graph consist of and begin with. Tensors: the orders (n, N) by the names of GRAPHS, and
    `labels` (n,). History: a row per graph, shares of position, class and image, Kendall's tau within and between classes, Spearman with
    in-strength, and contrast and edges of the first 22 % of the patches over the image's mean.

    Both models are the profile's."""
    profile, device = for_classifiers(profile), pipeline.resolve_device(device)
    config = pipeline.rankings_config(profile, "test", seed, count)
    config = versioned(
        "graph-statistics", 1, config | {"graphs": {g: graph_config(g, profile, seed) for g in GRAPHS}}
    )

    def compute(_: Path):
        sample, rows, found = pipeline.sample(profile, "test", count, device), [], {}
        contrast = looked_at(pipeline.tokenizer(profile, device), sample.images).double().var(-1, correction=0).cpu()
        edges = edge_strength(sample.images, profile.tokens.patch_size)
        for graph in GRAPHS:
            A = graphs_of(graph, profile, sample.tokens, seed, device)
            order = pipeline.ranked(A, profile)
            found[graph] = order.to(small_type(profile.num_tokens))
            row = agreement(order, sample.labels, seeded(seed, 4))
            row |= {"in_strength": spearman(order, collapse_order(in_strength(A))).mean().item()}
            for name, values in (("contrast", contrast), ("edges", edges)):
                row[name] = of_first(values, order, FRACTION).mean().item()
            rows.append({"graph": graph} | row)
        return found | {"labels": sample.labels}, pd.DataFrame(rows)

    return unless_missing("graph-statistics", config, compute, train)


def agree(runs: Sequence[tuple[Profile, int]], graph: str, device: str, train: bool) -> dict[str, Tensor] | None:
    """How alike trainings see the same `ALIKE` test images; runs: (profile, seed) of each. `graphs_raw`, `graphs_own`, `orders_raw`
    and `orders_own` (pairs, n), defined as in `masks.alike`; `shares_of_graphs` and `shares_of_orders` (S, 3): position, class, image."""
    device = pipeline.resolve_device(device)
    config = {"runs": [graph_config(graph, *run) for run in runs], "images": ALIKE}
    config |= {"damping": runs[0][0].ranking.damping}

    def compute(_: Path):
        shown = for_classifiers(runs[0][0])
        data = pipeline.load_data(shown, "test")
        labels = data.labels[pipeline.selection(data, ALIKE)]
        tokens = pipeline.sample_tokens(shown, "test", ALIKE, device)
        graphs = [graphs_of(graph, run, tokens, seed, device) for run, seed in runs]
        ranks = [ranks_of(pipeline.ranked(A, shown)) for A in graphs]
        return masks.agreements([masks.off_diagonal(A) for A in graphs], ranks, labels), None

    artefact = unless_missing("graphs-agree", versioned("graphs-agree", 1, config), compute, train)
    return artefact and artefact.tensors


def seeds_agree(
    profile: str | Profile,
    graph: str = "measured",
    seeds: Sequence[int] = masks.SEEDS,
    device: str = "auto",
    train: bool = True,
) -> dict[str, Tensor] | None:
    """How alike trainings that differ in their seed see the same images (`agree`)."""
    return agree([(get_profile(profile), seed) for seed in seeds], graph, device, train)


def threads_agree(
    profile: str | Profile, graph: str = "measured", seed: int = 0, device: str = "auto", train: bool = True
) -> dict[str, Tensor] | None:
    """The same of one training on one thread and on two, which round sums differently. The CoMAE is that of `masks.changed`: if the
    orders of short trainings differ already, those of long ones need not be waited for."""
    own = get_profile(profile) if graph == "measured" else masks.changed(get_profile(profile), "as printed")
    runs = [(replace(own, scale=replace(own.scale, threads=threads)), seed) for threads in (1, 2)]
    return agree(runs, graph, device, train)


def variants(
    profile: str | Profile, seed: int = 0, device: str = "auto", count: int = VARIED, train: bool = True
) -> pd.DataFrame | None:
    """What else the measured graph could order `count` test images by, one row for each order of `measured.variant_orders`. Columns:
    `reading`; of the first 22 percent of the patches `contrast`, over the image's mean, and `spread`; and
    `variance`, Spearman with the order by patch variance. Means over the images."""
    profile, device = for_classifiers(profile), pipeline.resolve_device(device)
    config = pipeline.rankings_config(pipeline.with_graph(profile, "measured"), "test", seed, count)

    def compute(_: Path):
        sample = pipeline.sample(profile, "test", count, device)
        pixels = looked_at(pipeline.tokenizer(profile, device), sample.images).double().cpu()
        contrast, by_variance, rows = pixels.var(-1, correction=0), variance_order(pixels), []
        predictor = pipeline.predictor(profile, seed, device)[0]
        found = measured.variant_orders(predictor, sample.tokens.to(device), profile, hidden=True)
        for reading, order in ((reading, order.cpu()) for reading, order in found.items()):
            row = {"contrast": of_first(contrast, order, FRACTION), "spread": spread(order, FRACTION)}
            row |= {"variance": spearman(order, by_variance)}
            rows.append({"reading": reading} | {k: v.mean().item() for k, v in row.items()})
        return {"seed": torch.tensor(seed)}, pd.DataFrame(rows)

    artefact = unless_missing("graph-variants", versioned("graph-variants", 1, config), compute, train)
    return artefact and artefact.history


KINDS = {
    "places": "content and place, for each place",
    "offsets": "content alone, for each offset",
    "offsets_placed": "content and place, for each offset",
}  # of the one-pass ranker


def one_pass_table(
    profile: str | Profile, seed: int = 0, device: str = "auto", count: int = IMAGES, train: bool = True
) -> pd.DataFrame | None:
    """Networks that know a graph in one pass against the exact graph, on `count` test images: every kind of the one-pass ranker on
    the grid that it was trained on and on the middle 5/8 of its rows, and the graph network of CoMAE.

    Columns: `graph`, `network`, `grid`, and those of `measured.compare_onepass`; multiply-adds, speeds and ratios only where both
    rank the same grid. Speeds are those of the machine and the moment, ratios are of one run."""
    profile = get_profile(profile)
    config = graph_config("measured", profile, seed) | {
        "comae": graph_config("CoMAE", profile, seed),
        "kinds": list(KINDS),
        "onepass": as_dict(profile.onepass),
        "graphnet": as_dict(profile.graphnet),
        "of": count,
    }
    config |= {"exact": profile.measured.images, "damping": profile.ranking.damping}

    def compute(_: Path):
        G, rows = profile.grid, []
        for kind, says in KINDS.items():
            for shape in (None, (max(1, 5 * G // 8), G)):
                row = measured.compare_onepass(profile, seed, kind, count, device, shape)
                if shape:  # the exact passes were those of the whole grid
                    row = row[["graphs", "graphs_own", "orders", "orders_own"]]
                R, Q = shape or (G, G)
                rows.append({"graph": "measured", "network": says, "grid": f"{R} x {Q}"} | row.to_dict())
        row = measured.compare_graphnet(profile, seed, count, device)
        rows.append({"graph": "CoMAE", "network": "graph network", "grid": f"{G} x {G}"} | row.to_dict())
        return {"seed": torch.tensor(seed)}, pd.DataFrame(rows)

    artefact = unless_missing("one-pass-table", versioned("one-pass-table", 1, config), compute, train)
    return artefact and artefact.history
