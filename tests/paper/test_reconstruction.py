"""Masks of the same density, and the search for different sets of patches that do equally well."""

import pytest
import torch

from cop.paper.reconstruction import best_sets, disjoint_sets, shuffled
from cop.train.loop import seeded


def test_shuffled_weights_are_the_same_weights_elsewhere():
    targets = torch.tensor([[0, 4, 7], [3, 2, 1]])
    w = torch.rand(2, 3, 9, generator=seeded(0)).scatter(2, targets[..., None], 0.0)
    moved = shuffled(w, targets, seeded(1))
    assert (moved.gather(2, targets[..., None]) == 0).all() and not torch.equal(moved, w)
    assert torch.equal(moved.sort(-1).values, w.sort(-1).values)


class Wants:
    """Its reconstruction is off by one for every patch of 2, 3, 5 that is not shown; patch 8 is as good as patch 2."""

    def reconstruct(self, tokens, targets, w, noise):
        have = torch.stack([w[..., 2].maximum(w[..., 8]), w[..., 3], w[..., 5]], -1)
        return (1 - have).sum(-1, keepdim=True)  # (1, M, 1); the truth is 0


def test_the_search_finds_every_set_that_is_as_good_as_the_best():
    loss, shown = best_sets(Wants(), torch.zeros(1, 9, 1), target=4, size=3, generator=seeded(0), starts=32)
    found = {tuple(s.nonzero().flatten().tolist()) for s in shown[loss == 0]}
    assert found == {(2, 3, 5), (3, 5, 8)} and (loss == 0).float().mean() > 0.9
    assert not shown[:, 4].any() and (shown.sum(1) == 3).all()


def test_disjoint_sets_share_nothing_and_get_worse():
    loss, sets = disjoint_sets(Wants(), torch.zeros(1, 9, 1), target=4, size=3, count=2, generator=seeded(0))
    assert (sets.sum(0) <= 1).all() and not sets[:, 4].any() and (sets.sum(1) == 3).all()
    assert loss.tolist() == [0, 2]  # of patches 2 and 8 one is left, of 3 and 5 none
    with pytest.raises(ValueError, match="3 disjoint sets of 3 patches do not fit into 9 patches"):
        disjoint_sets(Wants(), torch.zeros(1, 9, 1), target=4, size=3, count=3, generator=seeded(0))
