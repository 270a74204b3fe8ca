"""Shards: resumable at any point, verified, refused by name when made with something else, never read half-written.

KL-16 here has MAR's architecture at a quarter of the width and random weights; images are folders of noise.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from cop.configs import CoMAEConfig, DataConfig, Profile, TokenConfig
from cop.data.loading import load_data
from cop.data.tokens import KL16Tokens
from cop.lessons import pipeline
from cop.paper.kl16 import KL16, TOKEN_SCALE
from cop.train import shards
from cop.train.loop import seeded, seeded_build
from cop.train.shards import Shards, compute_shards, open_shards

MADE = {"tokenizer": "kl16", "crop": "256 px", "sizes": (1, 2)}
COUNT, SIZE = 11, 3
VALUES = torch.randn(COUNT, 2, 5, generator=seeded(1))


def compute(idx):
    return {"x": VALUES[idx].half(), "i": idx.to(torch.uint8)}


def filled(directory: Path, **kwargs) -> Shards:
    return compute_shards(directory, MADE, COUNT, kwargs.pop("compute", compute), size=SIZE, **kwargs)


# ---------------------------------------------------------------------------------------------------- any shards


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 20), size=st.integers(1, 7), data=st.data())
def test_rows_are_those_of_the_whole_tensor(tmp_path_factory, count, size, data):
    x = torch.arange(count * 2 * 3).view(count, 2, 3)
    stored = compute_shards(tmp_path_factory.mktemp("s") / "d", MADE, count, lambda idx: {"x": x[idx]}, size=size)
    assert len(stored) == count and torch.equal(stored.all("x"), x)
    idx = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=30)))
    flip = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=len(idx), max_size=len(idx))))
    assert torch.equal(stored.rows("x", idx), x[idx])
    assert torch.equal(stored.rows("x", idx, flip), x[idx, flip])


def test_the_manifest_says_what_the_shards_are(tmp_path):
    filled(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["made_with"] == json.loads(json.dumps(MADE)) and (manifest["count"], manifest["size"]) == (
        COUNT,
        SIZE,
    )
    names = sorted(p.name for p in tmp_path.iterdir())
    assert (
        names == [f"0000{k}.safetensors" for k in range(4)] + ["manifest.json"]
        and sorted(manifest["shards"]) == names[:-1]
    )
    assert all(len(s["sha256"]) == 64 for s in manifest["shards"].values())


def test_nothing_is_computed_twice_and_only_what_is_missing(tmp_path):
    calls = []

    def counted(idx):
        calls.append(idx[0].item())
        if calls == [0, 3, 6]:
            raise KeyboardInterrupt
        return compute(idx)

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path, compute=counted)
    with pytest.raises(FileNotFoundError, match="not complete"):
        open_shards(tmp_path, MADE)
    assert torch.equal(filled(tmp_path, compute=counted).all("x"), VALUES.half())
    assert calls == [0, 3, 6, 6, 9]
    filled(tmp_path, compute=counted)
    (tmp_path / "00001.safetensors").unlink()
    assert torch.equal(filled(tmp_path, compute=counted).all("x"), VALUES.half())
    assert calls == [0, 3, 6, 6, 9, 3]


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_shards as t
def slow(idx):
    print(idx[0].item(), flush=True)
    time.sleep(0.05)
    return t.compute(idx)
t.compute_shards(Path(sys.argv[1]), t.MADE, t.COUNT, slow, size=1)
"""


def test_resume_after_sigkill(tmp_path):
    command, env = [sys.executable, "-c", SCRIPT, str(tmp_path), str(Path(__file__).parent)], {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | env, text=True)
    stop_at = int(torch.randint(1, COUNT - 1, ()))
    for line in process.stdout:
        if int(line) >= stop_at:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    done = []
    stored = compute_shards(tmp_path, MADE, COUNT, lambda idx: done.append(idx.item()) or compute(idx), size=1)
    assert torch.equal(stored.all("x"), VALUES.half())
    assert 0 < len(done) < COUNT, f"killed at {stop_at}, computed again: {done}"


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    space = 1000  # bytes: the manifest, a shard or two, and part of the next

    def disk(path, data):
        nonlocal space
        with path.open("wb") as file:
            space -= file.write(data[:space])
        if path.stat().st_size < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(Path, "write_bytes", disk)
        with pytest.raises(OSError, match="no space left for .*free some space") as caught:
            filled(tmp_path)
        assert caught.value.errno == errno.ENOSPC and space == 0
    found = {p.name for p in tmp_path.iterdir()}
    assert found <= {"manifest.json"} | {
        f"0000{k}.safetensors{end}" for k in range(4) for end in ("", ".json")
    }  # all whole
    assert "00000.safetensors.json" in found and "00003.safetensors" not in found
    with pytest.raises(FileNotFoundError, match="not complete"):
        open_shards(tmp_path, MADE)
    done = []
    stored = filled(tmp_path, compute=lambda idx: done.append(idx[0].item()) or compute(idx))
    assert torch.equal(stored.all("x"), VALUES.half()) and 0 not in done  # with space again it just goes on


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_is_full_from_the_first_byte(tmp_path, monkeypatch):
    filled(tmp_path, compute=compute)
    (tmp_path / "00002.safetensors").unlink()
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: path.symlink_to("/dev/full") or write(path, data))
    with pytest.raises(OSError, match="no space left"):
        filled(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "00002.safetensors").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("change", ["byte", "truncate", "missing"])
def test_damaged_shards_are_named_and_repaired_alone(tmp_path, change):
    filled(tmp_path)
    shards._verified.clear()
    path = tmp_path / "00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(content if change == "byte" else content[:-1])
    with pytest.raises(
        ValueError,
        match=f"00002.safetensors {'is missing' if change == 'missing' else 'has' if change == 'truncate' else 'is damaged'}.*Remove this file",
    ):
        open_shards(tmp_path, MADE).all("x")
    path.unlink(missing_ok=True)
    done = []
    stored = filled(tmp_path, compute=lambda idx: done.append(idx[0].item()) or compute(idx))
    assert done == [6] and torch.equal(stored.all("x"), VALUES.half())


def test_the_checksum_is_computed_once_per_process_and_only_for_shards_in_use(tmp_path, monkeypatch):
    stored, hashed = filled(tmp_path), []
    shards._verified.clear()
    digest = shards.hashlib.file_digest
    monkeypatch.setattr(
        shards.hashlib, "file_digest", lambda f, kind: hashed.append(Path(f.name).name) or digest(f, kind)
    )
    for _ in range(2):
        stored.rows("x", torch.tensor([0, 10]))
        open_shards(tmp_path, MADE).rows("x", torch.tensor([1]))
    assert hashed == ["00000.safetensors", "00003.safetensors"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc on this system")
def test_shards_are_mapped_into_memory_when_first_used(tmp_path):
    stored = filled(tmp_path)
    stored.rows("x", torch.tensor([0, 10]))
    mapped = Path("/proc/self/maps").read_text()
    assert [f"{tmp_path}/0000{k}.safetensors" in mapped for k in range(4)] == [True, False, False, True]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"tokenizer": "raw"}, "made with tokenizer = 'kl16'; expected 'raw'"),
        ({"crop": "64 px"}, "made with crop = '256 px'; expected '64 px'"),
        ({"weights": "abc"}, "made with weights = None; expected 'abc'"),
        ({"sizes": (1, 3)}, r"made with sizes = \[1, 2\]; expected \[1, 3\]"),
    ],
)
def test_what_was_made_with_something_else_is_refused_by_name(tmp_path, other, message):
    filled(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for call in (
        lambda: open_shards(tmp_path, MADE | other),
        lambda: compute_shards(tmp_path, MADE | other, COUNT, compute, size=SIZE),
    ):
        with pytest.raises(ValueError, match=f"{message}.*Move the folder"):
            call()
    with pytest.raises(ValueError, match="11 images in shards of 3; expected 12 in shards of 3"):
        compute_shards(tmp_path, MADE, 12, compute, size=SIZE)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def test_a_damaged_manifest_is_named(tmp_path):
    filled(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="manifest.json is not a manifest of shards.*move"):
        open_shards(tmp_path, MADE)
    with pytest.raises(FileNotFoundError, match="missing"):
        open_shards(tmp_path / "nowhere", MADE)


# --------------------------------------------------------------------------------------------- KL-16 through them


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """A profile with everything of the paper's but its sizes: KL-16 tokens, both flips, bf16, micro-batches."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(noise.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(
                    root / split / name / f"{i}.png"
                )
    model = seeded_build(lambda: KL16(32, 32), 3)
    save_file(model.state_dict(), root / "kl16.safetensors")
    comae = CoMAEConfig(
        enc_dim=16, enc_depth=2, enc_heads=2, dec_dim=16, dec_heads=2, targets_per_image=2, steps=3, batch_size=4
    )
    profile = Profile("tiny", DataConfig("folder", str(root), 32, 3, 2, hflip=True), TokenConfig("kl16", 16, 16), comae)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(KL16Tokens, "load", classmethod(lambda cls, size=32: cls(seeded_build(lambda: KL16(32, size), 3))))
        m.setenv("COP_CACHE", str(tmp_path_factory.mktemp("cache")))
        m.delenv("COP_RETRAIN_SINCE", raising=False)
        yield profile


def test_moments_are_those_of_both_flips(paper):
    source, data, tokens = pipeline.token_source(paper, "train"), load_data(paper, "train"), pipeline.tokenizer(paper)
    idx, flip = torch.tensor([4, 0, 5]), torch.tensor([True, False, True])
    images = data.batch(idx, flip)[0]
    torch.testing.assert_close(source(idx, flip), tokens.encode(images), rtol=2e-3, atol=2e-3)  # float16
    exact = tokens.autoencoder.encode(images, seeded(7))  # the posterior, drawn alike
    torch.testing.assert_close(source(idx, flip, seeded(7)), exact.detach(), rtol=2e-3, atol=2e-3)
    assert not torch.equal(source(idx, flip), source(idx)) and torch.equal(source(idx)[1], source(idx, flip)[1])
    assert (source(idx, generator=seeded(8)) - source(idx)).abs().max() > 0.1 * TOKEN_SCALE


def test_latents_are_encoded_once_for_every_layout_of_imagenet(paper, monkeypatch):
    data, tokens = load_data(paper, "test"), pipeline.tokenizer(paper)
    names = ("imagenet-wds", "imagenet", "imagenet-hf")
    named = [replace(paper, data=replace(paper.data, name=n, root=n)) for n in names]
    first = shards.moments(named[0], "test", data, tokens)
    monkeypatch.setattr(KL16, "posterior", lambda *a: pytest.fail("encoded again"))
    for profile in named[1:]:
        assert torch.equal(shards.moments(profile, "test", data, tokens).all("mean"), first.all("mean"))


def test_training_and_ranking_read_the_shards_and_not_the_images(paper, monkeypatch):
    pipeline.token_source(paper, "train"), pipeline.token_source(paper, "test")  # encodes, if no test has yet
    monkeypatch.setattr(KL16, "posterior", lambda *a: pytest.fail("encoded again"))
    model, artefact = pipeline.comae(paper, 0, "cpu")
    assert artefact.history["loss"].notna().all()
    for split in ("train", "test"):  # in shards, and as an artefact
        orders = pipeline.rankings(paper, split, 0, device="cpu")
        flipped = pipeline.rankings(paper, split, 0, device="cpu", flipped=True)
        mirrored = pipeline.token_source(paper, split)(torch.arange(6), torch.ones(6, dtype=torch.bool))
        again = pipeline.collapse_order(pipeline.scores_of(model.dependencies(mirrored), paper))
        assert orders.shape == (6, 4) and torch.equal(flipped, again)
    (stored,) = Path(os.environ["COP_CACHE"]).glob("orders-*")
    assert (stored / "00000.safetensors").stat().st_size < 6 * 2 * 4 * 2 + 300  # a byte a rank, both flips, both scores
    orders = pipeline.rankings(paper, "train", 0, device="cpu")
    monkeypatch.setattr(pipeline, "comae", lambda *a: pytest.fail("CoMAE is not needed to read orders"))
    assert torch.equal(pipeline.rankings(paper, "train", 0, device="cpu"), orders)


def test_other_weights_another_crop_and_other_classes_have_folders_of_their_own(paper, monkeypatch):
    """As CoMAE on all classes and then rankings of some need them."""
    first = pipeline.token_source(paper, "val")(torch.arange(6))
    count = len(list(Path(os.environ["COP_CACHE"]).glob("moments-folder-val-*")))
    bigger = replace(paper, data=replace(paper.data, image_size=64))
    few = replace(paper, data=replace(paper.data, limit=4))
    others = [(paper, 4), (bigger, 3), (few, 3)]
    for k, (profile, seed) in enumerate(others):
        load = classmethod(lambda cls, size=32, seed=seed: cls(seeded_build(lambda: KL16(32, size), seed)))
        monkeypatch.setattr(KL16Tokens, "load", load)
        pipeline.token_source(profile, "val")
        assert len(list(Path(os.environ["COP_CACHE"]).glob("moments-folder-val-*"))) == count + k + 1
    assert torch.equal(pipeline.token_source(paper, "val")(torch.arange(6)), first)  # still there
