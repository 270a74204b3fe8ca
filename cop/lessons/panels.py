"""The pictures with controls of notebooks 1 to 4 and 6, from a lesson's data: `cop.show.widgets`."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cop.configs import Profile
from cop.lessons import pipeline
from cop.paper.comae import CoMAE
from cop.paper.entropy import GaussianTokens
from cop.paper.mar import mask_lengths
from cop.show import widgets
from cop.show.figures import to_array
from cop.train.loop import seeded

IMAGES = 40  # in a menu


def entropy_map(model: GaussianTokens, sample: pipeline.Sample, seen: Tensor) -> widgets.EntropyMap:
    """Notebook 1: the entropy of every patch of the first image, with the patches `seen` (k,) and others to click."""
    return widgets.EntropyMap(model, to_array(sample.images[0]), sample.titles[0], seen.tolist())


def mask_map(profile: Profile, model: CoMAE, sample: pipeline.Sample, seed: int, device: str) -> widgets.MaskMap:
    """Notebook 2: CoMAE's mask and reconstruction of any target of the first images."""
    tokenizer, shape = pipeline.tokenizer(profile, device), sample.tokens.shape[1:]

    @torch.no_grad()
    def masks(image: int, target: int) -> tuple[np.ndarray, np.ndarray]:
        x, n = sample.tokens[image, None], torch.tensor([[target]])
        w = model.weights(x, n)
        guess = model.reconstruct(x, n, w, torch.randn(1, 1, *shape, generator=seeded(seed, 7)))
        patch = pipeline.target_patches(tokenizer, x, n, guess)[0, 0]
        return w[0, 0].cpu().numpy(), to_array(patch)

    return widgets.MaskMap(masks, to_array(sample.images[:IMAGES]), profile.grid, sample.titles[:IMAGES])


def order_player(sample: pipeline.Sample, along: Mapping[str, Tensor]) -> widgets.OrderPlayer:
    """Notebook 3: the first images of the sample along any two of the orders."""
    few = {n: r[:IMAGES] for n, r in along.items()}
    grid = round(few["collapse"].shape[1] ** 0.5)
    return widgets.OrderPlayer(to_array(sample.images[:IMAGES]), few, grid, sample.titles[:IMAGES])


def generation_player(
    profile: Profile, made: Mapping[str, tuple[Tensor, Tensor]], titles: Sequence[str], image: int
) -> widgets.OrderPlayer:
    """Notebook 4: generated images (B, C, H, W) of each system, revealed in the order (B, N) in which they were made. Where widgets
    do not run they are made in MAR's steps."""
    N, images = profile.num_tokens, {name: to_array(x) for name, (x, _) in made.items()}
    orders = {name: order for name, (_, order) in made.items()}
    steps = [N, *mask_lengths(N, profile.generation.num_iter)]  # patches that are missing after each
    start = {"image": image, "left": "MAR", "right": "CMAR"}
    return widgets.OrderPlayer(images, orders, profile.grid, titles, **start, moves=[N - m for m in steps])


def look_player(profile: Profile, sample: pipeline.Sample, order: Tensor, seed: int, device: str) -> widgets.LookPlayer:
    """Notebook 6: the first images along the order `active` (B, N), with what its predictor expects and doubts at each step."""
    predictor, tokenizer = pipeline.predictor(profile, seed, device)[0], pipeline.tokenizer(profile, device)

    @torch.no_grad()
    def think(image: int, seen: Tensor) -> tuple[np.ndarray, np.ndarray]:
        x, known = sample.tokens[image, None], torch.zeros(1, profile.num_tokens, dtype=torch.bool)
        known[0, seen] = True
        mean, scale = (y.cpu() for y in predictor(x, known))
        expected = torch.where(known[..., None], x.cpu(), mean)
        return to_array(tokenizer.decode(expected))[0], (scale.sum(-1) * ~known)[0].numpy()

    images, titles = to_array(sample.images[:IMAGES]), sample.titles[:IMAGES]
    return widgets.LookPlayer(think, images, order[:IMAGES], titles, profile.looking.per_step)
