"""Active vision: patches of an image asked for one step at a time, by what is still in doubt (`cop.look`)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cop.configs import Profile
from cop.data.inputs import read_images
from cop.lessons import cached, pipeline
from cop.orders.looking import CACHED, check_steps, greedy_looks, predictor_doubt
from cop.paper.patches import patchify
from cop.profiles import for_classifiers, get_profile

BLIND = ("active", CACHED, "attention entropy")  # the orders that need no patch before it is seen


class Looked(NamedTuple):
    """order: (k,) long, [0] the patch seen first. patches: (k, C, P, P) in [-1, 1], as they were seen."""

    order: Tensor
    patches: Tensor


def look(image, patches: int = 14, profile: str | Profile = "natural", per_step: int | None = None, seed: int = 0,
         device: str = "auto", order: str = "active") -> Looked:  # fmt: skip
    """Look at an image patch by patch, each time where a predictor is least certain given what it has seen.

    image: a function that gets the indices of patches (K,) long, row-major, and returns their pixels (K, C, P, P), float in
    [-1, 1]: a camera, a slow decoder, a robot. It is asked for nothing but what is looked at, once. Or any one image that
    `cop.read_images` accepts. patches: how many to see. profile: whose predictor, and with it the grid and P: `natural` has
    8 x 8 patches of 8 px. per_step: patches asked for at a time, the profile's number by default, which is that of
    `cop.rank(order="active")`; where it does not divide, the last step asks for fewer. order: `active`; `active cached`, by a predictor that keeps what it has
    encoded and takes a quarter of the computation; or `attention entropy`.

    Raises ValueError for other orders and numbers, for tokens that a patch alone does not determine, and for pixels of
    another number, shape or type, or that are not finite.
    """
    profile, device = for_classifiers(get_profile(profile)), pipeline.resolve_device(device)
    N, P, C = profile.num_tokens, profile.tokens.patch_size, profile.data.channels
    per_step = profile.looking.per_step if per_step is None else per_step
    check_steps(N, per_step, patches)
    if order not in BLIND:
        raise ValueError(f"order {order!r} cannot look: expected {' or '.join(BLIND)}, which need no patch before it is seen")
    if profile.tokens.kind == "kl16":
        raise ValueError(f"profile {profile.name!r} has tokens 'kl16', which need the whole image; expected raw, pca or components")
    ask = image if callable(image) else _given(image, profile)
    tokenizer, width = pipeline.tokenizer(profile, device), None if order == "attention entropy" else profile.looking.width
    tokens, pixels = torch.zeros(1, N, profile.tokens.dim, device=device), torch.empty(0, C, P, P)
    if order == CACHED:
        doubt_of = cached.predictor(profile, seed, device)[0].looker(tokens)
    else:
        doubt_of = partial(predictor_doubt, pipeline.predictor(profile, seed, device)[0], tokens, order)

    def see(found: Tensor) -> None:
        """Ask for what is new in the order so far, (k,), and note its tokens."""
        nonlocal pixels
        new = found[len(pixels) :].cpu()
        if len(new):
            pixels = torch.cat([pixels, _checked(ask(new), len(new), C, P)])
            tokens[0, new] = tokenizer.encode_grid(pixels[-len(new) :])[0][:, 0].to(tokens)

    def doubt(seen: Tensor) -> Tensor:
        see(seen[0])
        return doubt_of(seen)

    found = greedy_looks(doubt, (profile.grid, profile.grid), width, per_step, patches)[0].cpu()
    see(found)
    return Looked(found, pixels)


def _given(image, profile: Profile) -> Callable[[Tensor], Tensor]:
    """The function that hands out patches of an image."""
    images = read_images(image, profile)
    if len(images) != 1:
        raise ValueError(f"{len(images)} images; expected one, or a function that returns patches")
    P, C = profile.tokens.patch_size, profile.data.channels
    patches = patchify(images, P)[0].unflatten(1, (P, P, C)).permute(0, 3, 1, 2)  # (N, C, P, P)
    return lambda which: patches[which]


def _checked(pixels, K: int, C: int, P: int) -> Tensor:
    want = f"expected a float tensor ({K}, {C}, {P}, {P}) in [-1, 1], the pixels of the {K} patches asked for, in their order"
    if not isinstance(pixels, Tensor):
        raise ValueError(f"the function returned a {type(pixels).__name__}; {want}")
    if tuple(pixels.shape) != (K, C, P, P) or not pixels.is_floating_point():
        raise ValueError(f"the function returned {pixels.dtype} {tuple(pixels.shape)}; {want}")
    if not pixels.isfinite().all():
        raise ValueError(f"the function returned NaN or infinite values; {want}")
    return pixels.detach().float().cpu()
