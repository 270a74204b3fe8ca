"""CViT against timm's own model, keep_idx validation and mask rates."""

import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from cop.paper import cvit

SMALL = {"img_size": 32, "patch_size": 4, "in_chans": 1, "num_classes": 10, "embed_dim": 32, "depth": 4, "num_heads": 4}
N = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=3, seed=0, size=32, channels=1):
    return torch.randn(batch, channels, size, size, generator=generator(seed))


def rankings(batch=3, n=N, seed=0):
    return torch.rand(batch, n, generator=generator(seed)).argsort(dim=1)


def randomise(model, seed=0):
    """Weights of visible size everywhere, the initial ones leave class token and biases near zero."""
    g = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.2)
    return model.eval()


@pytest.fixture
def pair():
    """A CViT and timm's model with the same weights."""
    ours = randomise(cvit.CViT(**SMALL))
    theirs = VisionTransformer(**SMALL).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


# ---- identity with timm --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"no_embed_class": True, "reg_tokens": 4},
        {"reg_tokens": 2},
        {"class_token": True, "global_pool": "avg"},
        {"pos_embed": "none"},
        {"pre_norm": True},
        {"in_chans": 3},
    ],
    ids=str,
)
def test_all_patches_kept_is_timm_bit_for_bit(options):
    ours = randomise(cvit.CViT(**SMALL | options))
    theirs = VisionTransformer(**SMALL | options).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = images(channels=options.get("in_chans", 1))
    with torch.no_grad():
        expected = theirs(x)
        assert torch.equal(ours(x), expected)
        assert torch.equal(ours(x, torch.arange(N).expand(3, -1)), expected)


def test_without_class_token_it_is_timm_to_round_off():
    """timm's tokens are a transposed view there, ours are contiguous: pooled sums run in another order."""
    options = {"class_token": False, "global_pool": "avg"}
    ours = randomise(cvit.CViT(**SMALL | options))
    with torch.no_grad():
        torch.testing.assert_close(ours(images(), torch.arange(N).expand(3, -1)), ours(images()), rtol=1e-4, atol=1e-5)


def test_full_size_model_keeping_all_is_timm_bit_for_bit():
    ours = timm.create_model("cvit_base_patch16_256", num_classes=7, depth=2).eval()
    theirs = timm.create_model("vit_base_patch16_224", img_size=256, num_classes=7, depth=2).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = images(2, size=256, channels=3)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0
        assert torch.equal(ours(x, torch.arange(256).expand(2, -1)), expected)


@pytest.mark.parametrize("mask_rate", [0.0, 0.5, 0.78])
def test_sequence_order_of_kept_patches_has_no_meaning(pair, mask_rate):
    ours, _ = pair
    keep_idx = cvit.kept(rankings(), mask_rate, N)
    shuffled = keep_idx[:, torch.randperm(keep_idx.shape[1], generator=generator(1))]
    with torch.no_grad():
        torch.testing.assert_close(ours(images(), keep_idx), ours(images(), shuffled), rtol=1e-4, atol=1e-5)


def test_kept_patches_are_embedded_where_timm_embeds_them(pair):
    """Only K patches are projected: the tokens must be those of timm's projection of the whole image."""
    ours, theirs = pair
    keep_idx = cvit.kept(rankings(), 0.7)
    whole = theirs.patch_embed(images()).gather(1, keep_idx[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(ours.embed(images(), keep_idx), whole, rtol=1e-5, atol=1e-5)


def test_patches_leave_after_the_position_embedding(pair):
    """Oracle by hand: timm's own pieces, with the tokens selected between position embedding and blocks."""
    ours, theirs = pair
    keep_idx = cvit.kept(rankings(), 0.6)
    with torch.no_grad():
        tokens = theirs._pos_embed(theirs.patch_embed(images()))
        stay = torch.cat([torch.zeros(3, 1, dtype=torch.long), keep_idx + 1], dim=1)
        tokens = tokens.gather(1, stay[..., None].expand(-1, -1, 32))
        expected = theirs.forward_head(theirs.norm(theirs.blocks(tokens)))
        torch.testing.assert_close(ours(images(), keep_idx), expected, rtol=1e-4, atol=1e-5)


def test_dropped_patches_are_never_looked_at(pair):
    ours, _ = pair
    keep_idx = cvit.kept(rankings(1), 0.5)
    seen = torch.zeros(N, dtype=torch.bool)
    seen[keep_idx[0]] = True
    pixels = seen.reshape(8, 1, 8, 1).expand(8, 4, 8, 4).reshape(32, 32)
    x = images(1)
    with torch.no_grad():
        hidden_changed = torch.where(pixels, x, x + 100)
        seen_changed = torch.where(pixels, x + 1, x)
        assert torch.equal(ours(x, keep_idx), ours(hidden_changed, keep_idx))
        assert not torch.allclose(ours(x, keep_idx), ours(seen_changed, keep_idx), atol=1e-3)


def test_gradients_reach_every_parameter_and_checkpointing_changes_none(pair):
    ours, _ = pair
    keep_idx = cvit.kept(rankings(), 0.78)

    def gradients():
        ours.zero_grad()
        ours(images(), keep_idx).square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in ours.named_parameters()}

    plain = gradients()
    ours.set_grad_checkpointing()
    checkpointed = gradients()
    for name, gradient in plain.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-5, msg=name)


# ---- keep_idx and rankings -----------------------------------------------------------------------


@given(data=st.data(), batch=st.integers(1, 4), n=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_check_keep_idx_accepts_distinct_patches(data, batch, n):
    k = data.draw(st.integers(1, n))
    rows = [data.draw(st.permutations(range(n)))[:k] for _ in range(batch)]
    cvit.check_keep_idx(torch.tensor(rows), batch, n)


@given(data=st.data(), n=st.integers(2, 40), fault=st.sampled_from(["repeat", "high", "negative"]))
@settings(max_examples=90, deadline=None)
def test_check_keep_idx_finds_any_fault(data, n, fault):
    batch = data.draw(st.integers(1, 4))
    k = data.draw(st.integers(2, n))
    keep_idx = torch.tensor([data.draw(st.permutations(range(n)))[:k] for _ in range(batch)])
    row, at = data.draw(st.integers(0, batch - 1)), data.draw(st.integers(0, k - 1))
    if fault == "repeat":
        other = data.draw(st.integers(0, k - 1).filter(lambda i: i != at))
        keep_idx[row, at] = keep_idx[row, other]
        message = f"row {row} holds patch {keep_idx[row, other]} twice"
    else:
        keep_idx[row, at] = data.draw(st.integers(n, n + 99) if fault == "high" else st.integers(-99, -1))
        message = f"holds {keep_idx[row, at]}, expected patch numbers 0 to {n - 1}"
    with pytest.raises(ValueError, match=message):
        cvit.check_keep_idx(keep_idx, batch, n)


@pytest.mark.parametrize(
    ("keep_idx", "message"),
    [
        (torch.zeros(3, 0, dtype=torch.long), "empty"),
        (torch.tensor([[0, N]] * 3), "holds 64, expected patch numbers 0 to 63"),
        (torch.tensor([[-1, 2]] * 3), "holds -1"),
        (torch.tensor([[1, 2], [5, 5], [3, 4]]), "row 1 holds patch 5 twice"),
        (torch.tensor([[1, 2]] * 2), r"shape \(2, 2\), expected \(3, K\)"),
        (torch.tensor([1, 2, 3]), r"shape \(3,\), expected \(3, K\)"),
        (torch.tensor([[1, 2]] * 3, dtype=torch.int32), "torch.int32, expected a LongTensor"),
        (torch.tensor([[1.0, 2.0]] * 3), "torch.float32, expected a LongTensor"),
        ([[1, 2]] * 3, "list, expected a LongTensor"),
    ],
)
def test_bad_keep_idx_gives_one_clear_error(pair, keep_idx, message):
    with pytest.raises(ValueError, match=message):
        pair[0](images(), keep_idx)


def test_other_misuse_gives_one_clear_error(pair):
    with pytest.raises(ValueError, match=r"\(36, 36\) pixels, the model takes \(32, 32\)"):
        pair[0](images(size=36), rankings())
    with pytest.raises(ValueError, match="attn_mask"):
        pair[0](images(), rankings(), attn_mask=torch.ones(65, 65, dtype=torch.bool))
    with pytest.raises(ValueError, match="dynamic_img_size"):
        cvit.CViT(**SMALL, dynamic_img_size=True)


@given(n=st.integers(1, 300), a=st.floats(0, 1), b=st.floats(0, 1))
@settings(deadline=None)
def test_keep_count_properties(n, a, b):
    low, high = sorted((a, b))
    assert 1 <= cvit.keep_count(n, high) <= cvit.keep_count(n, low) <= n
    assert cvit.keep_count(n, 0) == n
    assert cvit.keep_count(n, 1) == 1


def test_keep_counts_of_the_paper():
    assert [cvit.keep_count(256, r) for r in (0, 0.3, 0.5, 0.78, 0.99)] == [256, 179, 128, 56, 3]
    assert cvit.keep_count(64, 0.78) == 14
    for rate in (-0.1, 1.1, 78, math.nan):
        with pytest.raises(ValueError, match="mask_rate"):
            cvit.keep_count(256, rate)


def test_kept_takes_the_first_and_checks_the_grid():
    ranking = rankings()
    assert torch.equal(cvit.kept(ranking, 0.78), ranking[:, :14])
    with pytest.raises(ValueError, match="N = 64 patches, the model's grid has 256"):
        cvit.kept(ranking, 0.5, 256)
    with pytest.raises(ValueError, match=r"expected \(B, N\)"):
        cvit.kept(ranking[0], 0.5)


def test_mask_rate_schedule_is_decision_29():
    u = (torch.arange(20_000) + 0.5) / 20_000
    rates = torch.tensor([cvit.mask_rate_schedule(x) for x in u.tolist()])
    assert rates.mean().item() == pytest.approx(0.99 * (1 - 2 / math.pi), abs=1e-4)  # 0.36
    assert (rates > 0.78).double().mean().item() == pytest.approx(0.136, abs=1e-3)
    assert cvit.mask_rate_schedule(0) == 0
    assert cvit.mask_rate_schedule(1) == pytest.approx(0.99)
    assert (rates.diff() > 0).all()
    with pytest.raises(ValueError, match="u is 1.5"):
        cvit.mask_rate_schedule(1.5)


def test_masked_loss_is_cross_entropy_on_the_kept_patches(pair):
    ours, theirs = pair
    labels, ranking, u = torch.tensor([1, 7, 3]), rankings(), 0.8
    keep_idx = ranking[:, : cvit.keep_count(N, cvit.mask_rate_schedule(u))]
    with torch.no_grad():
        expected = -ours(images(), keep_idx).log_softmax(-1)[torch.arange(3), labels].mean()
        torch.testing.assert_close(cvit.masked_loss(ours, images(), labels, ranking, u), expected)
        plain = torch.nn.functional.cross_entropy(theirs(images()), labels)
        assert torch.equal(cvit.masked_loss(ours, images(), labels, None, u), plain)
        with pytest.raises(ValueError, match="N = 256 patches, the model's grid has 64"):
            cvit.masked_loss(ours, images(), labels, rankings(n=256), u)
        with pytest.raises(ValueError, match="one row for each image"):
            cvit.masked_loss(ours, images(), labels, rankings(batch=2), u)
        with pytest.raises(ValueError, match="labels run from 1 to 10"):
            cvit.masked_loss(ours, images(), torch.tensor([1, 10, 3]), ranking, u)


def test_a_few_steps_of_training_lower_the_loss():
    model = cvit.CViT(img_size=32, patch_size=4, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=4)
    randomise(model).train()
    x, labels, ranking = images(10), torch.arange(10), rankings(10)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = cvit.masked_loss(model, x, labels, ranking, u=0.6)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# ---- registration and checkpoints ----------------------------------------------------------------


def test_registered_with_timm_and_its_tags():
    tags = timm.list_models("cvit_base_patch16_256.*", pretrained=True)
    assert "cvit_base_patch16_256.orig_in21k" in tags
    default = timm.models.get_pretrained_cfg("cvit_base_patch16_256")
    assert (default.tag, default.hf_hub_id) == ("orig_in21k", "timm/vit_base_patch16_224.orig_in21k")
    assert default.input_size == (3, 256, 256)
    assert default.mean == (0.5, 0.5, 0.5)
    for name in tags:
        assert timm.models.get_pretrained_cfg(name).hf_hub_id.startswith("timm/vit_base_patch16_224.")
    small = timm.models.get_pretrained_cfg("cvit_small_patch16_256")
    assert (small.hf_hub_id, small.input_size) == ("timm/vit_small_patch16_224.augreg_in21k", (3, 256, 256))


@pytest.mark.parametrize("own_tag", [True, False])
def test_timm_loading_resamples_the_position_embedding(own_tag):
    """Synthetic weights with timm's names and 224 px shapes, through timm's pretrained path, no download."""
    source = randomise(timm.create_model("vit_base_patch16_224.orig_in21k", num_classes=0, depth=1))
    overlay = {"state_dict": source.state_dict()}
    extra = {} if own_tag else {"pretrained_cfg": "vit_base_patch16_224.orig_in21k"}
    if not own_tag:  # the whole configuration of timm's tag, as its scripts hand it over
        extra = {"pretrained_cfg": timm.models.get_pretrained_cfg("vit_base_patch16_224.orig_in21k")}
    model = timm.create_model(
        "cvit_base_patch16_256", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=10, depth=1, **extra
    )
    assert isinstance(model, cvit.CViT)
    assert model.pos_embed.shape == (1, 257, 768)
    assert model.head.weight.shape == (10, 768)
    expected = resample_abs_pos_embed(source.pos_embed, new_size=(16, 16), num_prefix_tokens=1)
    assert torch.equal(model.pos_embed, expected)
    assert torch.equal(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)
    assert model.eval()(images(1, size=256, channels=3), torch.arange(56)[None]).shape == (1, 10)


@pytest.mark.parametrize("size", ["base", "small"])
def test_full_size_model_has_exactly_timms_names_and_shapes(size):
    with torch.device("meta"):
        ours = timm.create_model(f"cvit_{size}_patch16_256", num_classes=1000)
        theirs = timm.create_model(f"vit_{size}_patch16_224", img_size=256, num_classes=1000)
    assert [b.attn.num_heads for b in ours.blocks] == [b.attn.num_heads for b in theirs.blocks]
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.slow
def test_full_size_training_step_at_two_mask_rates():
    """ViT-B/16 at 256 px: real steps of AdamW on CPU at a low and at the highest mask rate."""
    model = timm.create_model("cvit_base_patch16_256", num_classes=1000).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    x, labels, ranking = images(2, size=256, channels=3), torch.tensor([3, 999]), rankings(2, 256)
    for u in (0.3, 1.0):
        before = model.blocks[11].mlp.fc2.weight.detach().clone()
        loss = cvit.masked_loss(model, x, labels, ranking, u)
        optimiser.zero_grad()
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        optimiser.step()
        assert not torch.equal(before, model.blocks[11].mlp.fc2.weight)
