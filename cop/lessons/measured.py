"""The measured graph as stages: exact graphs of training images, the networks that know them in one pass, and comparisons."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cop.configs import Profile, as_dict, scale_config
from cop.data.loading import load_data
from cop.devices import at_a_time
from cop.lessons import pipeline
from cop.measure.cost import macs
from cop.orders import collapse_order, coverage_order, ranks_of, reversed_order
from cop.paper.entropy import TokenPredictor
from cop.paper.graphnet import GraphNet, graph_loss
from cop.paper.measured import measured_graph, uncertainty, weighed
from cop.paper.onepass import OnePass, distil_loss, likelihood_loss
from cop.paper.ranking import in_strength, pagerank
from cop.profiles import all_classes, get_profile, replace
from cop.train import shards
from cop.train.artefacts import Artefact, load_or_compute, stored, versioned
from cop.train.loop import fit, restored, seeded_build

if TYPE_CHECKING:
    import pandas as pd

    from cop.measure.metrics import Interval

TOGETHER = 50  # images whose exact graphs are computed before they are stored
RANKED = 64  # images compared at a time


# ------------------------------------------------------------------------------------------------ exact graphs


def measured(profile: str | Profile, seed: int = 0, device: str = "auto") -> tuple[TokenPredictor, Artefact]:
    """The predictor that measures, and exact graphs to learn from: tensors `images` (n,), which training images, and `graphs`
    (n, N, N), of `measured.images` of them, the classes in turn. N + 1 passes per image."""
    profile, device = all_classes(get_profile(profile)), pipeline.resolve_device(device)
    model = pipeline.predictor(profile, seed, device)[0]
    config = pipeline.measured_config(profile, seed) | {"images": profile.measured.images}
    exact = pipeline.exact_graph(pipeline.with_graph(profile, "measured"), seed, device)
    return model, exact_graphs("measured", config, profile, profile.measured.images, exact, device)


def exact_graphs(
    stage: str, config: dict, profile: Profile, count: int, graph: Callable[[Tensor], Tensor], device: str
) -> Artefact:
    """Graphs of `count` training images, a shard at a time, so that a killed run goes on."""

    def compute(directory: Path):
        chosen = pipeline.selection(load_data(profile, "train"), count)
        tokens = pipeline.token_source(profile, "train", device)

        def some(rows: Tensor) -> dict[str, Tensor]:
            parts = [graph(tokens(idx)).half().cpu() for idx in chosen[rows].split(at_a_time(TOGETHER))]
            return {"graphs": torch.cat(parts)}

        stored = shards.compute_shards(directory / "shards", config, len(chosen), some, size=TOGETHER, desc=stage)
        return {"images": chosen, "graphs": stored.all("graphs")}, None

    return load_or_compute(stage, config, compute)


# --------------------------------------------------------------------------------------------------- one pass


def onepass_config(profile: Profile, seed: int, kind: str | None = None) -> dict:
    """What determines a one-pass ranker of the measured graph: the exact graphs or images that it learns from, and its network."""
    profile = all_classes(profile)
    cfg, source = replace(profile.onepass, kind=kind or profile.onepass.kind), pipeline.images_config(profile)
    if cfg.learn == "distil":
        source = pipeline.measured_config(profile, seed) | {"images": profile.measured.images}
    return versioned("onepass", 1, source | {"onepass": as_dict(cfg), "seed": seed} | scale_config(profile))


def onepass(
    profile: str | Profile, seed: int = 0, kind: str | None = None, device: str = "auto"
) -> tuple[OnePass, Artefact]:
    """The one-pass ranker of the measured graph. kind: `places`, `offsets` or `offsets_placed`; None: the profile's.

    Distilled from the graphs of `measured`, or trained on all training images where `onepass.learn` is `likelihood`. Raises
    ValueError for an unknown kind."""
    profile, device = all_classes(get_profile(profile)), pipeline.resolve_device(device)
    cfg = replace(profile.onepass, kind=kind or profile.onepass.kind)
    distilled = cfg.learn == "distil"

    def build() -> OnePass:
        return OnePass(profile.grid, profile.tokens.dim, cfg)

    def compute(directory: Path):
        model, tokens = seeded_build(build, seed, 21), pipeline.token_source(profile, "train", device)
        if distilled:
            exact = measured(profile, seed, device)[1].tensors
            x, A = tokens(exact["images"]), exact["graphs"].to(device)
            size = len(x)
        else:
            size = len(load_data(profile, "train"))

        def loss(model, idx, generator, step):
            if distilled:
                return {"loss": distil_loss(model, x[idx], A[idx])}
            flip = pipeline.draw_flip(profile, len(idx), generator)
            return {"loss": likelihood_loss(model, tokens(idx, flip, generator), generator)}

        model, history = fit(model, loss, cfg, size=size, seed=seed, directory=directory, device=device, desc="one pass",
                             checkpoint_every=profile.checkpoint_every, scale=profile.scale)  # fmt: skip
        return model.state_dict(), pipeline.thin(history)

    artefact = load_or_compute("onepass", onepass_config(profile, seed, kind), compute)
    return restored(build, artefact.tensors).to(device).eval(), artefact


def graphnet_config(profile: Profile, seed: int) -> dict:
    """What determines the graph network in the place of CoMAE's encoder."""
    profile = all_classes(profile)
    source = pipeline.comae_config(profile, seed) | {"images": profile.graphnet.images}
    return versioned("graphnet", 1, source | {"graphnet": as_dict(profile.graphnet), "damping": profile.ranking.damping})


def graphnet(profile: str | Profile, seed: int = 0, device: str = "auto") -> tuple[GraphNet, Artefact]:
    """The graph network in the place of CoMAE's N encoder passes, trained on its exact graphs of `graphnet.images` training
    images, edges and order jointly."""
    profile, device = all_classes(get_profile(profile)), pipeline.resolve_device(device)
    cfg, count = profile.graphnet, profile.graphnet.images

    def build() -> GraphNet:
        return GraphNet(profile.grid, profile.tokens.dim, cfg)

    def compute(directory: Path):
        config = versioned("comae-graphs", 1, pipeline.comae_config(profile, seed) | {"images": count})
        graph = pipeline.exact_graph(pipeline.with_graph(profile, "comae"), seed, device)
        exact = exact_graphs("comae-graphs", config, profile, count, graph, device).tensors
        x, A = pipeline.token_source(profile, "train", device)(exact["images"]), exact["graphs"].to(device)

        def loss(model, idx, generator, step):
            return graph_loss(model, x[idx], A[idx], profile.ranking.damping)

        model, history = fit(seeded_build(build, seed, 22), loss, cfg, size=len(x), seed=seed, directory=directory, device=device,
                             desc="graph network", checkpoint_every=profile.checkpoint_every, scale=profile.scale)  # fmt: skip
        return model.state_dict(), pipeline.thin(history)

    artefact = load_or_compute("graphnet", graphnet_config(profile, seed), compute)
    return restored(build, artefact.tensors).to(device).eval(), artefact


def in_one_pass(
    profile: str | Profile, seed: int = 0, kind: str | None = None, device: str = "auto"
) -> Callable[..., Tensor] | None:
    """As `pipeline.exact_graph`, in one pass: by `onepass` where the profile's graph is the measured one, then with the shape of the
    grid as a second argument, else by `graphnet`. None where the ranker is not stored: nothing is trained here."""
    profile = pipeline.with_graph(get_profile(profile), None)
    if profile.ranking.graph == "measured":
        if stored("onepass", onepass_config(profile, seed, kind)):
            return onepass(profile, seed, kind, device)[0].graph
    elif stored("graphnet", graphnet_config(profile, seed)):
        return torch.no_grad()(graphnet(profile, seed, device)[0].forward)
    return None


# ------------------------------------------------------------------------------------------------- comparisons


def variant_orders(
    predictor: TokenPredictor, tokens: Tensor, profile: Profile, hidden: bool = False
) -> dict[str, Tensor]:
    """What else can be made of the measured graph, by name, each an order (B, N). hidden: also of what is lost when a patch alone
    is hidden, which takes N / 2 times as many passes."""
    damping, chunk = profile.ranking.damping, profile.measured.chunk_bytes
    A = {unit: measured_graph(predictor, tokens, unit, chunk_bytes=chunk) for unit in ("scale", "nats", "actual")}
    with torch.no_grad():
        u = uncertainty(predictor, tokens, torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device))
    scale = collapse_order(pagerank(A["scale"], damping))
    found = {"predicted scale": scale, "nats of it": collapse_order(pagerank(A["nats"], damping)),
             "nats of the actual value": collapse_order(pagerank(A["actual"], damping)),
             "votes weighed by uncertainty": collapse_order(pagerank(weighed(A["scale"], u), damping)),
             "in-strength": collapse_order(in_strength(A["scale"])),
             "in-strength, weighed": collapse_order(in_strength(u[..., None] * A["scale"])),
             "coverage": coverage_order(A["scale"], u), "reversed": reversed_order(scale)}  # fmt: skip
    if hidden:
        lost = measured_graph(predictor, tokens, "scale", "hidden", chunk)
        found["lost when hidden"] = collapse_order(pagerank(lost, damping))
    return found


def agreement_of_graphs(A: Tensor, B: Tensor, damping: float = 0.85) -> "dict[str, Interval]":
    """How much two graphs of each image agree, A and B (n, N, N), and their PageRank orders: correlations over all images with the
    jackknife's 95 % intervals over images. `graphs`, `orders`: as they are; `graphs_own`, `orders_own`: after the mean of all images
    is taken out of each, so that what position alone explains does not count."""
    off = ~torch.eye(A.shape[-1], dtype=torch.bool, device=A.device)
    edges = [G[:, off].double() for G in (A, B)]
    ranks = [ranks_of(collapse_order(pagerank(G, damping))).double() for G in (A, B)]
    pairs = {}
    for name, (a, b) in {"graphs": edges, "orders": ranks}.items():
        pairs |= {name: (a - a.mean(), b - b.mean()), f"{name}_own": (a - a.mean(0), b - b.mean(0))}
    return {name: correlation_interval(a, b) for name, (a, b) in pairs.items()}


def correlation_interval(a: Tensor, b: Tensor) -> "Interval":
    """The correlation of all values of centred a and b (n, M), one image a row, with the jackknife over images."""
    from cop.measure.metrics import of_jackknife  # imports much that ranking a photograph can do without

    sums = torch.stack([(a * b).sum(1), (a * a).sum(1), (b * b).sum(1)])  # (3, n)

    def r(s: Tensor) -> Tensor:
        return s[0] / (s[1] * s[2]).sqrt().clamp_min(1e-30)

    return of_jackknife(float(r(sums.sum(1))), r(sums.sum(1, keepdim=True) - sums))[0]


def compare_onepass(
    profile: str | Profile, seed: int = 0, kind: str | None = None, count: int = 500, device: str = "auto",
    shape: tuple[int, int] | None = None, image_size: int | None = None,
) -> "pd.Series":  # fmt: skip
    """The one-pass ranker against N + 1 passes of the predictor on `count` test images: agreement of graphs and orders, and images
    per second of graph and PageRank, both measured in this call, so that their ratio does not depend on the machine's load.

    On a grid that the ranker was not trained on: `shape`, the middle R x Q patches of every image, whose exact graph is that part of
    the whole one, for what j tells about n does not depend on other hidden patches; or `image_size`, the images in another size, where
    the exact graph is that of a predictor trained there (and of its own tokens)."""
    profile, device = all_classes(get_profile(profile)), pipeline.resolve_device(device)
    there = replace(profile, data=replace(profile.data, image_size=image_size or profile.data.image_size))
    exact = pipeline.exact_graph(pipeline.with_graph(there, "measured"), seed, device)
    fast = onepass(profile, seed, kind, device)[0]
    images = pipeline.sample(there, "test", count, device).images.to(device)
    own, grid = pipeline.tokenizer(profile, device).encode_grid(images)
    part = torch.arange(grid[0] * grid[1]).view(grid)
    if shape:
        top, left = (grid[0] - shape[0]) // 2, (grid[1] - shape[1]) // 2
        part, grid = part[top : top + shape[0], left : left + shape[1]], shape
    kept = part.flatten().to(device)
    return _compared(lambda x: fast.graph(x, grid), lambda x: exact(x)[:, kept[:, None], kept], own[:, kept],
                     pipeline.tokenizer(there, device).encode(images), profile.ranking.damping)  # fmt: skip


def compare_graphnet(profile: str | Profile, seed: int = 0, count: int = 500, device: str = "auto") -> "pd.Series":
    """The graph network against CoMAE's N encoder passes, as `compare_onepass`."""
    profile, device = all_classes(get_profile(profile)), pipeline.resolve_device(device)
    fast = torch.no_grad()(graphnet(profile, seed, device)[0].forward)
    exact = pipeline.exact_graph(pipeline.with_graph(profile, "comae"), seed, device)
    tokens = pipeline.sample_tokens(profile, "test", count, device).to(device)

    return _compared(fast, exact, tokens, tokens, profile.ranking.damping)


def _compared(fast: Callable, exact: Callable, tokens: Tensor, exact_tokens: Tensor, damping: float) -> "pd.Series":
    """Both graphs of the same images, from the tokens of each, compared. `macs` are the multiply-adds of one image's graph, counted,
    without PageRank, which is the same for both."""
    import pandas as pd  # which ranking a photograph can do without

    B = torch.cat([fast(x) for x in tokens.split(at_a_time(RANKED))]).float().cpu()
    A = torch.cat([exact(x) for x in exact_tokens.split(at_a_time(RANKED))]).float().cpu()
    few, many = exact_tokens[:8], tokens[:RANKED]
    slow, quick = seconds_each(lambda: exact(few), len(few)), seconds_each(lambda: fast(many), len(many))
    order = seconds_each(lambda: pagerank(B[:RANKED], damping), len(B[:RANKED]))
    agreed = {k: v.value for k, v in agreement_of_graphs(A, B, damping).items()}
    counted = {"exact_macs": macs(exact, exact_tokens[:1]), "one_pass_macs": macs(fast, tokens[:1])}
    return pd.Series(agreed | counted | {"exact_per_second": 1 / slow, "one_pass_per_second": 1 / quick, "ratio": slow / quick,
                               "ratio_with_pagerank": (slow + order) / (quick + order)})  # fmt: skip


def seconds_each(run: Callable[[], object], images: int, repeats: int = 5) -> float:
    """Seconds per image of the fastest of some runs: the one that other processes disturbed the least."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        spent.append(time.perf_counter() - start)
    return min(spent) / images
