"""Orders that are conditional on what has been seen: coverage of a graph, and what a predictor still doubts.

Pure functions on tensors, batched. Equal scores go to the lower index. Letters: B images, N patches of an R x Q grid
(N = R Q, row-major), C values of a token, k patches seen so far.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

DOUBTS = ("active", "surprise", "attention entropy")
CACHED = "active cached"  # as active, by a predictor that keeps what it has encoded

# ----------------------------------------------------------------------------------------------- graphs by hand


def distances(shape: tuple[int, int]) -> Tensor:
    """Squared distances between the patches of an R x Q grid, in patches: (N, N) float64."""
    row, col = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    place = torch.stack([row.flatten(), col.flatten()], 1)  # (N, 2)
    return (place[:, None] - place).square().sum(-1)


def gaussian_kernel(shape: tuple[int, int], width: float) -> Tensor:
    """exp(-d^2 / 2 width^2) of the distance d in patches: (N, N) float64."""
    if not width > 0:
        raise ValueError(f"the width of the kernel is {width}; expected a number of patches above 0")
    return (-distances(shape) / (2 * width**2)).exp()


def bilateral_graph(colours: Tensor, shape: tuple[int, int], near: float, alike: float) -> Tensor:
    """What two patches give away of each other if those that are near *and* alike do: colours (B, N, C) -> (B, N, N).

    exp(-d^2 / 2 near^2) exp(-|c_i - c_j|^2 / 2 alike^2), d in patches and c the mean colour of a patch."""
    unlike = torch.cdist(colours.double(), colours.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    return gaussian_kernel(shape, near).to(colours.device) * (-unlike / (2 * alike**2)).exp()


def mean_colours(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """The mean of every channel in every patch: (B, C, H, W) -> (B, N, C)."""
    rows, columns = shape
    return F.avg_pool2d(images, (images.shape[2] // rows, images.shape[3] // columns)).flatten(2).mT


# ----------------------------------------------------------------------------------------------------- coverage


def coverage_order(A: Tensor, u: Tensor | None = None, chunk_bytes: int = 4 << 20) -> Tensor:
    """The greedy order of F(S) = sum_i u_i (1 - prod over j in S of (1 - A_ij)), A_ii = 1: A (B, N, N) -> (B, N) long.

    u: (B, N) >= 0, what there is to learn at each patch, 1 by default. F is monotone and submodular, so every prefix is within
    1 - 1/e of the best set of its size (Nemhauser, Wolsey and Fisher 1978). Equal gains go to the lower index. As many images
    at a time as have float64 graphs of `chunk_bytes`.
    """
    N = A.shape[-1]
    u = torch.ones_like(A[..., 0]) if u is None else u
    together = max(1, chunk_bytes // (8 * N * N))
    found = [_coverage(a, w) for a, w in zip(A.split(together), u.split(together), strict=True)]
    return torch.cat(found)


def _coverage(A: Tensor, u: Tensor) -> Tensor:
    B, N, _ = A.shape
    A = A.double().masked_fill(torch.eye(N, dtype=torch.bool, device=A.device), 1)
    left = u.double()[..., None].clone()  # (B, N, 1)
    taken, order = torch.zeros(B, N, dtype=torch.bool, device=A.device), []
    for _ in range(N):
        gain = (left * A).sum(1).masked_fill(taken, -1)  # (B, N)
        best = gain.argmax(1, keepdim=True)
        order.append(best)
        taken.scatter_(1, best, True)
        left = left * (1 - A.gather(2, best[:, None].expand(-1, N, -1)))
    return torch.cat(order, 1)


# ------------------------------------------------------------------------------------------ doubts of a predictor


def next_patches(doubt: Tensor, seen: Tensor, kernel: Tensor, beside: Tensor, count: int) -> Tensor:
    """The `count` patches to see next, best first: those around which the kernel finds most doubt, (B, count) long.

    doubt: (B, N) >= 0, zero where nothing is left to learn; seen: (B, k) long; kernel: (N, N); beside: (N, N) bool, the
    neighbours of each patch. A patch beside one of the same step is taken only where no other is left.
    """
    score = (doubt.to(kernel) @ kernel).scatter(1, seen, -torch.inf)  # (B, N)
    crowded, chosen = torch.zeros_like(score, dtype=torch.bool), []
    for _ in range(count):
        alone = score.masked_fill(crowded, -torch.inf)
        alone = torch.where(alone.amax(1, keepdim=True) > -torch.inf, alone, score)
        chosen.append(alone.argmax(1, keepdim=True))
        score = score.scatter(1, chosen[-1], -torch.inf)
        crowded |= beside[chosen[-1][:, 0]]
    return torch.cat(chosen, 1)


def check_steps(num_tokens: int, per_step: int, patches: int) -> None:
    """Raises ValueError for numbers of patches that an image of `num_tokens` does not have."""
    for name, value in (("patches", patches), ("per_step", per_step)):
        if not isinstance(value, int) or not 1 <= value <= num_tokens:
            raise ValueError(f"{name} is {value!r}; expected a whole number from 1 to {num_tokens}, the patches of the image")


def greedy_looks(doubt: Callable[[Tensor], Tensor], shape: tuple[int, int], width: float | None, per_step: int,
                 patches: int | None = None) -> Tensor:  # fmt: skip
    """The order of one who looks where most doubt is left, step by step: (B, patches) long, all N of them by default.

    doubt: from the patches seen so far, (B, k) long in the order in which they were seen, to the doubt about every patch,
    (B, N), zero at the seen ones. It is called once a step, with a single empty row at first: where that alone tells what
    B is, it returns B rows. width: of the Gaussian kernel that sums the doubt around a patch, in patches; None: the doubt at
    the patch alone. per_step: patches
    chosen from one look; where it does not divide, the last step takes fewer.
    Raises ValueError for numbers of patches that cannot be.
    """
    N = shape[0] * shape[1]
    patches = N if patches is None else patches
    check_steps(N, per_step, patches)
    first = doubt(torch.empty(1, 0, dtype=torch.long))
    kernel = torch.eye(N, dtype=torch.float64) if width is None else gaussian_kernel(shape, width)
    kernel, beside = kernel.to(first.device), (distances(shape) <= 2).to(first.device)
    order = torch.empty(len(first), 0, dtype=torch.long, device=first.device)
    while order.shape[1] < patches:
        left = doubt(order) if order.shape[1] else first
        order = torch.cat([order, next_patches(left, order, kernel, beside, min(per_step, patches - order.shape[1]))], 1)
    return order


def one_step_ahead(loss: Callable[[Tensor], Tensor], images: int, num_tokens: int, patches: int) -> Tensor:
    """The order of one who may try every patch before choosing: each is the one after which least is lost, (B, patches) long.

    loss: from sets of patches to what is lost with each of them, (B, M, k) long -> (B, M), for M sets per image. It is called
    once a step, with the patches chosen so far and each other one in turn. Raises ValueError for more patches than there are."""
    check_steps(num_tokens, 1, patches)
    order, left = torch.empty(images, 0, dtype=torch.long), torch.arange(num_tokens).expand(images, -1)
    for _ in range(patches):
        tried = torch.cat([order[:, None].expand(-1, left.shape[1], -1), left[..., None]], -1)  # (B, N - k, k + 1)
        best = left.gather(1, loss(tried).argmin(1, keepdim=True).cpu())
        order, left = torch.cat([order, best], 1), left[left != best].view(images, -1)
    return order


@torch.no_grad()
def predictor_doubt(predictor, tokens: Tensor, kind: str, seen: Tensor) -> Tensor:
    """The doubt about every patch once the patches `seen` (B, k) are known, (B, N), zero at those.

    predictor: a `TokenPredictor`. kind: `active`, its predicted scale; `surprise`, the error of its prediction, which only who
    knows the image can tell; `attention entropy`, of the last attention map at the patch, as AME does (Pardyl et al. 2023).
    The first two are sums over the C values. tokens: (B, N, C), of which `active` and `attention entropy` read the seen ones
    only. Raises ValueError for an unknown kind.
    """
    if kind not in DOUBTS:
        raise ValueError(f"unknown doubt {kind!r}; expected one of {', '.join(DOUBTS)}")
    seen = seen.to(tokens.device).expand(len(tokens), -1)
    known = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device).scatter_(1, seen, True)
    hidden = (~known).nonzero()[:, 1].view(len(tokens), -1)  # (B, N - k)
    if kind == "attention entropy":
        doubt = predictor.attention_entropy(tokens, known, hidden)  # (B, N - k)
    else:
        mean, scale = predictor(tokens, known, hidden)  # (B, N - k, C) each
        true = tokens.gather(1, hidden[..., None].expand_as(mean)) if kind == "surprise" else None
        doubt = (scale if true is None else (true - mean).abs()).sum(-1)
    return torch.zeros_like(tokens[..., 0]).scatter_(1, hidden, doubt.to(tokens.dtype))


def looking_order(predictor, tokens: Tensor, kind: str, width: float | None, per_step: int, patches: int | None = None,
                  chunk_bytes: int = 4 << 20) -> Tensor:  # fmt: skip
    """The order of each image by what a predictor doubts, `predictor_doubt`: tokens (B, N, C) -> (B, patches) long. kind CACHED: that of a
    `CachedPredictor`.

    width, per_step, patches: as in `greedy_looks`. The activations of the images that run at once stay below `chunk_bytes`,
    each group through all of its steps, so that on a CPU they stay in the cache."""
    def of(x: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda seen: predictor_doubt(predictor, x, kind, seen)

    doubt = predictor.looker if kind == CACHED else of
    parts, side = tokens.split(max(1, chunk_bytes // predictor.sequence_bytes)), predictor.grid
    return torch.cat([greedy_looks(doubt(x), (side, side), width, per_step, patches) for x in parts])
