"""The orders that come with the package, in the sequence in which figures and tables list them."""

from torch import Tensor

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


@order("random", needs="nothing", colour="#8d8d96", width=1.8)
def random(batch) -> Tensor:
    return random_order(batch.count, batch.num_tokens, batch.generator)


@order("variance", needs="pixels", colour="#d98026", dash="-.")
def variance(batch) -> Tensor:
    return variance_order(batch.patches)


@order("reversed", needs="comae", mirror="own", colour="#7d2352", dash=":", width=2.0)
def reversed_collapse(batch) -> Tensor:
    return reversed_order(batch.by("pagerank"))


@order("mean order", needs="comae", shared=True, colour="#4a76c9", width=2.0)
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
