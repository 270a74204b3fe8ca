"""What CoMAE's reconstruction loss L_r (Eq. 5) is worth: on held-out images, against predictions without a network, and with
other masks than its own. Letters of the shapes as in `cop.paper.comae`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cop.configs import CoMAEConfig
from cop.devices import at_a_time
from cop.paper.comae import CoMAE, comae_loss, draw_targets


@torch.no_grad()
def evaluate(model: CoMAE, tokens: Tensor, generator: torch.Generator, batch: int = 50) -> dict[str, float]:
    """Losses and mask statistics over tokens (n, N, C) of held-out images, without the tensors of `forward`."""
    total: dict[str, float] = {}
    for part in tokens.split(at_a_time(batch)):
        out = comae_loss(model, part, generator)
        for k, v in out.items():
            if v.ndim == 0:
                total[k] = total.get(k, 0.0) + v.item() * len(part) / len(tokens)
    return total


class Baseline:
    """A reconstruction from clean tokens in the place of CoMAE's, for `evaluate`: an equal generator then draws the same
    targets of the same images for both.

    predict: tokens (B, N, C) -> (B, N, C), every patch from the others or from none."""

    def __init__(self, config: CoMAEConfig, predict: Callable[[Tensor], Tensor]):
        self.config, self.predict = config, predict

    def __call__(self, tokens: Tensor, targets: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """`reconstruction` as of `CoMAE.forward`; the noise is not used."""
        error = (tokens - self.predict(tokens)).abs().sum(-1)  # (B, N)
        return {"reconstruction": error.gather(1, targets).mean()}


def baselines(config: CoMAEConfig, grid: int, train: Tensor) -> dict[str, Baseline]:
    """What L_r costs without a network, fitted on training tokens (n, N, C): the mean token, the median of each position,
    the mean of the up to four neighbours of the target, and ridge regression of each patch on all others."""
    mean, median = train.mean((0, 1)), train.median(0).values  # (C,), (N, C)
    kernel = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).expand(train.shape[2], 1, 3, 3)

    def neighbours(tokens: Tensor) -> Tensor:
        maps = tokens.transpose(1, 2).unflatten(2, (grid, grid))  # (B, C, G, G)
        total, count = (F.conv2d(x, kernel, padding=1, groups=len(kernel)) for x in (maps, torch.ones_like(maps)))
        return (total / count).flatten(2).transpose(1, 2)

    found = {"mean token": mean.expand_as, "per-position median": median.expand_as,
             "mean of the neighbours": neighbours, "ridge regression": ridge(train)}  # fmt: skip
    return {name: Baseline(config, predict) for name, predict in found.items()}


def ridge(train: Tensor, strengths: Sequence[float] = (1e-3, 1e-2, 1e-1)) -> Callable[[Tensor], Tensor]:
    """Ridge regression of every patch on all others, (B, N, C) -> (B, N, C), fitted on tokens (n, N, C), n >= 2.

    All N regressions come from one matrix: with S the covariance of whole images, N C x N C, and P = (S + s I)^-1, the
    residual of patch n is P_nn^-1 (P (e - mean))_n, which is ridge regression with penalty s. The strength s, in units of
    the mean variance, is the one with the least L_r on every tenth image, which the fit leaves out.
    """
    n, N, C = train.shape
    held = torch.arange(n) % 10 == 0
    mean = train[~held].mean(0)
    x = (train[~held] - mean).flatten(1)  # (n', N C)
    S = (x.T @ x).double() / len(x)
    scale = S.diagonal().mean().clamp_min(1e-12)

    def residual_map(s: float) -> tuple[Tensor, Tensor]:
        """P and the inverses of its diagonal blocks: (N C, N C), (N, C, C)."""
        P = torch.cholesky_inverse(torch.linalg.cholesky(S + s * scale * torch.eye(N * C, dtype=S.dtype)))
        own = torch.stack([P[i : i + C, i : i + C] for i in range(0, N * C, C)])
        return P.to(train.dtype), torch.linalg.inv(own).to(train.dtype)

    def residual(tokens: Tensor, P: Tensor, own: Tensor) -> Tensor:
        """What is left of tokens (B, N, C) after the regressions: (B, N, C)."""
        return torch.einsum("bnc,ncd->bnd", ((tokens - mean).flatten(1) @ P).unflatten(1, (N, C)), own)

    best = min((residual_map(s) for s in strengths), key=lambda m: residual(train[held], *m).abs().sum().item())
    return lambda tokens: tokens - residual(tokens, *best)


@torch.no_grad()
def mask_swaps(model: CoMAE, tokens: Tensor, generator: torch.Generator, chunk_bytes: int = 1 << 30) -> dict[str, Tensor]:
    """L_r of each image (n,) when the decoder gets other masks or other patches than the encoder meant: what carries the
    information?

    tokens: (n, N, C), at least two images. The noise is the same in every row. If selected *patches* inform the
    decoder, showing everything (w = 1) cannot hurt and a mask over blank patches cannot help. If the *pattern of the
    noise* informs it, the encoder tells the decoder through the mask what it saw, and both happen.
    """
    n, N, C = tokens.shape
    K = min(16, N)
    targets = draw_targets(1, N, K, generator).expand(n, -1).to(tokens.device)  # the same in every image
    noise = torch.randn(n, K, N, C, generator=generator).to(tokens.device)
    truth = tokens.gather(1, targets[..., None].expand(-1, -1, C))  # (n, K, C)
    images = at_a_time(max(1, chunk_bytes // (K * model.sequence_bytes)))

    def in_parts(method: Callable, *given: Tensor) -> Tensor:  # (n, ...) each, a few images at a time
        return torch.cat([method(*part) for part in zip(*(x.split(images) for x in given), strict=True)])

    w = in_parts(model.weights, tokens, targets)  # (n, K, N)
    allowed = torch.ones_like(w).scatter(2, targets[..., None], 0.0)
    blank = tokens.mean(0, keepdim=True).expand_as(tokens)  # the mean image: no content of this one

    def loss(shown: Tensor, mask: Tensor) -> Tensor:
        return (truth - in_parts(model.reconstruct, shown, targets, mask, noise)).abs().sum(-1).mean(1).cpu()

    return {
        "its own mask": loss(tokens, w),
        "everything shown, w = 1": loss(tokens, allowed),
        "the mean mask of all images": loss(tokens, w.mean(0, keepdim=True).expand_as(w)),
        "another image's mask": loss(tokens, w.roll(1, 0)),
        "the mask inverted, 1 - w": loss(tokens, (1 - w) * allowed),
        "its own mask over the mean image": loss(blank, w),
        "the mean mask over the mean image": loss(blank, w.mean(0, keepdim=True).expand_as(w)),
        "its own weights, shuffled": loss(tokens, shuffled(w, targets, generator)),
        "nothing shown, w = 0": loss(tokens, torch.zeros_like(w)),
    }


def shuffled(w: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """The weights (n, K, N) of each target in a random place each: a random mask of the same density. Own entries stay 0."""
    chance = torch.rand(w.shape, generator=generator).to(w.device).scatter(2, targets[..., None], 2.0)  # own patch last
    values = w.masked_fill(chance == 2.0, -1).sort(-1, descending=True).values  # the own entry is the last one
    return torch.zeros_like(w).scatter(2, chance.argsort(-1), values.clamp_min(0))


@torch.no_grad()
def best_sets(
    model: CoMAE, tokens: Tensor, target: int, size: int, generator: torch.Generator, without: Tensor | None = None,
    starts: int = 4, rounds: int = 12,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Small sets of patches that reconstruct one target well: their losses (starts,) and the sets as booleans (starts, N).

    tokens: (1, N, C); without: patches (N,) bool that no set may hold. From each random set of `size` patches the best of 32
    random exchanges of one patch is taken, `rounds` times, if it lowers L_r. It asks a decoder that was trained on any mask;
    another one knows its own encoder's masks only.
    """
    N, swaps = tokens.shape[1], 32
    noise = torch.randn(1, 1, N, tokens.shape[2], generator=generator)
    banned = torch.zeros(N, dtype=torch.bool) if without is None else without.clone()
    banned[target] = True

    def loss(shown: Tensor) -> Tensor:  # (M, N) bool -> (M,)
        where = torch.full((1, len(shown)), target)
        guess = model.reconstruct(tokens, where, shown[None].float(), noise.expand(1, len(shown), -1, -1))  # (1, M, C)
        return (guess[0] - tokens[0, target]).abs().sum(-1)

    shown = torch.rand(starts, N, generator=generator).masked_fill(banned, 2.0).argsort(1).argsort(1) < size
    best = loss(shown)
    for _ in range(rounds):
        keys = torch.rand(2, starts, swaps, N, generator=generator)
        out = keys[0].masked_fill(~shown[:, None], 2.0).argmin(-1)  # (starts, swaps) a member that leaves
        new = keys[1].masked_fill(shown[:, None] | banned, 2.0).argmin(-1)  # and one that comes in
        tried = shown[:, None].repeat(1, swaps, 1).scatter(2, out[..., None], False).scatter(2, new[..., None], True)
        value, which = loss(tried.flatten(0, 1)).view(starts, swaps).min(1)
        better = value < best
        shown = torch.where(better[:, None], tried[torch.arange(starts), which], shown)
        best = torch.where(better, value, best)
    return best, shown


def disjoint_sets(
    model: CoMAE, tokens: Tensor, target: int, size: int, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`count` sets of `size` patches without a patch in common, each the best one found among the patches that are left:
    losses (count,) and sets (count, N). Raises ValueError where so many do not fit beside the target."""
    N = tokens.shape[1]
    if count * size > N - 2:  # one is left over for an exchange
        raise ValueError(f"{count} disjoint sets of {size} patches do not fit into {N} patches; ask for fewer or smaller ones")
    used, losses, sets = torch.zeros(N, dtype=torch.bool), [], []
    for _ in range(count):
        loss, shown = best_sets(model, tokens, target, size, generator, used)
        losses.append(loss.min())
        sets.append(shown[loss.argmin()])
        used = used | sets[-1]
    return torch.stack(losses), torch.stack(sets)
