"""Damaged, hostile and absurd input: a result or one line that says what is wrong, and nothing written elsewhere."""

import io
import os
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cop.__main__ import main
from cop.configs import DataConfig, Profile, TokenConfig
from cop.data.loading import forget, load_data
from cop.data.pictures import decode
from cop.data.sets.fashion import read_idx
from cop.data.sets.imagenettewoof import unpack
from cop.lessons import classifiers, generation, pipeline
from cop.paper.comae import CoMAE
from cop.paper.entropy import TokenPredictor
from cop.paper.graphnet import GraphNet
from cop.paper.mar import MAR
from cop.paper.onepass import OnePass
from cop.profiles import MOST, get_profile, smoke
from cop.settings import fields
from cop.show import records
from cop.train.loop import load_checkpoint, save_checkpoint
from cop.train.shards import compute_shards, open_shards

pytestmark = pytest.mark.usefixtures("own_cache")
FUZZ = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "25")), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def one_line(call) -> str:
    """The message of the error that a call may end with: a single line of an error that the command line reports."""
    try:
        call()
    except (ValueError, OSError) as error:
        assert str(error) and "\n" not in str(error)
        return str(error)
    return ""


# ------------------------------------------------------------------------------------------------- damaged files

DAMAGE = st.lists(
    st.tuples(st.sampled_from(["cut", "flip", "set", "insert", "repeat"]), st.floats(0, 1), st.integers(1, 255)),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, damage) -> bytes:
    for how, where, byte in damage:
        at = int(where * max(0, len(content) - 1))
        if how == "cut":
            content = content[:at]
        elif how == "insert":
            content = content[:at] + bytes([byte]) * byte + content[at:]
        elif how == "repeat":
            content = content[:at] + content[at // 2 :]
        elif content:
            content = content[:at] + bytes([content[at] ^ byte if how == "flip" else byte]) + content[at + 1 :]
    return content


def encoded(format: str, image: Image.Image = PHOTO, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


TINY = {f"train/n0{c}/images/n0{c}_{i}.JPEG": encoded("JPEG", quality=5 + c + 2 * i) for c in (1, 2) for i in range(10)}
TINY |= {f"val/images/val_{c}.JPEG": encoded("JPEG", quality=50 + c) for c in (1, 2)}
TINY |= {"val/val_annotations.txt": b"val_1.JPEG\tn01\t0\t0\t9\t9\nval_2.JPEG\tn02\t0\t0\t9\t9\n", "words.txt": b"n01\tgoldfish\n"}
TINY_PROFILE = Profile("tiny", data=DataConfig("tiny-imagenet", image_size=8, channels=3, num_classes=5), tokens=TokenConfig("raw", 4, 48))


def read_tiny(path: Path) -> None:
    forget()
    for split in ("train", "test"):
        load_data(TINY_PROFILE, split, path)


IMAGES = {"JPEG": {}, "PNG": {}, "GIF": {"save_all": True, "append_images": [PHOTO] * 3}, "TIFF": {}, "WEBP": {}, "BMP": {}, "PPM": {}}


@pytest.mark.parametrize("format", IMAGES)
@FUZZ
@given(damage=DAMAGE)
def test_damaged_images(format, damage, tmp_path):
    path = tmp_path / f"photo.{format.lower()}"
    path.write_bytes(damaged(encoded(format, **IMAGES[format]), damage))
    message = one_line(lambda: decode(path, 8, 3))
    assert not message or str(path) in message


TOML = b'base = "smoke"\n[comae]\nsteps = 200\nbetas = [0.9, 0.99]\n[data]\nname = "fashion-subset"\nlimit = 10\nhflip = true\n'
IDX = struct.pack(">IIII", 0x803, 2, 28, 28) + bytes(2 * 28 * 28)
CSV = b"notebook,name,value,config\n03_collapse_order,rho,0.5,0123456789ab\n03_collapse_order,tau,0.25,0123456789ab\n"


@pytest.mark.parametrize("name, content, read", [
    ("tiny-imagenet-200.zip", zipped(TINY), read_tiny), ("tiny-imagenet-deflated.zip", zipped(TINY, zipfile.ZIP_DEFLATED), read_tiny),
    ("my.toml", TOML, get_profile), ("images-idx3-ubyte", IDX, read_idx), ("seed0.csv", CSV, records.read)], ids=lambda x: str(x)[:12])  # fmt: skip
@FUZZ
@given(damage=DAMAGE)
def test_damaged_data_and_profiles(name, content, read, damage, tmp_path):
    (tmp_path / name).write_bytes(damaged(content, damage))
    one_line(lambda: read(tmp_path / name))


@FUZZ
@given(damage=DAMAGE)
def test_damaged_checkpoints(damage, tmp_path):
    path = tmp_path / "checkpoint.pt"
    if not (tmp_path / "whole.pt").exists():
        save_checkpoint({"model": {"w": torch.zeros(3)}, "optimizers": {}, "step": 1, "history": []}, tmp_path / "whole.pt")
    path.write_bytes(damaged((tmp_path / "whole.pt").read_bytes(), damage))
    message = one_line(lambda: load_checkpoint(path))
    assert not message or str(path) in message


@pytest.mark.parametrize("name", ["tensors.safetensors", "provenance.json", "history.csv"])
@FUZZ
@given(damage=DAMAGE)
def test_damaged_artefacts(name, damage):
    _, artefact = pipeline.comae(smoke, device="cpu")
    file = artefact.directory / name
    whole = file.read_bytes()
    file.write_bytes(damaged(whole, damage))
    try:
        message = one_line(lambda: pipeline.comae(smoke, device="cpu")[1].history)
        assert not message or artefact.directory.name in message or "move their artefact away" in message
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["manifest.json", "00001.safetensors"])
@FUZZ
@given(damage=DAMAGE)
def test_damaged_shards(name, damage, tmp_path):
    def shard(idx):
        return {"x": 10 * idx}

    whole = compute_shards(tmp_path / "whole", {"of": 1}, 4, shard, size=2).all("x")
    file = tmp_path / "whole" / name
    content = file.read_bytes()
    file.write_bytes(damaged(content, damage))
    try:
        message = one_line(lambda: torch.testing.assert_close(open_shards(tmp_path / "whole", {"of": 1}).all("x"), whole))
        assert not message or str(tmp_path) in message
    finally:
        file.write_bytes(content)


# ------------------------------------------------------------------------------------------------- hostile archives


@pytest.mark.parametrize("change, message", [
    (lambda: {"val/val_annotations.txt": b"../../secret.txt\tn01\nval_1.JPEG\tn02\n"}, "names ../../secret.txt, whose image"),
    (lambda: {"val/val_annotations.txt": bytes(2**26 + 1)}, "val_annotations.txt in .* has 67,108,865 bytes; expected at most"),
    (lambda: {"val/val_annotations.txt": b"\xff\xfe"}, "val_annotations.txt is no text"),
    (lambda: {"val/val_annotations.txt": b"val_1.JPEG\n"}, "has a line .'val_1.JPEG'.; expected a file and a class"),
    (lambda: {"train/n01/images/n01_3.JPEG": bytes(100)}, "cannot read image train/n01/images/n01_3.JPEG in ")])  # fmt: skip
def test_a_hostile_zip(change, message, tmp_path):
    path = tmp_path / "root" / "tiny-imagenet-200.zip"
    path.parent.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    path.write_bytes(zipped(TINY | {"../evil.txt": b"evil", "/tmp/evil.txt": b"evil"} | change(), zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match=message):
        read_tiny(path)
    path.write_bytes(zipped(TINY | {"train/../../evil.txt": b"evil"}))
    read_tiny(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["root", "secret.txt", "tiny-imagenet-200.zip"]
    content = bytearray(path.read_bytes())
    for at in (m for m in range(len(content) - 4) if content[m : m + 4] == b"PK\x01\x02"):
        content[at + 8] |= 1  # encrypted
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read .* in .*tiny-imagenet-200.zip: .*encrypted"):
        read_tiny(path)


def test_a_hostile_tar(tmp_path):
    def link(name: str, target: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, target
        return member

    stem, folder = "imagenette2-320", tmp_path / "in" / "to"
    for member in (tarfile.TarInfo("../evil"), tarfile.TarInfo(f"{stem}/../../evil"), link(f"{stem}/evil", "../../.."), link("evil", "/etc")):
        with tarfile.open(tmp_path / f"{stem}.tgz", "w:gz") as archive:
            archive.addfile(member, io.BytesIO())
        with pytest.raises(ValueError, match=f"{stem}.tgz is no whole archive"):
            unpack(tmp_path / f"{stem}.tgz", folder)
        assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("columns", [{"image": [1, 2], "label": [0, 1]}, {"image": ["a", "b"], "label": ["x", "y"]},
                                     {"image": [{"bytes": b"x", "path": "n01_1.JPEG"}] * 2, "label": ["x", "y"]},
                                     {"image": [{"bytes": b"x"}] * 2, "label": [0, 1]},
                                     {"image": [{"bytes": 1, "path": "n01_1.JPEG"}] * 2, "label": [0, None]}])  # fmt: skip
def test_parquet_with_columns_of_other_types(columns, tmp_path):
    pytest.importorskip("datasets")
    import pyarrow.parquet

    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "data" / "train-00000-of-00001.parquet")
    profile = Profile("hf", data=DataConfig("imagenet-hf", image_size=8, channels=3, num_classes=2), tokens=TokenConfig("raw", 4, 48))
    assert "expected 'image' and 'label'" in one_line(lambda: load_data(profile, "train", tmp_path))


# ------------------------------------------------------------------------------------------------- absurd profiles

NETWORKS = {"comae": lambda p: CoMAE(p.comae, p.grid, p.tokens.dim), "mar": lambda p: MAR(generation.mar_sizes(p)),
            "predictor": lambda p: TokenPredictor(p.num_tokens, p.tokens.dim, p.predictor), "classifier": classifiers.build,
            "onepass": lambda p: OnePass(p.grid, p.tokens.dim, p.onepass), "graphnet": lambda p: GraphNet(p.grid, p.tokens.dim, p.graphnet)}  # fmt: skip
NUMBERS = st.one_of(st.integers(-2, 9), st.integers(), st.floats(), st.sampled_from([10**30, 1e308, 2**63]), st.lists(st.floats(), max_size=2))
WORDS = st.one_of(NUMBERS.map(str), st.text(st.characters(blacklist_categories=["Cs"]), max_size=12), st.just("(" * 999), st.just("{[]: 1}"))


@settings(FUZZ, max_examples=200)
@given(name=st.sampled_from(list(fields(Profile))), word=WORDS)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_an_absurd_number_makes_a_profile_or_one_line(name, word):
    made = []
    one_line(lambda: made.append(get_profile(f"smoke {name}={word}")))
    for build in NETWORKS.values() if made else ():
        with torch.device("meta"):
            one_line(lambda build=build: build(made[0]))


@pytest.mark.parametrize("change, message", [
    ("comae.steps=-5", "comae.steps is -5; expected a whole number from 1 to 1e+12"), ("data.image_size=0", "data.image_size is 0"),
    ("comae.lr=1e400", "comae.lr is inf; expected a number from 0 to"), (f"comae.batch_size={MOST + 1}", "comae.batch_size is 1000000000001"),
    ("comae.betas=[0.9, -1]", "comae.betas is (0.9, -1.0); expected a number"), ("comae.enc_depth=1001", "from 1 to 1000\n"),
    ("tokens.patch_size=64", "tokens.patch_size is 64; expected at most data.image_size, 32"),
    ("classifier.heads=5", "classifier.dim 16 does not divide into 5 heads")])  # fmt: skip
def test_what_no_stage_can_use_is_refused_at_once(change, message, capsys, tmp_path):
    assert main(["plan", "--profile", "smoke", "--set", change]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cop: ") and err.count("\n") == 1 and message in err


def test_a_training_that_diverges_is_one_line(tmp_path, capsys):
    PHOTO.save(tmp_path / "a.png")
    assert main(["rank", str(tmp_path / "a.png"), "--profile", "smoke", "--set", "comae.lr=1e12"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cop: ")]
    assert "expected a finite number" in line


# ------------------------------------------------------------------------------------------------- odd photographs


def png(width: int, height: int, data: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of one bit per pixel with these compressed rows, whatever its header says."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), *extra, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)


ROWS = zlib.compress(bytes(2 * 8))
ODD = {  # name -> content, and what is said of it where it cannot be drawn
    "bomb.png": (lambda: png(60_000, 60_000, zlib.compress(bytes(10**6))), "could be decompression bomb"),
    "text.png": (lambda: png(8, 8, ROWS, (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))), "cannot read image .*text.png"),
    "line.png": (lambda: encoded("PNG", Image.new("1", (1, 300_000))), "the photograph has 1 x 300000 px"),
    "empty.jpg": (lambda: b"", "cannot read image .*empty.jpg"),
    "none.png": (lambda: png(0, 0, b""), "cannot read image .*none.png"),
    "cut.jpg": (lambda: encoded("JPEG")[:400], "cannot read image .*cut.jpg"),
    "wide.png": (lambda: encoded("PNG", Image.new("RGB", (30_000, 20), "red")), None),
    "moving.gif": (lambda: encoded("GIF", **IMAGES["GIF"]), None),
    "moving.png": (lambda: encoded("PNG", **IMAGES["GIF"]), None),
    "profile.jpg": (lambda: encoded("JPEG", icc_profile=b"no profile"), None),
    "exif.jpg": (lambda: encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(40)), None),
}


def test_odd_photographs_are_drawn_or_named_and_nothing_is_written_elsewhere(tmp_path, capsys, caplog, monkeypatch):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name, (content, _) in ODD.items():
        (photos / name).write_bytes(content())
    pipeline.comae(smoke, device="cpu")
    monkeypatch.chdir(tmp_path)
    before = {p: p.read_bytes() for p in photos.iterdir()}
    assert main(["rank", str(photos), "--profile", "smoke", "--out", str(out)]) == 1
    assert before == {p: p.read_bytes() for p in photos.iterdir()} and sorted(p.name for p in tmp_path.iterdir()) == ["out", "photos"]
    assert sorted(p.name for p in out.iterdir()) == sorted(f"{name}.order.png" for name, (_, said) in ODD.items() if said is None)
    messages = [m for m in caplog.messages if "cannot read image" in m or "the photograph has" in m]
    assert not any("\n" in m for m in messages) and len(messages) == sum(said is not None for _, said in ODD.values())
    for name, (_, said) in ODD.items():
        if said:
            (message,) = [m for m in messages if f"/{name}" in m]
            assert re.search(said, message), message
