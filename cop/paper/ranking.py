"""From dependencies to the collapse order: batched PageRank (section 3.2, Eq. 15) and the graph for the reader.

`A[b, i, j]` is how much target i relies on patch j (`CoMAE.dependencies`). In the graph the edge i -> j points from
a target to what it relies on, so PageRank flows to the patches that others rely on.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import networkx as nx


def pagerank(
    A: Tensor,
    damping: float = 0.85,
    teleport: Tensor | None = None,
    orientation: str = "relied_upon",
    tol: float = 1e-12,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """PageRank scores of dependency graphs, Eq. 15: r = (1 - c) beta + c P r. Rows sum to 1.

    A: (B, N, N) or (N, N), non-negative; damping c in [0, 1); teleport beta: (N,) or (B, N), non-negative with a
    positive sum (normalised here), uniform by default. Self-loops count as they stand in A; `dependencies` has none.

    orientation `relied_upon` (default): P is the row-normalised A, transposed, as `networkx.pagerank` on the edges
    target -> source: patches that many rely on score high, which is the paper's prose and Fig. 2. `literal` is
    section 6 as printed, "column-stochastic P of A": it normalises the columns of A and so scores the patches that
    *rely* on others. A row (column) without any weight spreads over the teleport vector.

    Power iteration, all graphs at once, until no score moves by more than `tol`; the iteration count is bounded by
    log(tol) / log(damping). Returns (B, N) or (N,) in `dtype`. Raises ValueError for bad shapes, NaN, negative
    entries, damping outside [0, 1), a bad teleport vector or an unknown orientation.
    """
    _check_graph(A)
    if not 0 <= damping < 1:
        raise ValueError(f"damping is {damping}; expected a number in [0, 1), usually 0.85")
    if orientation not in ("relied_upon", "literal"):
        raise ValueError(f"unknown orientation {orientation!r}; expected relied_upon or literal")
    G = A if A.ndim == 3 else A[None]
    G = G if orientation == "relied_upon" else G.transpose(1, 2)
    B, N, _ = G.shape
    beta = _teleport(teleport, B, N, dtype, A.device)
    # On a CPU a few graphs at a time, so that their matrices stay in the cache from one iteration to the next.
    together = B if G.is_cuda else max(1, (1 << 20) // (N * N * dtype.itemsize))
    parts = zip(G.split(together), beta.split(together), strict=True)
    r = torch.cat([_power_iteration(g.to(dtype), b, damping, max(tol, torch.finfo(dtype).eps)) for g, b in parts])
    return r if A.ndim == 3 else r[0]


def _power_iteration(G: Tensor, beta: Tensor, damping: float, tol: float, check_every: int = 4) -> Tensor:
    """Eq. 15 as row vectors, r <- (1 - c) beta + r (c P^T), for non-negative G (B, N, N) and beta (B, N)."""
    total = G.sum(2, keepdim=True)  # (B, N, 1)
    share = torch.where(total > 0, G / total.masked_fill(total == 0, 1), beta[:, None])  # (B, N, N) rows sum to 1
    share, base, r = share * damping, (1 - damping) * beta[:, None], beta[:, None]
    limit = math.ceil(math.log(tol) / math.log(damping)) if damping else 1
    for _ in range(0, limit, check_every):
        for _ in range(check_every):
            old, r = r, torch.baddbmm(base, r, share)  # (B, 1, N)
        if (r - old).abs().max() <= tol:
            break
    return r[:, 0]


def in_strength(A: Tensor) -> Tensor:
    """How much all targets together rely on each patch: the column sums of A (B, N, N) -> (B, N).

    The simplest alternative to PageRank; on dense graphs the two nearly agree."""
    return A.sum(-2)


def to_networkx(A: Tensor, scores: Tensor | None = None) -> "nx.DiGraph":
    """One image's dependency graph A (N, N) for networkx: edge target -> source with `weight`; nodes carry `score`.

    Edges of weight 0 are left out. Raises ValueError for a batch of graphs."""
    import networkx as nx  # nothing else here needs it

    _check_graph(A)
    if A.ndim != 2:
        raise ValueError(f"got {tuple(A.shape)}: expected the (N, N) graph of one image, for example A[0]")
    graph = nx.from_numpy_array(A.detach().cpu().double().numpy(), create_using=nx.DiGraph)
    if scores is not None:
        nx.set_node_attributes(graph, dict(enumerate(scores.tolist())), "score")
    return graph


def _check_graph(A: Tensor) -> None:
    if A.ndim not in (2, 3) or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A has shape {tuple(A.shape)}; expected square dependency graphs (B, N, N) or (N, N)")
    low, high = A.aminmax()  # one pass; NaN anywhere makes both NaN
    if not (low >= 0 and high < math.inf):
        raise ValueError("A has NaN, infinite or negative entries; expected weights in [0, 1] from CoMAE.dependencies")


def _teleport(teleport: Tensor | None, B: int, N: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if teleport is None:
        return torch.full((B, N), 1 / N, dtype=dtype, device=device)
    if teleport.shape not in ((N,), (B, N)):
        raise ValueError(f"teleport has shape {tuple(teleport.shape)}; expected ({N},) or ({B}, {N})")
    beta = teleport.to(device, dtype).expand(B, N)
    if not torch.isfinite(beta).all() or (beta < 0).any() or (beta.sum(1) <= 0).any():
        raise ValueError("teleport must be finite and non-negative with a positive sum in every row")
    return beta / beta.sum(1, keepdim=True)
