"""Orders of patches: the registry and its entries, what a ranking is, and how much two of them agree.

`cop.orders.bank` lends orders to images that have none.
"""

from cop.orders import entries  # noqa: F401  (registers the orders that come with the package)
from cop.orders.concordance import agreement, kendall_tau, spearman
from cop.orders.looking import coverage_order, looking_order
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
    small_type,
    variance_order,
)
from cop.orders.registry import Order, added, as_order, get, order, registered

__all__ = [
    "Order",
    "added",
    "agreement",
    "as_order",
    "centre_out_order",
    "check_ranking",
    "collapse_order",
    "coverage_order",
    "get",
    "kendall_tau",
    "looking_order",
    "low_discrepancy_order",
    "mean_order",
    "mirrored",
    "order",
    "random_order",
    "ranks_of",
    "raster_order",
    "registered",
    "reversed_order",
    "small_type",
    "spearman",
    "variance_order",
]
