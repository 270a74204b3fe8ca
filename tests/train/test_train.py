"""The loop: seeded batches, exact resume (also after SIGKILL), checkpoints that cannot be half-written, clear stops."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cop.train.loop
from cop.configs import ScaleConfig, scale_config
from cop.paper.comae import CoMAE, comae_loss
from cop.paper.cvit import CViT, masked_loss
from cop.profiles import smoke
from cop.scale.stages import main
from cop.train.loop import (
    batch_indices,
    check_scale,
    cosine,
    fit,
    load_checkpoint,
    optimizer,
    progress,
    restored,
    seeded,
    seeded_build,
)
from cop.train.optimizers import decay_groups

CONFIG = replace(smoke.comae, steps=12, lr=3e-3)
TOKENS = torch.randn(16, 16, 6, generator=seeded(9))


def train(directory: Path, **kwargs) -> tuple[nn.Module, pd.DataFrame]:
    model = seeded_build(lambda: CoMAE(CONFIG, 4, 6), 0)

    def loss(model, idx, generator, step):
        return comae_loss(model, TOKENS[idx], generator)

    defaults = dict(size=16, seed=5, directory=directory, alternate=("encoder", "decoder"), checkpoint_every=1)
    return fit(model, kwargs.pop("loss", loss), kwargs.pop("config", CONFIG), **(defaults | kwargs))


def test_muon_moves_the_matrices_of_residual_layers_and_adamw_the_rest():
    model = seeded_build(lambda: CoMAE(CONFIG, 4, 6), 0)
    inner, rest = optimizer(model, replace(CONFIG, optimizer="muon")).param_groups
    assert {id(p) for g in (inner, rest) for p in g["params"]} == {id(p) for p in model.parameters()}
    assert len(inner["params"]) + len(rest["params"]) == len(list(model.parameters()))
    block = model.encoder["trunk"].blocks[0]
    assert any(p is block.mlp[0].weight for p in inner["params"]) and all(p.ndim == 2 for p in inner["params"])
    assert any(p is model.encoder["to_weights"].weight for p in rest["params"])
    with pytest.raises(ValueError, match="unknown optimizer 'sgd'; expected adamw or muon"):
        optimizer(model, replace(CONFIG, optimizer="sgd"))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_restored_is_the_network_without_drawing_its_weights():
    made = seeded_build(lambda: CoMAE(CONFIG, 4, 6), 0).eval()
    before = torch.random.get_rng_state()
    again = restored(lambda: CoMAE(CONFIG, 4, 6), {k: v.clone() for k, v in made.state_dict().items()}).eval()
    assert torch.equal(torch.random.get_rng_state(), before)
    tokens, targets = torch.randn(2, 16, 6, generator=seeded(1)), torch.tensor([[0, 5], [3, 15]])
    assert torch.equal(again.weights(tokens, targets), made.weights(tokens, targets))
    assert all(p.requires_grad and not p.is_meta for p in again.parameters())
    assert not any(b.is_meta for b in again.buffers())
    with pytest.raises(ValueError, match="log_tau"):
        restored(lambda: CoMAE(CONFIG, 4, 6), {k: v for k, v in made.state_dict().items() if "log_tau" not in k})


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_after_an_exception_repeats_the_uninterrupted_run_exactly(tmp_path, optimizer):
    config = replace(CONFIG, optimizer=optimizer)
    whole, history = train(tmp_path / "whole", ema=0.9, config=config)

    def dies(model, idx, generator, step):
        if step == 7:
            raise KeyboardInterrupt
        return comae_loss(model, TOKENS[idx], generator)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", loss=dies, ema=0.9, checkpoint_every=3, config=config)
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt")["step"] == 6
    resumed, again = train(tmp_path / "cut", ema=0.9, config=config)
    pd.testing.assert_frame_equal(again, history, check_exact=True)
    assert same(whole, resumed)


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_train as t
from cop.paper.comae import comae_loss
def slow(model, idx, generator, step):
    print(step, flush=True)
    time.sleep(0.1)
    return comae_loss(model, t.TOKENS[idx], generator)
t.train(Path(sys.argv[1]), loss=slow)
"""


def test_resume_after_sigkill_at_a_random_step(tmp_path):
    here = str(Path(__file__).parent)
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), here]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True)
    stop_at = int(torch.randint(2, 10, ()))  # truly random: any step must do
    for line in process.stdout:
        if int(line) >= stop_at:
            break
    time.sleep(0.1 * float(torch.rand(())))
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"]
    assert 1 <= killed_at < CONFIG.steps, f"killed at {killed_at}"
    resumed, history = train(tmp_path / "run")
    whole, reference = train(tmp_path / "whole")
    pd.testing.assert_frame_equal(history, reference, check_exact=True)
    assert same(whole, resumed), f"differs after a kill at step {killed_at}"


def test_alternation_moves_one_half_at_a_time(tmp_path):
    before = seeded_build(lambda: CoMAE(CONFIG, 4, 6), 0).state_dict()
    after, _ = train(tmp_path, config=replace(CONFIG, steps=1))
    moved = {name.split(".")[0] for name, v in after.state_dict().items() if not torch.equal(v, before[name])}
    assert moved == {"encoder"}


def test_loss_falls_on_data_with_structure(tmp_path):
    flat = torch.randn(16, 1, 6, generator=seeded(1)).expand(-1, 16, -1)

    def loss(model, idx, generator, step):
        return comae_loss(model, flat[idx], generator)

    _, history = train(tmp_path, loss=loss, config=replace(CONFIG, steps=80), checkpoint_every=1000)
    assert history["reconstruction"].tail(10).mean() < 0.8 * history["reconstruction"].head(10).mean()


def test_non_finite_loss_stops_and_keeps_the_checkpoint(tmp_path):
    def breaks(model, idx, generator, step):
        out = comae_loss(model, TOKENS[idx], generator)
        return out | {"loss": out["loss"] * float("nan")} if step == 5 else out

    with pytest.raises(FloatingPointError, match="nan at step 5 of 12"):
        train(tmp_path, loss=breaks, checkpoint_every=2)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 4


def test_truncated_and_foreign_checkpoints_are_named_and_left_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(
            tmp_path,
            loss=lambda m, i, g, s: (_ for _ in ()).throw(KeyboardInterrupt) if s == 2 else comae_loss(m, TOKENS[i], g),
        )
    path = tmp_path / "checkpoint.pt"
    cut = path.read_bytes()[:-100]
    for content in (cut, b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a complete checkpoint.*Move it away"):
            train(tmp_path)
        assert path.read_bytes() == content
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        train(tmp_path)
    torch.save({"model": os.system}, path)  # a pickle that would run code
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        train(tmp_path)


# ------------------------------------------------------------------------------------------------- micro-batches


def linear(directory: Path, scale: ScaleConfig, loss, **kwargs) -> tuple[nn.Module, pd.DataFrame]:
    config = replace(CONFIG, steps=5, batch_size=8)
    model = seeded_build(lambda: nn.Linear(6, 6), 0)
    return fit(model, loss, config, size=16, seed=5, directory=directory, scale=scale, **kwargs)


@pytest.mark.parametrize("micro_batches", [2, 4, 8])
def test_micro_batches_of_a_loss_without_draws_are_the_whole_batch(tmp_path, micro_batches):
    def loss(model, idx, generator, step):
        return {"loss": (model(TOKENS[idx]) - TOKENS[idx].flip(1)).square().mean()}

    whole, a = linear(tmp_path / "1", ScaleConfig(), loss)
    parts, b = linear(tmp_path / "2", ScaleConfig(micro_batches), loss)
    pd.testing.assert_frame_equal(a, b, rtol=1e-6)
    torch.testing.assert_close(whole.weight, parts.weight, rtol=1e-5, atol=1e-6)


def test_micro_batches_draw_for_themselves_and_share_what_a_step_draws(tmp_path):
    drawn = []

    def loss(model, idx, generator, step, u):
        drawn.append((step, u, torch.rand((), generator=generator).item(), idx.tolist()))
        return {"loss": model(TOKENS[idx]).square().mean()}

    linear(tmp_path, ScaleConfig(4), loss, per_step=lambda g: torch.rand((), generator=g).item())
    generator = seeded(5, 2, 3)  # micro-batch 0 draws in the order of an undivided batch: the shared number, its own
    expected = [torch.rand((), generator=generator).item() for _ in range(2)]
    of_step = [d for d in drawn if d[0] == 3]
    assert of_step[0][1:3] == tuple(expected) and {u for _, u, _, _ in of_step} == {expected[0]}
    assert len({own for _, _, own, _ in drawn}) == 20  # nobody draws the same
    assert sum((idx for _, _, _, idx in of_step), []) == batch_indices(3, 8, 16, 5).tolist()


def test_the_history_is_the_mean_over_micro_batches(tmp_path):
    def loss(model, idx, generator, step):
        return {"loss": model(TOKENS[idx]).square().mean(), "first": TOKENS[idx, 0, 0].mean()}

    _, history = linear(tmp_path, ScaleConfig(2), loss)
    expected = [TOKENS[batch_indices(s, 8, 16, 5), 0, 0].mean().item() for s in range(5)]
    assert history["first"].tolist() == pytest.approx(expected, rel=1e-5)


def test_resume_within_micro_batches_is_exact(tmp_path):
    whole, history = train(tmp_path / "whole", ema=0.9, scale=ScaleConfig(2), checkpoint_every=100)

    def dies(model, idx, generator, step):
        if step == 7 and idx[0] not in batch_indices(7, 4, 16, 5)[:2]:
            raise KeyboardInterrupt  # between the micro-batches of a step
        return comae_loss(model, TOKENS[idx], generator)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", loss=dies, ema=0.9, scale=ScaleConfig(2), checkpoint_every=3)
    resumed, again = train(tmp_path / "cut", ema=0.9, scale=ScaleConfig(2), checkpoint_every=100)
    pd.testing.assert_frame_equal(again, history, check_exact=True)
    assert same(whole, resumed)


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_images_are_announced_before_they_are_needed_and_no_others(tmp_path, micro_batches):
    events, stop = [], 3

    def loss(model, idx, generator, step):
        if step == stop:
            raise KeyboardInterrupt
        events.append((step, idx.tolist()))
        return {"loss": model(TOKENS[idx]).square().mean()}

    def ahead(idx):
        events.append(("ahead", idx.tolist()))

    with pytest.raises(KeyboardInterrupt):
        linear(tmp_path, ScaleConfig(micro_batches), loss, ahead=ahead, checkpoint_every=2)
    stop = None
    for first in (0, 2):  # the run up to its end, and its second half after the checkpoint
        needed, told = ([idx for what, idx in events if (what == "ahead") == a] for a in (False, True))
        assert told[: len(needed)] == needed  # the same images in the same order
        for k, (what, _) in enumerate(events):
            known = sum(what == "ahead" for what, _ in events[:k]) / micro_batches + first  # steps announced by then
            assert what == "ahead" or known == min(what + 1 + cop.train.loop.AHEAD, 5)
        if not first:
            assert len(told) == 5 * micro_batches and len(needed) == 3 * micro_batches
            events.clear()
            _, history = linear(tmp_path, ScaleConfig(micro_batches), loss, ahead=ahead, checkpoint_every=2)
    assert len(told) == len(needed) == 3 * micro_batches
    _, plain = linear(tmp_path / "plain", ScaleConfig(micro_batches), loss)
    pd.testing.assert_frame_equal(history, plain, check_exact=True)


@pytest.mark.parametrize(
    ("scale", "batch", "count", "message"),
    [
        (ScaleConfig(3), 8, 1, "a batch of 8 images does not divide into 3 micro-batches"),
        (ScaleConfig(0), 8, 1, "does not divide into 0"),
        (ScaleConfig(), 8, 2, "2 processes cannot share 1 micro-batch equally.*micro_batches to a multiple of 2"),
        (ScaleConfig(4), 8, 3, "3 processes cannot share 4 micro-batches equally"),
        (ScaleConfig(mixed_precision="fp16"), 8, 1, "unknown mixed_precision 'fp16'; expected no or bf16"),
    ],
)
def test_what_does_not_come_out_even_is_refused(scale, batch, count, message):
    with pytest.raises(ValueError, match=message):
        check_scale(scale, batch, count)


def test_only_what_changes_a_result_is_hashed():
    free = ScaleConfig(gradient_checkpointing=True, compile=True)
    assert scale_config(smoke) == scale_config(replace(smoke, scale=free)) == {"scale": {"threads": 1}}
    assert scale_config(replace(smoke, scale=ScaleConfig(8, "bf16", threads=None))) == {
        "scale": {"micro_batches": 8, "mixed_precision": "bf16", "threads": None}
    }


def test_a_training_uses_the_threads_of_its_configuration_and_gives_them_back(tmp_path):
    seen, before = [], torch.get_num_threads()

    def loss(model, idx, generator, step):
        seen.append(torch.get_num_threads())
        return comae_loss(model, TOKENS[idx], generator)

    torch.set_num_threads(2)
    try:
        train(tmp_path / "one", loss=loss, config=replace(CONFIG, steps=1))
        train(tmp_path / "three", loss=loss, config=replace(CONFIG, steps=1), scale=ScaleConfig(threads=3))
        train(tmp_path / "any", loss=loss, config=replace(CONFIG, steps=1), scale=ScaleConfig(threads=None))
        assert seen == [1, 3, 2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_ema_has_the_configured_decay(tmp_path, warmup):
    """Fine-tuning: d^t of the average is still what it began with. From scratch the decay rises, and that share is small."""
    steps, d, start = 12, 0.99, []

    class Point(nn.Module):
        def __init__(self):
            super().__init__()
            self.at = nn.Parameter(torch.ones(1))

    def loss(model, idx, generator, step):
        start.append(model.at.item())
        return {"loss": model.at.sum()}

    config = replace(CONFIG, steps=steps, lr=0.1, weight_decay=0.0)
    how = {"size": 16, "seed": 0, "directory": tmp_path, "checkpoint_every": 100}
    model, _ = fit(Point(), loss, config, ema=d, ema_warmup=warmup, **how)
    path = start[1:]  # the weights after each step but the last, whose learning rate is all but 0
    average = start[0]
    for at in [*path, path[-1]]:
        average = d * average + (1 - d) * at
    close = model.at.item() == pytest.approx(average, abs=2e-3)
    assert close is not warmup
    assert not warmup or abs(model.at.item() - path[-1]) < abs(average - path[-1]) / 2


def test_weight_decay_leaves_vectors_and_undecayed_parts_alone():
    model = seeded_build(lambda: CoMAE(CONFIG, 4, 6), 0)
    model.undecayed = ("decoder.head",)
    decayed, plain = (set(map(id, g["params"])) for g in decay_groups(model, 0.05))
    for name, p in model.named_parameters():
        assert (id(p) in decayed) is (p.ndim >= 2 and not name.startswith("decoder.head")), name
        assert (id(p) in plain) is (id(p) not in decayed)


# ---------------------------------------------------------------------------------------- less memory, other speed

IMAGES, LABELS = torch.randn(16, 1, 16, 16, generator=seeded(3)), torch.arange(16) % 4
ORDERS = torch.rand(16, 16, generator=seeded(4)).argsort(1)


def train_cvit(directory: Path, scale: ScaleConfig) -> tuple[nn.Module, pd.DataFrame]:
    model = seeded_build(
        lambda: CViT(img_size=16, patch_size=4, in_chans=1, num_classes=4, embed_dim=16, depth=2, num_heads=2), 0
    )

    def loss(model, idx, generator, step, u):
        return {"loss": masked_loss(model, IMAGES[idx], LABELS[idx], ORDERS[idx], u)}

    config, how = replace(CONFIG, steps=4, batch_size=8), {"size": 16, "seed": 5, "directory": directory}
    return fit(model, loss, config, scale=scale, per_step=lambda g: torch.rand((), generator=g).item(), **how)


@pytest.mark.parametrize("run", [train, train_cvit])
def test_gradient_checkpointing_changes_nothing_and_is_taken_off_again(tmp_path, run, monkeypatch):
    recomputed = []
    checkpoint = cop.train.loop.checkpoint
    monkeypatch.setattr(cop.train.loop, "checkpoint", lambda f, *a, **k: recomputed.append(f) or checkpoint(f, *a, **k))
    plain, a = run(tmp_path / "plain", scale=ScaleConfig())
    assert not recomputed
    lean, b = run(tmp_path / "lean", scale=ScaleConfig(gradient_checkpointing=True))
    assert recomputed
    pd.testing.assert_frame_equal(a, b, rtol=1e-6)
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(plain.parameters(), lean.parameters(), strict=True))
    assert all("forward" not in vars(m) for m in lean.modules())


@pytest.mark.parametrize("run", [train, train_cvit])
def test_bf16_is_near_and_keeps_float32_weights(tmp_path, run):
    _, exact = run(tmp_path / "exact", scale=ScaleConfig())
    model, near = run(tmp_path / "near", scale=ScaleConfig(mixed_precision="bf16"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert near["loss"].to_numpy() == pytest.approx(exact["loss"].to_numpy(), rel=0.03)
    assert not near["loss"].equals(exact["loss"])


def test_compiled_blocks_compute_the_same(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend=lambda graph, _: compiled.append(graph) or graph.forward)
    )
    _, a = train_cvit(tmp_path / "plain", ScaleConfig())
    model, b = train_cvit(tmp_path / "compiled", ScaleConfig(compile=True, gradient_checkpointing=True))
    assert compiled
    pd.testing.assert_frame_equal(a, b, rtol=1e-5)
    assert all("forward" not in vars(m) for m in model.modules())


# ---------------------------------------------------------------------------------------------------- command line


def test_the_command_line_names_what_is_wrong(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    assert main(["comae", "--profile", "smoke", "--set", "scale.micro_batches=3"]) == 2
    assert "cop.train: a batch of 4 images does not divide into 3 micro-batches" in capsys.readouterr().err
    assert main(["cmar", "--profile", "huge"]) == 2
    assert "unknown profile 'huge'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["sculpture"])


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 99))
def test_an_epoch_visits_every_image_at_most_once(size, batch, seed):
    per_epoch = size // min(batch, size)
    seen = torch.cat([batch_indices(s, batch, size, seed) for s in range(per_epoch)])
    assert len(seen.unique()) == len(seen) == per_epoch * min(batch, size)
    assert seen.min() >= 0 and seen.max() < size
    batch_indices(0, batch, size, seed).zero_()  # a caller may do what it likes with its indices
    assert torch.equal(seen[: min(batch, size)], batch_indices(0, batch, size, seed))


def test_seeded_streams_are_reproducible_and_distinct():
    assert torch.equal(torch.rand(9, generator=seeded(1, 2)), torch.rand(9, generator=seeded(1, 2)))
    streams = {tuple(torch.rand(3, generator=seeded(a, b)).tolist()) for a in range(20) for b in range(20)}
    assert len(streams) == 400
    before = torch.get_rng_state()
    a, b = (seeded_build(lambda: nn.Linear(3, 3), 1) for _ in range(2))
    assert torch.equal(a.weight, b.weight) and torch.equal(torch.get_rng_state(), before)


def test_cosine_schedule_ends():
    assert cosine(0, 100, 0.1) == pytest.approx(0.1) and cosine(9, 100, 0.1) == 1 and cosine(10, 100, 0.1) == 1
    assert cosine(99, 100, 0.1) < 0.001
    assert all(0 <= cosine(s, 7, 0.5) <= 1 for s in range(7))


def test_progress_is_silent_unless_asked(capsys, monkeypatch):
    assert list(progress(range(3), "x")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("COP_PROGRESS", "1")
    assert list(progress(range(3), "x")) == [0, 1, 2]
    assert "x" in capsys.readouterr().err
