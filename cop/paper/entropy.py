"""Patch entropy: Eq. 1 made computable, by an exact Gaussian model and by a learned predictor.

What an order can change. Eq. 1 adds up H(e_n | all patches seen before e_n). By the chain rule that sum IS
the joint entropy H(e_1, ..., e_N), whatever the order: Eq. 1 as printed cannot prefer one order to another
(see `chain_terms`). Orders differ in how FAST uncertainty falls, so we measure what remains after k patches

    sum curve    R_k = sum over unseen n of H(e_n | S_k)     every unseen patch guessed by itself (Eq. 8)
    joint curve  J_k = H(all unseen patches | S_k)           all unseen patches guessed together

and summarise a curve by its normalised `area`: the lower, the faster the collapse.

Where zero lies. A constant pixel has differential entropy minus infinity, so we speak of the noisy token
x = e + noise, independent noise of scale `floor` per value (what we do not care to tell apart), and count
entropy ABOVE that of the noise: >= 0, in nats. B images or orders, N patches, C values of a patch.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cop.configs import PredictorConfig
from cop.devices import at_a_time, own_device
from cop.orders import check_ranking, random_order, ranks_of
from cop.paper.blocks import Block, init_weights, rope_angles
from cop.paper.hub import Pretrained


def area(curve: Tensor, ks: Tensor | list[int] | None = None) -> Tensor:
    """Normalised area under remaining curves (B, K): (B,). 1 = nothing learnt on the way, lower is faster.

    The mean over k = 0..N-1 of curve_k / curve_0, nan if curve_0 is 0. With `ks`, the prefix sizes of the K
    columns (ascending, from 0 to N), the curve is interpolated linearly; without, column k is prefix k.
    """
    if ks is not None:
        ks = torch.as_tensor(ks, device=curve.device)
        k = torch.arange(int(ks[-1]) + 1, device=curve.device)
        right = torch.searchsorted(ks, k).clamp(min=1)
        part = (k - ks[right - 1]) / (ks[right] - ks[right - 1]).to(curve.dtype)
        curve = torch.lerp(curve[..., right - 1], curve[..., right], part)
    return curve[..., :-1].mean(-1) / curve[..., 0]


# --------------------------------------------------------------------------- Gaussian tokens


def half_logdet(matrices: Tensor) -> Tensor:
    """Half the log-determinant of positive definite (..., C, C), a Gaussian entropy but for a constant."""
    return torch.linalg.cholesky(matrices).diagonal(dim1=-2, dim2=-1).log().sum(-1)


class GaussianTokens:
    """All N * C token values of an image as one Gaussian, in which every entropy above is a log-determinant.

    mean: (N, C). cov: (N * C, N * C) of the noisy tokens, so already including floor^2 on its diagonal;
    float64. floor: standard deviation of the observation noise. Entropies depend on which patches are seen,
    never on their values, so a curve belongs to an order, not to an image.
    """

    def __init__(self, mean: Tensor, cov: Tensor, floor: float):
        if not floor > 0:
            raise ValueError(f"floor is {floor}: expected > 0, or constant pixels have no finite entropy")
        self.mean, self.cov, self.floor = mean.double(), cov.double(), floor
        self.N, self.C = mean.shape
        self.noise = self.C * math.log(floor)  # half_logdet of the noise of one patch

    @classmethod
    def fit(cls, tokens: Tensor, floor: float = 0.05, shrinkage: float | None = None) -> "GaussianTokens":
        """Mean and covariance of training tokens (n, N, C).

        shrinkage: weight in [0, 1] of a multiple of the identity. None: Ledoit and Wolf's (2004) below four
        images per value, else 0. Memory: the covariance (8 MiB at 64 x 16 values, 128 MiB at 256 x 16) and,
        with Ledoit-Wolf, two float64 copies of the few images. Raises ValueError for n < 2 or NaN.
        """
        if tokens.ndim != 3 or len(tokens) < 2 or not tokens.isfinite().all():
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)}: expected (n >= 2, N, C) and finite values"
            )
        x, n, dims = tokens.flatten(1), len(tokens), tokens[0].numel()
        mean = sum(block.double().sum(0) for block in x.split(1024)) / n
        cov = torch.zeros(dims, dims, dtype=torch.float64, device=x.device)
        for block in x.split(1024):
            block = block.double() - mean
            cov.addmm_(block.T, block, alpha=1 / n)
        if shrinkage is None and n < 4 * dims:
            from sklearn.covariance import ledoit_wolf_shrinkage  # a second to import

            shrinkage = float(ledoit_wolf_shrinkage((x.double() - mean).cpu().numpy(), assume_centered=True))
        shrinkage, variance = shrinkage or 0.0, cov.diagonal().mean()
        cov.mul_(1 - shrinkage).diagonal().add_(shrinkage * variance + floor**2)
        return cls(mean.view(tokens.shape[1:]), cov, floor)

    def subset(self, patches: Tensor) -> "GaussianTokens":
        """The model of some patches (M,) alone, renumbered 0..M-1: problems small enough to solve exactly."""
        values = (patches[:, None] * self.C + torch.arange(self.C)).flatten().to(self.cov.device)
        return GaussianTokens(self.mean[patches], self.cov[values[:, None], values], self.floor)

    def _factors(self, ranking: Tensor, chunk_bytes: int):
        """Cholesky factors (b, N, C, N, C) of the covariance in the order of each ranking, by chunks."""
        ranking = check_ranking(torch.atleast_2d(ranking), self.N).to(self.cov.device)
        values = (ranking[:, :, None] * self.C + torch.arange(self.C).to(ranking)).flatten(1)  # (B, N * C)
        for v in values.split(max(1, chunk_bytes // (3 * self.cov.numel() * 8))):
            L = torch.linalg.cholesky(self.cov[v[:, :, None], v[:, None, :]])  # (b, N * C, N * C)
            yield L.view(-1, self.N, self.C, self.N, self.C)

    def chain_terms(self, ranking: Tensor, chunk_bytes: int = 256 << 20) -> Tensor:
        """Eq. (1)'s terms H(e_n | patches before it) along each order: (B, N). Every order has the same sum.

        A diagonal block of the Cholesky factor is the root of that patch's covariance given all before it.
        """
        logs = []  # (b, N * C) each
        for L in self._factors(ranking, chunk_bytes):
            logs.append(L.flatten(3).flatten(1, 2).diagonal(dim1=1, dim2=2).log())
        return torch.cat(logs).view(-1, self.N, self.C).sum(-1) - self.noise

    def sum_curve(self, ranking: Tensor, chunk_bytes: int = 256 << 20) -> Tensor:
        """R_k = sum over unseen n of H(e_n | first k patches) for k = 0..N: (B, N + 1), Eq. (8).

        One Cholesky factor per order serves all prefixes: the covariance of patch n given the first k is
        sum_{j = k..n} L_nj L_nj^T (seeing patch j takes exactly that term away), so we start from the last
        prefix and put the terms back: only positive matrices are added, nothing cancels, nothing is inverted.
        """
        curves = []
        for L in self._factors(ranking, chunk_bytes):
            curves.append(L.new_zeros(len(L), self.N + 1))
            given = L.new_zeros(len(L), self.N, self.C, self.C)  # covariance of each patch given the prefix
            for k in reversed(range(self.N)):
                column = L[:, k:, :, k]  # (b, N - k, C, C) what patch k tells about those after it
                given[:, k:] += column @ column.mT
                curves[-1][:, k] = (half_logdet(given[:, k:]) - self.noise).sum(1)
        return torch.cat(curves)

    def greedy_order(self, objective: str = "sum") -> Tensor:
        """The yardstick (N,): at each step the patch that lowers what remains the most.

        Seeing p takes its own entropy off either curve; off the sum curve it also takes what p tells about
        each other unseen patch, the mutual information I(e_n; e_p | S) = -1/2 log det(I - Q^T Q) with Q their
        whitened cross-covariance. It is symmetric: once a pair will do. The rest is one Schur update.
        """
        if objective not in ("sum", "joint"):
            raise ValueError(f"unknown objective {objective!r}; expected 'sum' or 'joint'")
        C, V = self.C, self.cov  # V: covariance of the unseen patches given the seen ones
        left, order = list(range(self.N)), []
        while m := len(left):
            blocks = V.view(m, C, m, C)
            root = torch.linalg.cholesky(blocks[range(m), :, range(m)])  # (m, C, C)
            gain = root.diagonal(dim1=1, dim2=2).log().sum(1) - self.noise  # H(e_p | S)
            if objective == "sum" and m > 1:
                i, j = torch.triu_indices(m, m, 1, device=V.device)
                Q = torch.linalg.solve_triangular(root[i], blocks[i, :, j], upper=False)  # (pairs, C, C)
                Q = torch.linalg.solve_triangular(root[j], Q.mT, upper=False)
                info = -half_logdet(torch.eye(C).to(V) - Q.mT @ Q)  # I(e_i; e_j | S)
                gain = gain.index_add(0, i, info).index_add(0, j, info)
            best = int(gain.argmax())
            order, keep = [*order, left.pop(best)], torch.arange(m) != best
            cross = blocks[best][:, keep].flatten(1)  # (C, (m - 1) * C) covariance of p with the others
            told = torch.linalg.solve_triangular(root[best], cross, upper=False)
            V = blocks[keep][:, :, keep].reshape((m - 1) * C, (m - 1) * C) - told.T @ told
        return torch.tensor(order)

    def optimal_order(self, objective: str = "sum") -> Tensor:
        """The order of least area under the sum (or joint) curve, exactly: (N,). ValueError for N > 12.

        What remains depends on the SET of seen patches only, so dynamic programming over the 2^N sets
        replaces the search over N! orders: the best way to a set is the best way to it less its last patch.
        """
        if objective not in ("sum", "joint"):
            raise ValueError(f"unknown objective {objective!r}; expected 'sum' or 'joint'")
        if self.N > 12:
            raise ValueError(f"optimal_order tries 2^N sets and N is {self.N}: expected <= 12; use subset()")
        cost, last = [self._remaining(0, objective)], [-1]
        for mask in range(1, 1 << self.N):  # a set as a number: bit p = patch p has been seen
            way, p = min((cost[mask ^ 1 << p], p) for p in range(self.N) if mask >> p & 1)
            cost.append(way + self._remaining(mask, objective))
            last.append(p)
        order: list[int] = []
        while mask := (1 << self.N) - 1 - sum(1 << p for p in order):
            order.insert(0, last[mask])
        return torch.tensor(order)

    def _remaining(self, mask: int, objective: str) -> float:
        """R or J of one set of seen patches."""
        seen = torch.tensor([bool(mask >> p & 1) for p in range(self.N)])
        if objective == "sum":
            return float(self.left(seen).sum())
        return float(half_logdet(self._given(seen))) - (self.N - mask.bit_count()) * self.noise

    def _given(self, seen: Tensor) -> Tensor:
        """Covariance of all unseen values given the seen patches (N,) bool."""
        seen = seen.repeat_interleave(self.C).to(self.cov.device)
        root = torch.linalg.cholesky(self.cov[seen][:, seen])
        told = torch.linalg.solve_triangular(root, self.cov[seen][:, ~seen], upper=False)
        return self.cov[~seen][:, ~seen] - told.T @ told

    def left(self, seen: Tensor) -> Tensor:
        """H(e_n | the seen patches) of every patch, 0 for those that are seen themselves: (N,) bool -> (N,), Eq. (8)'s terms."""
        m = int((~seen).sum())
        V = self._given(seen).view(m, self.C, m, self.C)[range(m), :, range(m)]
        return self.cov.new_zeros(self.N).masked_scatter(~seen.to(self.cov.device), half_logdet(V) - self.noise)


# ------------------------------------------------------------------------- learned predictor


def side_of(num_tokens: int) -> int:
    """The side of a square grid of so many patches. Raises ValueError for another number."""
    grid = math.isqrt(num_tokens)
    if grid * grid != num_tokens:
        raise ValueError(f"{num_tokens} tokens do not form a square grid: expected 1, 4, 9, 16, ...")
    return grid


class TokenPredictor(nn.Module, Pretrained):
    """Masked tokens -> a Laplace distribution for every value: the learned side of Eq. 1.

    Laplace, because natural statistics have heavy tails and its mode is what an L1 loss such as CoMAE's
    predicts. Values of one patch are independent given the seen ones. num_tokens: N, a square number.
    """

    def __init__(self, num_tokens: int, token_dim: int, cfg: PredictorConfig):
        super().__init__()
        self.floor, self.grid, self.dim = cfg.floor, side_of(num_tokens), token_dim
        self.embed, self.head = nn.Linear(token_dim, cfg.dim), nn.Linear(cfg.dim, 2 * token_dim)
        self.mask_token = nn.Parameter(torch.zeros(cfg.dim))
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_tokens, cfg.dim), std=0.02))
        self.blocks = nn.ModuleList(Block(cfg.dim, cfg.heads) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(cfg.dim)
        angles = rope_angles(torch.arange(num_tokens), self.grid, cfg.dim // cfg.heads)  # (N, E/2)
        self.register_buffer("rotation", torch.polar(torch.ones_like(angles), angles), persistent=False)
        self.apply(init_weights)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        """Refuses weights of another grid or width by one ValueError that names both."""
        names = ("position", "embed.weight", f"blocks.{len(self.blocks) - 1}.proj.weight")
        found, want = ([tuple(state[name].shape) if name in state else None for name in names]
                       for state in ({k.removeprefix(prefix): v for k, v in state_dict.items()}, dict(self.named_parameters())))  # fmt: skip
        if found != want or f"{prefix}blocks.{len(self.blocks)}.proj.weight" in state_dict:
            raise ValueError(f"the predictor's weights have {', '.join(names)} of shapes {found}; expected {want}: {self.grid} x "
                             f"{self.grid} patches of {self.dim} values and {len(self.blocks)} blocks. Take the predictor of "
                             "this profile, or train it anew")  # fmt: skip
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def sequence_bytes(self) -> int:
        """What a pass for one image holds at once, in float32."""
        return 4 * self.position.numel() * 16  # the width 8 times, and the hidden layer of an MLP twice

    @own_device
    def forward(self, tokens: Tensor, seen: Tensor, only: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """tokens (B, N, C), seen (B, N) bool -> mean and scale of the Laplace distribution, (B, N, C) each.

        The values of unseen tokens are replaced before anything is computed, so nothing of them can leak.
        What comes out at seen patches is not trained and has no meaning. only: (B, M) long, the patches whose distributions
        are wanted, (B, M, C) each; the last block then spares the others all but their keys and values.
        """
        x = self._embedded(tokens, seen)
        for block in self.blocks[:-1] if only is not None else self.blocks:
            x = block(x, self.rotation)
        if only is not None:
            x = self.blocks[-1].attend(*self._last(x, only))  # (B, M, D)
        mean, scale = self.head(self.norm(x)).chunk(2, -1)  # (B, N or M, C) each
        return mean, self.floor + F.softplus(scale)

    @own_device
    def attention_entropy(self, tokens: Tensor, seen: Tensor, only: Tensor) -> Tensor:
        """Entropy in nats of the last block's attention from each of the patches `only` (B, M), mean over heads: (B, M)."""
        x = self._embedded(tokens, seen)
        for block in self.blocks[:-1]:
            x = block(x, self.rotation)
        _, q, k, _ = self._last(x, only)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)  # (B, H, M, N)
        return torch.special.entr(weights).sum(-1).mean(1)

    def _embedded(self, tokens: Tensor, seen: Tensor) -> Tensor:
        tokens = tokens.masked_fill(~seen[..., None], 0)  # (B, N, C)
        return torch.where(seen[..., None], self.embed(tokens), self.mask_token) + self.position  # (B, N, D)

    def _last(self, x: Tensor, only: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the last block: the tokens `only` (B, M, D) of x (B, N, D), their queries (B, H, M, E), all keys and values."""
        q, k, v = self.blocks[-1].heads_of(x, self.rotation)
        rows = torch.arange(len(x), device=x.device)[:, None]
        return x[rows, only], q[rows, :, only].transpose(1, 2), k, v


def excess_nll(tokens: Tensor, mean: Tensor, scale: Tensor, floor: float) -> Tensor:
    """Expected Laplace NLL of the noisy token x = e + Laplace(0, floor), less the noise's entropy; per value.

    The expectation over the noise has a closed form, E|d + noise| = |d| + floor exp(-|d| / floor), and the
    excess is the divergence KL(Laplace(e, floor) || Laplace(mean, scale)): >= 0, and 0 only for mean = e,
    scale = floor. Averaged over images it bounds the conditional entropy above the floor from above.
    """
    error = (tokens - mean).abs()
    return (scale / floor).log() + (error + floor * (-error / floor).exp()) / scale - 1


def predictor_loss(model: TokenPredictor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Mean excess NLL per unseen value (nats), from 0..N-1 random patches per image, their number uniform.

    Every unseen patch of the batch weighs the same, so the expected loss is the area under the sum curves of
    random orders but for a constant: what is trained is what is measured.
    """
    B, N, _ = tokens.shape
    count = torch.randint(N, (B, 1), generator=generator)
    seen = (random_order(B, N, generator) < count).to(tokens.device)  # (B, N)
    return excess_nll(tokens, *model(tokens, seen), model.floor)[~seen].mean()


@torch.no_grad()
def predictor_curve(
    model, tokens: Tensor, ranking: Tensor, ks: list[int], batch: int = 256
) -> dict[str, Tensor]:
    """What remains of each image after the first k patches of its order, for k in ks: two sum curves in nats.

    nll: (B, len(ks)) what the unseen patches really cost, averaged over images an upper bound of the entropy.
    entropy: (B, len(ks)) what the model believes they cost, log(scale / floor). Both above the floor, so 0 at
    k = N; float64, CPU. tokens (B, N, C); ranking (B, N) or one order (N,). An order
    made from the image itself has looked at the unseen patches; what it gives away is not charged.
    """
    B, N, _ = tokens.shape
    ranks = ranks_of(check_ranking(ranking, N)).expand(B, N).to(tokens.device)
    curves = torch.zeros(2, B, len(ks), dtype=torch.float64)
    for rows in torch.arange(B).split(at_a_time(batch)):
        x, rank = tokens[rows], ranks[rows]
        for i, k in enumerate(ks):
            seen = rank < k  # (b, N)
            mean, scale = model(x, seen)  # (b, N, C) each
            remaining = torch.stack([excess_nll(x, mean, scale, model.floor), (scale / model.floor).log()])
            curves[:, rows, i] = (remaining.sum(-1) * ~seen).sum(-1).double().cpu()  # (2, b)
    return {"nll": curves[0], "entropy": curves[1]}


@torch.no_grad()
def removed_curve(model, tokens: Tensor, ranking: Tensor, ks: list[int]) -> Tensor:
    """What the first k patches of an order would cost if nothing were seen, (B, len(ks)) nats, arguments as `predictor_curve`.

    A fall of its `nll` curve is this *removal*, for a seen patch costs nothing, plus *information*: what the seen patches
    tell about the unseen ones. An order that takes costly patches first removes much even if it tells nothing.
    """
    B, N, _ = tokens.shape
    nothing = torch.zeros(B, N, dtype=torch.bool, device=tokens.device)
    alone = excess_nll(tokens, *model(tokens, nothing), model.floor).sum(-1).double().cpu()  # (B, N)
    along = alone.gather(1, check_ranking(ranking, N).cpu().expand(B, N))
    return F.pad(along.cumsum(1), (1, 0))[:, ks]


@torch.no_grad()
def certainty_curve(
    classifier: nn.Module, images: Tensor, labels: Tensor, ranking: Tensor, ks: list[int], batch: int = 256
) -> dict[str, Tensor]:
    """Class certainty of `classifier(images, keep_idx=...) -> logits` from the first k patches (Fig. 1).

    prob: (B, len(ks)) probability of the true class. hit: (B, len(ks)) whether it is the most probable one.
    With no patch (k = 0) both are 1 / classes. float64 on the CPU; put the classifier in eval mode first.
    """
    B, N = len(images), ranking.shape[-1]
    ranking, labels = (x.to(images.device) for x in (check_ranking(ranking, N).expand(B, N), labels))
    curves = torch.zeros(2, B, len(ks), dtype=torch.float64)
    for rows in torch.arange(B).split(at_a_time(batch)):
        x, y, order = images[rows], labels[rows], ranking[rows]
        for i, k in enumerate(ks):
            p = classifier(x, keep_idx=order[:, : max(k, 1)]).double().softmax(-1)  # (b, classes)
            both = torch.stack([p.gather(1, y[:, None])[:, 0], p.argmax(1) == y])  # (2, b)
            curves[:, rows, i] = both.cpu() if k else torch.tensor(1 / p.shape[1], dtype=torch.float64)
    return {"prob": curves[0], "hit": curves[1]}
