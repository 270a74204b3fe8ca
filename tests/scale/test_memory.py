"""No stage needs more memory for more images than what it keeps of them, and a dry run says so where one does."""

import contextlib

import pytest
import torch

from cop import devices
from cop.data.tokens import KL16Tokens
from cop.lessons import pipeline
from cop.paper.kl16 import KL16
from cop.profiles import paper, smoke
from cop.scale import memory
from cop.train.loop import seeded_build


def test_the_most_bytes_alive_at_once():
    before = torch.ones(5000)
    with memory.Held() as held:
        view = before[:10]
        x = torch.ones(1000)  # 4000 bytes
        y = x[:10] + torch.zeros(10)
        del x
        nothing = torch.empty(10**9, device="meta")
        z = torch.ones(200) * 2
    assert (
        held.peak == 4000 + 40 + 40
        and held.now == 40 + 800
        and len(y) + len(z) == 210
        and nothing.is_meta
        and len(view)
    )


@pytest.fixture(scope="module")
def found():
    return {f.stage: f for f in memory.growth(smoke)}


def test_a_stage_grows_by_what_it_keeps(found):
    image, tokens, rank = 4 * 32 * 32, 4 * 64 * 16, 64
    assert {s: f.more for s, f in found.items() if f.more > 3 * (image + tokens)}.keys() == {"swapping masks"}
    assert found["swapping masks"].more < 1.5 * 16 * (tokens + 2 * 4 * 64)  # noise and weights of 16 targets
    assert found["the tokens of a sample"].more >= tokens and found["a sample with its tokens"].more >= image + tokens
    for stage in (
        "ranking",
        "CoMAE's losses",
        "curves of certainty",
        "testing a classifier",
        "sampling",
        "judging samples",
    ):
        assert found[stage].more < image + rank, stage


def test_a_stage_that_takes_all_images_at_once_is_seen(found, monkeypatch):
    monkeypatch.setattr(memory, "limited", contextlib.nullcontext)  # portions of up to 64 images again
    whole = {f.stage: f for f in memory.growth(smoke)}
    for stage in (
        "ranking",
        "CoMAE's losses",
        "swapping masks",
        "curves of entropy",
        "curves of certainty",
        "testing a classifier",
        "sampling",
        "held-out loss",
    ):
        assert whole[stage].more > 3 * max(100, found[stage].more), stage


def test_latents_are_encoded_and_decoded_in_portions():
    """... by every stage that asks for them, however many images it has."""
    tokens = KL16Tokens(seeded_build(lambda: KL16(32, 32), 0))
    images = torch.zeros(6, 3, 32, 32)
    for call, given in ((tokens.encode, images), (tokens.decode, tokens.encode(images))):
        peaks = []
        for n in (2, 6):
            with devices.limited(2), memory.Held() as held:
                out = call(given[:n])
            peaks.append(held.peak)
        assert peaks[1] - peaks[0] < 3 * out.nbytes < peaks[0]
        assert torch.allclose(out, call(given), atol=1e-5)


def test_the_check_multiplies_by_the_images_of_the_real_profile(monkeypatch):
    one = memory.Growth("encoding", 10_000, 3e8, 1.6e8)
    assert one.total == pytest.approx((3e8 + 9998 * 1.6e8) / 2**30)
    monkeypatch.setattr(memory, "growth", lambda *args: [one, memory.Growth("small", 10_000, 3e8, 1e3)])
    with pytest.raises(
        RuntimeError,
        match=r"more than 64 GiB at the size of profile 'paper': encoding: 152\.6 MiB an image, 1,490 GiB for 10,000\.",
    ):
        memory.check(paper)
    assert len(memory.check(paper, most=2000)) == 2


def test_stages_have_the_true_width_and_resolution():
    small = memory.shallow(paper)
    assert (small.num_tokens, small.comae.enc_dim, small.classifier.dim, small.generation.dim) == (256, 256, 768, 768)
    assert pipeline.get_profile("paper").tokens == small.tokens and small.data.limit == memory.MANY
