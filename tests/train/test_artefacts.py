"""Load or compute: found again, never half-written, refused when damaged, ignored under RETRAIN."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from cop import paths
from cop.configs import key
from cop.train import artefacts
from cop.train.artefacts import load, load_or_compute, release, versioned
from cop.train.shards import compute_shards

pytestmark = pytest.mark.usefixtures("nothing_stored")


def once(value: float = 1.5):
    """A computation that may run only once."""
    runs = []

    def compute(directory):
        runs.append(directory)
        assert len(runs) == 1, "computed twice"
        tensors = {"w": torch.full((3,), value), "k": torch.arange(3), "d": torch.tensor([1 / 3], dtype=torch.double)}
        return tensors, pd.DataFrame({"step": [0]})

    return compute


def test_computed_once_and_equal_when_loaded(tmp_path):
    compute = once(0.1)
    first, second = load_or_compute("s", {"a": 1}, compute), load_or_compute("s", {"a": 1}, compute)
    for a in (first, second):
        # All of float32 is kept: a fine-tuning moves weights by less than float16's steps.
        assert torch.equal(a.tensors["w"], torch.full((3,), 0.1))
        assert a.tensors["k"].dtype == torch.int64 and a.tensors["d"].item() == 1 / 3
        assert a.history["step"].tolist() == [0]
        assert a.provenance["config"] == {"a": 1} and a.provenance["commit"] and a.provenance["versions"]["torch"]
    umask = os.umask(0)
    os.umask(umask)
    assert [*(tmp_path / "cache").iterdir()] == [first.directory]  # nothing beside it
    modes = {f.name: f.stat().st_mode & 0o777 for f in (first.directory, *first.directory.iterdir())}
    assert modes == {first.directory.name: 0o777 & ~umask} | dict.fromkeys(
        ("tensors.safetensors", "history.csv", "provenance.json"), 0o666 & ~umask
    )  # others may read it


def test_the_key_is_the_configuration():
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1}) != key({"a": 1, "b": 3})
    load_or_compute("s", {"a": 1}, once())
    load_or_compute("s", {"a": 2}, once())
    load_or_compute("t", {"a": 1}, once())


def test_versions_of_the_stages_that_a_result_builds_on_are_part_of_its_key():
    base = versioned("tokens", 1, {"a": 1})
    built = versioned("comae", 2, base | {"b": 2})
    assert base["versions"] == {"tokens": 1} and built["versions"] == {"tokens": 1, "comae": 2}
    other = versioned("comae", 2, versioned("tokens", 2, {"a": 1, "b": 2}))
    assert key(built) != key(versioned("comae", 3, base | {"b": 2})) != key(other)


def test_released_artefacts_serve_an_empty_cache(tmp_path):
    size = release([load_or_compute("s", {}, once())])
    assert 0 < size < 10_000
    shutil.rmtree(tmp_path / "cache")
    got = load_or_compute("s", {}, lambda _: pytest.fail("computed although released"))
    assert got.directory.parent == paths.released


def test_retrain_ignores_what_is_older_and_keeps_what_is_newer(tmp_path, monkeypatch):
    release([load_or_compute("s", {}, once(1.0))])
    monkeypatch.setenv("COP_RETRAIN_SINCE", str(time.time() + 0.2))
    time.sleep(0.4)
    again = once(2.0)
    assert load_or_compute("s", {}, again).tensors["w"][0] == 2
    assert load_or_compute("s", {}, again).tensors["w"][0] == 2  # made in this run, so not made again
    monkeypatch.delenv("COP_RETRAIN_SINCE")
    assert load_or_compute("s", {}, again).tensors["w"][0] == 2


def test_a_failed_computation_leaves_its_work_and_nothing_else(tmp_path):
    def fails(directory):
        (directory / "checkpoint.pt").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        load_or_compute("s", {}, fails)
    (work,) = (f for f in (tmp_path / "cache").iterdir() if f.suffix != ".lock")
    assert work.suffix == ".work" and (work / "checkpoint.pt").exists()

    def resumes(directory):
        assert (directory / "checkpoint.pt").read_text() == "half"
        return {"w": torch.zeros(1)}, None

    directory = load_or_compute("s", {}, resumes).directory
    assert [*(tmp_path / "cache").iterdir()] == [directory]


def test_provenance_tells_own_seconds_from_those_of_the_artefacts_asked_for():
    def slow(_):
        time.sleep(0.3)
        return {"w": torch.zeros(1)}, None

    def around(_):
        load_or_compute("inner", {}, slow)
        return slow(None)

    inner, outer, outermost = (f"{s}-{key({})}" for s in ("inner", "outer", "outermost"))
    made = load_or_compute("outermost", {}, lambda d: (load_or_compute("outer", {}, around).tensors, None)).provenance
    assert set(made["uses"]) == {inner, outer} and made["uses"][inner] >= 0.3
    assert 0.3 <= made["uses"][outer] < 0.6 and made["seconds"] < 0.3
    again = load_or_compute("again", {}, lambda d: (load_or_compute("outer", {}, around).tensors, None)).provenance
    assert again["uses"] == made["uses"] and outermost not in again["uses"], "loaded or computed, it was asked for"


def test_the_seconds_of_an_interrupted_run_count_up_to_the_last_file_it_left():
    def fails(directory):
        time.sleep(0.4)
        (directory / "checkpoint.pt").write_text("half")
        time.sleep(0.3)
        raise RuntimeError("power cut")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="power cut"):
            load_or_compute("s", {}, fails)
    seconds = load_or_compute("s", {}, once()).provenance["seconds"]
    assert 0.8 <= seconds < 1.4


@pytest.mark.parametrize("damage", ["truncate", "empty", "foreign", "config", "missing"])
def test_damaged_artefacts_are_named_and_left_untouched(damage):
    directory = load_or_compute("s", {}, once()).directory
    tensors, provenance = directory / "tensors.safetensors", directory / "provenance.json"
    if damage == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif damage == "empty":
        tensors.write_bytes(b"")
    elif damage == "foreign":
        tensors.write_bytes(b"\x80\x04pickle")
    elif damage == "config":
        provenance.write_text(json.dumps(json.loads(provenance.read_text()) | {"config": {"a": 9}}))
    else:
        provenance.unlink()
    before = {f.name: f.read_bytes() for f in directory.iterdir()}
    with pytest.raises(ValueError, match=f"{directory.name} is not a complete artefact.*Move the folder away"):
        load_or_compute("s", {}, lambda _: pytest.fail("computed over a damaged artefact"))
    assert before == {f.name: f.read_bytes() for f in directory.iterdir()}


def test_the_message_is_honest(caplog):
    """What takes time is said; what is loaded is said to those who ask."""
    caplog.set_level("INFO")
    artefacts._say.cache_clear()
    load_or_compute("s", {}, once())
    artefacts._say.cache_clear()
    load(load_or_compute("s", {}, once()).directory)
    said = [(r.levelname, r.message) for r in caplog.records]
    for (level, message), (expected, words) in zip(
        said, (("WARNING", "nothing stored"), ("WARNING", "done in"), ("INFO", "loaded from your cache")), strict=True
    ):
        assert level == expected and words in message


# ------------------------------------------------------------------------------------------ several runs, one cache

ROUNDS = 10
COUNT, SIZE = 4, 2  # images, and images of a shard


def noted(name: str) -> None:
    """A line per computation, of all processes together."""
    with (paths.cache().parent / "computed.txt").open("a") as file:
        file.write(f"{name}\n")


def needed(name: str, seconds: float) -> list:
    """An artefact whose parts are put together from shards, and a folder of shards: each takes about so many seconds."""

    def shard(idx):
        noted(f"{name} shard {idx[0]}")
        time.sleep(seconds * SIZE / COUNT)
        return {"x": 10 * idx}

    def compute(directory):
        noted(f"{name} artefact")
        made = compute_shards(directory / "shards", {"of": name}, COUNT, shard, size=SIZE)
        return {"x": made.all("x")}, None

    folder = paths.cache() / f"shards-{name}"
    return [
        lambda: load_or_compute("s", {"of": name}, compute).tensors["x"],
        lambda: compute_shards(folder, {"of": name}, COUNT, shard, size=SIZE).all("x"),
    ]


def run_of_two(cache: str, later: bool, barrier, queue) -> None:
    """One of two runs that need the same things, together and half a second apart."""
    os.environ["COP_CACHE"] = cache
    try:
        for k in range(ROUNDS):
            for apart in (0.0, 0.5):
                for what, call in zip(("parts", "folder"), needed(f"{k} {apart}", 0.1 + 1.4 * apart), strict=True):
                    barrier.wait(60)
                    time.sleep(apart * later)
                    assert call().tolist() == [0, 10, 20, 30], what
        queue.put("")
    except BaseException as error:
        queue.put(f"{type(error).__name__}: {error}")
        barrier.abort()


def test_of_two_runs_one_computes_and_the_other_waits(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, queue = spawn.Barrier(2), spawn.Queue()
    given = [(str(tmp_path / "cache"), later, barrier, queue) for later in (False, True)]
    runs = [spawn.Process(target=run_of_two, args=args, daemon=True) for args in given]
    for run in runs:
        run.start()
    errors = [queue.get(timeout=200) for _ in runs]
    for run in runs:
        run.join(20)
    assert errors == ["", ""]
    computed = (tmp_path / "computed.txt").read_text().splitlines()
    names = [f"{k} {apart}" for k in range(ROUNDS) for apart in (0.0, 0.5)]
    shards = [f"{n} shard {i}" for n in names for i in (0, 0, 2, 2)]
    assert sorted(computed) == sorted([*(f"{n} artefact" for n in names), *shards])
    assert not [f.name for f in (tmp_path / "cache").iterdir() if f.suffix in (".lock", ".work", ".tmp")]


def run_until_killed(cache: str, seconds: float) -> None:
    os.environ["COP_CACHE"] = cache
    sys.stderr = (Path(cache).parent / f"stderr-{seconds}.txt").open("w", buffering=1)
    for call in needed("killed", seconds):
        call()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_the_second_run_takes_over_from_one_that_is_killed(tmp_path):
    def until(path, text):
        ends = time.time() + 60
        while not (path.exists() and text in path.read_text()):
            assert time.time() < ends, f"{path.name} never says {text!r}"
            time.sleep(0.05)

    spawn = multiprocessing.get_context("spawn")
    cache = str(tmp_path / "cache")
    first, second = (spawn.Process(target=run_until_killed, args=(cache, s), daemon=True) for s in (600.0, 0.1))
    first.start()
    until(tmp_path / "computed.txt", "killed shard 0")
    second.start()
    until(tmp_path / "stderr-0.1.txt", "another process computes s-")
    assert (tmp_path / "computed.txt").read_text().count("killed artefact") == 1
    os.kill(first.pid, signal.SIGKILL)
    second.join(60)
    assert second.exitcode == 0 and (tmp_path / "computed.txt").read_text().count("killed artefact") == 2
    assert sorted(f.name.partition("-")[0] for f in (tmp_path / "cache").iterdir()) == ["s", "shards"]
