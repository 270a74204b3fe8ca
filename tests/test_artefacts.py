"""Load or compute: found again, never half-written, refused when damaged, ignored under RETRAIN."""

import json
import shutil
import time

import pandas as pd
import pytest
import torch

from cop import artefacts, paths
from cop.artefacts import key, load, load_or_compute, release, versioned


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COP_RETRAIN_SINCE", raising=False)
    monkeypatch.setattr(paths, "released", tmp_path / "released")


def once(value: float = 1.5):
    """A computation that may run only once."""
    runs = []

    def compute(directory):
        runs.append(directory)
        assert len(runs) == 1, "computed twice"
        return {"w": torch.full((3,), value), "k": torch.arange(3), "d": torch.tensor([1 / 3], dtype=torch.double)}, pd.DataFrame({"step": [0]})

    return compute


def test_computed_once_and_equal_when_loaded(tmp_path):
    compute = once(0.1)
    first, second = load_or_compute("s", {"a": 1}, compute), load_or_compute("s", {"a": 1}, compute)
    for a in (first, second):
        assert torch.equal(a.tensors["w"], torch.full((3,), 0.1))  # all of float32: a fine-tuning moves weights by less than float16's steps
        assert a.tensors["k"].dtype == torch.int64 and a.tensors["d"].item() == 1 / 3
        assert a.history["step"].tolist() == [0]
        assert a.provenance["config"] == {"a": 1} and a.provenance["commit"] and a.provenance["versions"]["torch"]
    assert not list((tmp_path / "cache").glob("*.tmp")) and not list((tmp_path / "cache").glob("*.work"))


def test_the_key_is_the_configuration():
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1}) != key({"a": 1, "b": 3})
    load_or_compute("s", {"a": 1}, once())
    load_or_compute("s", {"a": 2}, once())
    load_or_compute("t", {"a": 1}, once())


def test_versions_of_the_stages_that_a_result_builds_on_are_part_of_its_key():
    base = versioned("tokens", 1, {"a": 1})
    built = versioned("comae", 2, base | {"b": 2})
    assert base["versions"] == {"tokens": 1} and built["versions"] == {"tokens": 1, "comae": 2}
    assert key(built) != key(versioned("comae", 3, base | {"b": 2})) != key(versioned("comae", 2, versioned("tokens", 2, {"a": 1, "b": 2})))


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
    (work,) = (tmp_path / "cache").iterdir()
    assert work.suffix == ".work" and (work / "checkpoint.pt").exists()

    def resumes(directory):
        assert (directory / "checkpoint.pt").read_text() == "half"
        return {"w": torch.zeros(1)}, None

    load_or_compute("s", {}, resumes)
    assert not work.exists()


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


def test_the_message_is_honest(capsys):
    artefacts._say.cache_clear()
    load_or_compute("s", {}, once())
    err = capsys.readouterr().err
    assert "nothing stored" in err and "done in" in err
    artefacts._say.cache_clear()
    load(load_or_compute("s", {}, once()).directory)
    assert "loaded from your cache" in capsys.readouterr().err
