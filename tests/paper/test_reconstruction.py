"""Masks of the same density, and the search for different sets of patches that do equally well."""

import torch

from cop.paper.reconstruction import redundancy, shuffled
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
    loss, shown = redundancy(Wants(), torch.zeros(1, 9, 1), target=4, size=3, generator=seeded(0), starts=32)
    found = {tuple(s.nonzero().flatten().tolist()) for s in shown[loss == 0]}
    assert found == {(2, 3, 5), (3, 5, 8)} and (loss == 0).float().mean() > 0.9
    assert not shown[:, 4].any() and (shown.sum(1) == 3).all()
