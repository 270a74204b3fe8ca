"""Orders of patches: the controls a collapse order is compared with, and how much two orders agree.

A `ranking` is a LongTensor (B, N), `ranking[b, 0]` the patch of image b seen FIRST. Its inverse, `ranks_of`,
holds at [b, n] the position of patch n. Orders that look at no data are one (N,) for all images;
`order.expand(B, -1)` repeats one. Letters: B images, N patches, G patches per side (N = G * G, row-major).
"""

import torch
from scipy.stats import qmc
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


# --------------------------------------------------------------------------------- agreement


def _pair_up(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two rankings as (B, N) each, one of them repeated if it is a single order."""
    a, b = torch.atleast_2d(a), torch.atleast_2d(b)
    if a.shape[1] != b.shape[1] or (len(a) != len(b) and 1 not in (len(a), len(b))):
        raise ValueError(f"cannot compare rankings of shapes {tuple(a.shape)} and {tuple(b.shape)}: "
                         "expected equal shapes, or one order (N,) against (B, N)")  # fmt: skip
    return torch.broadcast_tensors(a, b)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rho of the orders a[i] and b[i], (B,) float64 in [-1, 1]; orders have no ties."""
    a, b = _pair_up(a, b)
    N = a.shape[1]
    return 1 - 6 * (ranks_of(a) - ranks_of(b)).square().sum(-1).double() / (N * (N * N - 1))


def kendall_tau(a: Tensor, b: Tensor, chunk_bytes: int = 64 << 20) -> Tensor:
    """Kendall's tau of the orders a[i] and b[i], (B,) float64: pairs of patches in the same order
    less pairs in the opposite order, as a share of all pairs. N^2 comparisons in chunks of `chunk_bytes`."""
    a, b = _pair_up(a, b)
    N = a.shape[1]
    moved = ranks_of(b).gather(1, a)  # (B, N) where b puts the patches, listed as a meets them
    chunks = moved.split(max(1, chunk_bytes // (N * N)))
    discordant = torch.cat([(m[:, :, None] > m[:, None, :]).triu().sum((1, 2)) for m in chunks])  # (B,)
    return 1 - 4 * discordant.double() / (N * (N - 1))


def agreement(
    ranking: Tensor, labels: Tensor, generator: torch.Generator, pairs: int = 2000
) -> dict[str, float]:
    """How alike the orders (B, N) of different images are, and what share of one is position, class, image.

    kendall_within, kendall_between: mean Kendall's tau over `pairs` random pairs of different images of the
    same
        class, and of different classes.
    kendall_mean, spearman_mean: mean agreement of an image's order with the mean order of all the OTHER
    images;
        with its own order included the mean would agree with anything at small B.
    spearman_within, spearman_between: mean Spearman's rho of the same kinds of pairs, exact over all of them.
    share_position, share_class, share_image: they sum to 1. Write the rank of patch n in image b of class y
    as

            rank_bn = (N - 1) / 2 + position_n + class_yn + image_bn

        (mean rank per patch; what the class adds to it; what is left). Over the patches of one image the
        centred ranks always have the variance (N^2 - 1) / 12, and the product of two images' centred ranks,
        averaged over n, has expectation var(position) + var(class) if they share a class and var(position) if
        not. The three shares are hence spearman_between, spearman_within - spearman_between and 1 -
        spearman_within. As no image is compared with itself they are unbiased, unlike the variance of the
        estimated mean ranks, which counts noise / B as signal (1 / B of all variance even for random orders).
        The price: a share near 0 can come out slightly negative.

    `labels` (B,). Means over no pair (one class only, or no class twice) are nan. Raises ValueError for B <
    2.
    """
    B, N = ranking.shape if ranking.ndim == 2 else (1, 0)
    if B < 2 or N < 2 or labels.shape != (B,):
        raise ValueError(f"agreement needs a ranking (B, N) of at least 2 images and labels (B,), got "
                         f"{tuple(ranking.shape)} and {tuple(labels.shape)}")  # fmt: skip
    ranking, labels = check_ranking(ranking, N).cpu(), labels.cpu()
    ranks = ranks_of(ranking)  # (B, N)

    total = ranks.sum(0)  # (N,)
    loo = (total - ranks).argsort(dim=-1, stable=True)  # (B, N) the mean order without the image itself
    stats = {"kendall_mean": kendall_tau(ranking, loo).mean(), "spearman_mean": spearman(ranking, loo).mean()}

    _, label, count = labels.unique(return_inverse=True, return_counts=True)  # label in 0..classes-1
    centred = ranks.double() - (N - 1) / 2
    by_class = torch.zeros(len(count), N, dtype=torch.float64).index_add_(0, label, centred)  # sums per class
    norm = N * (N * N - 1) / 12  # |centred row|^2 of any permutation
    same = (by_class.square().sum() - B * norm) / norm  # sum of rho over ordered pairs b != b' of one class
    other = (centred.sum(0).square().sum() - by_class.square().sum()) / norm  # ... of two classes
    within = same / (count * (count - 1)).sum()  # 0 / 0 = nan where there is no such pair
    between = other / (B * B - count.square().sum())
    stats |= {"spearman_within": within, "spearman_between": between, "share_position": between,
              "share_class": within - between, "share_image": 1 - within}  # fmt: skip

    # Sorted by label, an image's class is a run of neighbours: partners are drawn by stepping round the run
    # or round the rest, first images in proportion to their number of partners, so every pair is equally
    # likely.
    ranking, label = ranking[label.argsort(stable=True)], label.sort().values
    size, end = count[label], count.cumsum(0)[label]
    for name, partners in (("kendall_within", size - 1), ("kendall_between", B - size)):
        if not partners.any():
            stats[name] = torch.tensor(torch.nan)
            continue
        first = torch.multinomial(partners.double(), pairs, replacement=True, generator=generator)
        step = (torch.rand(pairs, generator=generator, dtype=torch.float64) * partners[first]).long()
        start = end[first] - size[first]
        inside = start + (first - start + 1 + step) % size[first]
        second = inside if name == "kendall_within" else (end[first] + step) % B
        stats[name] = kendall_tau(ranking[first], ranking[second]).mean()
    return {name: float(value) for name, value in stats.items()}
