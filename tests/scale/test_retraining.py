"""A retraining says what it will cost, and goes on where it was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cop import paths
from cop.configs import as_dict, key
from cop.profiles import replace, smoke
from cop.scale import retraining

HERE = {"data": as_dict(smoke.data), "tokens": as_dict(smoke.tokens)}


@pytest.fixture
def released(tmp_path, monkeypatch):
    """Artefacts of smoke (two trainings, an evaluation that asked for a third), of another profile, and of none."""
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "released", tmp_path / "released")
    monkeypatch.setattr(paths, "figures", tmp_path)
    elsewhere = {"data": HERE["data"] | {"name": "other"}, "tokens": HERE["tokens"]}
    names = {}
    for stage, config, seconds, uses in (
        ("comae", HERE, 600, {}),
        ("mar", HERE, 1200, {}),
        ("hits", {"of": HERE}, 60, {"classifier-0": 300.0}),
        ("optimum", {}, 30, None),
        ("predictor", elsewhere, 6000, {}),
    ):
        provenance = {"stage": stage, "config": config, "seconds": seconds} | ({} if uses is None else {"uses": uses})
        names[stage] = f"{stage}-{key(config)}"
        (paths.released / names[stage]).mkdir(parents=True)
        (paths.released / names[stage] / "provenance.json").write_text(json.dumps(provenance))
    return names


def test_the_plan_counts_what_is_released_and_what_that_asked_for(released, monkeypatch):
    seconds, older = retraining.recorded(smoke)
    assert {n.partition("-")[0]: s for n, s in seconds.items()} == {
        "comae": 600,
        "mar": 1200,
        "hits": 60,
        "classifier": 300,
        "optimum": 30,
    }
    assert older == 1
    monkeypatch.setattr(retraining, "visible", lambda folder: folder.name == released["comae"])
    (paths.cache() / f"{released['mar']}.work").mkdir(parents=True)
    (paths.figures / "smoke").mkdir()
    (paths.figures / "smoke" / "timings.json").write_text('{"01": {"released": 60, "retrain": 900}}')
    text = retraining.plan(smoke, 2.0)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:7]}
    assert rows == {
        "classifier": ["1", "0", "0", "10.0", "10.0"],
        "comae": ["1", "1", "0", "20.0", "0.0"],
        "mar": ["1", "0", "1", "40.0", "40.0"],
        "hits": ["1", "0", "0", "2.0", "2.0"],
        "optimum": ["1", "0", "0", "1.0", "1.0"],
    }
    assert "with 2 of the notebooks themselves: 55 minutes with one process, 45 with two" in text
    assert "Every training runs on one thread" in text and "what 1 older artefact(s) asked for" in text
    assert "so no plan" in retraining.plan(replace(smoke, name="own", data=replace(smoke.data, limit=7)), 1.0)


def test_finished_artefacts_are_told_with_the_minutes_left(released, monkeypatch, capsys):
    monkeypatch.setattr(retraining, "reference_step", lambda device: retraining.REFERENCE)
    monkeypatch.setattr(retraining, "visible", lambda folder: folder.exists())
    with retraining.told(smoke, 0, "cuda", poll=0.05):
        folder = paths.cache() / released["mar"]
        folder.mkdir(parents=True)
        (folder / "provenance.json").write_text('{"seconds": 1100.4}')
        time.sleep(0.3)
        assert f"  {released['mar']}: 1100 s; 0 minutes used, about 16 left\n" in capsys.readouterr().out
    assert not capsys.readouterr().out, "and once only"


def test_a_reference_step_is_timed():
    assert 0 < retraining.reference_step("cpu", 0.0) < 60


def test_a_killed_retraining_goes_on_with_what_it_had(tmp_path):
    """Killed after its first training; the same call then trains the rest, and forgets when it began."""
    code = """
import pathlib, time
from cop import paths, runner
from cop.lessons import pipeline
paths.build = pathlib.Path("build").resolve()
def execute(*_):  # in the place of a notebook
    for seed in (0, 1):
        pipeline.comae("smoke", seed, "cpu")
        time.sleep(3)
runner.execute = execute
runner.run("smoke", retrain=True, only="02")
"""
    own = {"COP_CACHE": str(tmp_path / "cache"), "COP_FIGURES": str(tmp_path / "figures"), "OMP_NUM_THREADS": "1"}
    env = {k: v for k, v in os.environ.items() if k != "COP_RETRAIN_SINCE"} | own | {"PYTHONPATH": str(paths.root)}
    begun = tmp_path / "build" / "smoke" / "seed0" / "retraining-02.begun"

    def trained() -> dict[str, float]:
        files = sorted((tmp_path / "cache").glob("comae-*/provenance.json"))
        return {f.parent.name: json.loads(f.read_text())["created"] for f in files}

    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, start_new_session=True) as run:
        end = time.time() + 120
        while not trained() and run.poll() is None and time.time() < end:
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGKILL)
    before = trained()
    assert before and run.returncode == -signal.SIGKILL and begun.exists()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on with the retraining of" in done.stdout and f"remove {begun}" in done.stdout
    assert before.items() <= trained().items() and len(trained()) > len(before), "none was trained twice"
    assert not begun.exists(), "a further retraining begins anew"
