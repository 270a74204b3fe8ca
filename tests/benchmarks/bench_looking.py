"""The first 22 percent of `active` against a plain loop, by patches per step. Ratios from one run each.

make bench
"""

import pytest
import torch
from bench_ranking import alternate

from cop.orders import looking_order
from cop.orders.looking import CACHED, gaussian_kernel
from cop.paper.cached import CachedPredictor
from cop.paper.entropy import TokenPredictor
from cop.profiles import natural
from cop.train.loop import seeded, seeded_build

N, K = natural.num_tokens, 14
WIDTH = natural.looking.width


@pytest.mark.parametrize("per_step", [1, 4, 8])
def test_active_against_a_plain_loop(benchmark, per_step):
    """The plain loop: one image at a time, one patch a step, every patch of it through every block."""
    model = seeded_build(lambda: TokenPredictor(N, natural.tokens.dim, natural.predictor), 0).eval()
    tokens, kernel = torch.randn(16, N, natural.tokens.dim, generator=seeded(1)), gaussian_kernel((8, 8), WIDTH)

    @torch.no_grad()
    def plain():
        order = torch.zeros(len(tokens), 0, dtype=torch.long)
        for _ in range(K):
            seen = torch.zeros(len(tokens), N, dtype=torch.bool).scatter_(1, order, True)
            doubt = torch.cat([model(x[None], s[None])[1].sum(-1) for x, s in zip(tokens, seen, strict=True)])
            score = (doubt.masked_fill(seen, 0).double() @ kernel).masked_fill(seen, -1)
            order = torch.cat([order, score.argmax(1, keepdim=True)], 1)
        return order

    def ours():
        return looking_order(model, tokens, "active", WIDTH, per_step, K)

    a, b = alternate(ours, plain, 3)
    benchmark.extra_info["ratio"] = b / a
    print(f"\nactive, {per_step} a step: {len(tokens) / a:.0f} images/s, plain loop {len(tokens) / b:.0f}: {b / a:.1f} x")
    benchmark.pedantic(ours, rounds=3)


@pytest.mark.parametrize("per_step", [1, 2, 8])
def test_active_with_and_without_a_cache(benchmark, per_step):
    full, cached = (seeded_build(lambda kind=kind: kind(N, natural.tokens.dim, natural.predictor), 0).eval() for kind in (TokenPredictor, CachedPredictor))
    tokens = torch.randn(256, N, natural.tokens.dim, generator=seeded(1))
    a, b = alternate(lambda: looking_order(cached, tokens, CACHED, WIDTH, per_step, K),
                     lambda: looking_order(full, tokens, "active", WIDTH, per_step, K), 3)  # fmt: skip
    benchmark.extra_info["ratio"] = b / a
    print(f"\nactive, {per_step} a step: {len(tokens) / a:.0f} images/s with a cache, {len(tokens) / b:.0f} without: {b / a:.1f} x")
    benchmark.pedantic(lambda: looking_order(cached, tokens, CACHED, WIDTH, per_step, K), rounds=3)
