"""Orders and agreement, against scipy, brute force and the algebra they must obey."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from cop import orders
from cop.orders import concordance
from cop.train.loop import seeded

seeds = st.integers(0, 2**31 - 1)
permutations = st.integers(2, 12).flatmap(lambda n: st.permutations(range(n)))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -------------------------------------------------------------------------------------------- rankings


@given(permutations)
def test_ranks_are_the_inverse_permutation(perm):
    ranking = torch.tensor(perm)
    ranks = orders.ranks_of(ranking)
    assert ranks.tolist() == np.argsort(perm).tolist()
    assert torch.equal(orders.ranks_of(ranks), ranking)
    assert torch.equal(orders.ranks_of(ranking[None]), ranks[None])
    assert orders.check_ranking(ranking, len(perm)) is ranking, "one for all images"


@settings(deadline=None)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(-3, 3)))
def test_collapse_order_is_the_stable_descending_sort(scores):
    order = orders.collapse_order(torch.from_numpy(scores))
    assert order.tolist() == np.argsort(-scores, axis=-1, kind="stable").tolist()
    assert torch.equal(orders.check_ranking(order, scores.shape[1]), order)


def test_collapse_order_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        orders.collapse_order(torch.tensor([[0.0, torch.nan]]))


@pytest.mark.parametrize("bad", [torch.tensor([[0, 1, 1]]), torch.tensor([[1, 2, 3]]), torch.tensor([[0, 1]]),
                                 torch.tensor([0.0, 1.0, 2.0]), torch.zeros(1, 1, 3).long()])  # fmt: skip
def test_check_ranking_refuses_what_is_no_permutation(bad):
    with pytest.raises(ValueError, match="ranking"):
        orders.check_ranking(bad, 3)


# -------------------------------------------------------------------------------------- control orders


@pytest.mark.parametrize("grid", [1, 2, 3, 8, 16])
def test_control_orders_are_permutations(grid):
    N = grid * grid
    for make in (orders.raster_order, orders.centre_out_order, orders.low_discrepancy_order):
        assert orders.check_ranking(make(grid), N).shape == (N,)
    assert orders.check_ranking(orders.random_order(5, N, gen()), N).shape == (5, N)
    tokens = torch.randn(3, N, 4, generator=gen())
    assert orders.check_ranking(orders.variance_order(tokens), N).shape == (3, N)


def test_centre_out_distances_never_fall_and_ties_go_by_index():
    grid = 7
    order = orders.centre_out_order(grid)
    key = [((n // grid - 3) ** 2 + (n % grid - 3) ** 2, n) for n in order.tolist()]
    assert key == sorted(key) and order[0] == 24


def test_low_discrepancy_prefixes_are_more_even_than_random_ones():
    grid, k = 8, 16  # after 16 of 64 patches, each quarter of the image should hold about 4

    def unevenness(ranking):
        quarter = (ranking[..., :k] // grid // 4) * 2 + ranking[..., :k] % grid // 4
        return torch.nn.functional.one_hot(quarter, 4).sum(-2).double().var(-1)

    random = unevenness(orders.random_order(500, grid * grid, gen()))
    assert unevenness(orders.low_discrepancy_order(grid)) <= random.quantile(0.1)


def test_low_discrepancy_begins_with_the_points_of_halton():
    """(1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9): rows 4, 2, 6, 1 and columns 2, 5, 0, 3 of 8."""
    assert orders.low_discrepancy_order(8)[:4].tolist() == [34, 21, 48, 11]


def test_mirrored_rows_are_swapped_left_to_right_where_asked():
    swapped = orders.mirrored(torch.arange(9).expand(2, -1), 3, torch.tensor([True, False]))
    assert swapped.tolist() == [[2, 1, 0, 5, 4, 3, 8, 7, 6], list(range(9))]


@pytest.mark.parametrize("N", [256, 257])
def test_every_rank_fits_the_small_type(N):
    assert torch.arange(N).to(orders.small_type(N)).tolist() == list(range(N))


def test_random_order_is_uniform_and_reproducible():
    draw = orders.random_order(6000, 3, gen(1))
    _, count = draw.unique(dim=0, return_counts=True)
    assert len(count) == 6 and stats.chisquare(count.numpy()).pvalue > 1e-4
    assert torch.equal(draw, orders.random_order(6000, 3, gen(1)))


def test_variance_order_puts_contrast_first_and_ignores_brightness():
    tokens = torch.tensor([[[9.0, 9.0], [0.0, 1.0], [0.0, 3.0]]])
    assert orders.variance_order(tokens).tolist() == [[2, 1, 0]]


def test_mean_order_is_borda_and_reversal_reverses_it():
    ranking = orders.random_order(9, 7, gen(3))
    mean_rank = orders.ranks_of(ranking).double().mean(0).numpy()
    assert orders.mean_order(ranking).tolist() == np.argsort(mean_rank, kind="stable").tolist()
    one = orders.random_order(1, 7, gen(4))
    assert torch.equal(orders.mean_order(one), one[0])
    assert torch.equal(orders.mean_order(orders.reversed_order(one)), one[0].flip(0))


# ------------------------------------------------------------------------------------------- agreement


@settings(deadline=None)
@given(seeds, st.integers(2, 40), st.integers(1, 5))
def test_rank_correlations_equal_scipys(seed, N, B):
    a, b = orders.random_order(B, N, gen(seed)), orders.random_order(B, N, gen(seed + 1))
    ra, rb = orders.ranks_of(a).numpy(), orders.ranks_of(b).numpy()
    rho = [stats.spearmanr(x, y).statistic for x, y in zip(ra, rb, strict=True)]
    tau = [stats.kendalltau(x, y).statistic for x, y in zip(ra, rb, strict=True)]
    assert orders.spearman(a, b).tolist() == pytest.approx(rho, abs=1e-12)
    assert orders.kendall_tau(a, b, chunk_bytes=N * N).tolist() == pytest.approx(tau, abs=1e-12)
    for corr in (orders.spearman, orders.kendall_tau):
        assert torch.equal(corr(a, b), corr(b, a))
        assert torch.equal(corr(a, a), torch.ones(B).double())
        assert torch.equal(corr(a, a.flip(-1)), -torch.ones(B).double())
        assert torch.equal(corr(a, b[0]), corr(a, b[:1].expand(B, -1)))


def test_correlations_refuse_unequal_batches():
    for corr in (orders.spearman, orders.kendall_tau):
        with pytest.raises(ValueError, match="compare"):
            corr(orders.random_order(2, 5, gen()), orders.random_order(3, 5, gen()))


def test_agreement_shares_equal_the_average_over_all_pairs():
    ranking, labels = orders.random_order(11, 9, gen(5)), torch.tensor([4, 0, 0, 7, 4, 4, 0, 7, 4, 0, 4])
    got = orders.agreement(ranking, labels, gen(), pairs=40_000)
    pairs = [(i, j) for i in range(11) for j in range(i)]
    for name, same in (("within", True), ("between", False)):
        i, j = torch.tensor([(i, j) for i, j in pairs if (labels[i] == labels[j]) == same]).T
        assert got[f"spearman_{name}"] == pytest.approx(float(orders.spearman(ranking[i], ranking[j]).mean()))
        tau = orders.kendall_tau(ranking[i], ranking[j])
        assert got[f"kendall_{name}"] == pytest.approx(float(tau.mean()), abs=5 * float(tau.std()) / 200)
    others = [orders.mean_order(ranking[torch.arange(11) != b]) for b in range(11)]
    assert got["spearman_mean"] == pytest.approx(float(orders.spearman(ranking, torch.stack(others)).mean()))
    assert got["share_position"] + got["share_class"] + got["share_image"] == pytest.approx(1)


def test_kendall_pairs_never_leave_their_kind():
    base = orders.random_order(3, 8, gen(2))  # every class has one order: tau is 1 within and known between
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 3)[torch.randperm(10, generator=gen())]
    got = orders.agreement(base[labels], labels, gen(), pairs=500)
    between = [float(orders.kendall_tau(base[i], base[j])) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert got["kendall_within"] == 1 and min(between) <= got["kendall_between"] <= max(between) < 1


def planted_orders(position, by_class, image, seed, B=600, N=64, classes=40):
    """Orders by noisy scores whose variance is made of the three parts in known proportion."""
    g = gen(seed)
    labels = torch.arange(B) % classes
    scores = (position**0.5 * torch.randn(1, N, generator=g) + image**0.5 * torch.randn(B, N, generator=g)
              + by_class**0.5 * torch.randn(classes, N, generator=g)[labels])  # fmt: skip
    return orders.collapse_order(scores), labels


@pytest.mark.parametrize("planted", [(0.8, 0.1, 0.1), (0.2, 0.5, 0.3), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)])
def test_agreement_recovers_planted_shares(planted):
    # Ranks of Gaussian scores of correlation r have Spearman 6 / pi asin(r / 2), so the truth is known; the
    # positions are one draw of 64, hence the tolerance.
    def rho(r):
        return 6 / np.pi * np.arcsin(r / 2)

    got = orders.agreement(*planted_orders(*planted, seed=8), gen(), pairs=200)
    between, within = rho(planted[0]), rho(planted[0] + planted[1])
    assert got["share_position"] == pytest.approx(between, abs=0.06)
    assert got["share_class"] == pytest.approx(within - between, abs=0.06)
    assert got["share_image"] == pytest.approx(1 - within, abs=0.06)


def test_shares_of_random_orders_are_unbiased_where_the_plain_estimate_is_not():
    shares, plain = [], []
    for seed in range(200):
        ranking = orders.random_order(8, 16, gen(seed))
        shares.append(orders.agreement(ranking, torch.arange(8) % 2, gen(), pairs=2)["share_position"])
        plain.append(float(orders.ranks_of(ranking).double().mean(0).var(correction=0) / ((16**2 - 1) / 12)))
    assert abs(np.mean(shares)) < 4 * np.std(shares) / 200**0.5
    assert np.mean(plain) == pytest.approx(1 / 8, abs=0.02)


def test_agreement_without_pairs_is_nan_and_bad_input_is_refused():
    ranking = orders.random_order(4, 6, gen())
    one_class = orders.agreement(ranking, torch.zeros(4), gen())
    assert np.isnan([one_class["kendall_between"], one_class["share_position"]]).all()
    all_apart = orders.agreement(ranking, torch.arange(4), gen())
    assert np.isnan([all_apart["kendall_within"], all_apart["share_image"]]).all()
    assert np.isfinite([all_apart["kendall_between"], one_class["kendall_within"]]).all()
    for args in ((ranking[:1], torch.zeros(1)), (ranking, torch.zeros(3)), (ranking[0], torch.zeros(1))):
        with pytest.raises(ValueError, match="agreement needs"):
            orders.agreement(*args, gen())


def test_correlation_is_pearsons():
    a, b = torch.randn(2, 5, 30, generator=seeded(0))
    expected = [stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert concordance.correlation(a, b).tolist() == pytest.approx(expected)


def test_shares_of_values_are_what_they_were_mixed_from():
    position = torch.randn(1, 2000, generator=seeded(0))
    labels = torch.arange(60) % 6
    by_class = torch.randn(6, 2000, generator=seeded(1))[labels]
    own = torch.randn(60, 2000, generator=seeded(2))
    found = concordance.shares(3 * position + 2 * by_class + own, labels)
    total = 9 + 4 + 1
    assert [found[k] for k in ("position", "class", "image")] == pytest.approx([9 / total, 4 / total, 1 / total], abs=0.03)
    ranks = orders.ranks_of(orders.random_order(60, 49, seeded(3)))
    agreement = orders.agreement(ranks.argsort(1), labels, seeded(4))
    found = concordance.shares(ranks, labels)
    assert all(found[k] == pytest.approx(agreement[f"share_{k}"]) for k in found)
