"""The orders that come with the package, in the sequence in which figures and tables list them."""

import torch
from torch import Tensor

from cop.orders.looking import CACHED, bilateral_graph, coverage_order, gaussian_kernel, looking_order, mean_colours
from cop.orders.permutations import (
    centre_out_order,
    collapse_order,
    low_discrepancy_order,
    random_order,
    raster_order,
    reversed_order,
    variance_order,
)
from cop.orders.registry import order


@order("collapse", needs="comae", mirror="own", colour="#cf4a8d", width=2.4)
def collapse(batch) -> Tensor:
    """The paper's: patches by their PageRank in the dependency graph of CoMAE, or in that which `ranking.graph` names."""
    return batch.by("pagerank")


@order("in-strength", needs="comae", mirror="own", trained="seed 0", colour="#e79abf", dash="--")
def in_strength(batch) -> Tensor:
    """The same graph without PageRank: patches by the sum of what all targets rely on them."""
    return batch.by("in_strength")


@order("random", needs="nothing", colour="#8d8d96", dash="--", width=1.8)
def random(batch) -> Tensor:
    return random_order(batch.count, batch.num_tokens, batch.generator)


@order("variance", needs="pixels", colour="#d98026", dash="-.")
def variance(batch) -> Tensor:
    return variance_order(batch.patches)


@order("reversed", needs="comae", mirror="own", colour="#7d2352", dash=":", width=2.0)
def reversed_collapse(batch) -> Tensor:
    return reversed_order(batch.by("pagerank"))


@order("mean order", needs="comae", shared=True, colour="#4a76c9", dash=":", width=2.0)
def mean(batch) -> Tensor:
    """The mean collapse order of the training images."""
    return batch.mean_order


@order("centre-out", needs="nothing", shared=True, trained="seed 0", colour="#1b8a7a", dash="--")
def centre_out(batch) -> Tensor:
    return centre_out_order(batch.grid)


@order("low-discrepancy", needs="nothing", shared=True, trained="seed 0", colour="#6fb7e9", dash="-.")
def low_discrepancy(batch) -> Tensor:
    return low_discrepancy_order(batch.grid)


@order("raster", needs="nothing", shared=True, trained="never", colour="#b9a44c", dash=":")
def raster(batch) -> Tensor:
    return raster_order(batch.grid)


@order("greedy", needs="nothing", shared=True, trained="never", dash="--", width=2.0)
def greedy(batch) -> Tensor:
    """At each step the patch that lowers the entropy of the rest most, in the Gaussian model of the training tokens."""
    return batch.greedy_order


@order("measured", needs="measured", mirror="own", trained="never", colour="#2f7f4f", width=2.0)
def measured(batch) -> Tensor:
    """Ours: patches by their PageRank in the graph that the predictor of notebook 1 measures, whatever the profile's graph is."""
    return batch.by("pagerank", "measured")


@order("attention", needs="classifier", trained="seed 0", colour="#8a63b8", dash="--")
def attention(batch) -> Tensor:
    """Patches by the attention rollout of the ViT that is trained on whole images."""
    return collapse_order(batch.rollout)


# ------------------------------------------------------ conditional on what has been seen: the subject of notebook 6


def looking(name: str, needs: str, colour: str, **properties):
    """Register the decorated function as an order, and as `mean of` it what is left of it when the image is taken out.

    A mirrored image has the mirrored order: a predictor is nearly equivariant, and whoever trains along an order would
    otherwise rank every training image twice. Means are stored with the orders they are of."""
    common = {"needs": needs, "trained": "never", "settings": "looking", "colour": colour}

    def register(function):
        order(name, stored=True, mirror="moves", **common | properties)(function)

        @order(f"mean of {name}", shared=True, dash=":", **common)
        def mean_of(batch) -> Tensor:
            return batch.mean_of(name)

        return function

    return register


def _covered(batch, A: Tensor) -> Tensor:
    """Greedy coverage of a graph, what there is to learn at a patch being its variance to the power of gamma."""
    u = batch.patches.var(-1, correction=0) ** batch.profile.looking.gamma
    return coverage_order(A.to(u.device).expand(batch.count, -1, -1), u)


def _doubted(batch, kind: str) -> Tensor:
    c = batch.profile.looking
    width = None if kind == "attention entropy" else c.width  # published without a kernel
    return looking_order(batch.predictor, batch.tokens, kind, width, c.per_step)


@looking("coverage", needs="pixels", colour="#c0392b", width=2.0)
def coverage(batch) -> Tensor:
    """Ours: greedy coverage where patches that are near and alike give each other away."""
    c = batch.profile.looking
    return _covered(batch, bilateral_graph(mean_colours(batch.images, batch.shape), batch.shape, c.near, c.alike))


@looking("coverage gaussian", needs="pixels", colour="#d98880", dash="--")
def coverage_gaussian(batch) -> Tensor:
    """The same where patches that are near give each other away, alike or not."""
    return _covered(batch, gaussian_kernel(batch.shape, batch.profile.looking.near))


@looking("coverage comae", needs="comae", colour="#a04070", dash="-.")
def coverage_comae(batch) -> Tensor:
    """The same of the graph of CoMAE."""
    return _covered(batch, batch.graph("comae"))


@looking("coverage measured", needs="measured", colour="#52a06f", dash="-.")
def coverage_measured(batch) -> Tensor:
    """The same of the measured graph."""
    return _covered(batch, batch.graph("measured"))


@looking("coverage one-pass", needs="measured", colour="#52a06f", dash="--")
def coverage_one_pass(batch) -> Tensor:
    """The same of the measured graph as the one-pass ranker knows it."""
    return _covered(batch, batch.graph("measured", one_pass=True))


@looking("PageRank bilateral", needs="pixels", colour="#b07aa1", dash="--")
def pagerank_bilateral(batch) -> Tensor:
    """PageRank on the graph of `coverage`: only the rule differs."""
    c = batch.profile.looking
    A = bilateral_graph(mean_colours(batch.images, batch.shape), batch.shape, c.near, c.alike)
    return batch.by_pagerank(A - torch.eye(A.shape[-1], dtype=A.dtype))  # nobody votes for itself


@looking("surprise", needs="predictor", colour="#2471a3", dash="--")
def surprise(batch) -> Tensor:
    """A sender's order: where the predictor errs most, given the patches sent so far."""
    return _doubted(batch, "surprise")


@looking("active", needs="predictor", looks=False, colour="#154360", width=2.4)
def active(batch) -> Tensor:
    """A receiver's order: where the predictor is least certain, given the patches seen so far."""
    return _doubted(batch, "active")


@looking(CACHED, needs="predictor", looks=False, colour="#1f618d", dash="-.")
def active_cached(batch) -> Tensor:
    """The same by a predictor that encodes every patch once and keeps its keys and values."""
    c = batch.profile.looking
    return looking_order(batch.cached_predictor, batch.tokens, CACHED, c.width, c.per_step)


@looking("attention entropy", needs="predictor", looks=False, colour="#7fb3d5", dash="-.")
def attention_entropy(batch) -> Tensor:
    """The control of the literature: where the predictor's attention is most spread (Pardyl et al., IJCAI 2023)."""
    return _doubted(batch, "attention entropy")
