"""Two processes (gloo, on the CPU) do what one does: the same losses, rankings, samples and artefacts, also after one
of them was killed. This file is also the program that the second process runs."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from cop.configs import ScaleConfig
from cop.lessons import classification, evaluation, generation, pipeline
from cop.paper.comae import CoMAE, comae_loss
from cop.profiles import smoke
from cop.train.artefacts import load_or_compute
from cop.train.loop import fit, load_checkpoint, seeded, seeded_build, threads
from cop.train.processes import agreed, processes, shared_out, wait
from cop.train.shards import compute_shards

STEPS = 20
PROFILE = replace(
    smoke,
    data=replace(smoke.data, limit=70, hflip=True),
    comae=replace(smoke.comae, steps=STEPS, batch_size=8),
    classifier=replace(smoke.classifier, steps=STEPS),
    generation=replace(smoke.generation, fine_tune_steps=STEPS, rankings=70, count=110, dropout=0.1),
    scale=ScaleConfig(micro_batches=2),
    checkpoint_every=10,
)
TRAINED = {
    "comae": lambda: pipeline.comae(PROFILE, 0, "cpu")[1],
    "cmar": lambda: generation.fine_tuned(PROFILE, 0, "descending", "cpu")[1],
    "cvit": lambda: classification.classifier(PROFILE, "CViT", 0, "cpu")[1],
}
TOKENS = torch.randn(16, 16, 6, generator=seeded(9))
SLOW = replace(smoke.comae, steps=16, batch_size=8)


def set_up(m: pytest.MonkeyPatch) -> None:
    """A history row per step, and one thread."""
    torch.set_num_threads(1)
    m.delenv("COP_RETRAIN_SINCE", raising=False)
    m.setattr(pipeline, "LOG_EVERY", 1)


def trainings() -> None:
    """The three trainings, and everything that they need."""
    for compute in TRAINED.values():
        compute()


def results() -> dict[str, torch.Tensor]:
    """What is computed in parts from trained models, orders and samples, and what one process computes for all."""
    found = {}
    for by, flipped in itertools.product(("pagerank", "in_strength"), (False, True)):
        found[f"{by} {flipped}"] = pipeline.rankings(PROFILE, "test", by=by, device="cpu", flipped=flipped)
    found |= generation.generate(PROFILE, 0, "descending", "train", 2.0, device="cpu").tensors
    found["drafts"] = generation.order_bank(PROFILE, 0, "two_pass", 110, "cpu").ranks
    with pytest.MonkeyPatch.context() as m:
        if processes()[0] > 0:
            m.setattr(evaluation, "jackknife_metrics", lambda *a: pytest.fail("evaluated twice"))
        found["values"], found["parts"] = evaluation.evaluate(PROFILE, 0, "base", device="cpu")
        found["floor"], _ = evaluation.evaluate(PROFILE, 0, "real", device="cpu")
    return found


def slow_training(directory: Path, pause: float = 0.0):
    """A CoMAE of 16 steps in micro-batches, which tells its process id and every step."""

    def loss(model, idx, generator, step):
        if pause:
            print(os.getpid(), step, flush=True)
            time.sleep(pause)
        return comae_loss(model, TOKENS[idx], generator)

    how = {"size": 16, "seed": 5, "directory": directory, "ema": 0.9, "checkpoint_every": 1, "scale": PROFILE.scale}
    model = seeded_build(lambda: CoMAE(SLOW, 4, 6), 0)
    return fit(model, loss, SLOW, alternate=("encoder", "decoder"), **how)


def plumbing(directory: Path) -> None:
    """Who writes, who waits, and what all of them see."""
    me, count = processes()
    assert agreed(f"process {me}") == "process 0"

    def compute(work: Path):
        (work / f"{me}").touch()
        time.sleep(0.5 * (count - 1 - me))  # the first one is the last to be ready
        wait()
        assert len(list(work.glob("[0-9]*"))) == count  # they share one folder, made by the first
        return {"of": torch.tensor([me])}, None

    assert load_or_compute("who", {}, compute).tensors["of"].item() == 0
    calls = []

    def shard(idx):
        calls.append(idx[0].item())
        return {"i": idx * 10}

    done = []
    assert shared_out(range(5), lambda part: done.append(part) or part**2) == [0, 1, 4, 9, 16]
    assert done == ([0, 2, 4] if me == 0 else [1, 3]) and shared_out([7], str) == ["7"] and shared_out([], str) == []
    stored = compute_shards(directory, {"a": 1}, 7, shard, size=2)
    assert calls == [0, 4] if me == 0 else calls == [2, 6]
    assert stored.all("i").tolist() == [10 * i for i in range(7)]


def launch(count: int, what: str, *arguments, cache: Path) -> list[subprocess.Popen]:
    """Processes that call a function of this file, started as `torchrun` and `accelerate launch` start them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "COP_CACHE": str(cache)}
    common |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks = [common | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]
    command = [sys.executable, str(Path(__file__)), what, *map(str, arguments)]
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return [subprocess.Popen(command, env=env, **pipes) for env in ranks]


def finish(started: list[subprocess.Popen], seconds: float = 900) -> None:
    ends = time.time() + seconds
    try:
        for process in started:
            _, err = process.communicate(timeout=max(1, ends - time.time()))
            assert process.returncode == 0, err[-3000:]
    finally:
        for process in started:
            process.kill()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The cache of one process that did everything, and its results."""
    cache = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as m, threads(1):
        m.setenv("COP_CACHE", str(cache))
        set_up(m)
        trainings()
        return cache, results()


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
    """The cache of two processes that trained everything, and what they computed from the models of the one process."""
    trained, given = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("given")
    for folder in one[0].iterdir():
        if not folder.name.startswith(("generated-", "ranking-", "evaluation-")):
            shutil.copytree(folder, given / folder.name)
    output = given / "results.pt"
    finish(launch(2, "everything", given, output, cache=trained))
    return trained, torch.load(output, weights_only=True)


def histories(cache: Path, name: str) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as m:
        m.setenv("COP_CACHE", str(cache))
        return TRAINED[name]().history


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_train_as_one_does(one, two, name):
    a, b = histories(one[0], name), histories(two[0], name)
    assert len(a) == len(b) == STEPS
    pd.testing.assert_frame_equal(a, b, rtol=1e-5, atol=1e-5)
    assert a["loss"].nunique() == STEPS  # not the same number over and over


def test_two_processes_make_identical_rankings_and_samples(one, two):
    assert one[1].keys() == two[1].keys()
    for name, value in one[1].items():
        tolerance = 1e-5 if value.is_floating_point() else 0  # ranks and pixels are whole numbers
        torch.testing.assert_close(two[1][name], value, rtol=tolerance, atol=tolerance, msg=name)
    assert not torch.equal(one[1]["pagerank False"], one[1]["pagerank True"])  # a mirrored image has its own order
    assert one[1]["drafts"].shape == (110, 64) and one[1]["values"].isfinite().all()


def test_one_writes_and_all_read(tmp_path):
    finish(launch(2, "plumbing", tmp_path / "shards", cache=tmp_path / "cache"))
    (stored,) = (tmp_path / "cache").iterdir()
    assert stored.name.startswith("who-")  # no work left, nothing written twice


def test_sigkill_of_one_then_one_process_finishes(tmp_path):
    with threads(1):
        whole, reference = slow_training(tmp_path / "whole")
        started = launch(2, "slow", tmp_path / "run", 0.1, cache=tmp_path)
        stop_at = int(torch.randint(2, 12, ()))  # truly random: any step must do
        for line in started[1].stdout:
            if int(line.split()[1]) >= stop_at:
                break
        time.sleep(0.2 * float(torch.rand(())))
        started[1].send_signal(signal.SIGKILL)
        _, err = started[0].communicate(timeout=300)  # the other one cannot go on alone, and says so
        assert started[0].returncode != 0, err
        started[1].communicate()
        killed_at = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"]
        assert 1 <= killed_at < SLOW.steps, f"killed at {killed_at}"
        resumed, history = slow_training(tmp_path / "run")
    pd.testing.assert_frame_equal(history, reference, rtol=1e-5, atol=1e-5)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=f"after a kill at step {killed_at}")


def test_the_command_line_starts_a_stage_in_two_processes(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",  # finds a free port
        "--nproc_per_node",
        "2",
        "-m",
        "cop.train",
    ]
    environment = os.environ | {"COP_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    options = ["comae", "--profile", "smoke", "--set", "scale.micro_batches=2", "comae.steps=4", "data.limit=20"]
    done = subprocess.run(command + options, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {p.name.split("-")[0] for p in tmp_path.iterdir()} == {"comae", "tokens"}


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    set_up(pytest.MonkeyPatch())
    if name == "everything":
        trainings()
        os.environ["COP_CACHE"] = given[0]
        found = results()
        if processes()[0] == 0:
            torch.save(found, given[1])
        wait()
    elif name == "slow":
        slow_training(Path(given[0]), float(given[1]))
    else:
        plumbing(Path(given[0]))
