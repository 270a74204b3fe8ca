"""An order for an image that does not exist yet: what a predictor doubts of it, given what has been generated.

Letters: B images, N patches, C values of a token, n training images.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from cop.configs import Profile
from cop.devices import at_a_time
from cop.lessons import pipeline
from cop.orders import small_type
from cop.orders.looking import distances, gaussian_kernel, next_patches, predictor_doubt
from cop.paper.mar import mask_lengths

DOUBTS = {"most doubted": True, "least doubted": False}  # sources of orders that are made while generating


def by_doubt(profile: Profile, seed: int, device: str, most: bool) -> Callable[[Tensor, Tensor, int], Tensor]:
    """For `MAR.sample`: next come the positions about which the predictor of notebook 1, given what has been generated, is most
    uncertain, or least, as in the collapse of a wave function. So an image that does not exist yet has an order of its own."""
    predictor, width = pipeline.predictor(profile, seed, device)[0], profile.looking.width
    shape = (profile.grid, profile.grid)
    kernel, beside = gaussian_kernel(shape, width).to(device), (distances(shape) <= 2).to(device)

    def following(tokens: Tensor, mask: Tensor, count: int) -> Tensor:
        seen = (~mask).nonzero()[:, 1].view(len(mask), -1)
        doubt = predictor_doubt(predictor, tokens, "active", seen)
        return next_patches(doubt if most else (doubt.amax(1, keepdim=True) - doubt).masked_fill(~mask, 0), seen, kernel, beside, count)

    return following


def along_doubt(profile: Profile, seed: int, most: bool, tokens: Callable, chosen: Tensor, flipped: bool, device: str) -> Tensor:
    """The order in which `by_doubt` would have made real images, in the steps of a generation: tokens (of `pipeline.token_source`)
    of the images `chosen` (n,) -> (n, N) of the smallest type, on the CPU."""
    N, following, found = profile.num_tokens, by_doubt(profile, seed, device, most), []
    left = [N, *mask_lengths(N, profile.generation.num_iter)]
    for part in chosen.split(at_a_time(pipeline.RANKED)):
        x = tokens(part, torch.full((len(part),), flipped) if flipped else None)
        mask, made = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device), []
        for before, after in pairwise(left):
            made.append(following(x, mask, before - after))
            mask.scatter_(1, made[-1], False)
        found.append(torch.cat(made, 1).to(small_type(N)).cpu())
    return torch.cat(found)
