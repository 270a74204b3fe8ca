"""Orders of patches and how much two of them agree; `cop.orders.bank` lends orders to images that have none."""

from cop.orders.concordance import agreement, kendall_tau, spearman
from cop.orders.permutations import (
    centre_out_order,
    check_ranking,
    collapse_order,
    low_discrepancy_order,
    mean_order,
    mirrored,
    random_order,
    ranks_of,
    raster_order,
    reversed_order,
    variance_order,
)

__all__ = ["agreement", "centre_out_order", "check_ranking", "collapse_order", "kendall_tau", "low_discrepancy_order",
           "mean_order", "mirrored", "random_order", "ranks_of", "raster_order", "reversed_order", "spearman",
           "variance_order"]  # fmt: skip
