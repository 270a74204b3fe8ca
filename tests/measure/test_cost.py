"""Costs against closed forms and the published figures."""

from types import SimpleNamespace

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cop.measure import cost
from cop.paper import cvit, dynamicvit

SMALL = {"img_size": 32, "patch_size": 4, "in_chans": 1, "embed_dim": 96, "depth": 4, "num_heads": 4}


@pytest.fixture(scope="module")
def vit():
    """ViT-B/16 at 256 px on the meta device: shapes without numbers, so counting it takes milliseconds."""
    with torch.device("meta"):
        return timm.create_model("cvit_base_patch16_256", num_classes=1000).eval()


def count(vit, k):
    return cost.macs(vit, torch.empty(1, 3, 256, 256, device="meta"), torch.arange(k)[None])


def formula(tokens, embedded, dim=768, depth=12, classes=1000):
    """Multiply-adds of a ViT: 12 D^2 per token and block, 2 T^2 D for attention, embedding and head."""
    return depth * (12 * dim**2 * tokens + 2 * tokens**2 * dim) + embedded * 768 * dim + dim * classes


def test_attention_saving_is_the_papers_95_16_percent():
    assert cost.attention_saving(22, 100) == pytest.approx(0.9516, abs=1e-12)
    assert cost.attention_saving(256, 256) == 0
    with pytest.raises(ValueError, match="kept is 300"):
        cost.attention_saving(300, 256)


@pytest.mark.parametrize("k", [256, 128, 57, 56, 1])
def test_counted_macs_are_the_formula(vit, k):
    assert count(vit, k) == formula(k + 1, embedded=k)


def test_published_figures(vit):
    """timm's 23.05 GMAC leave the patch projection (0.151) out, 4.90 are 57 tokens in all: 78.7 % saved."""
    full, few = count(vit, 256), count(vit, 57)
    assert full / 1e9 == pytest.approx(23.197, abs=1e-3)
    assert (full - 256 * 768 * 768) / 1e9 == pytest.approx(23.05, abs=5e-3)
    assert formula(57, embedded=0) / 1e9 == pytest.approx(4.90, abs=5e-3)
    # all counted, with class token, head and the projection of the kept patches only: 5.02 GMAC, 78.4 % saved
    assert few / 1e9 == pytest.approx(5.02, abs=5e-3)
    assert cost.saving(few, full) == pytest.approx(0.787, abs=0.004)
    # the ideal gain of 4.51 lets the 57 kept patches' rivals be projected too; projecting the kept only
    # allows 4.62
    assert full / formula(58, embedded=256) == pytest.approx(4.51, abs=5e-3)
    assert full / few == pytest.approx(4.62, abs=5e-3)


def test_attention_is_counted_on_cpu_as_well():
    """The library overlooks the CPU's fused attention; ours must count the same on CPU as on meta."""
    model = cvit.CViT(**SMALL, num_classes=10).eval()
    expected = 4 * (12 * 96**2 * 65 + 2 * 65**2 * 96) + 64 * 16 * 96 + 96 * 10
    assert cost.macs(model, torch.zeros(1, 1, 32, 32)) == expected
    assert cost.macs(model, torch.zeros(2, 1, 32, 32)) == 2 * expected
    few = 4 * (12 * 96**2 * 15 + 2 * 15**2 * 96) + 14 * 16 * 96 + 96 * 10
    assert cost.macs(model, torch.zeros(1, 1, 32, 32), torch.arange(14)[None]) == few


def test_counting_leaves_no_gradients_and_knows_convolutions():
    layer = nn.Conv2d(3, 8, 3, padding=1)
    assert cost.macs(layer, torch.zeros(1, 3, 10, 10)) == 8 * 3 * 9 * 100
    assert cost.macs(lambda: torch.zeros(4, 5) @ torch.zeros(5, 6)) == 4 * 5 * 6


def test_dynamicvit_is_countable():
    """At base rate 1 it costs timm's ViT plus its predictors, and pruning makes it cheaper."""
    with torch.device("meta"):
        model, plain = dynamicvit.DynamicViT(**SMALL), VisionTransformer(**SMALL)
        x = torch.empty(1, 1, 32, 32)
    predictors = 3 * 64 * (2 * 96 * 48 + 96 * 48 + 48 * 24 + 24 * 2)
    assert cost.macs(model, x, 1.0) == cost.macs(plain, x) + predictors
    assert cost.macs(model, x, 0.2) < cost.macs(model, x, 0.7) < cost.macs(plain, x)


def test_throughput_counts_calls_and_takes_the_median(monkeypatch):
    clock = iter([0, 9, 10, 11, 20, 22, 30, 130.0])  # start and end of one warm-up and of three timed runs
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    calls = []

    def fn(batch):
        assert torch.is_inference_mode_enabled()
        calls.append(len(batch))

    assert cost.throughput(fn, torch.zeros(8, 1), repeats=3, warmup=1) == 8 / 2
    assert calls == [8] * 4
    with pytest.raises(ValueError, match="macs_all is 0"):
        cost.saving(1, 0)
    with pytest.raises(ValueError, match="repeats is 0"):
        cost.throughput(fn, torch.zeros(8, 1), repeats=0)
