"""The predictor that keeps what it has encoded: step by step it says what it says at once, and it is blind to the rest."""

import pytest
import torch

from cop.configs import PredictorConfig
from cop.orders import check_ranking, random_order
from cop.orders.looking import CACHED, looking_order
from cop.paper.cached import CachedPredictor, cached_loss

N, C = 16, 4
TINY = PredictorConfig(dim=16, depth=2, heads=2)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def net() -> CachedPredictor:
    torch.manual_seed(0)
    model = CachedPredictor(N, C, TINY).eval()
    for p in model.parameters():  # far from the initialisation, so that what is expected differs
        p.data += 0.3 * torch.randn(p.shape, generator=gen(1))
    model.embed.weight.data *= 9  # and what is seen matters
    return model


def test_what_is_remembered_step_by_step_is_what_is_read_at_once(net):
    tokens, order = torch.randn(3, N, C, generator=gen(2)), random_order(3, N, gen(3))
    doubt, k = net.looker(tokens), 0
    for more in (0, 1, 3, 2, 5):
        k += more
        with torch.no_grad():
            _, scale = net(tokens, order, torch.full((3, 1), k))
        unseen = torch.ones(3, N, dtype=torch.bool).scatter_(1, order[:, :k], False)
        torch.testing.assert_close(doubt(order[:, :k]), scale[:, 0].sum(-1) * unseen, atol=1e-5, rtol=1e-4)


def test_nothing_unseen_is_known(net):
    tokens = torch.randn(2, N, C, generator=gen(4))
    order = looking_order(net, tokens, CACHED, 0.7, 2)
    check_ranking(order, N)
    other = tokens.clone()
    for b in range(2):
        other[b, order[b, 6:]] = torch.nan
    assert torch.equal(looking_order(net, other, CACHED, 0.7, 2, patches=8), order[:, :8])
    later = tokens.scatter(1, order[:, 6:, None].expand(-1, -1, C), 9.0)
    with torch.no_grad():
        for a, b in zip(net(tokens, order, torch.full((2, 1), 6)), net(later, order, torch.full((2, 1), 6)), strict=True):
            torch.testing.assert_close(a, b)
    assert not torch.equal(looking_order(net, tokens.flip(0), CACHED, 0.7, 2), order)


def test_it_learns_that_patches_are_copies_of_each_other():
    """All patches of an image are one value: once one is seen, nothing of the others is in doubt."""
    torch.manual_seed(0)
    net, g = CachedPredictor(4, 1, TINY), gen(5)
    best = torch.optim.Adam(net.parameters(), 5e-3)
    rate = torch.optim.lr_scheduler.LinearLR(best, 1.0, 0.01, 500)  # to an end that no rounding of a step decides
    for _ in range(500):
        loss = cached_loss(net, torch.randn(64, 1, 1, generator=g).expand(-1, 4, -1), g)
        best.zero_grad()
        loss.backward()
        best.step()
        rate.step()
    doubt = net.eval().looker(torch.randn(20, 1, 1, generator=g).expand(-1, 4, -1))
    before, after = doubt(torch.empty(1, 0, dtype=torch.long)), doubt(torch.zeros(1, 1, dtype=torch.long))
    assert before.min() > 0.4 and after[:, 1:].mean() < 0.2 * before.mean() and (after[:, 0] == 0).all()


def test_a_grid_must_be_square():
    with pytest.raises(ValueError, match="6 tokens do not form a square grid"):
        CachedPredictor(6, C, TINY)
