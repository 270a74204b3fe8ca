"""The one-pass ranker: which output speaks of which patch, any grid from offsets, learning, foreign weights."""

import pytest
import torch
from test_entropy import gen

from cop.configs import OnePassConfig
from cop.orders import check_ranking, collapse_order
from cop.paper.onepass import KINDS, OnePass, distil_loss, likelihood_loss
from cop.paper.ranking import pagerank
from cop.profiles import replace
from cop.train.loop import restored

CFG = OnePassConfig(width=16, depth=2)


def build(kind="offsets", learn="distil", grid=4, dim=3, cfg=CFG, seed=0):
    torch.manual_seed(seed)
    net = OnePass(grid, dim, replace(cfg, kind=kind, learn=learn))
    torch.nn.init.normal_(net.head.weight, std=0.5)  # graphs that vary
    return net


@pytest.mark.parametrize("learn", ["distil", "likelihood"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_speaks_of_the_content_of_j_and_the_place_of_n(kind, learn):
    net, rows, columns = build(kind, learn), 4, 3 + (kind == "places")
    tokens = torch.randn(2, rows * columns, 3, generator=gen())
    with torch.no_grad():
        A, clamped = net(tokens, (rows, columns)), net.graph(tokens, (rows, columns))
        for b, n, j in ((0, 0, 5), (1, 11, 2), (1, 3, 8)):
            (y, x), (v, u) = divmod(n, columns), divmod(j, columns)
            hidden = net.embed(tokens[b, j])
            if kind != "offsets":
                hidden = hidden + net.position[v * 4 + u]
            output = y * 4 + x if kind == "places" else (y - v + 3) * 7 + x - u + 3
            told = net.head(net.body(hidden)).view(-1, net.values)[output]
            if learn == "likelihood":
                prior = net.prior[0 if kind == "offsets" else y * 4 + x]
                told = 1 - net._scale(told[3:]).sum() / net._scale(prior[3:]).sum()
            assert float(A[b, n, j]) == pytest.approx(float(told), abs=1e-5)
            assert float(clamped[b, n, j]) == pytest.approx(float(told.clamp(0, 1)), abs=1e-5)
    assert (clamped.diagonal(dim1=1, dim2=2) == 0).all() and (clamped.sum(-1) > 0).any()


@pytest.mark.parametrize("learn", ["distil", "likelihood"])
def test_offsets_rank_any_grid_and_a_crop_has_the_graph_of_its_part(learn):
    net = build(learn=learn)
    whole = torch.randn(2, 6, 9, 3, generator=gen())  # larger than the 4 x 4 it was built for
    A = net.graph(whole.flatten(1, 2), (6, 9)).view(2, 6, 9, 6, 9)
    part = net.graph(whole[:, 1:4, 2:7].flatten(1, 2), (3, 5)).view(2, 3, 5, 3, 5)
    torch.testing.assert_close(part, A[:, 1:4, 2:7, 1:4, 2:7])
    assert (A[:, 0, :, 4] == 0).all() and (A[:, :, 0, :, 4] == 0).all(), "an offset never met tells nothing"
    for shape in ((6, 9), (1, 1), (1, 7)):
        n = shape[0] * shape[1]
        check_ranking(collapse_order(pagerank(net.graph(torch.zeros(2, n, 3), shape))), n)  # constant images


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_a_graph_from_content_and_offset(kind):
    def batch(seed):
        x = torch.randn(32, 16, 3, generator=gen(seed))
        place = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        near = (-(place[:, None] - place[None]).float().square().sum(-1) / 4).exp().fill_diagonal_(0)
        return x, near * x[:, None, :, 0].sigmoid()

    net = build(kind, cfg=replace(CFG, width=32))
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(200):
        loss = distil_loss(net, *batch(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, A = batch(999)
    own = [G - G.mean(0) for G in (net.graph(x), A)]  # what position alone explains does not count
    assert float(torch.corrcoef(torch.stack([g.flatten() for g in own]))[0, 1]) > 0.8


def test_likelihood_finds_what_is_shared_without_a_predictor():
    """Neighbours to the right copy a patch whose first value is positive."""

    def batch(seed):
        x = torch.randn(32, 4, 4, 2, generator=gen(seed))
        for c in range(1, 4):
            x[:, :, c] = torch.where(x[:, :, c - 1, :1] > 0, x[:, :, c - 1], x[:, :, c])
        return x.flatten(1, 2)

    net = build(learn="likelihood", dim=2, cfg=replace(CFG, width=32))
    torch.nn.init.normal_(net.head.weight, std=0.02)
    optimiser, g = torch.optim.Adam(net.parameters(), 5e-3), gen(1)
    for step in range(250):
        loss = likelihood_loss(net, batch(step), g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    tokens = batch(999)
    A, loud = net.graph(tokens), tokens[:, 5, 0] > 0
    assert float(A[loud, 6, 5].mean()) > 0.5 and float(A[~loud, 6, 5].mean()) < 0.2 and float(A[:, 13, 5].mean()) < 0.1


def test_bad_input_and_foreign_weights_name_both_sides():
    net = build("places")
    for call, said in ((lambda: net(torch.zeros(2, 9, 3)), r"\(2, 9, 3\).*expected float \(B, 16, 3\): 4 x 4 patches"),
                       (lambda: net(torch.zeros(2, 20, 3), (4, 5)), "4 x 5 .* knows 4 x 4 places"),
                       (lambda: net(torch.full((2, 16, 3), torch.nan)), "NaN"),
                       (lambda: build("columns"), "unknown kind 'columns'; expected one of places, offsets"),
                       (lambda: build(learn="luck"), "unknown learn 'luck'"),
                       (lambda: build(cfg=replace(CFG, loss="l3")), "unknown loss 'l3'"),
                       (lambda: net.load_state_dict(build("places", grid=5).state_dict()), "say grid 5, .*has .*grid 4"),
                       (lambda: restored(lambda: build("places"), build("offsets", dim=2).state_dict()), "say kind 1, dim 2, and"),
                       (lambda: net.load_state_dict({}), "say nothing")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            call()
    again = restored(lambda: build("places", seed=1), net.state_dict())
    tokens = torch.randn(2, 16, 3, generator=gen())
    assert torch.equal(again.graph(tokens), net.graph(tokens))
