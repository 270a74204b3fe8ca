"""MAR, the masked autoregressive image model (Li et al., 2024), with the order of generation as an argument.

MAR writes an image as N continuous tokens and generates them a few at a time. An encoder reads the tokens known so far,
a decoder gives every unknown position a condition z, and a small diffusion model (`cop.paper.diffusion.DiffLoss`) turns
z into a token. Training hides a part of the tokens: those that come last in `ranking`, or in a random one.

Parameters carry the official names, so that released checkpoints load as they are (`load_mar`). Three things make this
faster than the official code, with equal results. Visible tokens are gathered by index and the decoder's last block is
evaluated at the wanted positions only. Both branches of classifier-free guidance are one batch, and there is one branch
if the scale is 1. Within a diffusion chain the modulation of all layers is computed beforehand, as few large products.

Letters of the shape comments: B images, N tokens of C channels, V visible and P wanted or M masked ones, D width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cop.orders import check_ranking, random_order
from cop.paper.diffusion import DiffLoss
from cop.paper.hub import Pretrained
from cop.paper.kl16 import load_strictly, read_state_dict


@dataclass(frozen=True)
class MARConfig:
    """Sizes of a MAR. The defaults are the official MAR-B on the 16 x 16 tokens of KL-16."""

    grid: int = 16
    channels: int = 16
    num_classes: int = 1000
    dim: int = 768  # of the encoder and of the decoder, as depth and heads
    depth: int = 12
    heads: int = 12
    buffer_size: int = 64  # copies of the class embedding that precede the tokens
    diffloss_depth: int = 6
    diffloss_width: int = 1024
    diffusion_batch_mul: int = 4  # timesteps drawn per token and training step
    mask_ratio_min: float = 0.7
    label_drop: float = 0.1
    dropout: float = 0.1  # of the attention weights and of the outputs of both halves of a block

    @property
    def num_tokens(self) -> int:
        return self.grid**2


# The diffusion-loss sizes are those of the released checkpoints, not the defaults of the official trainer.
MAR_CONFIGS = {
    "mar_base": MARConfig(),
    "mar_large": MARConfig(dim=1024, depth=16, heads=16, diffloss_depth=8, diffloss_width=1280),
    "mar_huge": MARConfig(dim=1280, depth=20, heads=16, diffloss_depth=12, diffloss_width=1536),
}


def mar_config(name: str) -> MARConfig:
    """The sizes of an official model. Raises ValueError for an unknown name."""
    if name not in MAR_CONFIGS:
        raise ValueError(f"no MAR is called {name!r}; choose one of {', '.join(MAR_CONFIGS)}")
    return MAR_CONFIGS[name]


def mar_orders(ranking: Tensor) -> Tensor:
    """MAR's order of a ranking (B, N): its reverse.

    A ranking begins with the token that is generated first. In MAR orders[:, :k] are the k tokens that are still masked.
    """
    return ranking.flip(-1)


def mask_lengths(num_tokens: int, num_iter: int) -> list[int]:
    """How many tokens are still masked after each of `num_iter` steps: a cosine, with at least one token per step."""
    if not 1 <= num_iter <= num_tokens:
        raise ValueError(f"num_iter is {num_iter}; choose 1 to {num_tokens}, one step per token at most")
    lengths, masked = [], num_tokens
    for step in range(1, num_iter):
        masked = max(1, min(masked - 1, math.floor(num_tokens * math.cos(math.pi / 2 * step / num_iter))))
        lengths.append(masked)
    return [*lengths, 0]


class MAR(nn.Module, Pretrained):
    """The model: `forward` is the training loss, `sample` generates.

    `generator` (on the CPU) draws the initial weights; None is PyTorch's global one, as in any other module.
    """

    undecayed = ("diffloss",)  # the official trainer has no weight decay on the diffusion MLP

    def __init__(self, config: MARConfig, generator: torch.Generator | None = None):
        super().__init__()
        if config.dim % config.heads:
            raise ValueError(f"dim is {config.dim}; expected a multiple of heads, {config.heads}")
        self.config = config
        D, C, length = config.dim, config.channels, config.num_tokens + config.buffer_size
        norm = partial(nn.LayerNorm, eps=1e-6)

        def blocks() -> nn.ModuleList:
            drop = {"attn_drop": config.dropout, "proj_drop": config.dropout}
            made = (Block(D, config.heads, qkv_bias=True, norm_layer=norm, **drop) for _ in range(config.depth))
            return nn.ModuleList(made)

        self.class_emb = nn.Embedding(config.num_classes, D)
        self.fake_latent = nn.Parameter(torch.zeros(1, D))  # stands for "no class"
        self.z_proj, self.z_proj_ln = nn.Linear(C, D), norm(D)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, length, D))
        self.encoder_blocks, self.encoder_norm = blocks(), norm(D)
        self.decoder_embed = nn.Linear(D, D)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, D))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, length, D))
        self.decoder_blocks, self.decoder_norm = blocks(), norm(D)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, config.num_tokens, D))
        self.diffloss = DiffLoss(C, D, config.diffloss_depth, config.diffloss_width)
        self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Draw all weights afresh. The layers of the diffusion MLP begin as identities and its output as 0."""
        for name, parameter in self.named_parameters():
            embedding = name.endswith(("pos_embed_learned", "mask_token", "fake_latent", "class_emb.weight"))
            if embedding or ("time_embed" in name and parameter.ndim == 2):
                parameter.normal_(std=0.02, generator=generator)
            elif "adaLN_modulation" in name or "final_layer" in name:
                parameter.zero_()
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:  # biases, and the gains of the layer norms
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)

    def forward(
        self,
        tokens: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        ranking: Tensor | None = None,
        *,
        num_masked: int | None = None,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The training loss, a scalar on the tokens' device, of tokens (B, N, C) with labels (B,).

        A share of the tokens is hidden, one draw per batch: those that come last in `ranking` (B, N), or in a random
        ranking. The CPU generator draws everything: ranking, mask ratio, dropped labels, dropout, timesteps and noise.
        For comparisons `num_masked` M, `timesteps` (K, B, M) and `noise` (K, B, M, C) may be given; hidden tokens are
        then in MAR's order (see `mar_orders`). Raises ValueError for other shapes, labels out of range or no ranking.
        """
        config, batch, device = self.config, len(tokens), self.fake_latent.device
        if tokens.shape[1:] != (config.num_tokens, config.channels):
            expected = f"(B, {config.num_tokens}, {config.channels})"
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; expected {expected}")
        self._check_labels(labels, batch)
        if ranking is None:
            ranking = random_order(batch, config.num_tokens, generator)
        orders = self._orders(ranking, batch)
        if num_masked is None:
            num_masked = draw_num_masked(config.num_tokens, config.mask_ratio_min, generator)
        masked, visible, x0 = orders[:, :num_masked], orders[:, num_masked:], tokens.to(device)

        condition = self.class_emb(labels.to(device))  # (B, D)
        if self.training:
            drop = (torch.rand(batch, 1, generator=generator) < config.label_drop).to(device)
            condition = torch.where(drop, self.fake_latent, condition)
        # Dropout takes no generator: PyTorch's own is seeded for the length of the pass and then put back.
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=self.training):
            if self.training:
                dropout = torch.cuda if device.type == "cuda" else torch.default_generator
                dropout.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            z = self.predict(_take(x0, visible), condition, visible, masked)  # (B, M, D)
        with torch.autocast(device.type, enabled=False):  # the loss divides by small variances: full precision
            given = {"timesteps": timesteps, "noise": noise, "repeats": config.diffusion_batch_mul}
            return self.diffloss(z.to(x0.dtype), _take(x0, masked), generator, **given).to(tokens.device)

    def predict(self, known: Tensor, condition: Tensor, visible: Tensor, wanted: Tensor) -> Tensor:
        """Conditions z (B, P, D) of the `wanted` positions (B, P).

        known: (B, V, C), the tokens at the positions `visible` (B, V); condition: (B, D), of the class.
        """
        buffer = self.config.buffer_size
        pos = self.encoder_pos_embed_learned.expand(len(known), -1, -1)
        classes = condition.unsqueeze(1) + pos[:, :buffer]  # (B, buffer, D)
        seen = self.z_proj(known) + _take(pos[:, buffer:], visible)  # (B, V, D)
        x = self.z_proj_ln(torch.cat([classes, seen], dim=1))
        for block in self.encoder_blocks:
            x = block(x)
        x = self.decoder_embed(self.encoder_norm(x))  # (B, buffer + V, D)

        hidden = self.mask_token.to(x.dtype).expand(len(x), self.config.num_tokens, -1)
        index = visible.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        x = torch.cat([x[:, :buffer], hidden.scatter(1, index, x[:, buffer:])], dim=1)  # (B, buffer + N, D)
        x = x + self.decoder_pos_embed_learned
        for block in self.decoder_blocks[:-1]:
            x = block(x)
        x = block_at(self.decoder_blocks[-1], x, wanted + buffer)  # (B, P, D)
        return self.decoder_norm(x) + self.diffusion_pos_embed_learned[0, wanted]

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        seeds: Sequence[int],
        ranking: Tensor | None = None,
        *,
        following: Callable[[Tensor, Tensor, int], Tensor] | None = None,
        num_iter: int = 64,
        cfg_scale: float = 1.0,
        cfg_schedule: str = "linear",
        temperature: float = 1.0,
        num_sampling_steps: int = 100,
        clip: tuple[float, float] | None = None,
        callback: Callable[[dict], None] | None = None,
    ) -> Tensor:
        """Tokens (B, N, C) of new images of classes `labels` (B,), on their device, in the order of `ranking` (B, N).

        Every image has its own seed, so that it is the same in any batch (to round-off). Without `ranking` the seed
        also draws a random order. The noise of a token depends on its seed and position, not on the order: images of
        equal seeds and different orders are paired.

        following: in the place of a ranking, which positions to generate next: a function of the tokens so far (B, N, C), of
        which of them are not generated yet (B, N) bool, and of how many are asked for, to positions (B, count) long. So the
        order can depend on what has been generated.
        cfg_scale: guidance; 1 is none. It grows with the share of tokens known ("linear") or is "constant".
        temperature scales the noise added within the diffusion chain. clip: see `GaussianDiffusion.step`.
        callback receives after each step a dict of `step`, `tokens` (B, N, C) and `mask` (B, N), True where a token is
        not generated yet, both on the model's device.
        Raises ValueError for labels out of range, no ranking, or settings that do not exist.
        """
        config, batch, N = self.config, len(labels), self.config.num_tokens
        device, dtype = self.fake_latent.device, self.fake_latent.dtype
        self._check_labels(labels, batch)
        if self.training:
            raise ValueError("the model is in training mode, with dropout: call model.eval() before sampling")
        if len(seeds) != batch:
            raise ValueError(f"{len(seeds)} seeds for {batch} labels; give one seed per image")
        if cfg_schedule not in ("linear", "constant"):
            raise ValueError(f"cfg_schedule is {cfg_schedule!r}; choose 'linear' or 'constant'")
        lengths = mask_lengths(N, num_iter)
        noise, random = draw_for_sampling(seeds, N, num_sampling_steps, config.channels)
        orders, noise = self._orders(random if ranking is None else ranking, batch), noise.to(device, dtype)

        condition, branches = self.class_emb(labels.to(device)), 1 if cfg_scale == 1 else 2  # (B, D)
        if branches == 2:
            condition = torch.cat([condition, self.fake_latent.expand(batch, -1)])
        tokens = torch.zeros(batch, N, config.channels, device=device, dtype=dtype)
        mask = torch.ones(batch, N, device=device, dtype=torch.bool)
        rows = torch.arange(batch, device=device).unsqueeze(1)
        for step, (masked, left) in enumerate(zip([N, *lengths], lengths, strict=False)):
            visible, wanted = orders[:, masked:], orders[:, left:masked]  # (B, V), (B, P)
            if following is not None:
                visible = (~mask).nonzero()[:, 1].view(batch, -1)
                wanted = following(tokens, mask, masked - left).to(device)
            known = _take(tokens, visible).repeat(branches, 1, 1)
            z = self.predict(known, condition, visible.repeat(branches, 1), wanted.repeat(branches, 1))
            share = (N - max(1, left)) / N if cfg_schedule == "linear" else 1
            scale = 1 + (cfg_scale - 1) * share if branches == 2 else None
            with torch.autocast(device.type, enabled=False):
                z, fresh = z.to(dtype).flatten(0, 1), noise[rows, wanted].flatten(0, 1)
                new = self.diffloss.sample(z, fresh, temperature, cfg_scale=scale, clip=clip)  # (B P, C)
            tokens[rows, wanted] = new.unflatten(0, wanted.shape)
            mask[rows, wanted] = False
            if callback is not None:
                callback({"step": step, "tokens": tokens.clone(), "mask": mask.clone()})
        return tokens.to(labels.device)

    def _orders(self, ranking: Tensor, batch: int) -> Tensor:
        check_ranking(ranking, self.config.num_tokens)
        if ranking.ndim == 1:
            ranking = ranking.expand(batch, -1)
        if len(ranking) != batch:
            raise ValueError(f"{len(ranking)} rankings for {batch} images; give one row per image")
        return mar_orders(ranking).to(self.fake_latent.device)

    def _check_labels(self, labels: Tensor, batch: int) -> None:
        if tuple(labels.shape) != (batch,) or labels.dtype != torch.int64 or batch == 0:
            raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}; expected int64 ({batch},)")
        low, high, last = int(labels.min()), int(labels.max()), self.config.num_classes - 1
        if low < 0 or high > last:
            raise ValueError(f"labels range from {low} to {high}; expected 0 to {last}")


def block_at(block: Block, x: Tensor, rows: Tensor) -> Tensor:
    """`block(x)` of x (B, L, D) at positions `rows` (B, P) only, (B, P, D): keys and values of all L, queries of P."""
    attn, dim = block.attn, x.shape[-1]
    h, x = block.norm1(x), _take(x, rows)  # (B, L, D), (B, P, D)
    weight, bias = attn.qkv.weight, attn.qkv.bias
    q = F.linear(_take(h, rows), weight[:dim], bias[:dim])
    k, v = F.linear(h, weight[dim:], bias[dim:]).chunk(2, dim=-1)
    q, k, v = (y.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for y in (q, k, v))
    h = F.scaled_dot_product_attention(q, k, v, dropout_p=attn.attn_drop.p if block.training else 0.0)
    x = x + attn.proj_drop(attn.proj(h.transpose(1, 2).flatten(2)))
    return x + block.mlp(block.norm2(x))


def draw_num_masked(num_tokens: int, mask_ratio_min: float, generator: torch.Generator) -> int:
    """How many tokens to hide: ceil(N r), r from N(1, 0.25^2) cut to [mask_ratio_min, 1] (MAR, Sec. 4.3)."""
    low = torch.special.ndtr(torch.tensor((mask_ratio_min - 1) / 0.25, dtype=torch.float64))
    u = torch.rand((), generator=generator, dtype=torch.float64)
    ratio = 1 + 0.25 * torch.special.ndtri(low + u * (0.5 - low))
    return min(num_tokens, math.ceil(num_tokens * float(ratio)))


def draw_for_sampling(seeds: Sequence[int], num_tokens: int, num_steps: int, channels: int) -> tuple[Tensor, Tensor]:
    """Noise (B, N, S, C) and a random ranking (B, N); row b comes from a CPU generator of seeds[b] alone."""
    noise, ranking = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        noise.append(torch.randn(num_tokens, num_steps, channels, generator=generator))
        ranking.append(torch.randperm(num_tokens, generator=generator))
    return torch.stack(noise), torch.stack(ranking)


def _take(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))  # (B, N, D) at (B, P) -> (B, P, D)


def load_mar(source: str | Path | Mapping, config: MARConfig | str, classes: Sequence[int] | None = None) -> MAR:
    """A MAR in evaluation mode with the weights of a checkpoint, as float32 whatever their precision.

    source: an official `checkpoint-last.pth` (its `model_ema` is taken), a safetensors file or a state dict.
    config: sizes, or the name of an official model ("mar_base"). classes: which of the checkpoint's classes the model's are, for a
    model that draws a few of them; all by default.
    Raises FileNotFoundError, and ValueError where the checkpoint is unreadable, of another size, or without one of the classes.
    """
    name = config if isinstance(config, str) else f"a MAR of width {config.dim}"
    with torch.device("meta"):
        model = MAR(mar_config(config) if isinstance(config, str) else config)
    state = dict(read_state_dict(source))
    if classes is not None and (embedding := state.get("class_emb.weight")) is not None:
        if not 0 <= min(classes) <= max(classes) < len(embedding):
            found = f"classes run from {min(classes)} to {max(classes)}"
            raise ValueError(f"{found}; expected 0 to {len(embedding) - 1}, the classes of the checkpoint")
        state["class_emb.weight"] = embedding[list(classes)]
    return load_strictly(model, state, name).eval()
