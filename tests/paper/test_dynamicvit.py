"""DynamicViT's rule, its masked attention and its loss, against timm and by hand."""

import pytest
import torch
from test_cvit import SMALL, generator, images, randomise
from timm.models.vision_transformer import VisionTransformer

from cop.paper import dynamicvit


def dynamic(seed=0, **options):
    return randomise(dynamicvit.DynamicViT(**SMALL | options), seed)


def test_stage_counts_of_the_paper():
    assert dynamicvit.stage_counts(196, 0.22) == (43, 9, 2)  # the paper's "78 %" at 224 px
    assert dynamicvit.stage_counts(196, 0.7) == (137, 96, 67)
    assert dynamicvit.stage_counts(256, 1) == (256, 256, 256)
    assert dynamicvit.stage_counts(196, 0.17)[2] == 0  # the collapse: rho below 0.172
    assert dynamicvit.stage_counts(196, 0.173)[2] == 1
    with pytest.raises(ValueError, match="base_rate is 22"):
        dynamicvit.stage_counts(196, 22)


def test_mean_tokens_and_matched_base_rate():
    assert dynamicvit.mean_tokens(256, 1.0) == 256
    assert dynamicvit.mean_tokens(256, 0.5) == (256 + 128 + 64 + 32) / 4
    for wanted in (64, 70, 128, 200, 256):
        rate = dynamicvit.matched_base_rate(256, wanted)
        assert dynamicvit.mean_tokens(256, rate) <= wanted < dynamicvit.mean_tokens(256, min(1, rate + 1e-6)) + 1
    with pytest.raises(ValueError, match="between 64 and 256"):
        dynamicvit.matched_base_rate(256, 56)


def test_dynamicvit_without_pruning_is_timm_bit_for_bit():
    model = dynamic()
    theirs = VisionTransformer(**SMALL).eval()
    theirs.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("score_predictor.")})
    with torch.no_grad():
        assert torch.equal(model(images(), base_rate=1.0), theirs(images()))


def test_dynamicvit_removes_tokens_at_its_three_stages():
    model, seen = dynamic(), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1] - 1))
    with torch.no_grad():
        model(images(), base_rate=0.5)
        assert seen == [64, 32, 16, 8]
        seen.clear()
        assert torch.isfinite(model(images(), base_rate=0.2)).all()  # int(64 * 0.008) = 0: the class token alone
        assert seen == [64, 12, 2, 0]


def test_dynamicvit_keeps_the_best_scored_tokens():
    model, scores, inputs = dynamic(), [], []
    model.score_predictor[0].register_forward_hook(lambda _, __, out: scores.append(out[..., 0]))
    for i in (0, 1):
        model.blocks[i].register_forward_hook(lambda _, args, out: inputs.append((args[0][:, 1:], out[:, 1:])))
    with torch.no_grad():
        model(images(1), base_rate=0.25)
    best = scores[0][0].topk(16).indices.sort().values
    assert torch.equal(inputs[1][0][0], inputs[0][1][0, best])


def test_masked_attention_is_attention_among_the_kept():
    """Oracle: a kept token must get what timm's attention gives when the dropped are not there at all."""
    attn = dynamic().blocks[1].attn
    x = torch.randn(1, 20, 32, generator=generator())
    keep = (torch.arange(20) % 3 != 1).float()[None]
    with torch.no_grad():
        ours = dynamicvit.masked_attention(attn, x, keep)
        kept = keep[0].bool()
        torch.testing.assert_close(ours[:, kept], attn(x[:, kept]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            dynamicvit.masked_attention(attn, x, torch.ones(1, 20)), attn(x), rtol=1e-4, atol=1e-5
        )
        # a dropped token sees itself and the kept ones, Eq. (9)
        alone = torch.cat([x[:, kept], x[:, 1:2]], dim=1)
        torch.testing.assert_close(ours[:, 1], attn(alone)[:, -1], rtol=1e-4, atol=1e-5)


def test_gumbel_decisions_follow_the_probabilities():
    log_pi = torch.tensor([[0.7, 0.3]]).log().expand(20_000, -1)[None]  # keep comes first
    decisions = dynamicvit.draw_decisions(log_pi, generator())
    assert set(decisions.unique().tolist()) == {0.0, 1.0}
    assert decisions.mean().item() == pytest.approx(0.7, abs=0.01)
    assert torch.equal(decisions, dynamicvit.draw_decisions(log_pi, generator()))


def test_dynamicvit_loss_trains_everything_and_meets_the_ratio():
    model, teacher = dynamic().train(), randomise(VisionTransformer(**SMALL), 1)
    labels = torch.tensor([0, 5, 9])
    dynamicvit.dynamicvit_loss(model, images(), labels, 0.7, generator(), teacher).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.score_predictor.parameters() if p.ndim > 1)
    assert all(p.grad is None for p in teacher.parameters())
    model.load_state_dict(
        dynamicvit.DynamicViT(**SMALL).state_dict()
    )  # a fresh start, then the ratio loss alone matters
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    g, x = generator(3), images(8)
    for _ in range(40):
        loss = dynamicvit.dynamicvit_loss(model, x, torch.arange(8), 0.5, g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        shares = [keep.mean().item() for keep in model.soft(x, g)[1]]
    assert shares == pytest.approx([0.5, 0.25, 0.125], abs=0.12)


def test_dynamicvit_loss_terms_by_hand():
    model = dynamic()
    teacher = randomise(VisionTransformer(**SMALL), 1)
    x, labels = images(), torch.tensor([0, 5, 9])
    with torch.no_grad():
        logits, decisions, tokens = model.soft(x, generator(4))
        loss = -logits.log_softmax(-1)[torch.arange(3), labels].mean()
        plain = loss + 2 * sum((d.mean(1) - 0.7 ** (s + 1)).pow(2).mean() for s, d in enumerate(decisions)) / 3
        torch.testing.assert_close(dynamicvit.dynamicvit_loss(model, x, labels, 0.7, generator(4)), plain)
        p, q = teacher(x).softmax(-1), logits.softmax(-1)
        kl = (p * (p / q).log()).sum(-1).mean()
        seen = teacher.forward_features(x)[:, 1:]
        survivors = decisions[2].bool()
        distill = (tokens - seen)[survivors].square().mean()
        full = plain + 0.5 * kl + 0.5 * distill
        torch.testing.assert_close(dynamicvit.dynamicvit_loss(model, x, labels, 0.7, generator(4), teacher), full)


def test_distillation_takes_the_decisions_as_given(monkeypatch):
    """The published loss compares the tokens that survive, and no gradient asks that others should have survived."""
    model, teacher = dynamic(), randomise(VisionTransformer(**SMALL), 1)
    decisions = [torch.ones(3, 64, requires_grad=True) for _ in range(3)]
    tokens = torch.randn(3, 64, 32, generator=generator()).requires_grad_()
    monkeypatch.setattr(model, "soft", lambda *_: (torch.zeros(3, 10), decisions, tokens))
    dynamicvit.dynamicvit_loss(
        model, images(), torch.tensor([0, 5, 9]), 0.7, generator(), teacher, ratio_weight=0.0
    ).backward()
    assert tokens.grad.abs().sum() > 0
    assert all(d.grad is None or not d.grad.any() for d in decisions)


def test_dynamicvit_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="at least 4 blocks"):
        dynamicvit.DynamicViT(**SMALL | {"depth": 3})
    with pytest.raises(ValueError, match="global_pool='token'"):
        dynamicvit.DynamicViT(**SMALL | {"global_pool": "avg"})
