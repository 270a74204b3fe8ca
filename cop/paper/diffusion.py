"""The small Gaussian diffusion with which MAR models one token.

A token x0 of C channels is noised over T = 1000 steps, x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, and a
network that sees (x_t, t, condition) predicts 2C numbers: the noise `eps` and `v`, which places the
log-variance of the reverse step between its two known bounds. The schedule is the cosine of Nichol and
Dhariwal (improved DDPM, 2021, Eq. 17), the loss their `L_simple + L_vlb`, and sampling is ancestral (Ho et
al., DDPM, 2020, Alg. 2) on a subset of the steps. All tables are float64 and live on the CPU; what leaves
this file has the dtype and device of the data.
"""

import math
from functools import lru_cache

import torch

NUM_TRAIN_STEPS = 1000


def cosine_betas(num_steps: int = NUM_TRAIN_STEPS, max_beta: float = 0.999) -> torch.Tensor:
    """Noise variances beta_t of the cosine schedule, float64 (num_steps,); improved DDPM, Eq. (17)."""
    edges = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


def spaced_timesteps(num_sampling_steps: int, num_train_steps: int = NUM_TRAIN_STEPS) -> torch.Tensor:
    """The timesteps kept for sampling, evenly spread and ascending: round(linspace(0, T - 1, n)), (n,)."""
    if not 1 <= num_sampling_steps <= num_train_steps:
        raise ValueError(f"num_sampling_steps is {num_sampling_steps}; choose 1 to {num_train_steps}")
    # Strides are added up, not multiplied out: some ties at .5 then round the other way, as they do in MAR.
    stride, position, timesteps = (num_train_steps - 1) / max(1, num_sampling_steps - 1), 0.0, []
    for _ in range(num_sampling_steps):
        timesteps.append(round(position))
        position += stride
    return torch.tensor(timesteps)


def guide(cond_eps: torch.Tensor, uncond_eps: torch.Tensor, cfg_scale: float) -> torch.Tensor:
    """Classifier-free guidance of the predicted noise, u + s (c - u). The variance is not guided."""
    return uncond_eps + cfg_scale * (cond_eps - uncond_eps)


class GaussianDiffusion:
    """Tables of one chain, and what is done with it: add noise, score a prediction, take a step back.

    `betas` are those of the full chain. With `timesteps` (ascending) the chain visits these only; its own
    betas follow from the ratio of successive abar, so that the marginals q(x_t | x0) stay what the network
    was trained on. Steps are counted 0 .. num_steps - 1 within the chain; `timesteps[i]` is what the network
    is told for step i.
    """

    def __init__(self, betas: torch.Tensor, timesteps: torch.Tensor | None = None):
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
        # The variance of the last step back is 0: take its neighbour's, for the logarithm's sake.
        variance[0] = variance[1] if self.num_steps > 1 else self.betas[0]
        self.min_logvar = variance.log()
        self.max_logvar = self.betas.log()

        # mean of p(x_{t-1} | x_t) = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t): DDPM, Eq. (11).
        self.mean_cx = self.alphas.rsqrt()
        self.mean_ceps = -self.betas / (1 - self.alpha_bar).sqrt() / self.alphas.sqrt()

    def add_noise(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_t for tokens `x0` (..., C), steps `t` (...) and normal `noise` (..., C); DDPM, Eq. (4)."""
        return _at(self.alpha_bar.sqrt(), t, noise) * x0 + _at((1 - self.alpha_bar).sqrt(), t, noise) * noise

    def training_loss(self, eps, v, x0, x_t, t, noise) -> torch.Tensor:
        """Loss of each token, shape of `t`: squared error of `eps`, plus the bound in bits that trains `v`.

        eps, v, x0, x_t, noise: (..., C); t: (...) int64. `eps` is detached in the bound: the variance must
        not bend the mean (improved DDPM, Sec. 3.1). Nothing is rescaled, as in MAR.
        """
        mse = (noise - eps).square().mean(-1)
        return mse + self.bound(eps.detach(), v, x0, x_t, t)

    def bound(self, eps, v, x0, x_t, t) -> torch.Tensor:
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

    def step(self, eps, v, x_t, i: int, noise, temperature: float = 1.0, clip: tuple[float, float] | None = None) -> torch.Tensor:
        """x_{i-1} of one ancestral step from x_i, all (..., C). `temperature` scales the noise that is added.

        clip: range in which the denoised x0 is held. Where almost nothing is left of x0 (abar_T is 2e-9), x0 follows
        from eps by a division by almost 0, and a small network's error grows beyond all bounds; MAR, whose latents
        have no range, does without (None). Step 0 returns the mean; its `noise` is not read and may be None.
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


def discretised_log_likelihood(x: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """log probability (nats) of the bin of width 2/255 around `x` under N(mean, e^logvar); DDPM, Eq. (13).

    The outer bins, beyond +-0.999, reach to infinity. MAR keeps this decoder of 8-bit images for its tokens.
    """
    scale = (-logvar / 2).exp()
    upper, lower = (_normal_cdf(scale * (x - mean + half)) for half in (1 / 255, -1 / 255))
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    # The tanh approximation of the normal distribution function: kept because MAR was trained with it.
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def _between(v, low, high):
    # v = -1 is the lower bound, v = +1 the upper: improved DDPM, Eq. (15).
    return (v + 1) / 2 * (high - low) + low


def _at(table: torch.Tensor, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return table[t.cpu()].to(like.device, like.dtype).unsqueeze(-1)


@lru_cache
def cosine_diffusion(num_sampling_steps: int | None = None) -> GaussianDiffusion:
    """The chain that MAR trains on (None), or its thinned version of `num_sampling_steps` steps."""
    timesteps = None if num_sampling_steps is None else spaced_timesteps(num_sampling_steps)
    return GaussianDiffusion(cosine_betas(), timesteps)
