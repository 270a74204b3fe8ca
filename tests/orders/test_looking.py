"""Orders that are conditional on what has been seen: against brute force, and who looks where."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_entropy import TINY, gen

from cop.orders import check_ranking, coverage_order, looking_order
from cop.orders.looking import (
    DOUBTS,
    bilateral_graph,
    distances,
    gaussian_kernel,
    greedy_looks,
    mean_colours,
    one_step_ahead,
    predictor_doubt,
)
from cop.paper.entropy import TokenPredictor

N, C = 16, 4


@pytest.fixture(scope="module")
def net() -> TokenPredictor:
    torch.manual_seed(0)
    model = TokenPredictor(N, C, TINY).eval()
    for p in model.parameters():  # far from the initialisation, so that doubts differ
        p.data += 0.3 * torch.randn(p.shape, generator=gen(1))
    return model


# ----------------------------------------------------------------------------------------------------- coverage


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.integers(0, 1000))
def test_coverage_is_greedy_by_brute_force_and_near_the_best_set(n, seed):
    A = torch.rand(1, n, n, generator=gen(seed), dtype=torch.float64) ** 4
    u = torch.rand(1, n, generator=gen(seed + 1), dtype=torch.float64)
    whole = A[0].masked_fill(torch.eye(n, dtype=torch.bool), 1)

    def F(S) -> float:
        return float((u[0] * (1 - (1 - whole[:, list(S)]).prod(1))).sum())

    order = coverage_order(A, u)[0].tolist()
    assert sorted(order) == list(range(n))
    for k in range(n):
        assert F(order[: k + 1]) >= max(F([*order[:k], p]) for p in order[k:]) - 1e-12
        best = max(F(S) for S in itertools.combinations(range(n), k + 1))
        assert best - 1e-12 <= F(order[: k + 1]) / (1 - 1 / torch.e) and F(order[: k + 1]) <= best + 1e-12


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_trying_every_patch_for_what_is_left_uncovered_is_greedy_coverage(n, seed):
    A = torch.rand(3, n, n, generator=gen(seed), dtype=torch.float64).masked_fill(torch.eye(n, dtype=torch.bool), 1)
    calls = []

    def uncovered(tried):
        calls.append(tuple(tried.shape))
        missed = torch.stack([(1 - a[:, s]).prod(-1).sum(0) for a, s in zip(A, tried, strict=True)])  # (3, M)
        return missed

    order = one_step_ahead(uncovered, 3, n, n)
    assert torch.equal(order, coverage_order(A))
    assert calls == [(3, n - k, k + 1) for k in range(n)]
    assert torch.equal(one_step_ahead(lambda t: torch.zeros(t.shape[:2]), 2, n, 1), torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=f"patches is {n + 1}; expected a whole number from 1 to {n}"):
        one_step_ahead(uncovered, 3, n, n + 1)


def test_coverage_of_twelve_patches_and_in_chunks_is_the_same():
    A, u = torch.rand(5, 12, 12, generator=gen(3)) ** 3, torch.rand(5, 12, generator=gen(4))
    assert torch.equal(coverage_order(A, u, chunk_bytes=1), coverage_order(A, u))
    whole = A.masked_fill(torch.eye(12, dtype=torch.bool), 1)
    for b, order in enumerate(coverage_order(A, u).tolist()):
        for k in range(12):
            gains = [(u[b] * (1 - (1 - whole[b][:, [*order[:k], p]]).prod(1))).sum() for p in order[k:]]
            assert max(gains) <= gains[0] + 1e-6
    assert coverage_order(torch.zeros(1, 4, 4))[0].tolist() == [0, 1, 2, 3], "equal gains by lower index"


def test_graphs_by_hand_fall_with_distance_and_with_difference():
    assert distances((2, 3))[0].tolist() == [0, 1, 4, 1, 2, 5]
    images = torch.zeros(1, 3, 4, 8)
    images[..., 4:] = 1  # black beside white
    colours = mean_colours(images, (2, 4))
    assert torch.equal(colours[0, :, 0], torch.tensor([0.0, 0, 1, 1] * 2))
    A, near = bilateral_graph(colours, (2, 4), 1.0, 0.5)[0], gaussian_kernel((2, 4), 1.0)
    assert torch.allclose(A[0, 1], near[0, 1]) and A[1, 2] < 0.01 * near[1, 2] and torch.equal(A, A.T)
    with pytest.raises(ValueError, match="width of the kernel is 0; expected"):
        gaussian_kernel((2, 4), 0)


# ------------------------------------------------------------------------------------------------------- looking


@pytest.mark.parametrize("kind", DOUBTS)
def test_each_step_takes_what_is_most_in_doubt_of_the_whole_pass(net, kind):
    tokens = torch.randn(3, N, C, generator=gen(5))
    order = looking_order(net, tokens, kind, 0.7, 1)
    check_ranking(order, N)
    assert torch.equal(looking_order(net, tokens, kind, 0.7, 1, chunk_bytes=1), order)
    assert len(order.unique(dim=0)) == 3, "three images, three orders"
    for k in (0, 5, 13):
        seen = torch.zeros(3, N, dtype=torch.bool).scatter_(1, order[:, :k], True)
        with torch.no_grad():
            if kind == "attention entropy":
                doubt = net.attention_entropy(tokens, seen, torch.arange(N).expand(3, N))
            else:
                mean, scale = net(tokens, seen)
                doubt = (scale if kind == "active" else (tokens - mean).abs()).sum(-1)
        score = doubt.masked_fill(seen, 0).double() @ gaussian_kernel((4, 4), 0.7)
        assert torch.equal(score.masked_fill(seen, -1).argmax(1), order[:, k])


def test_only_surprise_knows_the_patches_that_it_has_not_seen(net):
    tokens = torch.randn(1, N, C, generator=gen(6))
    for kind in DOUBTS:
        order = looking_order(net, tokens, kind, 0.7, 2)
        other = tokens.clone()
        other[0, order[0, 6:]] = torch.nan if kind != "surprise" else 9 * torch.randn(10, C, generator=gen(7))
        same = torch.equal(looking_order(net, other, kind, 0.7, 2, patches=8), order[:, :8])
        assert same == (kind != "surprise")


@pytest.mark.parametrize("per_step", [1, 3, 5, 16])
def test_the_patches_of_one_step_are_no_neighbours_where_others_are_left(net, per_step):
    order = looking_order(net, torch.randn(2, N, C, generator=gen(8)), "active", 0.7, per_step)
    check_ranking(order, N)
    if per_step == 3:
        apart = distances((4, 4))[order[:, :3, None], order[:, None, :3]] + 9 * torch.eye(3)
        assert (apart > 2).all()
    asked = []
    doubts = TokenPredictor.forward
    net.forward = lambda *args: (asked.append(len(args[2][0])), doubts(net, *args))[1]
    try:
        assert torch.equal(looking_order(net, torch.randn(2, N, C, generator=gen(8)), "active", 0.7, per_step), order)
    finally:
        del net.forward
    assert asked == list(range(N, 0, -per_step)), "one pass a step, for the patches that are left"


def test_a_grid_need_not_be_square():
    doubt = torch.tensor([[9.0, 8, 1, 4, 2, 3]])

    def left(seen):
        return doubt.scatter(1, seen.expand(1, -1), 0.0)

    assert greedy_looks(left, (2, 3), None, 1).tolist() == [[0, 1, 3, 5, 4, 2]]
    assert greedy_looks(left, (2, 3), None, 2).tolist() == [[0, 5, 1, 3, 4, 2]], "1 and 3 are beside 0"


def test_the_last_attention_has_the_entropy_of_its_definition(net):
    tokens, only = torch.randn(2, N, C, generator=gen(9)), torch.arange(N).expand(2, N)
    seen = torch.zeros(2, N, dtype=torch.bool)
    with torch.no_grad():
        found = net.attention_entropy(tokens, seen, only)
        assert ((found > 0) & (found <= torch.tensor(N).log() + 1e-6)).all()
        flat = TokenPredictor(N, C, TINY)
        flat.blocks[-1].qkv.weight.zero_()  # all keys alike: attention is even
        assert torch.allclose(flat.attention_entropy(tokens, seen, only), torch.tensor(N).log().expand(2, N))
        for a, b in zip(net(tokens, seen, only), net(tokens, seen), strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_bad_input_is_named(net):
    tokens = torch.zeros(1, N, C)
    for call, said in ((lambda: looking_order(net, tokens, "active", 0.7, 0), "per_step is 0; expected a whole number from 1 to 16"),
                       (lambda: looking_order(net, tokens, "active", 0.7, 1, patches=17), "patches is 17; expected"),
                       (lambda: looking_order(net, tokens, "bored", 0.7, 1), "unknown doubt 'bored'; expected one of active"),
                       (lambda: looking_order(net, tokens, "active", -1.0, 1), "width of the kernel is -1.0"),
                       (lambda: predictor_doubt(net, tokens, "nosy", torch.empty(1, 0).long()), "unknown doubt 'nosy'")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            call()
