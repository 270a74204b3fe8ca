"""MAR: its order, its official names, its loss and samples against a line-by-line reference."""

import argparse
import dataclasses
import math
from functools import lru_cache

import pytest
import torch
from benchmarks.bench_sampling import busy_model, plain_conditions, plain_mlp, plain_sample
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cop.paper.diffusion import cosine_diffusion
from cop.paper.mar import MAR, MARConfig, block_at, draw_num_masked, load_mar, mar_config, mar_orders, mask_lengths

SIZES = {"dim": 24, "depth": 2, "heads": 3, "buffer_size": 3, "diffloss_depth": 2, "diffloss_width": 32}
TINY = MARConfig(grid=4, channels=4, num_classes=5, diffusion_batch_mul=2, **SIZES)
N, C = TINY.num_tokens, TINY.channels


@lru_cache
def model():
    return busy_model(TINY, dtype=torch.float64)  # double precision: differences are then of substance


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(size=3, seed=0):
    tokens = torch.randn(size, N, C, generator=gen(seed), dtype=torch.float64)
    return tokens, torch.arange(size) % TINY.num_classes


def rankings(size=3, seed=9):
    return torch.rand(size, N, generator=gen(seed)).argsort(dim=1)


def revealed_at(ranking, **settings):
    """The step at which each token appears, (B, N), seen through the callback."""
    seen = []
    model().sample(
        torch.zeros(len(ranking), dtype=torch.long),
        range(len(ranking)),
        ranking,
        num_sampling_steps=2,
        callback=lambda stage: seen.append(stage["mask"]),
        **settings,
    )
    return torch.stack(seen).sum(dim=0), seen


# ---------------------------------------------------------------------------------------------- the order


def test_orders_are_flipped_once():
    assert mar_orders(torch.tensor([[2, 0, 1]])).tolist() == [[1, 0, 2]]


def test_one_token_per_step_in_the_order_of_the_ranking():
    ranking = rankings()
    step, stages = revealed_at(ranking, num_iter=N)
    assert [int(mask.sum()) for mask in stages] == [3 * (N - 1 - s) for s in range(N)]
    assert torch.equal(step.argsort(dim=1), ranking)
    assert torch.equal((step == 0).nonzero()[:, 1], ranking[:, 0])  # fails if the order is flipped


@pytest.mark.parametrize("num_iter", [1, 3, 7])
def test_several_tokens_per_step_follow_the_ranking(num_iter):
    ranking = rankings()
    step, stages = revealed_at(ranking, num_iter=num_iter)
    assert len(stages) == num_iter and not stages[-1].any()
    in_order = step.gather(1, ranking)
    assert (in_order.diff(dim=1) >= 0).all()
    assert [int(mask[0].sum()) for mask in stages] == mask_lengths(N, num_iter)


def test_training_hides_the_tail_of_the_ranking():
    """The encoder sees the first N - M tokens of the ranking and is asked for the other M."""
    tokens, labels = batch()
    ranking, num_masked = rankings(), 12
    calls = []
    original = MAR.predict

    def spy(self, known, condition, visible, wanted):
        calls.append((known, visible, wanted))
        return original(self, known, condition, visible, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MAR, "predict", spy)
        model()(tokens, labels, gen(), ranking, num_masked=num_masked)
    known, visible, wanted = calls[0]
    first, last = ranking[:, : N - num_masked], ranking[:, N - num_masked :]
    assert torch.equal(visible.sort(dim=1).values, first.sort(dim=1).values)  # fails if the order is flipped
    assert torch.equal(wanted.sort(dim=1).values, last.sort(dim=1).values)
    torch.testing.assert_close(known, tokens.gather(1, visible[..., None].expand(-1, -1, C)))


@given(st.integers(1, 300), st.data())
def test_schedule(num_tokens, data):
    num_iter = data.draw(st.integers(1, num_tokens))
    lengths = mask_lengths(num_tokens, num_iter)
    assert len(lengths) == num_iter and lengths[-1] == 0
    steps = [a - b for a, b in zip([num_tokens, *lengths], lengths, strict=False)]
    assert min(steps) >= 1 and sum(steps) == num_tokens
    for step, length in enumerate(lengths[:-1]):  # the cosine, unless a step must reveal at least one
        assert length <= max(1, math.floor(num_tokens * math.cos(math.pi / 2 * (step + 1) / num_iter)))
    if num_iter == num_tokens:
        assert set(steps) == {1}


def test_256_tokens_in_64_steps_as_published():
    steps = [a - b for a, b in zip([256, *mask_lengths(256, 64)], mask_lengths(256, 64), strict=False)]
    assert steps[:10] == [1] * 10 and max(steps) == 7


def test_mask_ratio_is_the_truncated_normal():
    from scipy.stats import truncnorm

    counts = torch.tensor([draw_num_masked(10_000, 0.7, gen(s)) for s in range(3000)]) / 10_000
    expected = truncnorm((0.7 - 1) / 0.25, 0, loc=1, scale=0.25)
    assert counts.min() >= 0.7 and counts.max() <= 1
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert float(counts.quantile(q)) == pytest.approx(expected.ppf(q), abs=0.01)


# ------------------------------------------------------------------------------- against the reference


@pytest.mark.parametrize("num_masked", [1, 11, N])
def test_loss_is_that_of_the_reference(num_masked):
    """Same mask, timesteps and noise: all positions through the MLP, the mean then taken over hidden ones."""
    tokens, labels = batch()
    ranking, repeats = rankings(), 2
    mask = ranking.argsort(dim=1) >= N - num_masked
    t = torch.randint(0, 1000, (repeats, 3, N), generator=gen(1))
    t[0, 0] = 0  # the likelihood term too
    noise = torch.randn(repeats, 3, N, C, generator=gen(2), dtype=torch.float64)

    z = plain_conditions(model(), tokens, mask, model().class_emb(labels))
    diffusion, total = cosine_diffusion(), 0.0
    for k in range(repeats):
        x_t = diffusion.add_noise(tokens, t[k], noise[k])
        eps, v = plain_mlp(model().diffloss.net, x_t.flatten(0, 1), t[k].flatten(), z.flatten(0, 1))
        loss = diffusion.training_loss(eps.unflatten(0, (3, N)), v.unflatten(0, (3, N)), tokens, x_t, t[k], noise[k])
        total = total + (loss * mask).sum() / mask.sum() / repeats

    hidden = mar_orders(ranking)[:, :num_masked]
    ours = model()(
        tokens,
        labels,
        gen(),
        ranking,
        num_masked=num_masked,
        timesteps=t.gather(2, hidden.expand(repeats, -1, -1)),
        noise=noise.gather(2, hidden[..., None].expand(repeats, -1, -1, C)),
    )
    torch.testing.assert_close(ours, total)


@pytest.mark.parametrize("cfg_scale", [1.0, 3.5])
@pytest.mark.parametrize("num_iter", [5, N])
def test_samples_are_those_of_the_reference(cfg_scale, num_iter):
    labels, settings = torch.tensor([0, 4, 2]), dict(num_iter=num_iter, num_sampling_steps=6, temperature=0.9)
    ours = model().sample(labels, [3, 4, 5], rankings(), cfg_scale=cfg_scale, **settings)
    theirs = plain_sample(model(), labels, [3, 4, 5], rankings(), cfg_scale=cfg_scale, **settings)
    torch.testing.assert_close(ours, theirs)


def test_an_order_that_is_made_while_generating_is_like_one_that_is_given():
    labels, ranking, asked = torch.tensor([0, 4, 2]), rankings(), []

    def following(tokens, mask, count):
        assert not tokens[mask].any() and mask.sum() == 3 * (N - sum(asked))
        start = sum(asked)
        asked.append(count)
        return ranking[:, start : start + count]

    settings = dict(num_iter=5, num_sampling_steps=6, cfg_scale=2.0)
    made = model().sample(labels, [3, 4, 5], following=following, **settings)
    torch.testing.assert_close(made, model().sample(labels, [3, 4, 5], ranking, **settings))
    assert sum(asked) == N and len(asked) == 5


def test_long_chains_are_cut_without_effect(monkeypatch):
    labels = torch.tensor([1, 2])
    whole = model().sample(labels, [0, 1], num_iter=4, num_sampling_steps=9, cfg_scale=2.0)
    monkeypatch.setattr("cop.paper.diffusion.MODULATION_ROWS", 8)
    torch.testing.assert_close(model().sample(labels, [0, 1], num_iter=4, num_sampling_steps=9, cfg_scale=2.0), whole)


def test_last_block_at_chosen_rows_is_the_whole_block():
    block, x = model().decoder_blocks[0], torch.randn(2, 9, 24, generator=gen(), dtype=torch.float64)
    rows = torch.tensor([[0, 8, 3], [5, 5, 1]])
    expected = block(x).gather(1, rows[..., None].expand(-1, -1, 24))
    torch.testing.assert_close(block_at(block, x, rows), expected)


# --------------------------------------------------------------------------------------------- guidance


def sample(**changes):
    settings = dict(num_iter=4, num_sampling_steps=5) | changes
    return model().sample(torch.tensor([0, 3]), [7, 8], rankings(2), **settings)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_guidance_of_scale_one_is_none(schedule):
    """Scale 1 leaves the second branch out; the next number after 1 runs it, and must give the same."""
    guided = sample(cfg_scale=math.nextafter(1.0, 2.0), cfg_schedule=schedule)
    torch.testing.assert_close(sample(cfg_scale=1.0, cfg_schedule=schedule), guided)
    assert not torch.allclose(sample(cfg_scale=2.0, cfg_schedule=schedule), guided)


def test_scale_zero_forgets_the_class():
    """The mean is then that of the branch without class; one diffusion step is nothing but the mean."""
    settings = dict(num_iter=4, num_sampling_steps=1, cfg_scale=0.0, cfg_schedule="constant")
    a = model().sample(torch.tensor([0]), [7], **settings)
    b = model().sample(torch.tensor([3]), [7], **settings)
    torch.testing.assert_close(a, b)


def test_constant_schedule_differs_from_linear():
    assert not torch.allclose(sample(cfg_scale=4.0), sample(cfg_scale=4.0, cfg_schedule="constant"))


# ------------------------------------------------------------------------------------------------ seeds


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.sampled_from([1.0, 2.5]))
def test_equal_seeds_give_equal_images_for_any_batch_split(sizes, cfg_scale):
    count = sum(sizes)
    labels, seeds = torch.arange(count) % 5, list(range(100, 100 + count))
    settings = dict(num_iter=5, num_sampling_steps=4, cfg_scale=cfg_scale)
    whole = model().sample(labels, seeds, **settings)
    start, parts = 0, []
    for size in sizes:
        parts.append(model().sample(labels[start : start + size], seeds[start : start + size], **settings))
        start += size
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(whole[0], model().sample(labels[:1], [99], **settings)[0])


def test_the_noise_of_a_token_does_not_depend_on_the_order():
    """With one step all tokens see nothing but their noise: any order gives the same image."""
    settings = dict(num_iter=1, num_sampling_steps=5)
    a = model().sample(torch.tensor([1, 2]), [5, 6], rankings(2), **settings)
    b = model().sample(torch.tensor([1, 2]), [5, 6], rankings(2).flip(1), **settings)
    torch.testing.assert_close(a, b)


def test_nothing_global_is_read_or_written():
    tokens, labels = batch()
    state = torch.random.get_rng_state()
    net = MAR(TINY, gen()).double().train()
    torch.random.set_rng_state(state)
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        losses.append(net(tokens, labels, gen(3)))  # with dropout, in training mode
        model().sample(labels, [1, 2, 3], num_iter=2, num_sampling_steps=2)
        assert torch.equal(before, torch.random.get_rng_state())
    torch.random.set_rng_state(state)
    assert losses[0] == losses[1]
    assert losses[0] != net(tokens, labels, gen(4))


def test_weights_are_those_of_the_generator():
    a, b, c = (MAR(TINY, gen(seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["mask_token"], c["mask_token"])
    assert float(a["encoder_blocks.0.mlp.fc1.weight"].abs().max()) <= math.sqrt(6 / (24 + 96))  # Xavier
    assert not a["diffloss.net.final_layer.linear.weight"].any()


# --------------------------------------------------------------------------------------------- training


def test_every_parameter_learns():
    config = dataclasses.replace(TINY, label_drop=0.5)
    net = busy_model(config).train()
    tokens, labels = batch(8)
    loss = net(tokens.float(), labels, gen(2), rankings(8), num_masked=10)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_labels_are_dropped_in_training_only():
    tokens, labels = batch(4)
    net = busy_model(dataclasses.replace(TINY, label_drop=1.0, dropout=0.0))
    for training in (True, False):
        net.train(training)
        a, b = (net(tokens.float(), y, gen(1), rankings(4), num_masked=9) for y in (labels, labels * 0))
        assert (a == b).item() is training


def test_a_few_steps_lower_the_loss():
    net = MAR(dataclasses.replace(TINY, label_drop=0.0), gen()).train()
    tokens = (torch.arange(N * C).reshape(1, N, C) / (N * C) - 0.5).repeat(8, 1, 1)  # one image to remember
    labels = torch.zeros(8, dtype=torch.long)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for step in range(80):
        loss = net(tokens, labels, gen(step))
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def test_bfloat16_blocks_stay_close():
    net, (tokens, labels) = busy_model(TINY), batch()
    exact = net(tokens.float(), labels, gen(1), rankings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(tokens.float(), labels, gen(1), rankings())
        image = net.sample(labels, [1, 2, 3], num_iter=4, num_sampling_steps=5)
    assert loss.dtype == image.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    exact = net.sample(labels, [1, 2, 3], num_iter=4, num_sampling_steps=5)
    assert float((image - exact).norm() / exact.norm()) < 0.02


# ----------------------------------------------------------------------------------- official checkpoints

OFFICIAL = {  # blocks, width, heads, diffusion MLP: blocks, width, published size
    "mar_base": (12, 768, 12, 6, 1024, 208),
    "mar_large": (16, 1024, 16, 8, 1280, 479),
    "mar_huge": (20, 1280, 16, 12, 1536, 943),
}


def official_shapes(depth, d, mlp_depth, w):
    """Names and shapes of LTH14's checkpoints on 256 tokens of 16 channels, written down by hand."""
    shapes = {
        "class_emb.weight": (1000, d),
        "fake_latent": (1, d),
        "mask_token": (1, 1, d),
        "encoder_pos_embed_learned": (1, 320, d),
        "decoder_pos_embed_learned": (1, 320, d),
        "diffusion_pos_embed_learned": (1, 256, d),
    }

    def linear(name, rows, columns):
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    def norm(name, width):
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    linear("z_proj", d, 16), linear("decoder_embed", d, d)
    norm("z_proj_ln", d), norm("encoder_norm", d), norm("decoder_norm", d)
    for part in ("encoder", "decoder"):
        for i in range(depth):
            block = f"{part}_blocks.{i}"
            norm(f"{block}.norm1", d), norm(f"{block}.norm2", d)
            linear(f"{block}.attn.qkv", 3 * d, d), linear(f"{block}.attn.proj", d, d)
            linear(f"{block}.mlp.fc1", 4 * d, d), linear(f"{block}.mlp.fc2", d, 4 * d)
    net = "diffloss.net"
    linear(f"{net}.time_embed.mlp.0", w, 256), linear(f"{net}.time_embed.mlp.2", w, w)
    linear(f"{net}.cond_embed", w, d), linear(f"{net}.input_proj", w, 16)
    for i in range(mlp_depth):
        block = f"{net}.res_blocks.{i}"
        norm(f"{block}.in_ln", w), linear(f"{block}.adaLN_modulation.1", 3 * w, w)
        linear(f"{block}.mlp.0", w, w), linear(f"{block}.mlp.2", w, w)
    linear(f"{net}.final_layer.linear", 32, w), linear(f"{net}.final_layer.adaLN_modulation.1", 2 * w, w)
    return shapes


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_names_shapes_and_size(name):
    depth, d, heads, mlp_depth, w, millions = OFFICIAL[name]
    expected = official_shapes(depth, d, mlp_depth, w)
    with torch.device("meta"):
        net = MAR(mar_config(name))
        state = {key: torch.zeros(shape) for key, shape in expected.items()}
    net.load_state_dict(state, strict=True, assign=True)
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == expected
    assert math.ceil(sum(p.numel() for p in net.parameters()) / 1e6) == millions
    assert {b.attn.num_heads for b in [*net.encoder_blocks, *net.decoder_blocks]} == {heads}
    assert all(p.requires_grad for p in net.parameters())


def test_checkpoint_as_the_official_trainer_writes_it(tmp_path):
    """model, model_ema and a Namespace of arguments: nothing else is unpickled, and the EMA is taken."""
    weights = MAR(TINY, gen(1)).state_dict()
    torch.save(
        {
            "model": {k: v + 1 for k, v in weights.items()},
            "model_ema": weights,
            "epoch": 3,
            "args": argparse.Namespace(model="mar_base", lr=1e-4, cached_path=None, betas=(0.9, 0.95)),
        },
        tmp_path / "checkpoint-last.pth",
    )
    net = load_mar(tmp_path / "checkpoint-last.pth", TINY)
    assert not net.training and all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())


def test_other_checkpoints(tmp_path):
    weights = MAR(TINY, gen(1)).state_dict()
    save_file(weights, tmp_path / "mar.safetensors")
    torch.save({"model": weights}, tmp_path / "raw.pth")
    half = {k: v.half() for k, v in weights.items()}
    for source in (tmp_path / "mar.safetensors", str(tmp_path / "raw.pth"), weights, {"model": weights}):
        net = load_mar(source, TINY)
        assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    assert {p.dtype for p in load_mar(half, TINY).parameters()} == {torch.float32}
    few = load_mar(tmp_path / "mar.safetensors", dataclasses.replace(TINY, num_classes=2), classes=(3, 1))
    assert torch.equal(few.class_emb.weight, weights["class_emb.weight"][[3, 1]])
    assert torch.equal(few.mask_token, weights["mask_token"])
    with torch.no_grad():
        net.mask_token += 1
    assert not torch.equal(weights["mask_token"], net.mask_token)  # a copy, not the caller's tensor


class Harm:
    def __reduce__(self):
        return print, ("unpickled",)


def test_bad_checkpoints(tmp_path, capsys):
    weights = MAR(TINY, gen(1)).state_dict()
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_mar(tmp_path / "nowhere.pth", TINY)
    for name in ("junk.pth", "junk.safetensors"):
        (tmp_path / name).write_bytes(b"this is no checkpoint at all")
        with pytest.raises(ValueError, match=name):
            load_mar(tmp_path / name, TINY)
    torch.save({"model": weights, "args": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(ValueError, match="harm.pth"):
        load_mar(tmp_path / "harm.pth", TINY)
    assert "unpickled" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="neither a state dict"):
        load_mar({"epoch": 3}, TINY)

    with pytest.raises(ValueError, match=r"1 missing \(mask_token\); 1 unexpected \(mask\)"):
        load_mar({("mask" if k == "mask_token" else k): v for k, v in weights.items()}, TINY)
    with pytest.raises(ValueError, match=r"fake_latent is \(1, 24\), expected \(1, 48\)"):
        load_mar(weights, dataclasses.replace(TINY, dim=48))
    with pytest.raises(ValueError, match="classes run from 1 to 5; expected 0 to 4, the classes of the checkpoint"):
        load_mar(weights, dataclasses.replace(TINY, num_classes=2), classes=(5, 1))
    with pytest.raises(ValueError, match="choose one of mar_base"):
        load_mar(weights, "mar_tiny")


# ----------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(ranking=torch.arange(N - 1).expand(2, -1)), "shape"),
        (dict(ranking=torch.arange(N).expand(3, -1)), "3 rankings for 2 images"),
        (dict(ranking=torch.zeros(2, N, dtype=torch.long)), "permutation"),
        (dict(ranking=torch.arange(N).expand(2, -1).float()), "float32"),
        (dict(labels=torch.tensor([0, 5])), "range from 0 to 5; expected 0 to 4"),
        (dict(labels=torch.tensor([-1, 0])), "range from -1"),
        (dict(labels=torch.tensor([0.0, 1.0])), "float32"),
        (dict(seeds=[1]), "1 seeds for 2 labels"),
        (dict(num_iter=N + 1), f"num_iter is {N + 1}"),
        (dict(num_iter=0), "num_iter is 0"),
        (dict(num_sampling_steps=0), "num_sampling_steps is 0"),
        (dict(cfg_schedule="cosine"), "cfg_schedule is 'cosine'"),
    ],
)
def test_bad_settings_of_sampling_are_refused(change, message):
    settings = dict(labels=torch.tensor([0, 1]), seeds=[0, 1], num_iter=2, num_sampling_steps=2) | change
    with pytest.raises(ValueError, match=message):
        model().sample(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(ranking=torch.arange(N + 1).expand(3, -1)), "shape"),
        (dict(ranking=torch.ones(3, N, dtype=torch.long)), "permutation"),
        (dict(labels=torch.tensor([0, 1, 9])), "range from 0 to 9"),
        (dict(labels=torch.tensor([0, 1])), r"expected int64 \(3,\)"),
        (dict(tokens=torch.zeros(3, N, C + 1)), "tokens have shape"),
    ],
)
def test_bad_settings_of_training_are_refused(change, message):
    tokens, labels = batch()
    with pytest.raises(ValueError, match=message):
        model()(**(dict(tokens=tokens, labels=labels, generator=gen()) | change))


def test_sampling_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        MAR(TINY, gen()).sample(torch.tensor([0]), [0])


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="dim is 24; expected a multiple of heads, 5"):
        MAR(dataclasses.replace(TINY, heads=5))


# ------------------------------------------------------------------------------------------------- slow


@pytest.mark.slow
def test_full_size_mar_base_takes_a_step_and_samples(tmp_path):
    """208 M parameters on the CPU: load by official names, fine-tune one step, sample in 8 steps."""
    expected, generator = official_shapes(12, 768, 6, 1024), gen()
    weights = {key: 0.02 * torch.randn(shape, generator=generator) for key, shape in expected.items()}
    torch.save({"model": weights, "model_ema": weights}, tmp_path / "checkpoint-last.pth")
    net = load_mar(tmp_path / "checkpoint-last.pth", "mar_base").train()
    before = net.mask_token.detach().clone()

    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-7, betas=(0.9, 0.95), weight_decay=0.02)
    tokens = torch.randn(2, 256, 16, generator=generator)
    ranking = torch.rand(2, 256, generator=generator).argsort(dim=1)
    loss = net(tokens, torch.tensor([207, 360]), generator, ranking)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    torch.nn.utils.clip_grad_norm_(net.parameters(), 3.0)
    optimiser.step()
    assert not torch.equal(before, net.mask_token)

    optimiser.zero_grad(set_to_none=True)
    image = net.eval().sample(torch.tensor([207]), [0], num_iter=8, cfg_scale=2.9, num_sampling_steps=8)
    assert image.shape == (1, 256, 16) and torch.isfinite(image).all() and image.std() > 0
