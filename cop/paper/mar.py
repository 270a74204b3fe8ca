"""MAR, the masked autoregressive image model (Li et al., 2024), with an order as an argument.

MAR writes an image as N continuous tokens and generates them a few at a time. An encoder reads the tokens
known so far, a decoder gives every unknown position a condition z, and a small diffusion model (the
"diffusion loss") turns z into a token. Training hides a random part of the tokens; here, the part that comes
last in `ranking`.

Parameters carry the official names, so the released checkpoints load as they are (`load_mar`). Nothing is
random but through an argument. What differs from the official code is speed, and none of it the result: -
visible tokens are gathered by index, and the decoder's last block is evaluated at the wanted positions only,
  so only tokens to predict reach the diffusion MLP;
- both branches of classifier-free guidance are one batch, and the second one is left out when the scale is
1; - within one diffusion chain the condition does not change: its projection and the modulation of all
layers are
  computed before the chain runs, as few large products.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from cop.orders import check_ranking, random_order
from cop.paper.diffusion import cosine_diffusion, guide
from cop.paper.kl16 import load_strictly, read_state_dict

MODULATION_ROWS = 4096  # rows of conditions whose modulation is held in memory at once while sampling


@dataclass(frozen=True)
class MARConfig:
    """Sizes of a MAR. The defaults are the official MAR-B on the 16 x 16 tokens of KL-16."""

    grid: int = 16
    channels: int = 16
    num_classes: int = 1000
    encoder_dim: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    decoder_dim: int = 768
    decoder_depth: int = 12
    decoder_heads: int = 12
    buffer_size: int = 64               # copies of the class embedding that precede the tokens
    diffloss_depth: int = 6
    diffloss_width: int = 1024
    diffusion_batch_mul: int = 4        # timesteps drawn per token and training step
    mask_ratio_min: float = 0.7
    label_drop: float = 0.1
    attn_dropout: float = 0.1
    proj_dropout: float = 0.1
    grad_checkpointing: bool = False    # recompute blocks in the backward pass: less memory, more time

    @property
    def num_tokens(self) -> int:
        return self.grid**2


# The diffusion-loss sizes are those of the released checkpoints, not the defaults of the official trainer.
MAR_CONFIGS = {
    "mar_base": MARConfig(),
    "mar_large": MARConfig(
        encoder_dim=1024, encoder_depth=16, encoder_heads=16, decoder_dim=1024, decoder_depth=16,
        decoder_heads=16, diffloss_depth=8, diffloss_width=1280,
    ),
    "mar_huge": MARConfig(
        encoder_dim=1280, encoder_depth=20, encoder_heads=16, decoder_dim=1280, decoder_depth=20,
        decoder_heads=16, diffloss_depth=12, diffloss_width=1536,
    ),
    "mar_demo": MARConfig(
        grid=8, num_classes=10, encoder_dim=128, encoder_depth=3, encoder_heads=4, decoder_dim=128,
        decoder_depth=3, decoder_heads=4, buffer_size=8, diffloss_depth=3, diffloss_width=192,
    ),
}


def mar_config(name: str, **changes) -> MARConfig:
    """A named size, with fields changed: `mar_config("mar_demo", num_classes=20)`."""
    if name not in MAR_CONFIGS:
        raise ValueError(f"no MAR is called {name!r}; choose one of {', '.join(MAR_CONFIGS)}")
    return dataclasses.replace(MAR_CONFIGS[name], **changes)


def mar_orders(ranking: torch.Tensor) -> torch.Tensor:
    """MAR's order of a ranking (B, N). Ours begins with the token generated FIRST; MAR consumes from the
    tail.

    orders[:, :k] are the k tokens that are still masked, so the first to be generated is orders[:, -1].
    """
    return ranking.flip(-1)


def mask_lengths(num_tokens: int, num_iter: int) -> list[int]:
    """Tokens still masked after each of `num_iter` steps: a cosine, at least one token per step, to 0."""
    if not 1 <= num_iter <= num_tokens:
        raise ValueError(f"num_iter is {num_iter}; choose 1 to {num_tokens}, one step per token at most")
    lengths, masked = [], num_tokens
    for step in range(num_iter - 1):
        wanted = math.floor(num_tokens * math.cos(math.pi / 2 * (step + 1) / num_iter))
        masked = max(1, min(masked - 1, wanted))
        lengths.append(masked)
    return [*lengths, 0]


class MAR(nn.Module):
    """The model. `forward` is the training loss, `sample` generates.

    `generator` (on the CPU) draws the initial weights; None is PyTorch's global one, as in any other module.
    """

    undecayed = ("diffloss",)  # the official trainer has no weight decay on the diffusion MLP

    def __init__(self, config: MARConfig, generator: torch.Generator | None = None):
        super().__init__()
        for part in ("encoder", "decoder"):
            dim, heads = getattr(config, f"{part}_dim"), getattr(config, f"{part}_heads")
            if dim % heads:
                raise ValueError(f"{part}_dim is {dim}; it must be a multiple of {part}_heads, {heads}")
        self.config = config
        enc, dec, length = config.encoder_dim, config.decoder_dim, config.num_tokens + config.buffer_size
        block = partial(
            Block, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6),
            attn_drop=config.attn_dropout, proj_drop=config.proj_dropout,
        )
        self.class_emb = nn.Embedding(config.num_classes, enc)
        self.fake_latent = nn.Parameter(torch.zeros(1, enc))  # stands for "no class"

        self.z_proj = nn.Linear(config.channels, enc)
        self.z_proj_ln = nn.LayerNorm(enc, eps=1e-6)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, length, enc))
        blocks = [block(enc, config.encoder_heads) for _ in range(config.encoder_depth)]
        self.encoder_blocks = nn.ModuleList(blocks)
        self.encoder_norm = nn.LayerNorm(enc, eps=1e-6)

        self.decoder_embed = nn.Linear(enc, dec)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, length, dec))
        blocks = [block(dec, config.decoder_heads) for _ in range(config.decoder_depth)]
        self.decoder_blocks = nn.ModuleList(blocks)
        self.decoder_norm = nn.LayerNorm(dec, eps=1e-6)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, config.num_tokens, dec))

        self.diffloss = DiffLoss(config.channels, dec, config.diffloss_depth, config.diffloss_width)
        self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Draw all weights afresh. The layers of the diffusion MLP begin as identities, its output as 0."""
        for name, parameter in self.named_parameters():
            if name.endswith(("pos_embed_learned", "mask_token", "fake_latent", "class_emb.weight")):
                parameter.normal_(std=0.02, generator=generator)
            elif "time_embed" in name and parameter.ndim == 2:
                parameter.normal_(std=0.02, generator=generator)
            elif "adaLN_modulation" in name or "final_layer" in name:
                parameter.zero_()
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:  # biases, and the gains of the layer norms
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)

    def forward(
        self,
        tokens: torch.Tensor,
        labels: torch.Tensor,
        generator: torch.Generator,
        ranking: torch.Tensor | None = None,
        *,
        num_masked: int | None = None,
        timesteps: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The training loss, a scalar, of tokens (B, N, C) with labels (B,).

        A share of the tokens is hidden, one draw per batch: those that come last in `ranking` (B, N), or in
        a random ranking. Everything is drawn from `generator`, a CPU generator: ranking, mask ratio, dropped
        labels, dropout, timesteps and noise. For comparisons, `num_masked` M, `timesteps` (K, B, M) and
        `noise` (K, B, M, C) may be given; hidden tokens are then in MAR's order (see `mar_orders`). Raises
        ValueError. On the tokens' device, wherever the model is (see `cop.devices`).
        """
        config, batch, given, device = self.config, len(tokens), tokens.device, self.fake_latent.device
        if tokens.shape[1:] != (config.num_tokens, config.channels):
            expected = f"(B, {config.num_tokens}, {config.channels})"
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; expected {expected}")
        self._check_labels(labels, batch)
        if ranking is None:
            ranking = random_order(batch, config.num_tokens, generator)
        orders = self._orders(ranking, batch)
        if num_masked is None:
            num_masked = draw_num_masked(config.num_tokens, config.mask_ratio_min, generator)
        masked, visible, tokens = orders[:, :num_masked], orders[:, num_masked:], tokens.to(device)

        condition = self.class_emb(labels.to(device))
        if self.training:
            drop = (torch.rand(batch, 1, generator=generator) < config.label_drop).to(device)
            condition = torch.where(drop, self.fake_latent, condition)
        # Dropout knows no generator: seed PyTorch's for the length of the pass, and put it back.
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=self.training):
            if self.training:
                dropout = torch.cuda if device.type == "cuda" else torch.default_generator
                dropout.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            z = self.predict(_take(tokens, visible), condition, visible, masked)        # (B, M, D)
        # The loss divides by small variances: full precision, whatever the blocks above ran in.
        with torch.autocast(device.type, enabled=False):
            return self.diffloss(
                z.to(tokens.dtype), _take(tokens, masked), generator,
                timesteps=timesteps, noise=noise, repeats=config.diffusion_batch_mul,
            ).to(given)

    def predict(self, known, condition, visible, wanted) -> torch.Tensor:
        """Conditions z (B, P, decoder_dim) of the `wanted` positions (B, P), given the tokens seen.

        known: (B, V, C), the tokens at the positions `visible` (B, V); condition: (B, encoder_dim), of the
        class.
        """
        buffer, num_tokens = self.config.buffer_size, self.config.num_tokens

        pos = self.encoder_pos_embed_learned.expand(len(known), -1, -1)
        classes = condition.unsqueeze(1) + pos[:, :buffer]                               # (B, 64, E)
        seen = self.z_proj(known) + _take(pos[:, buffer:], visible)                      # (B, V, E)
        x = self.z_proj_ln(torch.cat([classes, seen], dim=1))
        for block in self.encoder_blocks:
            x = self._run(block, x)
        x = self.decoder_embed(self.encoder_norm(x))                                     # (B, 64 + V, D)

        hidden = self.mask_token.to(x.dtype).expand(len(x), num_tokens, -1)
        index = visible.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        x = torch.cat([x[:, :buffer], hidden.scatter(1, index, x[:, buffer:])], dim=1)   # (B, 64 + N, D)
        x = x + self.decoder_pos_embed_learned
        for block in self.decoder_blocks[:-1]:
            x = self._run(block, x)
        x = self._run(partial(block_at, self.decoder_blocks[-1]), x, wanted + buffer)    # (B, P, D)
        return self.decoder_norm(x) + self.diffusion_pos_embed_learned[0, wanted]

    def _run(self, block, *inputs):
        if self.config.grad_checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    @torch.no_grad()
    def sample(
        self,
        labels: torch.Tensor,
        seeds: Sequence[int],
        ranking: torch.Tensor | None = None,
        *,
        num_iter: int = 64,
        cfg_scale: float = 1.0,
        cfg_schedule: str = "linear",
        temperature: float = 1.0,
        num_sampling_steps: int = 100,
        clip: tuple[float, float] | None = None,
        noise: torch.Tensor | None = None,
        progress: bool = False,
        callback: Callable[[dict], None] | None = None,
    ) -> torch.Tensor:
        """Tokens (B, N, C) of new images of classes `labels` (B,), generated in the order of `ranking` (B,
        N).

        Every image has its own seed, so it is the same in any batch (to round-off). Without `ranking` the
        seed also draws a random order. The noise of a token depends on its seed and position, not on the
        order: images of equal seeds and different orders are paired. `noise` (B, N, S, C) replaces it; S is
        `num_sampling_steps`, noise[:, :, 0] begins the chain.

        cfg_scale: guidance; 1 is none. It grows with the share of tokens known ("linear") or is "constant".
        temperature: scales the noise added within the diffusion chain. clip: range of a denoised token, see
        `GaussianDiffusion.step`; none in MAR. callback: receives after each step a
        dict of `step`, `tokens` (B, N, C) and `mask` (B, N), True where a
            token is not generated yet.
        The tokens are on the labels' device, those of the callback on the model's. Raises ValueError for labels out of
        range, a ranking that is none, or settings that do not exist.
        """
        config, batch = self.config, len(labels)
        num_tokens, device, dtype = config.num_tokens, self.fake_latent.device, self.fake_latent.dtype
        self._check_labels(labels, batch)
        if self.training:
            raise ValueError("the model is in training mode, with dropout: call model.eval() before sampling")
        if len(seeds) != batch:
            raise ValueError(f"{len(seeds)} seeds for {batch} labels; give one seed per image")
        if cfg_schedule not in ("linear", "constant"):
            raise ValueError(f"cfg_schedule is {cfg_schedule!r}; choose 'linear' or 'constant'")
        lengths = mask_lengths(num_tokens, num_iter)
        own_noise, own_ranking = draw_for_sampling(seeds, num_tokens, num_sampling_steps, config.channels)
        noise = own_noise if noise is None else noise
        ranking = own_ranking if ranking is None else ranking
        if noise.shape != own_noise.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}; expected {tuple(own_noise.shape)}")
        orders = self._orders(ranking, batch)

        noise = noise.to(device, dtype)
        condition = self.class_emb(labels.to(device))                           # (B, E)
        branches = 1 if cfg_scale == 1 else 2
        if branches == 2:
            condition = torch.cat([condition, self.fake_latent.expand(batch, -1)])
        tokens = torch.zeros(batch, num_tokens, config.channels, device=device, dtype=dtype)
        mask = torch.ones(batch, num_tokens, device=device, dtype=torch.bool)
        masked = num_tokens
        for step, still_masked in enumerate(tqdm(lengths, desc="sampling", disable=not progress)):
            visible, wanted = orders[:, masked:], orders[:, still_masked:masked]
            known = _take(tokens, visible).repeat(branches, 1, 1)
            z = self.predict(known, condition, visible.repeat(branches, 1), wanted.repeat(branches, 1))
            scale = cfg_scale
            if cfg_schedule == "linear":
                scale = 1 + (cfg_scale - 1) * (num_tokens - max(1, still_masked)) / num_tokens
            rows = torch.arange(batch, device=device).unsqueeze(1)
            with torch.autocast(device.type, enabled=False):
                new = self.diffloss.sample(
                    z.to(dtype).flatten(0, 1), noise[rows, wanted].flatten(0, 1), temperature,
                    cfg_scale=scale if branches == 2 else None, clip=clip,
                )
            tokens[rows, wanted] = new.unflatten(0, wanted.shape)
            mask[rows, wanted] = False
            masked = still_masked
            if callback is not None:
                callback({"step": step, "tokens": tokens.clone(), "mask": mask.clone()})
        return tokens.to(labels.device)

    def _orders(self, ranking: torch.Tensor, batch: int) -> torch.Tensor:
        check_ranking(ranking, self.config.num_tokens)
        if ranking.ndim == 1:
            ranking = ranking.expand(batch, -1)
        if len(ranking) != batch:
            raise ValueError(f"{len(ranking)} rankings for {batch} images; give one row per image")
        return mar_orders(ranking).to(self.fake_latent.device)

    def _check_labels(self, labels: torch.Tensor, batch: int) -> None:
        if tuple(labels.shape) != (batch,) or labels.dtype != torch.int64 or batch == 0:
            raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}; expected int64 ({batch},)")
        low, high, last = int(labels.min()), int(labels.max()), self.config.num_classes - 1
        if low < 0 or high > last:
            raise ValueError(f"labels range from {low} to {high}; expected 0 to {last}")


def block_at(block: Block, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`block(x)` at positions `rows` (B, P) only, (B, P, D): keys and values of all L, queries of P."""
    attn, dim = block.attn, x.shape[-1]
    h, x = block.norm1(x), _take(x, rows)                                        # (B, L, D), (B, P, D)
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


def draw_for_sampling(seeds: Sequence[int], num_tokens: int, num_steps: int, channels: int):
    """Noise (B, N, S, C) and a random ranking (B, N), row b from a CPU generator of seeds[b] alone."""
    noise, ranking = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(int(seed))
        noise.append(torch.randn(num_tokens, num_steps, channels, generator=generator))
        ranking.append(torch.randperm(num_tokens, generator=generator))
    return torch.stack(noise), torch.stack(ranking)


def _take(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    # (B, N, D) at index (B, P) -> (B, P, D)
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class DiffLoss(nn.Module):
    """The diffusion that stands for p(token | z): its loss in training, its chain in sampling."""

    def __init__(self, channels: int, cond_dim: int, depth: int, width: int):
        super().__init__()
        self.net = SimpleMLPAdaLN(channels, 2 * channels, cond_dim, depth, width)

    def forward(self, z, x0, generator, *, timesteps=None, noise=None, repeats: int = 1) -> torch.Tensor:
        """Mean loss over tokens x0 (..., C) with conditions z (..., D), each noised `repeats` times.

        `timesteps` (K, ...) and `noise` (K, ..., C) are drawn from `generator` unless given.
        """
        diffusion = cosine_diffusion()
        if timesteps is None:
            timesteps = torch.randint(diffusion.num_steps, (repeats, *x0.shape[:-1]), generator=generator)
        if noise is None:
            noise = torch.randn(*timesteps.shape, x0.shape[-1], generator=generator)
        noise = noise.to(x0)
        x_t = diffusion.add_noise(x0, timesteps, noise)                          # (K, ..., C)
        eps, v = self.net(x_t, timesteps.to(x0.device), z).chunk(2, dim=-1)
        return diffusion.training_loss(eps, v, x0, x_t, timesteps, noise).mean()

    def sample(self, z, noise, temperature: float = 1.0, *, cfg_scale: float | None = None,
               clip: tuple[float, float] | None = None) -> torch.Tensor:
        """Tokens (R, C) from conditions z and noise (R, S, C), in S steps.

        z is (R, D); with a `cfg_scale` it is (2 R, D), and the second half has no class. noise[:, 0] begins.
        """
        diffusion, net = cosine_diffusion(noise.shape[1]), self.net
        condition = net.cond_embed(z)
        x = noise[:, 0]
        per_chunk = max(1, MODULATION_ROWS // max(1, len(z)))
        for chunk in torch.arange(diffusion.num_steps).flip(0).split(per_chunk):
            times = net.time_embed(diffusion.timesteps[chunk].to(z.device), z.dtype)
            modulation = net.modulation(times.unsqueeze(1) + condition)          # of (chunk, R or 2 R, .)
            for j, i in enumerate(chunk.tolist()):
                h = net.input_proj(x)
                h = h if cfg_scale is None else torch.cat([h, h])
                eps, v = net.run(h, [[part[j] for part in layer] for layer in modulation]).chunk(2, dim=-1)
                if cfg_scale is not None:
                    eps, v = guide(*eps.chunk(2), cfg_scale), v[: len(x)]
                fresh = noise[:, diffusion.num_steps - i] if i else None
                x = diffusion.step(eps, v, x, i, fresh, temperature, clip)
        return x


class SimpleMLPAdaLN(nn.Module):
    """The residual MLP that denoises one token: time and condition shift, scale and gate each layer."""

    def __init__(self, channels: int, out_channels: int, cond_dim: int, depth: int, width: int):
        super().__init__()
        self.time_embed = TimestepEmbedder(width)
        self.cond_embed = nn.Linear(cond_dim, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, out_channels)

    def forward(self, x: torch.Tensor, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Predictions (..., 2 C) for noisy tokens x (..., C), timesteps t (...) and conditions z (..., D)."""
        y = self.time_embed(t, x.dtype) + self.cond_embed(z)
        return self.run(self.input_proj(x), self.modulation(y))

    def modulation(self, y: torch.Tensor) -> list[list[torch.Tensor]]:
        """Shift, 1 + scale and gate (..., W) of each block for y (..., W); the final layer has no gate."""
        y = F.silu(y)
        layers = []
        for layer in [*self.res_blocks, self.final_layer]:
            shift, scale, *gate = layer.adaLN_modulation[1](y).split(y.shape[-1], dim=-1)
            layers.append([shift, scale + 1, *gate])
        return layers

    def run(self, x: torch.Tensor, modulation: list[list[torch.Tensor]]) -> torch.Tensor:
        """From x (..., W) to the predictions, the modulation given."""
        for block, (shift, scale, gate) in zip(self.res_blocks, modulation[:-1], strict=True):
            h = block.mlp(torch.addcmul(shift, block.in_ln(x), scale))
            x = torch.addcmul(x, gate, h)
        shift, scale = modulation[-1]
        return self.final_layer.linear(torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), scale))


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        frequencies = torch.exp(-math.log(10000) / 128 * torch.arange(128, device=t.device))
        angles = t.unsqueeze(-1) * frequencies                                   # float32, as in training
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


class ResBlock(nn.Module):
    """Parameters of a block under their official names; `SimpleMLPAdaLN.run` is its forward pass."""

    def __init__(self, width: int):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_channels: int):
        super().__init__()
        self.linear = nn.Linear(width, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))


def load_mar(source: str | Path | Mapping, config: MARConfig | str) -> MAR:
    """A MAR in evaluation mode with the weights of a checkpoint, and float32 whatever their precision.

    source: an official `checkpoint-last.pth` (its `model_ema` is taken), a safetensors file or a state dict.
    config: sizes, or the name of an official model ("mar_base").
    Raises FileNotFoundError, and ValueError where the checkpoint is unreadable or of another size.
    """
    name = config if isinstance(config, str) else f"a MAR of width {config.encoder_dim}"
    with torch.device("meta"):
        model = MAR(mar_config(config) if isinstance(config, str) else config)
    state = read_state_dict(source)
    return load_strictly(model, state, name).eval()
