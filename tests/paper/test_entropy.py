"""Patch entropy: the Gaussian model against inversion and brute force, the predictor against algebra."""

import math
from functools import partial
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from torch.distributions import Laplace, kl_divergence

from cop import orders
from cop.configs import PredictorConfig
from cop.paper.entropy import (
    GaussianTokens,
    TokenPredictor,
    area,
    certainty_curve,
    excess_nll,
    predictor_curve,
    predictor_loss,
    removed_curve,
)
from cop.profiles import replace

FLOOR = 0.1
TINY = PredictorConfig(dim=16, depth=2, heads=2, floor=FLOOR)


def joint_curve(m: GaussianTokens, ranking: torch.Tensor) -> torch.Tensor:
    """H(unseen | first k patches) for k = 0..N, (B, N + 1): by the chain rule the terms to come."""
    return torch.nn.functional.pad(m.chain_terms(ranking).flip(1).cumsum(1).flip(1), (0, 1))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(N: int, C: int, seed: int = 0) -> GaussianTokens:
    """A random correlated Gaussian with one patch of constant values (the background of the clothes)."""
    mix = torch.randn(N * C, N * C, generator=gen(seed), dtype=torch.float64)
    mix[:C] = 0
    return GaussianTokens(torch.zeros(N, C), mix @ mix.T / N + FLOOR**2 * torch.eye(N * C).double(), FLOOR)


def entropy_above_floor(cov: np.ndarray, target: list[int], seen: list[int]) -> float:
    """H(x_target | x_seen) - H(noise) of values of a Gaussian, by plain inversion."""
    given_seen = cov[np.ix_(target, target)]
    if seen:
        cross = cov[np.ix_(target, seen)]
        given_seen = given_seen - cross @ np.linalg.inv(cov[np.ix_(seen, seen)]) @ cross.T
    return 0.5 * np.linalg.slogdet(given_seen)[1] - len(target) * math.log(FLOOR)


def brute_curves(m: GaussianTokens, order: list[int]) -> tuple[list[float], list[float], list[float]]:
    """Chain terms, joint curve and sum curve of one order, one inversion for each of their entries."""
    cov, values = m.cov.numpy(), [list(range(p * m.C, (p + 1) * m.C)) for p in range(m.N)]
    terms, joint, sums = [], [], []
    for k in range(m.N + 1):
        seen, unseen = [sum((values[p] for p in part), []) for part in (order[:k], order[k:])]
        sums.append(sum(entropy_above_floor(cov, values[p], seen) for p in order[k:]))
        joint.append(entropy_above_floor(cov, unseen, seen) if unseen else 0.0)
        terms += [entropy_above_floor(cov, values[order[k]], seen)] if unseen else []
    return terms, joint, sums


# ------------------------------------------------------------------------------------------ Gaussian model


@pytest.mark.parametrize("N, C", [(1, 1), (4, 1), (5, 3), (7, 2)])
def test_gaussian_curves_equal_plain_inversion(N, C):
    m, ranking = model(N, C), orders.random_order(3, N, gen(1))
    got = m.chain_terms(ranking), joint_curve(m, ranking), m.sum_curve(ranking)
    for row, order in enumerate(ranking.tolist()):
        for curve, want in zip(got, brute_curves(m, order), strict=True):
            assert curve[row].tolist() == pytest.approx(want, abs=1e-9)
    for found, want in ((m.sum_curve(ranking, chunk_bytes=1), got[2]), (m.sum_curve(ranking[0]), got[2][:1])):
        torch.testing.assert_close(found, want, rtol=0, atol=1e-9)  # one order at a time


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31 - 1), st.integers(1, 8), st.integers(1, 4))
def test_laws_of_the_curves(seed, N, C):
    m, ranking = model(N, C, seed), orders.random_order(4, N, gen(seed))
    terms, joint, sums = m.chain_terms(ranking), joint_curve(m, ranking), m.sum_curve(ranking)
    # The chain rule: Eq. (1) is the joint entropy for every order.
    total = 0.5 * torch.linalg.slogdet(m.cov)[1] - N * C * math.log(FLOOR)
    assert torch.allclose(terms.sum(1), total.expand(4), atol=1e-8)
    assert (sums.diff(dim=1) <= 1e-9).all() and (joint.diff(dim=1) <= 1e-9).all()  # seeing never adds
    # The noise is the least there is, and guessing patches together beats guessing them one by one.
    assert (terms >= -1e-9).all() and (sums >= joint - 1e-9).all()
    assert (sums[:, -1] == 0).all() and (joint[:, -1] == 0).all()
    assert torch.allclose(sums[:, 0], sums[:1, 0].expand(4))  # before anything is seen orders are alike


@pytest.mark.parametrize("objective", ["sum", "joint"])
@pytest.mark.parametrize("N, C, seed", [(2, 2, 0), (5, 2, 1), (6, 1, 2), (6, 3, 3)])
def test_optimal_order_equals_brute_force_over_permutations(N, C, seed, objective):
    m = model(N, C, seed)
    curve = m.sum_curve if objective == "sum" else partial(joint_curve, m)
    areas = area(curve(torch.tensor(list(permutations(range(N))))))
    best = orders.check_ranking(m.optimal_order(objective), N)
    assert float(area(curve(best))) == pytest.approx(float(areas.min()), abs=1e-10)


@pytest.mark.parametrize("objective", ["sum", "joint"])
def test_greedy_takes_the_best_next_patch_by_brute_force(objective):
    m = model(6, 2, seed=5)
    curve = m.sum_curve if objective == "sum" else partial(joint_curve, m)
    greedy = orders.check_ranking(m.greedy_order(objective), 6).tolist()
    for k in range(6):
        ways = [greedy[:k] + [p] + [q for q in greedy[k:] if q != p] for p in greedy[k:]]
        assert int(curve(torch.tensor(ways))[:, k + 1].argmin()) == 0 or k == 5


@pytest.mark.parametrize("seed", range(5))
def test_optimal_beats_greedy_beats_random(seed):
    m = model(8, 2, seed)
    optimal, greedy = [float(area(m.sum_curve(o))) for o in (m.optimal_order(), m.greedy_order())]
    random = area(m.sum_curve(orders.random_order(200, 8, gen(seed))))
    assert optimal <= greedy + 1e-12
    assert greedy <= float(random.quantile(0.1))
    assert optimal <= float(random.min()) + 1e-12


def test_greedy_starts_with_the_patch_the_others_copy_and_leaves_the_constant_one():
    g = gen(3)
    hub = torch.randn(4000, 1, 2, generator=g)
    copies = 0.7 * hub + 0.7 * torch.randn(4000, 4, 2, generator=g)
    tokens = torch.cat([torch.zeros(4000, 1, 2), copies, hub], 1)
    greedy = GaussianTokens.fit(tokens).greedy_order().tolist()
    assert greedy[0] == 5 and greedy[-1] == 0


def test_fit_equals_numpy_and_sklearn_and_subset_is_the_marginal():
    tokens = torch.randn(3000, 4, 3, generator=gen()).cumsum(1)  # several blocks of images
    x = tokens.flatten(1).double().numpy()
    m = GaussianTokens.fit(tokens, floor=0.2)
    assert np.allclose(m.cov, np.cov(x, rowvar=False, ddof=0) + 0.04 * np.eye(12))
    assert m.cov.dtype == torch.float64
    assert np.allclose(m.mean.flatten(), x.mean(0))
    few = GaussianTokens.fit(tokens[:20], floor=0.2)  # 20 images for 12 values: shrunk
    assert np.allclose(few.cov, LedoitWolf().fit(x[:20]).covariance_ + 0.04 * np.eye(12))
    plain = GaussianTokens.fit(tokens[:20], floor=0.2, shrinkage=0.0)
    assert np.allclose(plain.cov, np.cov(x[:20], rowvar=False, ddof=0) + 0.04 * np.eye(12))
    part = m.subset(torch.tensor([3, 1]))
    assert np.allclose(part.cov, GaussianTokens.fit(tokens[:, [3, 1]], floor=0.2).cov)
    assert np.allclose(part.mean, m.mean[[3, 1]])


def test_gaussian_bad_input():
    m = model(13, 1)
    for call in (lambda: m.optimal_order(), lambda: m.greedy_order("fastest"),
                 lambda: m.sum_curve(torch.zeros(1, 13)),
                 lambda: GaussianTokens.fit(torch.zeros(1, 4, 2)),
                 lambda: GaussianTokens.fit(torch.zeros(9, 2, 2), 0.0),
                 lambda: GaussianTokens.fit(torch.full((9, 2, 2), torch.nan))):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            call()


def test_area_of_known_curves():
    curve = torch.tensor([[4.0, 2.0, 1.0, 0.0], [4.0, 4.0, 4.0, 0.0]])
    assert area(curve).tolist() == pytest.approx([7 / 12, 1])
    ks = [0, 1, 5, 8]  # straight lines between the given prefixes
    full = torch.from_numpy(np.stack([np.interp(range(9), ks, row) for row in curve.numpy()]))
    assert area(curve.double(), ks).tolist() == pytest.approx(area(full).tolist())


# ------------------------------------------------------------------------------------------------ predictor


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.01, 3), st.floats(0.01, 1))
def test_excess_nll_is_the_divergence_from_the_noisy_token(token, mean, extra, floor):
    token, mean, scale = torch.tensor([[token], [mean], [floor + extra]], dtype=torch.float64)
    want = kl_divergence(Laplace(token, floor), Laplace(mean, scale))
    got = excess_nll(token, mean, scale, floor)
    assert torch.allclose(got, want, atol=1e-9) and got >= 0
    assert abs(excess_nll(token, token, torch.tensor([floor]).double(), floor)) < 1e-12


def test_excess_nll_is_the_mean_laplace_nll_over_the_noise():
    noise = Laplace(torch.zeros((), dtype=torch.float64), FLOOR)
    even = (torch.arange(200_000).double() + 0.5) / 200_000
    x = 0.4 + noise.icdf(even)  # the noisy token
    q = Laplace(torch.tensor(0.1).double(), 0.3)
    want = float(-q.log_prob(x).mean() - noise.entropy())
    got = excess_nll(torch.tensor(0.4).double(), q.mean, q.scale, FLOOR)
    assert float(got) == pytest.approx(want, abs=1e-5)


def test_no_gradient_from_unseen_tokens_and_no_effect():
    net = TokenPredictor(9, 4, TINY)
    tokens = torch.randn(5, 9, 4, generator=gen()).requires_grad_()
    seen = torch.rand(5, 9, generator=gen(1)) < 0.5
    mean, scale = net(tokens, seen)
    (mean.square().sum() + scale.sum()).backward()
    assert (tokens.grad[~seen] == 0).all()
    assert (tokens.grad[seen].abs().sum(-1) > 0).all()  # the test could fail: seen tokens do matter
    spoilt = tokens.detach().masked_fill(~seen[..., None], torch.nan)
    assert torch.equal(net(spoilt, seen)[0], mean) and torch.equal(net(spoilt, seen)[1], scale)
    assert (scale > FLOOR).all()
    net(spoilt, seen)[0].sum().backward()  # not even a NaN reaches the weights
    assert net.embed.weight.grad.isfinite().all()


def test_predictor_curve_is_the_sum_over_unseen_patches():
    net, tokens = TokenPredictor(4, 3, TINY), torch.randn(5, 4, 3, generator=gen())
    ranking, ks = orders.random_order(5, 4, gen(1)), [0, 2, 3, 4]
    got = predictor_curve(net, tokens, ranking, ks, batch=2)
    with torch.no_grad():
        for b in range(5):
            for i, k in enumerate(ks):
                seen = torch.tensor([[p in ranking[b, :k].tolist() for p in range(4)]])
                mean, scale = net(tokens[b : b + 1], seen)
                nll = kl_divergence(Laplace(tokens[b : b + 1], FLOOR), Laplace(mean, scale))[~seen].sum()
                believed = (Laplace(mean, scale).entropy() - (1 + math.log(2 * FLOOR)))[~seen].sum()
                assert float(got["nll"][b, i]) == pytest.approx(float(nll), abs=1e-4)
                assert float(got["entropy"][b, i]) == pytest.approx(float(believed), abs=1e-4)
    assert (got["nll"][:, -1] == 0).all() and (got["entropy"][:, -1] == 0).all()
    one = predictor_curve(net, tokens, ranking[0], ks)
    assert torch.allclose(one["nll"][0], got["nll"][0], atol=1e-5)


def test_a_fall_is_removal_and_information():
    """A model that learns nothing from what it sees: the whole fall is removal."""
    net, tokens, ranking, ks = TokenPredictor(4, 3, TINY), torch.randn(5, 4, 3, generator=gen()), orders.random_order(5, 4, gen(1)), [0, 1, 3, 4]
    scales = torch.rand(1, 4, 3, generator=gen(2)) + 1

    def deaf(x, seen):
        return torch.zeros_like(x), scales.expand_as(x)

    deaf.floor = net.floor
    fall = predictor_curve(deaf, tokens, ranking, [0])["nll"] - predictor_curve(deaf, tokens, ranking, ks)["nll"]
    torch.testing.assert_close(removed_curve(deaf, tokens, ranking, ks), fall, rtol=1e-5, atol=1e-5)
    removed = removed_curve(net, tokens, ranking, ks)
    torch.testing.assert_close(removed[:, -1], predictor_curve(net, tokens, ranking, [0])["nll"][:, 0], rtol=1e-5, atol=1e-5)


def test_predictor_learns_what_patches_share():
    # Patches of an image are copies but for noise of scale FLOOR, so one seen patch settles all the others.
    def batch(seed, B=32):
        g = gen(seed)
        return torch.randn(B, 1, 2, generator=g) + FLOOR * torch.randn(B, 9, 2, generator=g)

    torch.manual_seed(0)
    net, g = TokenPredictor(9, 2, TINY), gen(1)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(150):
        loss = predictor_loss(net, batch(step), g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    curve = predictor_curve(net, batch(999, B=64), torch.arange(9), [0, 1, 9])["nll"].mean(0)
    assert curve[1] / 16 < 0.5 * curve[0] / 18  # per unseen value


def test_predictor_loss_draws_every_number_of_seen_patches_and_is_reproducible():
    class Spy(torch.nn.Module):
        floor, counts = FLOOR, []

        def forward(self, tokens, seen):
            self.counts += seen.sum(1).tolist()
            return torch.zeros_like(tokens), torch.full_like(tokens, FLOOR)

    spy, tokens = Spy(), torch.zeros(4000, 4, 1)
    assert float(predictor_loss(spy, tokens, gen())) == pytest.approx(0, abs=1e-6)
    share = np.bincount(spy.counts, minlength=5) / 4000
    assert share == pytest.approx([0.25] * 4 + [0], abs=0.03)
    net, tokens = TokenPredictor(4, 2, TINY), torch.randn(6, 4, 2, generator=gen())
    assert torch.equal(predictor_loss(net, tokens, gen(7)), predictor_loss(net, tokens, gen(7)))


def test_predictor_refuses_weights_of_another_grid_width_or_depth():
    net = TokenPredictor(9, 4, TINY)
    for other in (TokenPredictor(16, 4, TINY), TokenPredictor(9, 5, TINY), TokenPredictor(9, 4, replace(TINY, depth=TINY.depth + 1)),
                  TokenPredictor(9, 4, replace(TINY, depth=1)), TokenPredictor(9, 4, replace(TINY, dim=2 * TINY.dim))):  # fmt: skip
        with pytest.raises(ValueError, match="weights have position.*expected.*3 x 3 patches of 4 values"):
            net.load_state_dict(other.state_dict())
    net.load_state_dict(TokenPredictor(9, 4, TINY).state_dict())


def test_predictor_refuses_a_grid_that_is_not_square():
    with pytest.raises(ValueError, match="square"):
        TokenPredictor(8, 2, TINY)


# ------------------------------------------------------------------------------------------------ certainty


def test_certainty_curve_shows_the_classifier_the_first_patches_only():
    class Votes(torch.nn.Module):  # the logits count the patches' classes among those kept
        def forward(self, images, keep_idx):
            return torch.nn.functional.one_hot(images.gather(1, keep_idx), 3).sum(1).float()

    images = torch.tensor([[0, 1, 1, 2], [2, 2, 0, 1], [1, 0, 2, 2]])
    labels, ranking = torch.tensor([1, 2, 0]), torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3], [0, 3, 2, 1]])
    got = certainty_curve(Votes(), images, labels, ranking, [0, 1, 3], batch=2)
    e = math.e
    want = [[1 / 3, 1 / (e + 2), e**2 / (e**2 + e + 1)], [1 / 3, e / (e + 2), e**2 / (e**2 + e + 1)],
            [1 / 3, 1 / (e + 2), 1 / (1 + e + e**2)]]  # fmt: skip
    assert torch.allclose(got["prob"], torch.tensor(want).double(), atol=1e-6)
    assert got["hit"].tolist() == [[1 / 3, 0, 1], [1 / 3, 1, 1], [1 / 3, 0, 0]]
    for k in range(1, 5):  # one order for all images is that order for each
        a = certainty_curve(Votes(), images, labels, torch.arange(4), [k])
        b = certainty_curve(Votes(), images, labels, torch.arange(4).expand(3, -1), [k])
        assert torch.equal(a["prob"], b["prob"])


def test_sum_curve_of_sets_does_not_depend_on_the_way_there():
    m = model(6, 2, seed=9)
    for k in range(1, 6):
        seen = next(combinations(range(6), k))
        rest = [p for p in range(6) if p not in seen]
        a, b = m.sum_curve(torch.tensor([list(seen) + rest, list(seen)[::-1] + rest[::-1]]))
        assert float(a[k]) == pytest.approx(float(b[k]), abs=1e-9)
