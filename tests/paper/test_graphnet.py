"""The graph network: PageRank's gradient against an explicit solve, learning of edges and order, foreign weights."""

import pytest
import torch
from test_entropy import gen

from cop.configs import GraphNetConfig
from cop.orders import check_ranking, collapse_order
from cop.paper.graphnet import GraphNet, correlation, differentiable_pagerank, graph_loss
from cop.paper.ranking import pagerank
from cop.profiles import replace

CFG = GraphNetConfig(dim=16, depth=1, heads=2)


def solved(A, damping=0.85):
    """PageRank by a linear solve that autograd goes through."""
    N, total = A.shape[-1], A.sum(-1, keepdim=True)
    P = torch.where(total > 0, A / total.masked_fill(total == 0, 1), 1 / N)
    M = torch.eye(N, dtype=A.dtype) - damping * P.mT
    return torch.linalg.solve(M, torch.full_like(A[..., :1], (1 - damping) / N))[..., 0]


@pytest.mark.parametrize("damping", [0.0, 0.5, 0.85, 0.99])
def test_the_implicit_gradient_is_that_of_an_explicit_solve(damping):
    A = torch.rand(3, 7, 7, generator=gen(), dtype=torch.float64).pow(3)
    A.diagonal(dim1=1, dim2=2).zero_()
    A[1, 4] = 0  # a row without any weight
    weight = torch.randn(3, 7, generator=gen(1), dtype=torch.float64)
    a, b = A.clone().requires_grad_(), A.clone().requires_grad_()
    r, want = differentiable_pagerank(a, damping), solved(b, damping)
    torch.testing.assert_close(r, want, rtol=0, atol=1e-9)
    (weight * r.log()).sum().backward()
    (weight * want.log()).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)
    positive = (A[[0, 2]] + 0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: differentiable_pagerank(x, damping), positive, eps=1e-5, atol=1e-5)


def test_the_gradient_raises_a_score():
    A = torch.rand(1, 6, 6, generator=gen(), dtype=torch.float64).requires_grad_()
    before = differentiable_pagerank(A)[0, 2]
    before.backward()
    after = pagerank(A.detach() + 0.02 * A.grad / A.grad.abs().max())[0, 2]
    assert after > before + 1e-4


def test_edges_and_order_of_a_graph_that_no_pair_determines():
    """Every target relies on the patch of the image whose first value is largest."""

    def batch(seed):
        x = torch.randn(32, 9, 3, generator=gen(seed))
        A = 0.05 + 0.9 * (x[..., 0] == x[..., :1].amax(1)).float()[:, None].expand(-1, 9, -1)
        return x, A.masked_fill(torch.eye(9, dtype=torch.bool), 0)

    torch.manual_seed(0)
    net = GraphNet(3, 3, replace(CFG, dim=32, order_weight=0.3))
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(250):
        out = graph_loss(net, *batch(step))
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
    x, A = batch(999)
    with torch.no_grad():
        found = net(x)
    first = [collapse_order(pagerank(G))[:, 0] for G in (found, A)]
    assert (first[0] == first[1]).float().mean() > 0.8
    assert found.diagonal(dim1=1, dim2=2).abs().max() == 0
    assert out["order"] < 0.3 and out["edges"] < 0.15
    check_ranking(collapse_order(pagerank(net(torch.zeros(2, 9, 3)).detach())), 9)  # a constant image


def test_the_loss_is_nothing_for_the_exact_graph():
    A = torch.rand(4, 9, 9, generator=gen())
    A.diagonal(dim1=1, dim2=2).zero_()

    class Exact(torch.nn.Module):
        cfg = CFG

        def forward(self, tokens):
            return A

    out = graph_loss(Exact(), torch.zeros(4, 9, 3), A)
    assert float(out["edges"]) == 0 and float(out["order"]) == pytest.approx(0, abs=1e-9)
    mean = A.mean(0).expand_as(A)  # the mean graph knows nothing of an image: its own half of the order is lost
    Exact.forward = lambda self, tokens: mean
    assert 0.5 <= float(graph_loss(Exact(), torch.zeros(4, 9, 3), A)["order"]) < 1
    x = torch.randn(50, generator=gen(), dtype=torch.float64)
    assert float(correlation(x, -3 * x + 1)) == pytest.approx(-1) and float(correlation(x, 0 * x)) == 0


def test_bad_input_and_foreign_weights_name_both_sides():
    net = GraphNet(3, 4, CFG)
    for call, said in ((lambda: net(torch.zeros(2, 16, 4)), "3 x 3 patches of 4 values"),
                       (lambda: GraphNet(3, 4, replace(CFG, heads=3)), "width 16 does not divide into 3 heads"),
                       (lambda: net.load_state_dict(GraphNet(4, 4, replace(CFG, dim=24)).state_dict()), "say grid 4, width 24, .*grid 3, dim 4, width 16")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            call()
