"""A cache that many processes share, on a disk that is full or cannot be written, from another version, by a wrong clock."""

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout
from torch import nn

from cop import paths
from cop.configs import CoMAEConfig, key
from cop.files import write
from cop.lessons import pipeline
from cop.profiles import smoke
from cop.train import artefacts
from cop.train.artefacts import MARK, clear_if_old, load, load_or_compute, old, versioned
from cop.train.loop import fit, load_checkpoint, save_checkpoint
from cop.train.shards import compute_shards, open_shards

HOUR = 3600.0  # seconds


pytestmark = pytest.mark.usefixtures("nothing_stored")


def small(value: float = 1.0):
    """What a stage of one tensor computes."""
    return lambda directory: ({"w": torch.full((3,), value)}, None)


def never(directory):
    pytest.fail("computed although stored")


# ------------------------------------------------------------------------------------- several processes, one cache


def trained(folder: str, barrier, queue) -> None:
    """CoMAE of the smoke profile and the orders of 64 images; a line in trainings.txt for each training that begins."""
    paths.released = Path(folder) / "released"
    os.environ |= {"COP_CACHE": f"{folder}/cache", "COP_PROGRESS": "0"}
    torch.set_num_threads(1)

    def counted(*args, **options):
        with open(f"{folder}/trainings.txt", "a") as file:
            file.write("begun\n")
        return fit(*args, **options)

    pipeline.fit = counted
    try:
        barrier.wait(60)
        model, _ = pipeline.comae(smoke, device="cpu")
        orders = pipeline.rankings(smoke, "train", device="cpu")
        weights = b"".join(v.numpy().tobytes() for v in model.state_dict().values())
        queue.put(hashlib.sha256(weights + orders.numpy().tobytes()).hexdigest())
    except BaseException as error:
        queue.put(f"{type(error).__name__}: {error}")


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="processes would import torch one by one"
)
@pytest.mark.parametrize("count", [2, 4])
def test_processes_on_one_cache_train_once_and_get_the_same(count, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cop.lessons.pipeline", "accelerate", "pandas", "timm.utils"])
    results = []
    for _ in ("cold", "warm"):
        barrier, queue = context.Barrier(count), context.Queue()
        runs = [
            context.Process(target=trained, args=(str(tmp_path), barrier, queue), daemon=True) for _ in range(count)
        ]
        for run in runs:
            run.start()
        while any(run.is_alive() for run in runs) and queue.qsize() < count:
            for done in (tmp_path / "cache").glob("*-????????????/"):
                load(done)  # whatever has its name is whole
            time.sleep(0.01)
        results += [queue.get(timeout=60) for _ in runs]
        for run in runs:
            run.join(20)
    assert len(results[0]) == 64, results[0]
    assert results == results[:1] * 2 * count
    assert (tmp_path / "trainings.txt").read_text() == "begun\n"
    assert sorted(f.name.rpartition("-")[0] for f in (tmp_path / "cache").iterdir()) == ["comae", "ranking", "tokens"]


# ---------------------------------------------------------------------------- a full disk, one that cannot be written

DISK = """
import json, logging, os, subprocess, sys
from pathlib import Path
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
os.environ |= {"COP_CACHE": f"{disk}/cache", "COP_PROGRESS": "0"}
import torch
from cop import paths
from cop.train.artefacts import load, load_or_compute
from cop.train.shards import compute_shards
paths.released = disk / "released"
def small(_):
    return {"w": torch.ones(3)}, None
def never(_):
    raise AssertionError("computed although stored")
def said(call):
    try:
        call()
    except OSError as error:
        return error.strerror
def names():
    return sorted(str(f.relative_to(disk)) for f in disk.rglob("*") if f.is_file())
load_or_compute("kept", {}, small)
compute_shards(disk / "cache" / "shards", {}, 4, lambda idx: {"x": idx}, size=2)
"""


@pytest.fixture
def on_a_disk(tmp_path):
    """Run Python code with a disk of 2 MB mounted, which no other process sees and which goes with it; what it prints, as JSON."""
    folder = tmp_path / "disk"
    folder.mkdir()
    own = ["unshare", "--map-root-user", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*own, "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("this system lets no test mount a disk")

    def run(code: str):
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.root)}
        done = subprocess.run(
            [*own, sys.executable, "-c", DISK + code, folder], capture_output=True, text=True, env=env
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return folder, run


def test_a_full_disk_is_one_line_and_nothing_is_lost_or_half_written(on_a_disk):
    folder, run = on_a_disk
    found = run("""
from contextlib import redirect_stderr
from io import StringIO
from cop.scale.stages import main
begun, out, lines = [], {}, StringIO()
def large(directory):
    begun.append((directory / "checkpoint").exists())
    (directory / "checkpoint").touch()
    return {"w": torch.ones(100_000)}, None
def shards():
    return compute_shards(disk / "cache" / "more", {}, 4, lambda idx: {"x": torch.ones(len(idx), 50_000)}, size=2)
filler = (disk / "filler").open("wb", buffering=0)
def fill(leave):
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        filler.truncate(filler.tell() - leave)
before = {*names(), "filler"}
fill(100_000)
out["said"] = [said(lambda: load_or_compute("large", {}, large)), said(shards)]
fill(0)
with redirect_stderr(lines):
    out["status"] = main(["comae", "--profile", "smoke"])
out["said"] += [line for line in lines.getvalue().splitlines() if "no space" in line]
out["new"] = [n for n in names() if n not in before and not n.endswith(".lock")]
out["kept"] = load_or_compute("kept", {}, never).tensors["w"].tolist()
filler.truncate(0)
out["then"] = [len(load_or_compute("large", {}, large).tensors["w"]), len(shards().all("x"))]
print(json.dumps(out | {"begun": begun}))
""")
    assert len(found["said"]) == 3 and found["status"] == 2
    for line, place in zip(
        found["said"], ("cache/large-", "cache/more/00000.safetensors", "cache/comae-"), strict=True
    ):
        assert f"no space left for {folder}/{place}" in line and "\n" not in line
        assert line.endswith("what was written before it is kept: free some space and start again")
    large = f"cache/large-{key({})}.work"
    assert found["new"] == [f"{large}/begun.json", f"{large}/checkpoint", "cache/more/manifest.json"], "all whole"
    assert found["kept"] == [1, 1, 1] and found["then"] == [100_000, 4]
    assert found["begun"] == [False, True], "with space again it goes on from its checkpoint"


def test_a_cache_that_cannot_be_written_gives_what_it_has_and_names_what_it_lacks(on_a_disk):
    folder, run = on_a_disk
    found = run("""
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
before, out = names(), {"kept": load_or_compute("kept", {}, never).tensors["w"].tolist()}
out["shards"] = compute_shards(disk / "cache" / "shards", {}, 4, never, size=2).all("x").tolist()
out["said"] = [said(lambda: load_or_compute("other", {}, never)), said(lambda: compute_shards(disk / "more" / "shards", {}, 4, never, size=2))]
print(json.dumps(out | {"same": before == names()}))
""")
    assert found["kept"] == [1, 1, 1] and found["shards"] == [0, 1, 2, 3] and found["same"]
    for line, place, name in zip(found["said"], ("cache", "more"), (f"other-{key({})}", "shards"), strict=True):
        assert (
            line
            == f"{folder}/{place} cannot be written, and {name} is not stored there: let COP_CACHE name a folder that can"
        )


# -------------------------------------------------------------------------------------------- from another version


def test_fields_of_other_versions_are_left_alone_and_other_numbers_of_a_stage_lie_beside():
    first = load_or_compute("s", versioned("s", 1, {}), small())
    file = first.directory / "provenance.json"
    known = json.loads(file.read_text())
    for written in (
        {k: v for k, v in known.items() if k not in ("uses", "threads", "versions", "commit")},
        known | {"later": [1]},
    ):
        file.write_text(json.dumps(written))
        around = load_or_compute(
            f"t{len(written)}", {}, lambda _: (load_or_compute("s", versioned("s", 1, {}), never).tensors, None)
        )
        assert around.provenance["uses"] == {first.directory.name: known["seconds"]}
    before = {f.name: f.read_bytes() for f in first.directory.iterdir()}
    assert load_or_compute("s", versioned("s", 2, {}), small(2.0)).tensors["w"][0] == 2
    assert before == {f.name: f.read_bytes() for f in first.directory.iterdir()}


def test_shards_whose_manifest_says_more_are_read_and_made_by_another_version_refused(tmp_path):
    compute_shards(tmp_path, {"versions": {"s": 1}}, 4, lambda idx: {"x": idx}, size=2)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for record in manifest["shards"].values():
        record["later"] = 1
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"later": 1}))
    assert compute_shards(tmp_path, {"versions": {"s": 1}}, 4, never, size=2).all("x").tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="made with versions = .'s': 1.; expected .'s': 2.. Move the folder away"):
        open_shards(tmp_path, {"versions": {"s": 2}})


@pytest.mark.parametrize("change", ["network", "optimiser", "missing"])
def test_a_checkpoint_of_another_version_is_one_line_and_stays(change, tmp_path):
    model, config = nn.Linear(2, 1), CoMAEConfig(steps=4, batch_size=2)

    def loss(model, idx, generator, step):
        if step == 3 and not (tmp_path / "through").exists():
            raise KeyboardInterrupt
        return {"loss": model.weight.square().sum()}

    def run():
        return fit(model, loss, config, size=4, seed=0, directory=tmp_path, checkpoint_every=2)

    with pytest.raises(KeyboardInterrupt):
        run()
    path = tmp_path / "checkpoint.pt"
    state = load_checkpoint(path)
    if change == "network":
        state["model"] = nn.Linear(3, 1).state_dict()
    elif change == "optimiser":
        state["optimizers"][""]["param_groups"] = []
    else:
        del state["optimizers"][""]
    save_checkpoint(state, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="checkpoint.pt is of another network or version .*; move it away") as caught:
        run()
    assert "\n" not in str(caught.value) and path.read_bytes() == before
    path.unlink(), (tmp_path / "through").touch()
    assert len(run()[1]) == 4


# --------------------------------------------------------------------------------------------------- a wrong clock


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the clock is ahead, which a test may change: of time.time and of the files that are written meanwhile."""
    now, ahead, replace_ = time.time, [0.0], os.replace

    def dated(a, b):
        os.utime(a, (time.time(), time.time()))
        replace_(a, b)

    monkeypatch.setattr(time, "time", lambda: now() + ahead[0])
    monkeypatch.setattr(os, "replace", dated)
    return ahead


def interrupted(directory):
    write(directory / "checkpoint.pt", b"x")
    raise KeyboardInterrupt


def resumed(directory):
    assert (directory / "checkpoint.pt").exists()
    return small(2.0)(directory)


@pytest.mark.parametrize("then", [-HOUR, 0.0, HOUR])
def test_a_retraining_keeps_what_it_made_when_the_clock_is_set(then, clock, monkeypatch):
    load_or_compute("s", {}, small())
    clock[0] = HOUR / 2
    monkeypatch.setenv("COP_RETRAIN_SINCE", str(time.time()))
    with pytest.raises(KeyboardInterrupt):
        load_or_compute("s", {}, interrupted)
    clock[0] = then
    for compute in (resumed, never):
        assert load_or_compute("s", {}, compute).tensors["w"][0] == 2
    assert load_or_compute("s", {}, never).provenance["retraining"] == os.environ["COP_RETRAIN_SINCE"]


def test_a_retraining_does_not_take_what_an_earlier_run_made_in_the_future(clock, monkeypatch):
    clock[0] = HOUR
    load_or_compute("s", {}, small())
    with pytest.raises(KeyboardInterrupt):
        load_or_compute("t", {}, interrupted)
    write((shard := paths.cache() / "shards" / "a"), b"x")
    clock[0] = 0.0
    monkeypatch.setenv("COP_RETRAIN_SINCE", str(time.time()))
    assert load_or_compute("s", {}, small(2.0)).tensors["w"][0] == 2

    def anew(directory):
        assert not (directory / "checkpoint.pt").exists()
        return small(2.0)(directory)

    assert load_or_compute("t", {}, anew).tensors["w"][0] == 2
    clear_if_old(shard.parent)
    assert [f.name for f in shard.parent.iterdir()] == [MARK] and not old(shard.parent)


def test_the_seconds_of_a_computation_are_not_those_of_the_clock(clock):
    def inner(directory):
        clock[0] -= HOUR
        return small()(directory)

    made = load_or_compute("s", {}, lambda d: (load_or_compute("t", {}, inner).tensors, None)).provenance
    assert 0 <= made["seconds"] < 60 and 0 <= made["uses"][f"t-{key({})}"] < 60


@pytest.mark.parametrize("written", [0.0, -10 * HOUR, 10 * HOUR])
def test_a_lock_is_held_by_a_process_and_not_by_its_date(written, tmp_path):
    lock = tmp_path / "thing.lock"
    lock.touch()  # of a run that was killed
    os.utime(lock, (time.time() + written,) * 2)
    with artefacts.locked(tmp_path / "thing"):
        os.utime(lock, (time.time() + written,) * 2)
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
    assert not lock.exists()
