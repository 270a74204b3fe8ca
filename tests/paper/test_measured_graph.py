"""Measured graphs: against a loop, against the closed form of Gaussian tokens, input without any information."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_entropy import FLOOR, TINY, gen, model

from cop.orders import check_ranking, collapse_order, coverage_order
from cop.paper.entropy import GaussianTokens, TokenPredictor, excess_nll
from cop.paper.measured import (
    UNITS,
    gaussian_graph,
    laplace_scale,
    measured_graph,
    uncertainty,
    weighed,
)
from cop.paper.ranking import pagerank


class Perfect:
    """The predictor that knows a Gaussian model: conditional means, and the best Laplace scale of every value."""

    def __init__(self, model: GaussianTokens):
        self.model, self.floor, self.sequence_bytes = model, model.floor, 1 << 20
        self.grid, self.dim = math.isqrt(model.N), model.C

    def __call__(self, tokens, seen):
        mean, scale, cov = torch.zeros_like(tokens), torch.ones_like(tokens), self.model.cov
        for b, mask in enumerate(seen.repeat_interleave(self.dim, 1)):
            gain = torch.linalg.solve(cov[mask][:, mask], cov[mask])  # (seen values, all values)
            mean[b] = (tokens[b].flatten()[mask] @ gain).view_as(mean[b])
            left = (cov - cov[:, mask] @ gain).diagonal().clamp_min(0).sqrt()
            scale[b] = laplace_scale(left, self.floor).view_as(scale[b])
        return mean, scale


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return TokenPredictor(9, 4, TINY)


@pytest.mark.parametrize("unit", UNITS)
def test_an_entry_is_what_two_passes_say(net, unit):
    tokens = torch.randn(3, 9, 4, generator=gen())
    with torch.no_grad():
        for alone in ("seen", "hidden"):
            A = measured_graph(net, tokens, unit, alone)
            assert torch.allclose(A, measured_graph(net, tokens, unit, alone, chunk_bytes=1), atol=1e-5)
            for b, n, j in ((0, 3, 7), (2, 8, 0), (1, 0, 8), (1, 4, 4)):
                most = torch.ones(1, 9, dtype=torch.bool)
                most[0, n] = False
                few = torch.zeros_like(most) if alone == "seen" else most.clone()
                few[0, j] = False
                most = most if alone == "hidden" else torch.arange(9)[None] == j
                before, after = (uncertainty(net, tokens[b : b + 1], s, unit)[0, n] for s in (few, most))
                want = 0 if n == j else float((1 - after / before).clamp(0, 1))
                assert float(A[b, n, j]) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("C", [1, 3])
def test_a_perfect_predictor_measures_the_closed_form(C):
    m = model(4, C, seed=C)
    tokens = torch.randn(2, 4, C, generator=gen(), dtype=torch.float64)
    for unit in ("scale", "nats"):
        for alone in ("seen", "hidden"):
            A = measured_graph(Perfect(m), tokens, unit, alone)
            torch.testing.assert_close(A, gaussian_graph(m, unit, alone).expand(2, -1, -1), rtol=0, atol=1e-9)


def test_the_closed_form_of_two_values_is_a_correlation():
    rho, tiny = 0.8, 1e-6
    m = GaussianTokens(torch.zeros(2, 1), torch.tensor([[1, rho], [rho, 1]]), tiny)
    scale, nats = gaussian_graph(m)[0, 1], gaussian_graph(m, "logdet")[0, 1]
    assert float(scale) == pytest.approx(1 - math.sqrt(1 - rho**2), abs=1e-5)
    assert float(nats) == pytest.approx(0.5 * math.log(1 - rho**2) / math.log(tiny), abs=1e-6)
    m = model(5, 3, seed=2)  # and of many values: entropies by determinants
    H = [float(0.5 * torch.logdet(m.subset(torch.tensor(s)).cov)) - len(s) * m.noise for s in ([1], [3], [1, 3])]
    assert float(gaussian_graph(m, "logdet")[1, 3]) == pytest.approx(1 - (H[2] - H[1]) / H[0], abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.0, 3), st.floats(0.02, 0.5))
def test_laplace_scale_minimises_the_loss_of_the_predictor(std, floor):
    x = std * torch.special.ndtri((torch.arange(20_000).double() + 0.5) / 20_000)
    best = float(laplace_scale(torch.tensor(std).double(), floor))

    def cost(scale):
        return float(excess_nll(x, torch.zeros_like(x), torch.full_like(x, scale), floor).mean())

    assert best >= floor - 1e-12
    assert cost(best) <= min(cost(0.99 * best), cost(1.01 * best)) + 1e-7


def test_input_without_information_has_an_order_all_the_same(net):
    lonely = TokenPredictor(1, 4, TINY)  # a 1 x 1 grid
    assert (measured_graph(lonely, torch.zeros(2, 1, 4)) == 0).all()
    assert (measured_graph(lonely, torch.zeros(2, 1, 4), alone="hidden") == 0).all()
    assert (pagerank(measured_graph(lonely, torch.zeros(2, 1, 4))) == 1).all()

    blank = measured_graph(net, torch.zeros(2, 9, 4))  # a constant image
    silent = blank.clone()
    silent[:, 4] = 0  # nobody tells patch 4 anything
    for A in (blank, silent, torch.zeros_like(blank)):
        u = A.sum(-1)
        for order in (collapse_order(pagerank(A)), collapse_order(pagerank(weighed(A, u))), coverage_order(A, u)):
            check_ranking(order, 9)
    independent = GaussianTokens(torch.zeros(4, 1), torch.eye(4), FLOOR)
    assert (gaussian_graph(independent) == 0).all() and (
        gaussian_graph(independent, alone="hidden").abs() < 1e-12
    ).all()
    m = GaussianTokens(torch.zeros(4, 1), FLOOR**2 * torch.eye(4), FLOOR)  # nothing to know: 0 / 0
    assert (gaussian_graph(m, "logdet") == 0).all()


def test_weighed_votes_are_as_loud_as_there_is_to_learn():
    A = torch.tensor([[[0, 1.0, 0], [0, 0, 0.5], [0, 0.25, 0]]])
    P = weighed(A, torch.tensor([[2.0, 1.0, 0.0]]))
    want = torch.tensor([[[0, 1, 0], [1 / 6, 1 / 6, 1 / 2 + 1 / 6], [1 / 3, 1 / 3, 1 / 3]]])
    torch.testing.assert_close(P, want)
    assert torch.allclose(weighed(A, torch.ones(1, 3)), A / A.sum(-1, keepdim=True))


def test_coverage_takes_the_best_gain_at_every_step_by_brute_force():
    g = gen(3)
    A, u = torch.rand(4, 6, 6, generator=g) ** 3, torch.rand(4, 6, generator=g)
    A.diagonal(dim1=1, dim2=2).zero_()
    full = A + torch.eye(6)

    def F(b, S):
        return float((u[b] * (1 - (1 - full[b][:, S]).prod(1))).sum())

    for b, order in enumerate(coverage_order(A, u).tolist()):
        assert sorted(order) == list(range(6))
        for k in range(6):
            assert F(b, order[: k + 1]) >= max(F(b, [*order[:k], p]) for p in order[k:]) - 1e-6


def test_coverage_does_not_take_two_patches_that_tell_the_same():
    A = torch.zeros(1, 6, 6)
    A[0, 2:5, 0] = A[0, 2:5, 1] = 0.95  # 0 and 1 each tell 2, 3 and 4 nearly all
    A[0, 0, 1] = A[0, 1, 0] = 0.95  # and each other
    assert coverage_order(A)[0, :2].tolist() == [0, 5]
    assert collapse_order(pagerank(A))[0, :2].tolist() == [0, 1]  # PageRank takes both


def test_bad_input_is_named(net):
    for call, said in ((lambda: measured_graph(net, torch.zeros(2, 16, 4)), "3 x 3 patches of 4 values"),
                       (lambda: measured_graph(net, torch.full((2, 9, 4), torch.nan)), "expected finite"),
                       (lambda: measured_graph(net, torch.zeros(2, 9, 4), "bits"), "unknown unit 'bits'; expected one of scale"),
                       (lambda: measured_graph(net, torch.zeros(2, 9, 4), alone="lost"), "expected seen or hidden"),
                       (lambda: gaussian_graph(model(3, 1), "actual"), "expected scale, nats or logdet")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            call()
