"""Measured dependencies: how much less uncertain a predictor of masked tokens is about patch n once it has seen patch j.

CoMAE's objective leaves open which patches a mask keeps, so two trainings find two graphs. An influence is determined by the
data where a selection is not: here an entry of the graph is measured with the predictor of `cop.paper.entropy`,

    A[b, n, j] = 1 - u(n | j) / u(n | nothing)      clamped to [0, 1], the diagonal 0,

u being an uncertainty about the C values of a patch. The layout is that of `CoMAE.dependencies` (target, then source), so
`ranking.pagerank` and `ranking.in_strength` run on it unchanged. Every graph of this module gives an order: a row without weight
spreads over all patches in PageRank, equal scores are resolved by the lower index, and a 1 x 1 grid has the graph [[0]].
"""

import math

import torch
from torch import Tensor

from cop.paper.entropy import GaussianTokens, excess_nll, half_logdet
from cop.paper.patches import check_tokens

UNITS = ("scale", "nats", "actual")
ALONE = ("seen", "hidden")


def uncertainty(predictor, tokens: Tensor, seen: Tensor, unit: str = "scale") -> Tensor:
    """How uncertain a predictor is about every patch, (B, N), summed over the C values of a patch.

    tokens: (B, N, C); seen: bool (B, N). unit: `scale`, the predicted scale; `nats`, the entropy that it stands for, above the
    floor; `actual`, what the true value costs in nats above the floor, so that a surprise counts and not a doubt. >= 0; at seen
    patches without meaning. Raises ValueError for an unknown unit.
    """
    if unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}; expected one of {', '.join(UNITS)}")
    mean, scale = predictor(tokens, seen)  # (B, N, C) each
    if unit == "scale":
        return scale.sum(-1)
    if unit == "nats":
        return (scale / predictor.floor).log().sum(-1)
    return excess_nll(tokens, mean, scale, predictor.floor).sum(-1)


@torch.no_grad()
def measured_graph(
    predictor, tokens: Tensor, unit: str = "scale", alone: str = "seen", chunk_bytes: int = 64 << 20
) -> Tensor:
    """The measured dependency graph of each image: tokens (B, N, C) -> A (B, N, N) in [0, 1], zero diagonal.

    predictor: a `TokenPredictor`, or anything that maps (tokens, seen) to mean and scale and has `floor`, `grid`, `dim` and
    `sequence_bytes`. unit: see `uncertainty`. alone: `seen`, what j tells about n when nothing else is seen, N + 1 passes per
    image; `hidden`, what is lost about n when of the other patches j alone is hidden, 1 - u(n | all others) / u(n | all others
    but j), N (N + 1) / 2 passes. The activations of the passes that run at once stay below `chunk_bytes`.

    A constant image has a graph like any other (its row says what the predictor expects). Raises ValueError for tokens of another
    grid or width than the predictor's, for NaN, and for an unknown unit or `alone`.
    """
    check_tokens(tokens, predictor.grid, predictor.dim)
    if alone not in ALONE:
        raise ValueError(f"unknown alone {alone!r}; expected seen or hidden")
    N = tokens.shape[1]
    one = torch.eye(N, dtype=torch.bool, device=tokens.device)
    if alone == "seen":
        seen = torch.cat([torch.zeros_like(one[:1]), one])  # (N + 1, N)
        u = torch.cat([_passes(predictor, x, seen, unit, chunk_bytes) for x in tokens.split(1 + 4096 // N)])
        return graph_of(u[:, 0], u[:, 1:].mT)
    n, j = torch.triu_indices(N, N, 1, device=tokens.device)  # a pass without n and j serves both
    graphs = []
    for x in tokens.split(1):
        with_all = _passes(predictor, x, ~one, unit, chunk_bytes).diagonal(dim1=1, dim2=2)  # (1, N)
        pairs = _passes(predictor, x, ~(one[n] | one[j]), unit, chunk_bytes)  # (1, pairs, N)
        without = torch.ones(1, N, N, dtype=x.dtype, device=x.device)
        without[:, n, j] = pairs.gather(2, n.view(1, -1, 1))[..., 0]
        without[:, j, n] = pairs.gather(2, j.view(1, -1, 1))[..., 0]
        graphs.append(graph_of(without, with_all[:, :, None].expand_as(without)))
    return torch.cat(graphs)


def _passes(predictor, tokens: Tensor, seen: Tensor, unit: str, chunk_bytes: int) -> Tensor:
    """The uncertainty about every patch of every image (B, N, C) with each of the masks (M, N): (B, M, N)."""
    rows = max(1, chunk_bytes // predictor.sequence_bytes)
    parts = []
    for x in tokens.split(max(1, rows // max(1, len(seen)))):
        found = [uncertainty(predictor, x.repeat_interleave(len(s), 0), s.repeat(len(x), 1), unit).unflatten(0, (len(x), -1))
                 for s in seen.split(rows)]  # fmt: skip
        parts.append(torch.cat(found, 1) if found else x.new_zeros(len(x), 0, x.shape[1]))
    return torch.cat(parts)


def graph_of(before: Tensor, after: Tensor) -> Tensor:
    """1 - after / before in [0, 1] with a zero diagonal: before (..., N) or (..., N, N), after (..., N, N) by target and source.
    A target of which nothing is unknown has a row of zeros."""
    before = before if before.ndim == after.ndim else before[..., None]
    A = torch.where(before > 0, 1 - after / before.clamp_min(1e-30), 0).clamp(0, 1)
    return A.masked_fill(torch.eye(A.shape[-1], dtype=torch.bool, device=A.device), 0)


def weighed(A: Tensor, u: Tensor) -> Tensor:
    """The graph A (B, N, N) whose targets vote as loudly as there is to learn about them, u (B, N) >= 0: for `pagerank`.

    PageRank gives every row the same sum, so a patch of which nothing is unknown votes like any other. Here target n casts the
    share u_n / max(u) of its vote along its edges and spreads the rest evenly: rows sum to 1 whatever A, and a row of zeros
    spreads all of it. For `in_strength` multiply the rows: `in_strength(u[..., None] * A)`.
    """
    N, total = A.shape[-1], A.sum(-1, keepdim=True)
    loud = (u / u.amax(-1, keepdim=True).clamp_min(1e-30))[..., None] * (total > 0)  # (B, N, 1)
    return loud * A / total.clamp_min(1e-30) + (1 - loud) / N


# ------------------------------------------------------------------------------------------------- closed form


def laplace_scale(std: Tensor, floor: float) -> Tensor:
    """The scale that a perfect predictor gives a Gaussian value of standard deviation `std`: the minimum of `excess_nll`.

    Its expected error is E|d + noise| = std sqrt(2 / pi) + floor erfcx(std / (floor sqrt 2)), d Gaussian, the noise Laplace."""
    return std * math.sqrt(2 / math.pi) + floor * torch.special.erfcx(std / (floor * math.sqrt(2)))


def gaussian_graph(
    model: GaussianTokens, unit: str = "scale", alone: str = "seen", floor: float | None = None
) -> Tensor:
    """The graph (N, N) that a perfect predictor measures where the tokens are samples of a Gaussian, in closed form, float64.

    It depends on which patches are seen and not on their values: all images have one graph. unit `scale` and `nats` are those of
    `uncertainty`, of the best Laplace distribution of every value by itself; `logdet` is the entropy of the C values together,
    1 - H(e_n | e_j) / H(e_n), a ratio of log-determinants. With C = 1 and a small floor `scale` is 1 - sqrt(1 - rho^2), the
    square root of a ratio of determinants. floor: of the predictor, by default the model's. Raises ValueError as `measured_graph`.
    """
    if unit not in ("scale", "nats", "logdet") or alone not in ALONE:
        raise ValueError(f"unit is {unit!r}, alone is {alone!r}; expected scale, nats or logdet, and seen or hidden")
    N, C, floor = model.N, model.C, floor or model.floor
    blocks = model.cov.view(N, C, N, C).transpose(1, 2)  # (N, N, C, C) covariance of n with j
    own = blocks[range(N), range(N)]  # (N, C, C)
    if alone == "seen":  # the Schur complement of j in the covariance
        told = blocks @ torch.linalg.inv(own) @ blocks.mT  # (N, N, C, C) explained by j
        before, after = own[:, None].expand_as(told), own[:, None] - told
    else:  # the precision of n and j is the inverse of their covariance given all others
        precision = torch.linalg.inv(model.cov).view(N, C, N, C).transpose(1, 2)
        alike = precision[range(N), range(N)]  # (N, C, C) inverse covariance of n given all others
        off = precision @ torch.linalg.inv(alike) @ precision.mT  # (N, N, C, C)
        off[range(N), range(N)] = 0
        after = torch.linalg.inv(alike)[:, None].expand_as(off)
        before = torch.linalg.inv(alike[:, None] - off)  # covariance of n given all others but j
    after = torch.where(torch.eye(N, dtype=torch.bool)[..., None, None].to(own.device), before, after)

    def amount(cov: Tensor) -> Tensor:
        if unit == "logdet":
            return half_logdet(cov) - C * math.log(floor)
        scale = laplace_scale(cov.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt(), floor)  # (N, N, C)
        return (scale if unit == "scale" else (scale / floor).log()).sum(-1)

    return graph_of(amount(before), amount(after))
