"""The measured graph in one pass: from the content of a patch (and its place) to what it tells every other patch.

A column of `measured.measured_graph` depends on one patch alone: what j tells when nothing else is seen. So a small network per
patch, without attention over the image, can know it, N passes of the predictor become one product of matrices, and with
*offsets* n - j in the place of places one network ranks any grid and any aspect ratio. Letters: B images, N patches of an R x Q
grid (N = R Q, row-major), C values of a token, G patches per side of the grid it was trained on, O outputs per patch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cop.configs import OnePassConfig
from cop.devices import own_device
from cop.paper.blocks import init_weights
from cop.paper.entropy import excess_nll
from cop.paper.hub import Pretrained
from cop.paper.measured import graph_of

KINDS = ("places", "offsets", "offsets_placed")
LEARN = ("distil", "likelihood")
VERSION = 1  # of the network; raise it when the same weights would mean something else


class Described(nn.Module, Pretrained):
    """A network whose weights say what they are for: the numbers `describe` was given travel with them.

    Loading others raises ValueError naming both, not a list of shapes."""

    def describe(self, **numbers: int) -> None:
        self.names = tuple(numbers)
        self.register_buffer("description", torch.tensor(list(numbers.values())))

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        found, want = state_dict.get(f"{prefix}description"), self.description.tolist()
        found = None if found is None else found.tolist()
        if found != want:
            told = "nothing" if found is None or len(found) != len(want) else ", ".join(
                f"{name} {a}" for name, a, b in zip(self.names, found, want, strict=True) if a != b)  # fmt: skip
            mine = ", ".join(f"{name} {a}" for name, a in zip(self.names, want, strict=True))
            raise ValueError(f"the weights say {told}, and this {type(self).__name__} has {mine}; expected weights of the same "
                             "network: take those of this profile, or train it anew")  # fmt: skip
        super()._load_from_state_dict(state_dict, prefix, *rest)


class OnePass(Described):
    """An MLP on each patch. kind of the config:

    places          content and place of j -> one number for each of the G x G places
    offsets         content of j alone -> one number for each of the (2 G - 1) x (2 G - 1) offsets n - j: any grid
    offsets_placed  content and place of j -> the same: the grid it was trained on, or a smaller one in its upper left

    learn `distil`: a number is the entry A_nj itself. `likelihood`: for each offset a Laplace distribution of the C values of n,
    and one more without any patch, from whose scales A follows (C times the outputs, no predictor needed). On a grid that is
    larger than G, an offset that was never met tells nothing. Raises ValueError for an unknown kind, learn or loss.
    """

    def __init__(self, grid: int, dim: int, cfg: OnePassConfig):
        super().__init__()
        known = (("kind", cfg.kind, KINDS), ("learn", cfg.learn, LEARN), ("loss", cfg.loss, ("l1", "mse")))
        for name, value, allowed in known:
            if value not in allowed:
                raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(allowed)}")
        self.cfg, self.grid, self.dim = cfg, grid, dim
        outputs = grid**2 if cfg.kind == "places" else (2 * grid - 1) ** 2  # O
        self.values = 2 * dim if cfg.learn == "likelihood" else 1  # numbers per output
        self.embed = nn.Linear(dim, cfg.width)
        if cfg.kind != "offsets":
            self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(grid**2, cfg.width), std=0.02))
        layers = [nn.GELU()]
        for _ in range(cfg.depth - 1):
            layers += [nn.Linear(cfg.width, cfg.width), nn.GELU()]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(cfg.width, outputs * self.values)
        if cfg.learn == "likelihood":  # of a patch when nothing is seen; by places if it knows any
            self.prior = nn.Parameter(torch.zeros(1 if cfg.kind == "offsets" else grid**2, 2 * dim))
        self.describe(version=VERSION, kind=KINDS.index(cfg.kind), learn=LEARN.index(cfg.learn), grid=grid, dim=dim,
                      width=cfg.width, depth=cfg.depth)  # fmt: skip
        self.apply(init_weights)
        for layer in (self.embed, *self.body):
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def outputs_of(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Which output speaks of patch n, for each j: (N, N) by j and n, and whether it was ever trained."""
        place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(-1, 2)  # (N, 2)
        if self.cfg.kind == "places":
            which = (place * torch.tensor([self.grid, 1])).sum(1).expand(len(place), -1)
            return which, torch.ones_like(which, dtype=torch.bool)
        offset = place[None] - place[:, None]  # (N, N, 2) n - j
        met = (offset.abs() < self.grid).all(-1)
        offset = offset.clamp(1 - self.grid, self.grid - 1) + self.grid - 1
        return offset[..., 0] * (2 * self.grid - 1) + offset[..., 1], met

    def _shape(self, tokens: Tensor, shape: tuple[int, int] | None) -> tuple[int, int]:
        rows, columns = shape or (self.grid, self.grid)
        if tokens.ndim != 3 or tokens.shape[1:] != (rows * columns, self.dim) or not tokens.is_floating_point():
            raise ValueError(f"tokens are {tuple(tokens.shape)} {tokens.dtype}; expected float (B, {rows * columns}, {self.dim}): "
                             f"{rows} x {columns} patches of {self.dim} values, as the weights of this ranker were trained for")  # fmt: skip
        if self.cfg.kind != "offsets" and max(rows, columns) > self.grid:
            raise ValueError(f"the grid is {rows} x {columns} and a ranker of kind {self.cfg.kind!r} knows {self.grid} x "
                             f"{self.grid} places; expected at most those, or the kind 'offsets', which ranks any grid")  # fmt: skip
        if not tokens.isfinite().all():
            raise ValueError("tokens have NaN or infinite values; expected finite ones. Look for NaN in the images")
        return rows, columns

    def hidden(self, tokens: Tensor, rows: int, columns: int, sources: Tensor | None = None) -> Tensor:
        """The last hidden layer of every patch, or of the patches `sources` (K,): (B, N or K, width)."""
        x = self.embed(tokens if sources is None else tokens[:, sources])
        if self.cfg.kind != "offsets":
            place = self.position.view(self.grid, self.grid, -1)[:rows, :columns].flatten(0, 1)
            x = x + (place if sources is None else place[sources])
        return self.body(x)

    @own_device
    def forward(self, tokens: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """What each patch j tells each n, not clamped: tokens (B, N, C) of a grid of `shape` -> (B, N, N) by n and j."""
        rows, columns = self._shape(tokens, shape)
        which, met = (t.to(tokens.device) for t in self.outputs_of(rows, columns))
        x = self.hidden(tokens, rows, columns)
        if self.cfg.learn == "distil":
            told = self.head(x).gather(2, which.expand(len(x), -1, -1))  # (B, N, N) by j and n
            return (told * met).mT
        C = self.dim
        weight, bias = (t.unflatten(0, (-1, 2 * C))[:, C:].flatten(0, 1) for t in (self.head.weight, self.head.bias))
        scales = (F.linear(y, weight, bias).unflatten(-1, (-1, C)) for y in x)  # image by image: (N, O, C)
        after = torch.stack([self._scale(s).sum(-1) for s in scales])  # (B, N, O)
        after = after.gather(2, which.expand(len(x), -1, -1)).mT  # (B, N, N) by n and j
        before = self._scale(self._prior(rows, columns)[:, C:]).sum(-1)[:, None]  # (N or 1, 1)
        return (1 - after / before) * met

    @torch.no_grad()
    def graph(self, tokens: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """The graph of each image, for `ranking.pagerank`: tokens (B, N, C) -> A (B, N, N) in [0, 1], zero diagonal.

        shape: rows and columns of the grid, G x G by default. A constant image and a 1 x 1 grid have graphs too, which give an
        order. Raises ValueError for tokens of another grid or width, naming both, and for NaN.
        """
        told = self(tokens, shape)
        return graph_of(torch.ones_like(told[..., 0]), 1 - told)

    def _scale(self, x: Tensor) -> Tensor:
        return self.cfg.floor + F.softplus(x)

    def _prior(self, rows: int, columns: int) -> Tensor:
        if self.cfg.kind == "offsets":
            return self.prior
        return self.prior.view(self.grid, self.grid, -1)[:rows, :columns].flatten(0, 1)


def distil_loss(model: OnePass, tokens: Tensor, A: Tensor) -> Tensor:
    """Mean absolute (or squared) error of the edges against exact graphs: tokens (B, N, C), A (B, N, N)."""
    off = ~torch.eye(A.shape[1], dtype=torch.bool, device=A.device)
    error = (model(tokens) - A)[:, off]
    return error.abs().mean() if model.cfg.loss == "l1" else error.square().mean()


def likelihood_loss(model: OnePass, tokens: Tensor, generator: torch.Generator, sources: int = 8) -> Tensor:
    """Mean excess NLL per value (nats) of every patch given one other, and given none: tokens (B, N, C).

    A few random patches of the batch (`sources`) are seen, each by itself. Needs no predictor and no exact graph."""
    B, N, C = tokens.shape
    G = model.grid
    j = torch.randperm(N, generator=generator)[:sources].to(tokens.device)
    which = model.outputs_of(G, G)[0].to(tokens.device)[j]  # (K, N)
    out = model.head(model.hidden(tokens, G, G, j)).unflatten(-1, (-1, 2 * C))  # (B, K, O, 2 C)
    out = out.gather(2, which[None, :, :, None].expand(B, -1, -1, 2 * C))  # (B, K, N, 2 C)
    mean, scale = out[..., :C], model._scale(out[..., C:])
    cost = excess_nll(tokens[:, None], mean, scale, model.cfg.floor)[:, j[:, None] != torch.arange(N).to(j)]
    prior = model._prior(G, G)
    return cost.mean() + excess_nll(tokens, prior[:, :C], model._scale(prior[:, C:]), model.cfg.floor).mean()
