"""The diffusion of MAR's tokens against diffusers' DDPMScheduler and against the textbook."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from cop.paper.diffusion import (
    GaussianDiffusion,
    cosine_betas,
    cosine_diffusion,
    discretised_log_likelihood,
    spaced_timesteps,
)


def scheduler(num_steps=1000, **clipping):
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        timestep_spacing="linspace",
        **({"clip_sample": False} | clipping),
    )
    oracle.set_timesteps(num_steps)
    return oracle


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_schedule_is_that_of_diffusers():
    oracle = scheduler()
    torch.testing.assert_close(cosine_betas().float(), oracle.betas)
    # theirs is a float32 product of 1000 factors, which the last steps feel
    torch.testing.assert_close(
        cosine_diffusion().alpha_bar.float()[:990], oracle.alphas_cumprod[:990], rtol=2e-4, atol=1e-7
    )


@pytest.mark.parametrize("n", [1, 2, 25, 64, 100, 250, 1000])
def test_spaced_timesteps_are_those_of_diffusers(n):
    assert spaced_timesteps(n).flip(0).tolist() == scheduler(n).timesteps.tolist()


@given(st.integers(2, 1000))
def test_spaced_timesteps_are_distinct_and_even(n):
    steps = spaced_timesteps(n)
    assert steps[0] == 0 and steps[-1] == 999 and len(steps) == n
    assert (steps.diff() >= 1).all()
    assert float((steps - torch.linspace(0, 999, n, dtype=torch.float64)).abs().max()) <= 0.5 + 1e-9


def test_ties_round_as_in_mar():
    assert spaced_timesteps(21)[10] == 499  # 10 x 49.95 = 499.5, but 49.95 added ten times is a little less


@pytest.mark.parametrize("n", [0, 1001])
def test_impossible_step_counts_are_refused(n):
    with pytest.raises(ValueError, match=f"num_sampling_steps is {n}"):
        spaced_timesteps(n)


def test_noise_is_added_as_in_diffusers():
    x0, noise = normal(64, 16).float(), normal(64, 16, seed=1).float()
    t = torch.arange(0, 960, 15)
    torch.testing.assert_close(
        cosine_diffusion().add_noise(x0, t, noise), scheduler().add_noise(x0, noise, t), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_every_ancestral_step_is_that_of_diffusers(n, monkeypatch):
    """Same prediction, same noise -> same x_{t-1}, at every step of a respaced chain."""
    oracle, diffusion = scheduler(n), cosine_diffusion(n)
    module = __import__("diffusers.schedulers.scheduling_ddpm", fromlist=["randn_tensor"])
    for i in list(range(0, n, max(1, n // 20))) + [n - 1]:
        x, eps, noise = (normal(8, 16, seed=3 * i + k).float() for k in range(3))
        v = normal(8, 16, seed=7 * i).float().tanh()
        monkeypatch.setattr(module, "randn_tensor", lambda *args, noise=noise, **kwargs: noise)
        t = int(diffusion.timesteps[i])
        theirs = oracle.step(torch.cat([eps, v], dim=1), t, x).prev_sample
        ours = diffusion.step(eps, v, x, i, noise)
        # The oracle passes through x0 = (x - s eps) / sqrt(abar), which float32 cannot hold near t = 999.
        tolerance = 5e-3 if t > 990 else 2e-4
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("i", [1, 20, 49])
def test_a_clipped_step_is_that_of_diffusers(i, monkeypatch):
    oracle, diffusion = scheduler(50, clip_sample=True, clip_sample_range=1.5), cosine_diffusion(50)
    module = __import__("diffusers.schedulers.scheduling_ddpm", fromlist=["randn_tensor"])
    x, eps, noise = (normal(8, 16, seed=k).float() for k in range(3))
    v = normal(8, 16, seed=5).float().tanh()
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: noise)
    theirs = oracle.step(torch.cat([eps, v], dim=1), int(diffusion.timesteps[i]), x).prev_sample
    torch.testing.assert_close(diffusion.step(eps, v, x, i, noise, clip=(-1.5, 1.5)), theirs, rtol=5e-3, atol=5e-3)
    wide = diffusion.step(eps.double(), v.double(), x.double(), i, noise, clip=(-1e9, 1e9))
    torch.testing.assert_close(wide, diffusion.step(eps.double(), v.double(), x.double(), i, noise))


def test_temperature_scales_the_noise_only():
    diffusion = cosine_diffusion(50)
    x, eps, v, noise = (normal(4, 16, seed=k) for k in range(4))
    mean = diffusion.step(eps, v, x, 30, noise, temperature=0.0)
    full = diffusion.step(eps, v, x, 30, noise, temperature=1.0)
    third = diffusion.step(eps, v, x, 30, noise, temperature=0.3)
    torch.testing.assert_close(third, mean + 0.3 * (full - mean))
    assert not torch.allclose(full, mean)
    torch.testing.assert_close(diffusion.step(eps, v, x, 0, None), diffusion.step(eps, v, x, 0, noise, 5.0))


def test_reverse_mean_is_the_posterior_mean_of_the_predicted_token():
    diffusion = cosine_diffusion(100)
    x0, noise = normal(100, 16), normal(100, 16, seed=1)
    t = torch.arange(100)
    x_t = diffusion.add_noise(x0, t, noise)
    by_posterior = diffusion.posterior_c0[:, None] * x0 + diffusion.posterior_ct[:, None] * x_t
    by_noise = diffusion.mean_cx[:, None] * x_t + diffusion.mean_ceps[:, None] * noise
    torch.testing.assert_close(by_noise, by_posterior)


def test_respaced_chain_keeps_the_marginals():
    thin, full = cosine_diffusion(37), cosine_diffusion()
    torch.testing.assert_close(thin.alpha_bar, full.alpha_bar[thin.timesteps])
    torch.testing.assert_close(torch.cumprod(thin.alphas, 0), thin.alpha_bar)


@settings(deadline=None, max_examples=30)
@given(t=st.integers(1, 999), seed=st.integers(0, 10**6))
def test_bound_is_a_kl_divergence_in_bits(t, seed):
    diffusion = cosine_diffusion()
    x0, noise, eps, v = (normal(3, 16, seed=seed + k) for k in range(4))
    steps = torch.full((3,), t)
    x_t = diffusion.add_noise(x0, steps, noise)

    # q(x_{t-1} | x_t, x0) by Bayes: precisions of the forward step and of the prior add up.
    beta, prev = diffusion.betas[t], diffusion.alpha_bar[t - 1]
    precision = (1 - beta) / beta + 1 / (1 - prev)
    true_mean = ((1 - beta).sqrt() / beta * x_t + prev.sqrt() / (1 - prev) * x0) / precision
    logvar = (v + 1) / 2 * beta.log() + (1 - v) / 2 * -precision.log()
    mean = (x_t - beta / (1 - diffusion.alpha_bar[t]).sqrt() * eps) / (1 - beta).sqrt()
    kl = kl_divergence(Normal(true_mean, precision.rsqrt()), Normal(mean, (logvar / 2).exp()))
    ours = diffusion.bound(eps, v, x0, x_t, steps)
    torch.testing.assert_close(ours, kl.mean(-1) / math.log(2), rtol=1e-6, atol=1e-9)


def test_first_term_is_the_likelihood_of_an_8_bit_bin():
    x = torch.tensor([-1.0, -0.5, 0.0, 0.3, 1.0], dtype=torch.float64)
    mean, logvar = x + 0.004, torch.full_like(x, 2 * math.log(0.01))
    exact = Normal(mean, 0.01)
    upper, lower = exact.cdf(x + 1 / 255), exact.cdf(x - 1 / 255)
    upper[-1], lower[0] = 1, 0  # the outer bins have no end
    expected = (upper - lower).log()
    torch.testing.assert_close(discretised_log_likelihood(x, mean, logvar), expected, rtol=2e-3, atol=2e-3)

    diffusion = cosine_diffusion()
    x0, noise, eps, v = (normal(2, 16, seed=k) for k in range(4))
    t = torch.zeros(2, dtype=torch.long)
    x_t = diffusion.add_noise(x0, t, noise)
    mean = diffusion.mean_cx[0] * x_t + diffusion.mean_ceps[0] * eps
    logvar = (v + 1) / 2 * diffusion.max_logvar[0] + (1 - v) / 2 * diffusion.min_logvar[0]
    nll = -discretised_log_likelihood(x0, mean, logvar).mean(-1) / math.log(2)
    torch.testing.assert_close(diffusion.bound(eps, v, x0, x_t, t), nll)


def test_bins_add_up_to_one():
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mean, logvar = torch.full_like(bins, 0.2), torch.full_like(bins, -2.0)
    total = discretised_log_likelihood(bins, mean, logvar).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_loss_is_mse_plus_bound_and_the_bound_leaves_the_mean_alone():
    diffusion = cosine_diffusion()
    x0, noise, eps, v = (normal(5, 16, seed=k) for k in range(4))
    t = torch.tensor([0, 1, 250, 600, 999])
    x_t = diffusion.add_noise(x0, t, noise)
    eps.requires_grad_(), v.requires_grad_()
    loss = diffusion.training_loss(eps, v, x0, x_t, t, noise)
    torch.testing.assert_close(loss, (eps - noise).square().mean(-1) + diffusion.bound(eps, v, x0, x_t, t))
    loss.sum().backward()
    torch.testing.assert_close(eps.grad, 2 * (eps.detach() - noise) / 16)  # of the squared error alone
    assert torch.isfinite(v.grad).all() and (v.grad != 0).any(dim=-1).all()


def test_perfect_predictions_have_the_least_bound():
    """With the true noise and the lower variance, p is q: the KL is 0, and any other prediction pays."""
    diffusion = cosine_diffusion()
    x0, noise = normal(900, 16), normal(900, 16, seed=1)
    t = torch.arange(50, 950)
    x_t = diffusion.add_noise(x0, t, noise)
    lower = -torch.ones_like(x0)
    assert float(diffusion.bound(noise, lower, x0, x_t, t).abs().max()) < 1e-9
    assert (diffusion.bound(noise + 0.1, lower, x0, x_t, t) > 0).all()
    assert (diffusion.bound(noise, lower + 1, x0, x_t, t) > 0).all()


@pytest.mark.parametrize("n", [20, 100])
def test_sampling_with_the_exact_score_recovers_a_normal(n):
    """For tokens from N(m, s^2) the best prediction of the noise is known; sampling returns m and s."""
    diffusion, m, s, count = cosine_diffusion(n), 0.7, 0.5, 40_000
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, generator=generator, dtype=torch.float64)
    for i in reversed(range(n)):
        bar = diffusion.alpha_bar[i]
        eps = (1 - bar).sqrt() * (x - bar.sqrt() * m) / (bar * s**2 + 1 - bar)
        noise = torch.randn(count, 1, generator=generator, dtype=torch.float64)
        x = diffusion.step(eps, torch.zeros_like(eps), x, i, noise)  # a variance between the bounds
    assert float(x.mean()) == pytest.approx(m, abs=0.02)
    assert float(x.std()) == pytest.approx(s, abs=0.05)


def test_one_step_chain_is_defined():
    diffusion = GaussianDiffusion(cosine_betas(), spaced_timesteps(1))
    x = normal(2, 4)
    assert torch.isfinite(diffusion.step(x, x, x, 0, None)).all()
