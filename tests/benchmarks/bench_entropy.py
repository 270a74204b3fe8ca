"""Gaussian order curves: one Cholesky factor per order against one inversion per prefix, at equal output.

Run with `pytest tests/benchmarks/bench_entropy.py -s`; the ratio is taken within one run.
"""

import time

import pytest
import torch

from cop.orders import random_order
from cop.paper.entropy import GaussianTokens, half_logdet

N, C, ORDERS = 64, 16, 4  # the demo profile's tokens


@pytest.fixture(scope="module")
def problem() -> tuple[GaussianTokens, torch.Tensor]:
    """Tokens whose correlation falls with distance in the image, as those of pictures do."""
    g = torch.Generator().manual_seed(0)
    at = torch.stack([torch.arange(N) // 8, torch.arange(N) % 8], 1).double()
    field = torch.linalg.cholesky(torch.exp(-torch.cdist(at, at) / 3) + 1e-6 * torch.eye(N))
    tokens = torch.einsum("nm,bmc,cd->bnd", field, torch.randn(5000, N, C, generator=g, dtype=torch.float64),
                          torch.randn(C, C, generator=g, dtype=torch.float64) / C**0.5)  # fmt: skip
    return GaussianTokens.fit(tokens), random_order(ORDERS, N, g)


def one_inversion_per_step(model: GaussianTokens, ranking: torch.Tensor) -> torch.Tensor:
    """The sum curve as its definition reads: for every prefix, invert the covariance of what is seen."""
    curve = torch.zeros(len(ranking), N + 1, dtype=torch.float64)
    for b, order in enumerate(ranking):
        values = (order[:, None] * C + torch.arange(C)).flatten()
        cov = model.cov[values[:, None], values]
        for k in range(N):
            s = k * C
            given = cov[s:, s:] - cov[s:, :s] @ torch.linalg.inv(cov[:s, :s]) @ cov[:s, s:]
            blocks = given.view(N - k, C, N - k, C)[range(N - k), :, range(N - k)]
            curve[b, k] = half_logdet(blocks).sum() - (N - k) * model.noise
    return curve


def test_sum_curve_against_one_inversion_per_step(benchmark, problem):
    model, ranking = problem
    start = time.perf_counter()
    want = one_inversion_per_step(model, ranking)
    slow = time.perf_counter() - start
    got = benchmark.pedantic(model.sum_curve, (ranking,), rounds=3, warmup_rounds=1)
    assert torch.allclose(got, want, atol=1e-6)
    fast = benchmark.stats.stats.min
    start = time.perf_counter()
    model.cov @ model.cov
    peak = 2 * (N * C) ** 3 / (time.perf_counter() - start)  # multiply and add, float64
    reached = ORDERS * (N * C) ** 3 / 3 / fast  # those of the Cholesky factors alone
    benchmark.extra_info |= {"ratio": slow / fast, "share_of_matmul_rate": reached / peak}
    print(f"\n{ORDERS} orders of {N} x {C} values: {slow:.2f} s by inversions, {fast:.2f} s by Cholesky: "
          f"{slow / fast:.0f} x; {reached / 1e9:.1f} of {peak / 1e9:.1f} Gflop/s (matmul)")  # fmt: skip


def test_greedy_order(benchmark, problem):
    model, ranking = problem
    greedy = benchmark.pedantic(model.greedy_order, rounds=2)
    assert (model.sum_curve(greedy).mean() <= model.sum_curve(ranking).mean(1)).all()
