"""The base that all systems are fine-tuned from, and the folds in which every image is tested once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cop.data.loading import load_data
from cop.lessons import base, classification, classifiers, cross_validation, looking
from cop.profiles import in_fold, smoke

PROFILE = replace(
    smoke,
    base=replace(smoke.base, steps=3, batch_size=8),
    data=replace(smoke.data, without_step=4),
    classifier=replace(smoke.classifier, class_step=4, folds=True, rate=0.5, steps=2),
)


def test_a_crop_of_the_whole_is_the_image_and_others_lie_within_it():
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(base.cropped(images, 1.0, torch.Generator().manual_seed(1)), images, atol=1e-5, rtol=0)
    some = base.cropped(images, 0.3, torch.Generator().manual_seed(1))
    assert some.shape == images.shape and some.abs().max() <= images.abs().max() + 1e-6 and not torch.allclose(some, images, atol=0.1)


def test_shares_of_mixed_images_are_drawn_from_beta():
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([base.beta(0.2, generator) for _ in range(4000)])
    assert abs(drawn.mean() - 0.5) < 0.03 and abs(drawn.var() - 1 / (4 * 1.4)) < 0.02  # variance 1 / (4 (2 a + 1))


def test_systems_start_from_the_base_but_for_a_head_of_other_classes():
    found, artefact = base.base(PROFILE)
    assert found.num_classes == 7 and artefact.tensors["watched"].shape == (3, 3)
    model = classifiers.untrained(lambda: classifiers.build(in_fold(PROFILE, 0)), 0, None)
    head = model.head.weight.clone()
    classifiers.start_from(model, found)
    assert torch.equal(model.blocks[0].attn.qkv.weight, found.blocks[0].attn.qkv.weight)
    assert model.num_classes == 3 and torch.equal(model.head.weight, head)


def test_every_image_of_the_pool_is_tested_by_a_system_that_did_not_learn_from_it():
    pool = load_data(in_fold(PROFILE, None), "pool")
    found = classification.hits(PROFILE, "variance")
    assert found.top1.shape == (1, len(pool)) and found.counts == (32,)
    fold = classification.hits(in_fold(PROFILE, 2), "variance")
    rows = classification.pipeline.rows_of(in_fold(PROFILE, 2), "test").numpy()
    assert np.array_equal(found.top1[:, rows], fold.top1)
    assert classification.hits(PROFILE, "ViT").counts == (32, 64)


def test_differences_are_paired_by_image_and_count_the_trainings():
    n = len(load_data(in_fold(PROFILE, None), "pool"))
    a = np.zeros((2, n), bool)
    b = a.copy()
    a[:, : n // 2] = True
    table = cross_validation.differences({"a": a, "b": b}, [("a", "b"), ("b", "a")], PROFILE)
    assert table["difference"].tolist() == pytest.approx([100 * (n // 2) / n, -100 * (n // 2) / n])
    assert table["low"][0] < table["difference"][0] < table["high"][0] and table["runs"].tolist() == ["10 of 10", "0 of 10"]
    assert (table["holm"] >= table["p"]).all() and "*" in cross_validation.shown(table).iloc[0, 1]


def test_as_many_seeds_are_compared_as_are_stored(capsys):
    orders, rate = ("variance", "low-discrepancy"), PROFILE.classifier.rate
    assert looking.runs(PROFILE, rate, 20, 0, orders) == [20] and looking.runs(PROFILE, rate, 20, 3, orders) == [20, 21, 22]
    found = cross_validation.compared(PROFILE, ["variance"], rate, (0, 1))
    assert found["variance"].shape[0] == 2 and (found["variance"][0] != found["variance"][1]).any()
    assert looking.runs(PROFILE, rate, 0, 0, orders) == [0, 1] and looking.runs(PROFILE, rate, 1, 0, orders) == [1]
    assert looking.asked(PROFILE, rate, [0, 1], orders) == ["variance"]
    assert capsys.readouterr().out == "2 trainings of each order and fold, seeds 0 to 1\nnot trained here: low-discrepancy\n"
