"""A graph network in the place of CoMAE's encoder passes, with PageRank as a layer on top.

CoMAE's graph is no function of pairs: which patches a target relies on depends on the whole image. Blocks of attention pass
messages between all patches once, a bilinear form of the results predicts every edge, and PageRank is differentiated through its
fixed point, so that edges and order are learned jointly. Letters: B images, N patches, C values of a token, D width.
"""

import torch
from torch import Tensor, nn

from cop.configs import GraphNetConfig
from cop.devices import own_device
from cop.paper.blocks import Block, init_weights, rope_angles
from cop.paper.onepass import Described
from cop.paper.patches import check_tokens
from cop.paper.ranking import pagerank

VERSION = 1  # of the network; raise it when the same weights would mean something else


class _PageRank(torch.autograd.Function):
    """r = (1 - c) / N + c P^T r with P the row-normalised A. Differentiating both sides, with dL/dr = g:

        l = (I - c P)^-1 g,    dL/dP_ij = c r_i l_j,    dL/dA_ij = (dL/dP_ij - sum_k P_ik dL/dP_ik) / sum_k A_ik.

    One more linear solve, whatever the number of iterations; a row of zeros is a constant 1 / N and has no gradient."""

    @staticmethod
    def forward(ctx, A: Tensor, damping: float) -> Tensor:
        r = pagerank(A, damping, dtype=A.dtype)
        ctx.save_for_backward(A, r)
        ctx.damping = damping
        return r

    @staticmethod
    def backward(ctx, grad: Tensor):
        A, r = ctx.saved_tensors
        N, total = A.shape[-1], A.sum(-1, keepdim=True)
        empty = total == 0
        P = torch.where(empty, 1 / N, A / total.masked_fill(empty, 1))
        eye = torch.eye(N, dtype=A.dtype, device=A.device)
        told = torch.linalg.solve(eye - ctx.damping * P, grad[..., None])[..., 0]  # (B, N)
        dP = ctx.damping * r[..., None] * told[..., None, :]  # (B, N, N)
        dA = (dP - (P * dP).sum(-1, keepdim=True)) / total.masked_fill(empty, 1)
        return dA.masked_fill(empty, 0), None


def differentiable_pagerank(A: Tensor, damping: float = 0.85) -> Tensor:
    """`ranking.pagerank(A, damping)` in A's own precision, with gradients to A: (B, N, N) -> (B, N)."""
    return _PageRank.apply(A, damping)


class GraphNet(Described):
    """tokens -> all edges in one pass. grid: patches per side; dim: values per token."""

    def __init__(self, grid: int, dim: int, cfg: GraphNetConfig):
        super().__init__()
        if cfg.dim % cfg.heads:
            raise ValueError(f"width {cfg.dim} does not divide into {cfg.heads} heads: change either")
        self.cfg, self.grid, self.dim = cfg, grid, dim
        N, D = grid**2, cfg.dim
        self.embed = nn.Linear(dim, D)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(N, D), std=0.02))
        self.blocks = nn.ModuleList(Block(D, cfg.heads) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(D)
        self.target, self.source = nn.Linear(D, D), nn.Linear(D, D)
        self.edges = nn.Parameter(torch.zeros(N, N))  # the mean graph of all images, as logits
        angles = rope_angles(torch.arange(N), grid, D // cfg.heads)
        self.register_buffer("rotation", torch.polar(torch.ones_like(angles), angles), persistent=False)
        self.describe(version=VERSION, grid=grid, dim=dim, width=D, depth=cfg.depth, heads=cfg.heads)
        self.apply(init_weights)

    @own_device
    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, N, C) -> A (B, N, N) in [0, 1] by target and source, zero diagonal.

        Always positive off the diagonal, so a constant image has an order too. Raises ValueError for tokens of another grid or
        width, or with NaN."""
        check_tokens(tokens, self.grid, self.dim)
        x = self.embed(tokens) + self.position
        for block in self.blocks:
            x = block(x, self.rotation)
        x = self.norm(x)
        logits = self.target(x) @ self.source(x).mT / self.cfg.dim**0.5 + self.edges
        return logits.sigmoid().masked_fill(torch.eye(self.grid**2, dtype=torch.bool, device=x.device), 0)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of all values of a and b, 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12)


def graph_loss(model: GraphNet, tokens: Tensor, A: Tensor, damping: float = 0.85) -> dict[str, Tensor]:
    """Edges and order jointly: tokens (B, N, C), exact graphs A (B, N, N). Scalars `loss`, `edges`, `order`.

    `edges`: mean absolute error. `order`: 1 minus the correlation of the logarithms of PageRank's scores with the exact ones, and
    the same after the batch's mean of every patch is taken out of both, which no mean order can lower; its mean over the two."""
    found = model(tokens)
    edges = (found - A).abs().mean()
    r = [differentiable_pagerank(G.double(), damping).log() for G in (found, A)]
    order = 1 - (correlation(*r) + correlation(*[x - x.mean(0) for x in r])) / 2
    return {"loss": edges + model.cfg.order_weight * order, "edges": edges, "order": order}
