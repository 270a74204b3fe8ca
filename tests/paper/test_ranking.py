"""PageRank against networkx, the star, invariances, and clear errors."""

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cop.orders import collapse_order
from cop.paper.ranking import in_strength, pagerank, to_networkx
from cop.train.loop import seeded


def random_graphs(count: int, n: int, seed: int, density: float = 0.6) -> torch.Tensor:
    g = seeded(seed)
    A = torch.rand(count, n, n, generator=g, dtype=torch.float64) * (torch.rand(count, n, n, generator=g) < density)
    A.diagonal(dim1=1, dim2=2).zero_()
    return A


def oracle(A: torch.Tensor, damping: float, teleport: torch.Tensor | None = None) -> torch.Tensor:
    p = None if teleport is None else dict(enumerate(teleport.tolist()))
    r = nx.pagerank(to_networkx(A), alpha=damping, personalization=p, tol=1e-13, max_iter=5000)
    return torch.tensor([r[i] for i in range(len(A))], dtype=torch.float64)


def test_equals_networkx_on_100_random_graphs():
    g = seeded(7)
    for i in range(100):
        n = int(torch.randint(2, 30, (), generator=g))
        A = random_graphs(1, n, i, density=float(torch.rand((), generator=g)))
        A[:, 0] = 0 if i % 3 == 0 else A[:, 0]  # every third graph has a patch that relies on nobody
        damping = 0.5 + 0.49 * float(torch.rand((), generator=g))
        torch.testing.assert_close(pagerank(A, damping)[0], oracle(A[0], damping), atol=1e-8, rtol=0)


def test_teleport_equals_networkx_personalisation_per_image():
    A, beta = random_graphs(3, 12, 1), torch.rand(3, 12, generator=seeded(2)).double()
    A[1, 4] = 0
    got = pagerank(A, 0.85, beta)
    for b in range(3):
        torch.testing.assert_close(got[b], oracle(A[b], 0.85, beta[b]), atol=1e-8, rtol=0)
    torch.testing.assert_close(pagerank(A, 0.85, beta[0])[2], pagerank(A[2], 0.85, beta[0]))


def test_star_puts_the_hub_first_and_the_literal_reading_last():
    star = torch.zeros(6, 6)
    star[1:, 0] = 1  # every target relies on patch 0
    for orientation, hub in (("relied_upon", 0), ("literal", 5)):  # the others are equal but for rounding
        assert collapse_order(pagerank(star, orientation=orientation))[hub] == 0
        assert pagerank(star, orientation=orientation)[1:].std() < 1e-12
    torch.testing.assert_close(pagerank(star, orientation="literal"), pagerank(star.T))


def test_uniform_graph_gives_uniform_scores_and_a_stable_order():
    A = torch.ones(2, 9, 9) - torch.eye(9)
    r = pagerank(A)
    torch.testing.assert_close(r, torch.full((2, 9), 1 / 9, dtype=torch.float64))
    assert collapse_order(torch.zeros(2, 9)).tolist() == [list(range(9))] * 2


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 12), seed=st.integers(0, 10_000), damping=st.floats(0, 0.97), scale=st.floats(0.01, 100))
def test_scores_are_a_distribution_equivariant_and_scale_free(n, seed, damping, scale):
    A = random_graphs(2, n, seed)
    r = pagerank(A, damping)
    torch.testing.assert_close(r.sum(1), torch.ones(2).double())
    assert (r > 0).all()
    perm = torch.randperm(n, generator=seeded(seed))
    torch.testing.assert_close(pagerank(A[:, perm][:, :, perm], damping), r[:, perm], atol=1e-9, rtol=0)
    torch.testing.assert_close(pagerank(A * scale, damping), r, atol=1e-9, rtol=0)


def test_single_graph_float32_and_in_strength():
    A = random_graphs(2, 8, 3)
    torch.testing.assert_close(pagerank(A[1]), pagerank(A)[1])
    assert pagerank(A, dtype=torch.float32).dtype == torch.float32
    torch.testing.assert_close(pagerank(A, dtype=torch.float32).double(), pagerank(A), atol=1e-6, rtol=0)
    torch.testing.assert_close(in_strength(A)[0, 3], A[0, :, 3].sum())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"A": torch.ones(2, 3)}, "expected square"),
        ({"A": torch.full((2, 2), float("nan"))}, "NaN"),
        ({"A": -torch.ones(2, 2)}, "negative"),
        ({"A": torch.tensor([[0.0, torch.inf], [1.0, 0.0]])}, "infinite"),
        ({"A": torch.ones(2, 2), "damping": 1.0}, "damping is 1.0"),
        ({"A": torch.ones(2, 2), "orientation": "up"}, "unknown orientation 'up'"),
        ({"A": torch.ones(2, 2), "teleport": torch.ones(3)}, r"teleport has shape \(3,\)"),
        ({"A": torch.ones(2, 2), "teleport": torch.zeros(2)}, "positive sum"),
        ({"A": torch.ones(2, 2), "teleport": torch.tensor([1.0, torch.nan])}, "must be finite"),
    ],
)
def test_bad_input_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        pagerank(**kwargs)


def test_to_networkx_keeps_direction_and_scores():
    A = torch.zeros(3, 3)
    A[2, 0] = 0.5
    graph = to_networkx(A, torch.tensor([0.6, 0.1, 0.3]))
    assert list(graph.edges(data="weight")) == [(2, 0, 0.5)]
    assert graph.nodes[0]["score"] == pytest.approx(0.6)
    with pytest.raises(ValueError, match="of one image"):
        to_networkx(A[None])
