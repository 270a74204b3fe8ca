"""Orders of patches: what a ranking is, and the controls that a collapse order is compared with.

A `ranking` is a LongTensor (B, N), `ranking[b, 0]` the patch of image b seen FIRST. Its inverse, `ranks_of`,
holds at [b, n] the position of patch n. Orders that look at no data are one (N,) for all images;
`order.expand(B, -1)` repeats one. Letters: B images, N patches, G patches per side (N = G * G, row-major).
"""

import torch
from torch import Tensor


def check_ranking(ranking: Tensor, num_tokens: int) -> Tensor:
    """The ranking itself, if every row is a permutation of 0..num_tokens-1; otherwise ValueError."""
    want = f"expected a LongTensor (B, {num_tokens}) or ({num_tokens},) of permutations of the patches"
    if ranking.dtype != torch.long or ranking.ndim not in (1, 2) or ranking.shape[-1] != num_tokens:
        raise ValueError(f"bad ranking of shape {tuple(ranking.shape)}, {ranking.dtype}: {want}")
    rows = ranking.reshape(-1, num_tokens)
    wrong = (rows.sort(-1).values != torch.arange(num_tokens, device=ranking.device)).any(-1)
    if wrong.any():
        b = int(wrong.nonzero()[0, 0])
        raise ValueError(f"ranking[{b}] repeats or misses a patch: {want} (see collapse_order)")
    return ranking


def ranks_of(ranking: Tensor) -> Tensor:
    """Position of every patch in its order: the inverse permutation, same shape. It is its own inverse."""
    positions = torch.arange(ranking.shape[-1], device=ranking.device).expand_as(ranking)
    return torch.empty_like(ranking).scatter_(-1, ranking, positions)


def collapse_order(scores: Tensor) -> Tensor:
    """Patches by descending score, (B, N) or (N,) -> LongTensor of that shape; equal scores by lower index.

    Compared in float64 so that no two scores become equal here. Raises ValueError for NaN.
    """
    if scores.isnan().any():
        raise ValueError("scores contain NaN: expected numbers; check the dependencies they come from")
    return scores.double().argsort(dim=-1, descending=True, stable=True)


# ---------------------------------------------------------------------------- control orders


def random_order(batch: int, num_tokens: int, generator: torch.Generator) -> Tensor:
    """A uniformly random order per image, (batch, num_tokens), drawn on the CPU."""
    keys = torch.rand(batch, num_tokens, generator=generator, dtype=torch.float64)
    return keys.argsort(dim=-1, stable=True)


def raster_order(grid: int) -> Tensor:
    """Left to right, top to bottom: (N,)."""
    return torch.arange(grid * grid)


def centre_out_order(grid: int) -> Tensor:
    """By distance from the image centre, nearest first, ties by lower index: (N,)."""
    offset = 2 * torch.arange(grid) - (grid - 1)  # doubled, so that distances are integers and ties are exact
    return (offset[:, None] ** 2 + offset[None, :] ** 2).flatten().argsort(stable=True)


def low_discrepancy_order(grid: int) -> Tensor:
    """Cells in the order a Halton sequence (bases 2, 3) first falls into them: (N,).

    Spreads every prefix evenly over the image, the idea of Halton sampling for MaskGIT (arXiv 2503.17076).
    Points that fall into a cell already visited are skipped; the sequence is dense, so every cell is reached.
    """
    from scipy.stats import qmc  # nearly a second to import

    halton = qmc.Halton(d=2, scramble=False).fast_forward(1)  # point 0 is the corner: start at (1/2, 1/3)
    order: dict[int, None] = {}  # a dict keeps the order of first insertion
    while len(order) < grid * grid:
        row, col = (halton.random(4 * grid * grid) * grid).astype(int).T
        order.update(dict.fromkeys((row * grid + col).tolist()))
    return torch.tensor(list(order))


def variance_order(tokens: Tensor) -> Tensor:
    """Patches by the variance of their own C values, highest first: (B, N, C) -> (B, N).

    For raw tokens that is the contrast inside the patch: a flat patch comes last whatever its brightness.
    """
    return collapse_order(tokens.double().var(-1, correction=0))


def reversed_order(ranking: Tensor) -> Tensor:
    """The same order back to front, same shape."""
    return ranking.flip(-1)


def mirrored(ranking: Tensor, grid: int, flip: Tensor) -> Tensor:
    """The order (B, N) with patches mirrored left-right in the rows where flip (B,) is true.

    Training flips images but ranks them once; CoMAE is not exactly equivariant, so this approximates decision 23.
    """
    swapped = ranking // grid * grid + (grid - 1 - ranking % grid)
    return torch.where(flip[:, None], swapped, ranking)


def mean_order(ranking: Tensor) -> Tensor:
    """One order for all images: patches by mean position (Borda), ties by lower index. (B, N) -> (N,)."""
    return ranks_of(ranking).sum(0).argsort(stable=True)  # sums of integers: exact, so ties are real ties


def small_type(num_tokens: int) -> torch.dtype:
    """The type of one rank in storage: a byte for up to 256 patches."""
    return torch.uint8 if num_tokens <= 256 else torch.int16
