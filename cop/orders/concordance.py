"""How much two orders agree, and what share of an order is position, class and image."""

import torch
from torch import Tensor

from cop.orders.permutations import check_ranking, ranks_of


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


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of the rows of a and b, (B, M) each: (B,) float64; nan for a row that does not vary."""
    a, b = (x.double() - x.double().mean(-1, keepdim=True) for x in (a, b))
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def shares(values: Tensor, labels: Tensor) -> dict[str, float]:
    """What share of the rows' variance is common to all images, to a class, and an image's own: they sum to 1.

    values: (B, M), one row per image, for instance its graph; labels: (B,). The estimator is that of `agreement`: the mean
    product of different images' centred rows, over the mean square of a row.
    """
    x = values.double() - values.double().mean(-1, keepdim=True)
    _, label, count = labels.unique(return_inverse=True, return_counts=True)
    by_class = x.new_zeros(len(count), x.shape[1]).index_add_(0, label, x)
    own, within, all_pairs = x.square().sum(), by_class.square().sum(), x.sum(0).square().sum()
    same = (within - own) / (count * (count - 1)).sum()
    other = (all_pairs - within) / (len(x) ** 2 - count.square().sum())
    scale = own / len(x)
    return {"position": float(other / scale), "class": float((same - other) / scale), "image": float(1 - same / scale)}


def agreement(ranking: Tensor, labels: Tensor, generator: torch.Generator, pairs: int = 2000) -> dict[str, float]:
    """How alike the orders (B, N) of different images are, and what share of one is position, class, image.

    labels: (B,). Means over no pair (one class only, or no class twice) are nan. Raises ValueError for B < 2.

    kendall_within, kendall_between: mean Kendall's tau over `pairs` random pairs of different images of the same class,
        and of different classes.
    kendall_mean, spearman_mean: mean agreement of an image's order with the mean order of all the other images; with its
        own order included the mean would agree with anything at small B.
    spearman_within, spearman_between: mean Spearman's rho of the same kinds of pairs, exact over all of them.
    share_position, share_class, share_image: they sum to 1. The rank of patch n in image b of class y is

            rank_bn = (N - 1) / 2 + position_n + class_yn + image_bn

        (the mean rank of the patch, what the class adds to it, and what is left). Over the patches of one image the
        centred ranks always have the variance (N^2 - 1) / 12. The product of two images' centred ranks, averaged over n,
        has expectation var(position) + var(class) if they share a class and var(position) if not. The three shares are
        hence spearman_between, spearman_within - spearman_between and 1 - spearman_within. As no image is compared with
        itself they are unbiased, but a share near 0 can come out slightly negative. The variance of the estimated mean
        ranks would count noise / B as signal: 1 / B of all variance even for random orders.
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

    found = shares(ranks, labels)
    stats |= {"spearman_within": 1 - found["image"], "spearman_between": found["position"]}
    stats |= {f"share_{name}": share for name, share in found.items()}
    _, label, count = labels.unique(return_inverse=True, return_counts=True)  # label in 0..classes-1

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
