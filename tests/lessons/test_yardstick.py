"""What a classifier chooses that may try every patch: against brute force, one step at a time."""

import pytest
import torch
from test_entropy import gen

from cop.lessons.yardstick import RULES, chosen_by, completed
from cop.orders import check_ranking
from cop.paper.cvit import CViT

N, K, CLASSES = 9, 4, 5


@pytest.fixture(scope="module")
def net() -> CViT:
    torch.manual_seed(0)
    model = CViT(img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=CLASSES).eval()
    for p in model.parameters():  # so that its answers differ
        p.data += 0.2 * torch.randn(p.shape, generator=gen(1))
    return model


@pytest.mark.parametrize("name", RULES)
@torch.no_grad()
def test_each_patch_is_the_best_of_all_that_are_left(net, name):
    images, labels = torch.randn(10, 3, 12, 12, generator=gen(2)), torch.arange(10) % CLASSES
    chosen = chosen_by(net, images, labels, RULES[name], K)
    assert chosen.shape == (10, K)
    for x, y, patches in zip(images[:, None], labels[:, None], chosen.tolist(), strict=True):
        for k in range(K):
            left = [p for p in range(N) if p not in patches[:k]]
            lost = [float(RULES[name](net(x, torch.tensor([[*patches[:k], p]])), net(x), y)) for p in left]
            assert lost[left.index(patches[k])] <= min(lost) + 1e-5


@torch.no_grad()
def test_rules_in_closed_form():
    logits, whole = torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, -1e9, -1e9]])
    label, log = torch.tensor([2]), torch.log(torch.tensor(4.0)).item()
    assert {name: rule(logits, whole, label).item() for name, rule in RULES.items()} == pytest.approx(
        {"most certain": log, "as the whole image": log / 2, "knows the class": log, "hides the class": -log}
    )


def test_rankings_are_completed_by_number():
    assert completed(torch.tensor([[3, 0], [1, 2]]), 4).tolist() == [[3, 0, 1, 2], [1, 2, 0, 3]]
    check_ranking(completed(torch.tensor([[5]]), 6), 6)
