"""CoMAE, the collapse masked autoencoder: which patches does each patch rely on? (sections 3.1 and 8, Eqs. 2-7)

Letters of the shape comments: B images, N patches of an image, K targets drawn per image, C values of a token,
D width. A target is *dropped* from the sequence, so nothing that is computed for it can depend on its own content.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cop.configs import CoMAEConfig
from cop.devices import own_device
from cop.paper.blocks import Block, init_weights, rope_angles
from cop.paper.hub import Pretrained
from cop.paper.patches import check_tokens

WEIGHT_ACTS = {
    "shifted_tanh": lambda x: (1 + torch.tanh(x)) / 2,
    "relu_tanh": lambda x: torch.relu(torch.tanh(x)),
    "abs_tanh": lambda x: torch.tanh(x).abs(),
    "sigmoid": torch.sigmoid,
}


class TargetTransformer(nn.Module):
    """What encoder and decoder share: a read-out token for the target, the N - 1 other patches, RoPE.

    The read-out token takes the place that the dropped target leaves in the sequence. Attention does not care where
    a token stands, and RoPE leaves this one unrotated; so it equals "[cls] first, target dropped", without shifting
    all other tokens for every target.
    """

    def __init__(self, grid: int, dim: int, width: int, depth: int, heads: int, mlp_ratio: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads: change either")
        self.embed = nn.Linear(dim, width)
        self.readout = nn.Parameter(torch.empty(width))  # [cls] of the encoder, [tgt] of the decoder
        self.target_embed = nn.Embedding(grid**2, width)  # q_n of Eqs. 2 and 5
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        angles = rope_angles(torch.arange(grid**2), grid, width // heads)  # (N, E/2)
        self.register_buffer("rotation", torch.polar(torch.ones_like(angles), angles), persistent=False)
        self.apply(init_weights)
        nn.init.normal_(self.readout, std=0.02)
        nn.init.normal_(self.target_embed.weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """tokens: (S, N, C) with one sequence per target, or (S / K, N, C) when K consecutive targets share an
        image (their first-layer queries, keys and values are then computed once); targets: (S,). Returns (S, D)."""
        S, N = len(targets), tokens.shape[1]
        K = S // len(tokens)
        slot = torch.arange(N, device=targets.device) == targets[:, None]  # (S, N) where the read-out token stands
        rotation = torch.where(slot[..., None], 1, self.rotation)[:, None]  # (S, 1, N, E/2)

        def insert(t: Tensor, readout: Tensor) -> Tensor:
            """t (S/K, ..., N, X) once per target, with `readout` (S, ..., 1, X) in the target's place: (S, ..., N, X)."""
            place = slot.view(S // K, K, *[1] * (t.ndim - 3), N, 1)
            return torch.where(place, readout.unflatten(0, (S // K, K)), t[:, None]).flatten(0, 1)

        x = self.embed(tokens)  # (S/K, N, D)
        r = (self.readout + self.target_embed(targets))[:, None]  # (S, 1, D)
        shared = self.blocks[0].heads_of(x, self.rotation)  # 3 x (S/K, H, N, E)
        own = self.blocks[0].heads_of(r, torch.ones_like(self.rotation[:1]))  # 3 x (S, H, 1, E)
        q, k, v = (insert(t, u) for t, u in zip(shared, own, strict=True))  # (S, H, N, E)
        if len(self.blocks) == 1:
            x = self.blocks[0].attend(r, own[0], k, v)  # (S, 1, D)
        else:
            x = self.blocks[0].attend(insert(x, r), q, k, v)  # (S, N, D)
        for i, block in enumerate(self.blocks[1:], 2):
            x = block(x, rotation, only=targets if i == len(self.blocks) else None)  # (S, N, D), at last (S, 1, D)
        return self.norm(x[:, 0])  # (S, D)


class ResidualMLP(nn.Module):
    """The decoder's head: `depth` residual layers, then a linear map to a token (section 8)."""

    def __init__(self, width: int, dim: int, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )
        self.out = nn.Linear(width, dim)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)  # (S, D)
        return self.out(x)  # (S, C)


OBJECTIVES: dict[str, Callable] = {}  # name -> f(model, tokens (B, N, C), targets (B, K), out) -> the loss, a scalar


def objective(name: str) -> Callable:
    """Register a training loss of CoMAE under the name that `CoMAEConfig.objective` selects it by.

    The function gets the model, the batch and what `CoMAE.forward` found so far: `reconstruction`, `contrastive`, `w`
    (B, K, N) and `prediction` (B, K, C). Raises ValueError for a name that is taken.
    """

    def register(loss: Callable) -> Callable:
        if name in OBJECTIVES:
            raise ValueError(f"objective {name!r} exists already; choose another name")
        OBJECTIVES[name] = loss
        return loss

    return register


@objective("printed")
def printed(model: "CoMAE", tokens: Tensor, targets: Tensor, out: dict[str, Tensor]) -> Tensor:
    """L_r + lambda L_c (section 3.1), and an optional L1 price on the weights, which the paper does not have."""
    c = model.config
    return out["reconstruction"] + c.contrastive_weight * out["contrastive"] + c.sparsity_weight * out["w"].mean()


@objective("information")
def information(model: "CoMAE", tokens: Tensor, targets: Tensor, out: dict[str, Tensor]) -> Tensor:
    """As printed, plus `sparsity_weight` times what the noised patches tell, in nats per value: the term that the bottleneck
    of Schulz et al. (Restricting the Flow, ICLR 2020, Eq. 5) has and Eqs. 3 and 4 leave out.

    A noised value is N(alpha e, (1 - alpha)^2), and standard normal when nothing is shown; the divergence of the two is
    ((1 - alpha)^2 + alpha^2 e^2 - 1) / 2 - log(1 - alpha).
    """
    alpha = model.alpha(out["w"]).clamp(max=1 - 1e-4)  # (B, K, N); a patch shown in full tells about 8.7 nats a value
    power = tokens.square().mean(-1)[:, None]  # (B, 1, N)
    nats = ((1 - alpha) ** 2 + alpha**2 * power - 1) / 2 - torch.log1p(-alpha)
    others = torch.ones_like(nats).scatter(2, targets[..., None], 0.0)
    c = model.config
    price = c.sparsity_weight * (nats * others).sum() / others.sum()
    return out["reconstruction"] + c.contrastive_weight * out["contrastive"] + price


class Budget(torch.autograd.Function):
    """sigmoid(logits + nu) with one nu per row such that the row's sum is given: (..., N) -> (..., N).

    nu is found by bisection; its gradient comes from the implicit function theorem: with s = w (1 - w), d nu / d logit_j =
    -s_j / sum(s), so that a gradient g becomes s (g - sum(s g) / sum(s)).
    """

    @staticmethod
    def forward(ctx, logits: Tensor, total: float) -> Tensor:
        """Weights (..., N) whose rows sum to `total`."""
        least = logits.masked_fill(logits.isinf(), math.inf).amin(-1, keepdim=True)
        low, high = -logits.amax(-1, keepdim=True) - 20, 20 - least
        for _ in range(40):
            nu = (low + high) / 2
            over = torch.sigmoid(logits + nu).sum(-1, keepdim=True) > total
            low, high = torch.where(over, low, nu), torch.where(over, nu, high)
        w = torch.sigmoid(logits + nu)
        ctx.save_for_backward(w)
        return w

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient with respect to the logits, of the shape of `grad`."""
        (w,) = ctx.saved_tensors
        s = w * (1 - w)
        return s * (grad - (s * grad).sum(-1, keepdim=True) / s.sum(-1, keepdim=True).clamp_min(1e-12)), None


def budgeted(logits: Tensor, targets: Tensor, share: float) -> Tensor:
    """Weights (B, K, N) in [0, 1] of which each target (B, K) may spend `share` of the N - 1 other patches; own entry 0."""
    own = torch.zeros_like(logits, dtype=torch.bool).scatter(2, targets[..., None], True)
    return Budget.apply(logits.masked_fill(own, -math.inf), share * (logits.shape[-1] - 1))


class CoMAE(nn.Module, Pretrained):
    """Encoder f of Eq. 2 and decoder g of Eq. 5.

    config: the numbers; grid: patches per side; dim: values per token. Weights are drawn from the global torch
    generator, as in every `nn.Module`: wrap the construction in `torch.random.fork_rng` to seed it.
    """

    def __init__(self, config: CoMAEConfig, grid: int, dim: int):
        super().__init__()
        if config.weight_act not in WEIGHT_ACTS:
            raise ValueError(f"unknown weight_act {config.weight_act!r}; expected one of {', '.join(WEIGHT_ACTS)}")
        if config.objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {config.objective!r}; expected one of {', '.join(OBJECTIVES)}")
        if config.budget is not None and not 0 < config.budget < 1:
            raise ValueError(f"budget is {config.budget}; expected a share of the other patches between 0 and 1")
        if config.noise not in ("literal", "variance_preserving"):
            raise ValueError(f"unknown noise {config.noise!r}; expected literal or variance_preserving")
        self.config, self.grid, self.dim = config, grid, dim
        c = config
        self.encoder = nn.ModuleDict({
            "trunk": TargetTransformer(grid, dim, c.enc_dim, c.enc_depth, c.enc_heads, c.mlp_ratio),
            "to_weights": nn.Linear(c.enc_dim, grid**2),
        })  # fmt: skip
        self.encoder.register_parameter("log_tau", nn.Parameter(torch.tensor(c.tau_init).log()))
        self.decoder = nn.ModuleDict({
            "trunk": TargetTransformer(grid, dim, c.dec_dim, c.dec_depth, c.dec_heads, c.mlp_ratio),
            "head": ResidualMLP(c.dec_dim, dim, c.head_depth),
        })  # fmt: skip
        init_weights(self.encoder["to_weights"])

    @own_device
    def weights(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Eq. 2: how much each target relies on each patch, w in [0, 1], own entry 0.

        tokens: (B, N, C); targets: (B, K) patch indices. Returns (B, K, N).
        """
        B, K = targets.shape
        x = self.encoder["trunk"](tokens, targets.flatten())  # (B K, D)
        logits = self.encoder["to_weights"](x).view(B, K, -1)  # (B, K, N)
        if self.config.budget is not None:
            return budgeted(logits, targets, self.config.budget)
        w = WEIGHT_ACTS[self.config.weight_act](logits)
        return w.scatter(2, targets[..., None], 0.0)  # a target cannot rely on itself

    @property
    def sequence_bytes(self) -> int:
        """What an encoder pass for one target holds at once, in float32."""
        return 4 * self.grid**2 * self.config.enc_dim * int(8 + self.config.mlp_ratio * 2)

    def alpha(self, w: Tensor) -> Tensor:
        """Eq. 4: the share of signal that survives, alpha = exp(-(1 - w)^2 / (2 sigma^2)), any shape."""
        return torch.exp(-((1 - w) ** 2) / (2 * self.config.sigma**2))

    def noised(self, tokens: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Eq. 3 on the raw tokens (B, N, C) under w (B, K, N) and noise (B, K, N, C). Returns (B, K, N, C)."""
        alpha = self.alpha(w)[..., None]  # (B, K, N, 1)
        rest = 1 - alpha if self.config.noise == "literal" else (1 - alpha**2).clamp_min(0).sqrt()
        return alpha * tokens[:, None] + rest * noise  # (B, K, N, C)

    @own_device
    def reconstruct(self, tokens: Tensor, targets: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Eq. 5: the targets from the noised other patches. Returns (B, K, C)."""
        B, K = targets.shape
        x = self.noised(tokens, w, noise).flatten(0, 1)  # (B K, N, C)
        x = self.decoder["trunk"](x, targets.flatten())  # (B K, D)
        return self.decoder["head"](x).view(B, K, -1)  # (B, K, C)

    def contrastive_loss(self, w: Tensor) -> Tensor:
        """Eq. 6: tell the targets of an image (or of the batch) apart by their weights w (B, K, N)."""
        w = F.normalize(w, dim=-1)
        w = w if self.config.contrastive_scope == "image" else w.flatten(0, 1)[None]
        with torch.no_grad():  # the parameter itself: a clamp of its value would have no gradient and tau would stay there
            self.encoder.log_tau.clamp_(min=math.log(self.config.tau_min))
        logits = w @ w.transpose(1, 2) / self.encoder.log_tau.exp()  # (B, K, K)
        labels = torch.arange(logits.shape[1], device=w.device).expand(len(logits), -1)  # (B, K)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    @own_device
    def forward(self, tokens: Tensor, targets: Tensor, noise: Tensor, shown: Tensor | None = None) -> dict[str, Tensor]:
        """All training quantities of a batch: tokens (B, N, C), targets (B, K), noise (B, K, N, C).

        shown: weights (B, K, N) for the decoder to see the patches by, instead of the encoder's own. Returns scalars
        `loss` (the configured objective), `reconstruction` (L_r, L1 summed over the C values, mean over targets),
        `contrastive`, and the weights' statistics of `mask_statistics`, plus `w` (B, K, N) and `prediction` (B, K, C).
        """
        w = self.weights(tokens, targets)  # (B, K, N)
        prediction = self.reconstruct(tokens, targets, w if shown is None else shown, noise)  # (B, K, C)
        truth = tokens.gather(1, targets[..., None].expand(-1, -1, tokens.shape[-1]))  # (B, K, C)
        reconstruction = (truth - prediction).abs().sum(-1).mean()
        contrastive = self.contrastive_loss(w)
        out = dict(reconstruction=reconstruction, contrastive=contrastive, w=w, prediction=prediction)
        loss = OBJECTIVES[self.config.objective](self, tokens, targets, out)
        return dict(loss=loss) | out | mask_statistics(w.detach(), targets)

    @own_device
    @torch.no_grad()
    def dependencies(self, tokens: Tensor, chunk_bytes: int = 64 << 20) -> Tensor:
        """The dependency graph of each image: all N weight vectors, `A[b, i, j]` = how much target i relies on j.

        tokens: (B, N, C). Returns (B, N, N) in [0, 1], zero diagonal, on the tokens' device. The B N encoder passes
        run in chunks whose activations stay below `chunk_bytes`. Raises ValueError for tokens of another grid or
        width, or with NaN.
        """
        check_tokens(tokens, self.grid, self.dim)
        B, N, _ = tokens.shape
        K = max(1, min(N, chunk_bytes // self.sequence_bytes))
        A = torch.empty(B, N, N, dtype=tokens.dtype, device=tokens.device)
        images = max(1, K // N)
        for b in range(0, B, images):
            part = tokens[b : b + images]
            for n in range(0, N, K):
                targets = torch.arange(n, min(n + K, N), device=tokens.device).expand(len(part), -1)
                A[b : b + images, n : n + K] = self.weights(part, targets)
        return A


def mask_statistics(w: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Eq. 7 and how polarised the masks are, over w (B, K, N) without the targets' own entries; natural logarithms.

    `mask_entropy`: of w / sum(w), at most log(N - 1); `mask_entropy_raw`: Eq. 7 as printed, -sum w log w;
    `mean_weight`; `share_low`, `share_high`: shares of the entries below .1 and above .9.
    """
    keep = torch.ones_like(w).scatter_(2, targets[..., None], 0.0).bool()
    v = w[keep]
    p = w / w.sum(-1, keepdim=True).clamp_min(1e-12)
    entropy = -torch.special.xlogy(p, p).sum(-1).mean()
    raw = -torch.special.xlogy(w, w).sum(-1).mean()
    return dict(mask_entropy=entropy, mask_entropy_raw=raw, mean_weight=v.mean(),
                share_low=(v < 0.1).float().mean(), share_high=(v > 0.9).float().mean())  # fmt: skip


def draw_targets(batch: int, num_tokens: int, k: int, generator: torch.Generator) -> Tensor:
    """k different targets per image, uniformly: (batch, k) on the CPU."""
    return torch.rand(batch, num_tokens, generator=generator).argsort(1)[:, : min(k, num_tokens)]


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard normal noise on a device, from a generator of the CPU.

    On a GPU it is drawn there, by a generator whose seed comes from the given one: at paper size a step has 8 million
    values, which take a core 42 ms, as long as the GPU takes for the step. They are then other values than the CPU's.
    """
    if device.type != "cuda":
        return torch.randn(shape, generator=generator).to(device)
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)


def draw_masks(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Masks (B, K, N) of zeros and ones whose density is uniform in 0..1, one density per target, on the CPU."""
    return (torch.rand(shape, generator=generator) < torch.rand(*shape[:2], 1, generator=generator)).float()


def comae_loss(model: CoMAE, tokens: Tensor, generator: torch.Generator, step: int | None = None) -> dict[str, Tensor]:
    """One training evaluation: targets and noise drawn from `generator`, then `CoMAE.forward`.

    step: of the training. Encoder and decoder take turns, the decoder at odd steps; `any_mask` of its turns show it
    random masks, evenly spread over the training.
    """
    B, N, C = tokens.shape
    config = getattr(model, "module", model).config
    targets = draw_targets(B, N, config.targets_per_image, generator)
    noise = draw_noise((B, targets.shape[1], N, C), generator, tokens.device)
    shown = ()
    if config.any_mask and step is not None and step % 2:
        turn = step // 2
        if int((turn + 1) * config.any_mask) > int(turn * config.any_mask):
            masks = draw_masks((B, targets.shape[1], N), generator).scatter(2, targets[..., None], 0.0)
            shown = (masks.to(tokens.device),)
    return model(tokens, targets.to(tokens.device), noise, *shown)
