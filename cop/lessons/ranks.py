"""`cop.rank`: orders of any images at all, by models loaded once, in one pass where a network is stored that knows the result."""

import copy
import logging
from collections.abc import Callable
from typing import Literal, overload

import torch
from torch import Tensor

from cop.configs import Profile
from cop.data.images import ImageSet
from cop.data.inputs import read_images, read_whole
from cop.lessons import measured, pipeline
from cop.lessons.ordering import Images
from cop.orders import Order, as_order
from cop.profiles import for_classifiers, get_profile
from cop.train.loop import seeded

log = logging.getLogger(__name__)


@overload
def rank(images, profile: str | Profile = ..., seed: int = ..., device: str = ..., order: str | Tensor | Callable = ...,
         graph: str | None = ..., exact: bool = ..., crop: Literal[True] = ...) -> Tensor: ...  # fmt: skip


@overload
def rank(images, profile: str | Profile = ..., seed: int = ..., device: str = ..., order: str | Tensor | Callable = ...,
         graph: str | None = ..., exact: bool = ..., *, crop: Literal[False]) -> list[Tensor]: ...  # fmt: skip


def rank(images, profile: str | Profile = "natural", seed: int = 0, device: str = "auto",
         order: str | Tensor | Callable = "collapse", graph: str | None = None, exact: bool = False,
         crop: bool = True) -> Tensor | list[Tensor]:  # fmt: skip
    """The order of any images, (B, N) long, `[b, 0]` the patch seen first.

    The profile says whose encoder: that of `natural` was trained on photographs and comes with the package.
    order: `collapse` or another registered one (`cop.orders.registered`), a ranking (B, N) or (N,), or a function of an
    `ordering.Batch` that returns one. graph: in which `collapse` and the other orders by PageRank are computed: `comae`, the
    paper's, or `measured`, ours; the profile's by default. exact: by N passes of CoMAE or of the predictor an image, as in the
    notebooks; otherwise in one pass of a network that has learned the result, where one is stored.
    images: whatever `cop.read_images` accepts (files, a folder, PIL images, arrays, tensors; it says how they are read and
    what it raises), or a data set of the profile's size such as `load_data(profile, "test")[:100]`, read batch by batch.
    The ranking's attribute `files` is a list with the file of every row, None where the image was no file; slices and
    copies of the ranking do not have it. A constant image and one of 1 x 1 px have an order too; equal scores go to the lower
    index. Raises ValueError for an unknown order or graph, and for an order that is no permutation.

    crop: False ranks whole photographs, the short side at the profile's size (`read_whole`), and returns a list of one order
    (R Q,) per image, row-major, with the attributes `grid` (R, Q) and `file`. Only the one-pass ranker of the measured graph
    knows such grids: raises ValueError for orders that need another graph or a square, FileNotFoundError where it is not stored.
    """
    ranking = ranker(profile, seed, device, order, graph, exact, crop)
    if crop:
        images = images if isinstance(images, ImageSet) else read_images(images, profile)
        found = ranking(images)
        found.files = getattr(images, "files", [None] * len(found))
        return found
    found = []
    for image in read_whole(images, profile):
        found.append(ranking(image[None])[0])
        found[-1].file, found[-1].grid = image.file, grid_of(image, get_profile(profile))
    return found


def ranker(profile: str | Profile = "natural", seed: int = 0, device: str = "auto",
           order: str | Tensor | Callable = "collapse", graph: str | None = None, exact: bool = False,
           crop: bool = True) -> Callable[[Tensor | ImageSet], Tensor]:  # fmt: skip
    """`rank` with its models loaded once: a function of a batch (B, C, H, W) in [-1, 1], or a data set, to rankings (B, N)."""
    profile, device, order = for_classifiers(profile), pipeline.resolve_device(device), as_order(order)
    profile = pipeline.with_graph(profile, graph)
    load = pipeline.exact_graph if exact else in_one_pass if crop else of_any_grid
    if not crop:
        check_any_grid(profile, order, exact)
    models = Images(profile, seed, device, 1, seeded(seed, 50), lambda rows: torch.empty(0), load_graph=load)
    if order.needs not in ("nothing", "pixels") and not order.shared:  # loaded now, with what goes wrong
        _ = models.tokenizer
        if order.needs in ("comae", "measured"):
            models.graph("measured" if order.needs == "measured" else None)
        else:
            getattr(models, order.needs)
    if order.needs != "nothing" and order.shared:
        order = as_order(models.ranked(order, torch.arange(1))[0].long())

    def ranking(images: Tensor | ImageSet) -> Tensor:
        whole = copy.copy(models)
        whole.total = len(images)
        whole.pixels = lambda rows: images.batch(rows)[0] if isinstance(images, ImageSet) else images[rows]
        if not crop:
            whole.shape = grid_of(images, profile)
        return whole.ranked(order, torch.arange(len(images))).long()

    return ranking


def grid_of(images: Tensor, profile: Profile) -> tuple[int, int]:
    """Rows and columns of patches of images (..., H, W)."""
    return images.shape[-2] // profile.tokens.patch_size, images.shape[-1] // profile.tokens.patch_size


def in_one_pass(profile: Profile, seed: int, device: str) -> Callable[[Tensor], Tensor]:
    """`measured.in_one_pass` where that ranker is stored, else the exact passes, as the log says."""
    found, graph = measured.in_one_pass(profile, seed, device=device), profile.ranking.graph
    if found is None:
        log.info("no one-pass ranker of graph %r is stored for profile %s and seed %d: ranking by the exact passes", graph, profile.name, seed)
    return found or pipeline.exact_graph(profile, seed, device)


def of_any_grid(profile: Profile, seed: int, device: str) -> Callable[..., Tensor]:
    """The one-pass ranker by offsets, a function of tokens and the shape of their grid."""
    found = measured.in_one_pass(profile, seed, "offsets", device)
    if found is None:
        raise FileNotFoundError(f"no one-pass ranker of kind 'offsets' is stored for profile {profile.name} and seed {seed}, and "
                                "crop=False needs it: rank with crop=True, or train it, "
                                f"cop.lessons.measured.onepass({profile.name!r}, {seed}, 'offsets')")  # fmt: skip
    return found


def check_any_grid(profile: Profile, order: Order, exact: bool) -> None:
    """Raises ValueError for what cannot be done on a grid that is not the profile's."""
    needs = profile.ranking.graph if order.needs == "comae" else order.needs
    if exact or order.shared or needs not in ("measured", "pixels"):
        raise ValueError(f"crop=False with order {order.name!r}, graph={profile.ranking.graph!r} and exact={exact}: expected "
                         "graph='measured' and exact=False, and an order by that graph or by pixels, for all others know the "
                         f"square of {profile.grid} x {profile.grid} patches only; take crop=True")  # fmt: skip
