"""The small diffusion model with which MAR models one token: its Gaussian chain and its network (`DiffLoss`).

A token x0 of C channels is noised over T = 1000 steps, x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, and a network that
sees (x_t, t, condition) predicts 2 C numbers: the noise `eps` and `v`, which places the log-variance of the reverse
step between its two known bounds. The schedule is the cosine of Nichol and Dhariwal (improved DDPM, 2021, Eq. 17), the
loss their `L_simple + L_vlb`, and sampling is ancestral (Ho et al., DDPM, 2020, Alg. 2) on a subset of the steps. Tables
are float64 on the CPU; results have the dtype and device of the data. The chain is ours, not that of diffusers, because
that has no training loss for a learned variance.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_TRAIN_STEPS = 1000
MODULATION_ROWS = 4096  # rows of conditions whose modulation is held in memory at once while sampling


def cosine_betas(num_steps: int = NUM_TRAIN_STEPS, max_beta: float = 0.999) -> Tensor:
    """Noise variances beta_t of the cosine schedule, float64 (num_steps,); improved DDPM, Eq. (17)."""
    edges = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


def spaced_timesteps(num_sampling_steps: int, num_train_steps: int = NUM_TRAIN_STEPS) -> Tensor:
    """The timesteps kept for sampling, evenly spread and ascending: round(linspace(0, T - 1, n)), (n,)."""
    if not 1 <= num_sampling_steps <= num_train_steps:
        raise ValueError(f"num_sampling_steps is {num_sampling_steps}; choose 1 to {num_train_steps}")
    # Strides are added up, not multiplied out: some ties at .5 then round the other way, as they do in MAR.
    stride, position, timesteps = (num_train_steps - 1) / max(1, num_sampling_steps - 1), 0.0, []
    for _ in range(num_sampling_steps):
        timesteps.append(round(position))
        position += stride
    return torch.tensor(timesteps)


class GaussianDiffusion:
    """The tables of one chain; it adds noise, scores a prediction, and takes a step back.

    `betas` are those of the full chain. With `timesteps` (ascending) the chain visits these only; its own betas follow
    from the ratio of successive abar, so that the marginals q(x_t | x0) stay what the network was trained on. Steps are
    counted 0 .. num_steps - 1 within the chain; the network is told `timesteps[i]` for step i.
    """

    def __init__(self, betas: Tensor, timesteps: Tensor | None = None):
        alpha_bar = torch.cumprod(1 - betas.double(), dim=0)
        self.timesteps = torch.arange(len(betas)) if timesteps is None else timesteps
        self.alpha_bar = alpha_bar[self.timesteps]
        self.num_steps = len(self.timesteps)

        alpha_bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar[:-1]])
        self.alphas = self.alpha_bar / alpha_bar_prev
        self.betas = 1 - self.alphas

        # q(x_{t-1} | x_t, x0) is normal with mean c0 x0 + ct x_t: DDPM, Eqs. (6)-(7).
        self.posterior_c0 = self.betas * alpha_bar_prev.sqrt() / (1 - self.alpha_bar)
        self.posterior_ct = (1 - alpha_bar_prev) * self.alphas.sqrt() / (1 - self.alpha_bar)
        variance = self.betas * (1 - alpha_bar_prev) / (1 - self.alpha_bar)
        # The variance of the last step back is 0, which has no logarithm: its neighbour's is taken.
        variance[0] = variance[1] if self.num_steps > 1 else self.betas[0]
        self.min_logvar = variance.log()
        self.max_logvar = self.betas.log()

        # mean of p(x_{t-1} | x_t) = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t): DDPM, Eq. (11).
        self.mean_cx = self.alphas.rsqrt()
        self.mean_ceps = -self.betas / (1 - self.alpha_bar).sqrt() / self.alphas.sqrt()

    def add_noise(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t for tokens `x0` (..., C), steps `t` (...) and normal `noise` (..., C); DDPM, Eq. (4)."""
        return _at(self.alpha_bar.sqrt(), t, noise) * x0 + _at((1 - self.alpha_bar).sqrt(), t, noise) * noise

    def training_loss(self, eps, v, x0, x_t, t, noise) -> Tensor:
        """Loss of each token, shape of `t`: squared error of `eps`, plus the bound in bits that trains `v`.

        eps, v, x0, x_t, noise: (..., C); t: (...) int64. `eps` is detached in the bound, so that the variance does not
        change the mean (improved DDPM, Sec. 3.1). Nothing is rescaled, as in MAR.
        """
        return (noise - eps).square().mean(-1) + self.bound(eps.detach(), v, x0, x_t, t)

    def bound(self, eps, v, x0, x_t, t) -> Tensor:
        """One term of the variational bound, in bits per channel: a KL, or at t = 0 the likelihood of x0."""
        mean = _at(self.mean_cx, t, x_t) * x_t + _at(self.mean_ceps, t, x_t) * eps
        min_logvar, max_logvar = _at(self.min_logvar, t, x_t), _at(self.max_logvar, t, x_t)
        logvar = _between(v, min_logvar, max_logvar)
        true_mean = _at(self.posterior_c0, t, x_t) * x0 + _at(self.posterior_ct, t, x_t) * x_t

        # KL(N(true_mean, e^min_logvar) || N(mean, e^logvar))
        distance = (true_mean - mean) ** 2 / logvar.exp()
        kl = (logvar - min_logvar + (min_logvar - logvar).exp() + distance - 1) / 2
        first = (t == 0).to(x_t.device).unsqueeze(-1)
        return torch.where(first, -discretised_log_likelihood(x0, mean, logvar), kl).mean(-1) / math.log(2)

    def step(self, eps, v, x_t, i: int, noise, temperature=1.0, clip: tuple[float, float] | None = None) -> Tensor:
        """x_{i-1} of one ancestral step from x_i, all (..., C). `temperature` scales the noise that is added.

        clip: range in which the denoised x0 is held, or None as in MAR, whose latents have no range. Without it the
        error of a small network grows beyond all bounds at the first steps, where abar is 2e-9 and x0 follows from eps
        by a division by almost 0. Step 0 returns the mean; its `noise` is not read and may be None.
        """
        if clip is None:
            mean = float(self.mean_cx[i]) * x_t + float(self.mean_ceps[i]) * eps
        else:
            kept = float(self.alpha_bar[i])
            x0 = ((x_t - (1 - kept) ** 0.5 * eps) / kept**0.5).clamp(*clip)
            mean = float(self.posterior_c0[i]) * x0 + float(self.posterior_ct[i]) * x_t
        if i == 0:
            return mean
        logvar = _between(v, float(self.min_logvar[i]), float(self.max_logvar[i]))
        return mean + temperature * (logvar / 2).exp() * noise


def discretised_log_likelihood(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log-probability in nats of the bin of width 2/255 around `x` under N(mean, e^logvar); DDPM, Eq. (13).

    The outer bins, beyond +-0.999, reach to infinity. MAR keeps this decoder of 8-bit images for its tokens.
    """
    scale = (-logvar / 2).exp()
    upper, lower = (_normal_cdf(scale * (x - mean + half)) for half in (1 / 255, -1 / 255))
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    # An approximation by tanh, with which MAR was trained.
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def _between(v, low, high):
    # v = -1 is the lower bound, v = +1 the upper: improved DDPM, Eq. (15).
    return (v + 1) / 2 * (high - low) + low


def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    return table[t.cpu()].to(like.device, like.dtype).unsqueeze(-1)


@lru_cache
def cosine_diffusion(num_sampling_steps: int | None = None) -> GaussianDiffusion:
    """The chain that MAR trains on (None), or its thinned version of `num_sampling_steps` steps."""
    timesteps = None if num_sampling_steps is None else spaced_timesteps(num_sampling_steps)
    return GaussianDiffusion(cosine_betas(), timesteps)


class DiffLoss(nn.Module):
    """The diffusion that stands for p(token | z): its loss in training, its chain in sampling."""

    def __init__(self, channels: int, cond_dim: int, depth: int, width: int):
        super().__init__()
        self.net = SimpleMLPAdaLN(channels, 2 * channels, cond_dim, depth, width)

    def forward(self, z, x0, generator, *, timesteps=None, noise=None, repeats: int = 1) -> Tensor:
        """Mean loss over tokens x0 (..., C) with conditions z (..., D), each noised `repeats` times.

        `timesteps` (K, ...) and `noise` (K, ..., C) are drawn from `generator` unless given.
        """
        diffusion = cosine_diffusion()
        if timesteps is None:
            timesteps = torch.randint(diffusion.num_steps, (repeats, *x0.shape[:-1]), generator=generator)
        if noise is None:
            noise = torch.randn(*timesteps.shape, x0.shape[-1], generator=generator)
        noise = noise.to(x0)
        x_t = diffusion.add_noise(x0, timesteps, noise)  # (K, ..., C)
        eps, v = self.net(x_t, timesteps.to(x0.device), z).chunk(2, dim=-1)
        return diffusion.training_loss(eps, v, x0, x_t, timesteps, noise).mean()

    def sample(self, z: Tensor, noise: Tensor, temperature: float, *, cfg_scale: float | None, clip) -> Tensor:
        """Tokens (R, C) from conditions z and noise (R, S, C), in S steps; noise[:, 0] begins the chain.

        z is (R, D). With a `cfg_scale` s it is (2 R, D), its second half without class, and the predicted noise is
        u + s (c - u) of the two halves' c and u (classifier-free guidance). The variance is not guided.
        """
        diffusion, net = cosine_diffusion(noise.shape[1]), self.net
        condition, x = net.cond_embed(z), noise[:, 0]
        per_chunk = max(1, MODULATION_ROWS // max(1, len(z)))
        for chunk in torch.arange(diffusion.num_steps).flip(0).split(per_chunk):
            times = net.time_embed(diffusion.timesteps[chunk].to(z.device), z.dtype)
            modulation = net.modulation(times.unsqueeze(1) + condition)  # each (chunk, R or 2 R, W)
            for j, i in enumerate(chunk.tolist()):
                h = net.input_proj(x)
                h = h if cfg_scale is None else torch.cat([h, h])
                eps, v = net.run(h, [[part[j] for part in layer] for layer in modulation]).chunk(2, dim=-1)
                if cfg_scale is not None:
                    (c, u), v = eps.chunk(2), v[: len(x)]
                    eps = u + cfg_scale * (c - u)
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

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Predictions (..., 2 C) for noisy tokens x (..., C), timesteps t (...) and conditions z (..., D)."""
        y = self.time_embed(t, x.dtype) + self.cond_embed(z)
        return self.run(self.input_proj(x), self.modulation(y))

    def modulation(self, y: Tensor) -> list[list[Tensor]]:
        """Shift, 1 + scale and gate (..., W) of each block for y (..., W); the final layer has no gate."""
        y, layers = F.silu(y), []
        for layer in [*self.res_blocks, self.final_layer]:
            shift, scale, *gate = layer.adaLN_modulation[1](y).split(y.shape[-1], dim=-1)
            layers.append([shift, scale + 1, *gate])
        return layers

    def run(self, x: Tensor, modulation: list[list[Tensor]]) -> Tensor:
        """The predictions (..., 2 C) for x (..., W), with the modulation given."""
        for block, (shift, scale, gate) in zip(self.res_blocks, modulation[:-1], strict=True):
            x = torch.addcmul(x, gate, block.mlp(torch.addcmul(shift, block.in_ln(x), scale)))
        shift, scale = modulation[-1]
        return self.final_layer.linear(torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), scale))


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        frequencies = torch.exp(-math.log(10000) / 128 * torch.arange(128, device=t.device))
        angles = t.unsqueeze(-1) * frequencies  # float32, as in training
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
