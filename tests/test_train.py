"""The loop: seeded batches, exact resume (also after SIGKILL), checkpoints that cannot be half-written, clear stops."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cop.comae import CoMAE, comae_loss
from cop.profiles import smoke
from cop.train import batch_indices, cosine, fit, load_checkpoint, progress, seeded, seeded_build

CONFIG = replace(smoke.comae, steps=12, lr=3e-3)
TOKENS = torch.randn(16, 16, 6, generator=seeded(9))


def train(directory: Path, **kwargs) -> tuple[nn.Module, pd.DataFrame]:
    model = seeded_build(lambda: CoMAE(CONFIG, 4, 6), 0)

    def loss(model, idx, generator, step):
        return comae_loss(model, TOKENS[idx], generator)

    defaults = dict(size=16, seed=5, directory=directory, alternate=("encoder", "decoder"), checkpoint_every=1)
    return fit(model, kwargs.pop("loss", loss), kwargs.pop("config", CONFIG), **(defaults | kwargs))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_resume_after_an_exception_repeats_the_uninterrupted_run_exactly(tmp_path):
    whole, history = train(tmp_path / "whole", ema=0.9)

    def dies(model, idx, generator, step):
        if step == 7:
            raise KeyboardInterrupt
        return comae_loss(model, TOKENS[idx], generator)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", loss=dies, ema=0.9, checkpoint_every=3)
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt")["step"] == 6
    resumed, again = train(tmp_path / "cut", ema=0.9)
    pd.testing.assert_frame_equal(again, history, check_exact=True)
    assert same(whole, resumed)


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_train as t
from cop.comae import comae_loss
def slow(model, idx, generator, step):
    print(step, flush=True)
    time.sleep(0.1)
    return comae_loss(model, t.TOKENS[idx], generator)
t.train(Path(sys.argv[1]), loss=slow)
"""


def test_resume_after_sigkill_at_a_random_step(tmp_path):
    here = str(Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "run"), here], stdout=subprocess.PIPE,
                               env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}, text=True)  # fmt: skip
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
        train(tmp_path, loss=lambda m, i, g, s: (_ for _ in ()).throw(KeyboardInterrupt) if s == 2 else comae_loss(m, TOKENS[i], g))
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


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 99))
def test_an_epoch_visits_every_image_at_most_once(size, batch, seed):
    per_epoch = size // min(batch, size)
    seen = torch.cat([batch_indices(s, batch, size, seed) for s in range(per_epoch)])
    assert len(seen.unique()) == len(seen) == per_epoch * min(batch, size)
    assert seen.min() >= 0 and seen.max() < size


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
