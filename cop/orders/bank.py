"""Where the order of an image that does not exist yet comes from: a bank of orders of images that do.

The paper says only that MAR+C and CMAR generate "with collapse order". CoMAE needs a whole image to find an order, so
the order of a new image of class y must be borrowed. A bank holds one byte per rank and lends orders in one of `MODES`:

    train        the order of a random training image of the class: what CMAR saw in training; our reading of the paper
    val          the same from held-out images: tells whether the training bank leaks its images' layout
    class_mean   one order per class, its mean (Borda): deployable, but no image's own order
    global_mean  one order for everything
    two_pass     a draft in random order is generated first, and CoMAE ranks the draft; no real image is asked
    random       control: no order at all
    wrong_class  control: the order of a training image of another class, which has the form but not the content
"""

import torch
from torch import Tensor

from cop.orders.permutations import check_ranking, mean_order, random_order

MODES = ("train", "val", "class_mean", "global_mean", "two_pass", "random", "wrong_class")


class OrderBank:
    """Orders with classes, lent by `draw`.

    rankings: (n, N) long, at most 256 patches, so that a rank is one byte; not read in mode `random`.
    labels: (n,) long, the class of each. mode: one of `MODES`. Raises ValueError for other shapes, orders that are no
    permutations, an unknown mode, and a class without an order where the mode needs one.
    """

    def __init__(self, rankings: Tensor, labels: Tensor, num_classes: int, mode: str):
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r} of an order bank; expected one of {', '.join(MODES)}")
        if rankings.ndim != 2 or rankings.shape[1] > 256:
            raise ValueError(
                f"rankings are {tuple(rankings.shape)}; expected (n, N) with N <= 256, so that a byte holds a rank"
            )
        check_ranking(rankings, rankings.shape[1])
        if labels.shape != rankings.shape[:1] or labels.dtype != torch.long:
            raise ValueError(
                f"labels are {labels.dtype} {tuple(labels.shape)}; expected int64 ({len(rankings)},), one per order"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            raise ValueError(
                f"labels range from {int(labels.min())} to {int(labels.max())}; expected 0 to {num_classes - 1}"
            )
        if mode == "wrong_class" and num_classes < 2:
            raise ValueError("mode 'wrong_class' needs at least two classes")
        self.mode, self.num_classes, self.num_tokens = mode, num_classes, rankings.shape[1]
        if mode == "class_mean":
            self._every_class_has_one(labels)
            rankings = torch.stack([mean_order(rankings[labels == y]) for y in range(num_classes)])
            labels = torch.arange(num_classes)
        elif mode == "global_mean":
            if not len(rankings):
                raise ValueError("the bank is empty; mode 'global_mean' needs at least one order")
            rankings, labels = mean_order(rankings)[None], torch.zeros(1, dtype=torch.long)
        elif mode in ("train", "val", "wrong_class"):
            self._every_class_has_one(labels)
        by_class = torch.arange(len(labels)) if mode == "two_pass" else labels.argsort(stable=True)
        self.ranks = rankings[by_class].to(torch.uint8)  # (n, N), the orders of a class side by side
        self.labels = labels[by_class]
        self.counts = labels.bincount(minlength=num_classes)
        self.starts = self.counts.cumsum(0) - self.counts

    def _every_class_has_one(self, labels: Tensor) -> None:
        missing = (labels.bincount(minlength=self.num_classes) == 0).nonzero().flatten().tolist()
        if missing:
            raise ValueError(f"the bank has no order of class {missing[0]} ({len(missing)} classes lack one); mode "
                             f"{self.mode!r} needs at least one of each: rank more images")  # fmt: skip

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """An order for each of the new images of classes `labels` (B,): ranking (B, N) long.

        Every mode takes the same numbers from `generator`, so that equal seeds pair the modes: `train` and `val` lend
        the order at the same relative place of the class. `two_pass` lends the order of draft i to image i, and raises
        ValueError where the classes are not the drafts'. So do labels out of range.
        """
        B, K = len(labels), self.num_classes
        if (
            labels.ndim != 1
            or labels.dtype != torch.long
            or (B and not 0 <= int(labels.min()) <= int(labels.max()) < K)
        ):
            raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}, from {labels.min().item()} to "
                             f"{labels.max().item()}; expected int64 (B,) from 0 to {K - 1}")  # fmt: skip
        u = torch.rand(B, 2, generator=generator, dtype=torch.float64)
        if self.mode == "random":
            return random_order(B, self.num_tokens, generator)
        if self.mode == "two_pass":
            if not torch.equal(labels, self.labels[:B]):
                raise ValueError(
                    "the classes asked for are not those of the drafts; make the drafts with the same labels"
                )
            return self.ranks[:B].long()
        if self.mode == "global_mean":
            return self.ranks.long().expand(B, -1)
        if self.mode == "wrong_class":
            labels = (labels + 1 + (u[:, 1] * (K - 1)).long()) % K
        return self.ranks[self.starts[labels] + (u[:, 0] * self.counts[labels]).long()].long()
