"""Imagenette and Imagewoof: synthetic archives of the true layout, read as such or unpacked, and bad input."""

import io
import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cop.configs import DataConfig, Profile, TokenConfig
from cop.data.loading import data_config, forget, load_data
from cop.data.pictures import decode
from cop.data.sets import imagenettewoof
from cop.data.sets.imagenet import imagenet_info
from cop.profiles import evening
from cop.weights import command
from cop.weights import table as weights

NETTE = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257".split()
WOOF = "n02086240 n02087394 n02088364 n02089973 n02093754 n02096294 n02099601 n02105641 n02111889 n02115641".split()
STEMS = {"imagenette2-320": NETTE, "imagewoof2-320": WOOF}
PROFILE = Profile(
    "small", DataConfig("imagenette-woof", image_size=16, channels=3, num_classes=20), TokenConfig("raw", 8, 192)
)


def jpeg(seed):
    buffer = io.BytesIO()
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((40, 28)).save(buffer, "JPEG")
    return buffer.getvalue()


def pictures(wnid):
    """part/wnid/file -> JPEG; 26 training images, and two of `val`, of which one is a training image of ImageNet."""
    train = [f"train/{wnid}/{wnid}_{10 + i}.JPEG" for i in range(26)]
    names = [*train, f"val/{wnid}/ILSVRC2012_val_00000001.JPEG", f"val/{wnid}/{wnid}_1.JPEG"]
    return {name: jpeg(100 * sorted(NETTE + WOOF).index(wnid) + i) for i, name in enumerate(names)}


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The two archives, with the table of wrong labels and the companions of macOS that such archives may hold."""
    root = tmp_path_factory.mktemp("archives")
    for stem, wnids in STEMS.items():
        with tarfile.open(root / f"{stem}.tgz", "w:gz") as tar:
            files = {name: data for wnid in wnids for name, data in pictures(wnid).items()}
            for name, data in {"noisy.csv": b"path", f"train/{wnids[0]}/._x.JPEG": b"no image", **files}.items():
                member = tarfile.TarInfo(f"{stem}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return root


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COP_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("COP_DATA", raising=False)
    monkeypatch.setattr(imagenettewoof, "IMAGES", {"train": 520, "val": 40})
    forget()


@pytest.fixture
def unpacked(archives, tmp_path):
    root = tmp_path / "unpacked"
    for stem in STEMS:
        imagenettewoof.unpack(archives / f"{stem}.tgz", root)
    return root


def pixels(wnid, name):
    return torch.from_numpy(decode(io.BytesIO(pictures(wnid)[name]), 16, 3))


def test_archives_and_folders_are_one_data_set_with_the_splits_of_imagenet(archives, unpacked, tmp_path):
    wnids = sorted(NETTE + WOOF)
    for split, per_class in (("train", 25), ("val", 1), ("test", 2)):
        data = load_data(PROFILE, split, archives)
        assert data.labels.tolist() == [c for c in range(20) for _ in range(per_class)] and len(data.class_names) == 20
        assert data.class_names[3] == "beagle" and wnids[3] == "n02088364"
        own = load_data(PROFILE, split, unpacked)
        assert own is not data and torch.equal(own.images[torch.arange(len(own))], data.images[torch.arange(len(data))])
    assert torch.equal(
        data.images[torch.tensor([6])][0], pixels(wnids[3], f"val/{wnids[3]}/ILSVRC2012_val_00000001.JPEG")
    )
    held_out = load_data(PROFILE, "val", archives).images[19]  # the 25th by name, which is sorted as text
    assert torch.equal(held_out, pixels(wnids[19], f"train/{wnids[19]}/{wnids[19]}_34.JPEG"))
    assert data_config(replace(PROFILE.data, root=str(archives))) == data_config(PROFILE.data), "known by its name"


def test_an_archive_is_unpacked_once(archives, monkeypatch):
    load_data(PROFILE, "train", archives)
    monkeypatch.setattr(imagenettewoof, "unpack", lambda *_: pytest.fail("unpacked again"))
    monkeypatch.setattr(imagenettewoof, "FileLock", lambda *_: pytest.fail("a cache that cannot be written has no locks"))
    assert len(load_data(PROFILE, "test", archives)) == 40


def test_fetched_archives_are_found_where_the_command_puts_them(archives, monkeypatch, capsys):
    sums = {
        weights.find(name).file: weights.file_sha256(archives / weights.find(name).file)
        for name in imagenettewoof.ARCHIVES
    }
    table = tuple(
        replace(e, source=(archives / e.file).as_uri(), size=1000, sha256=sums[e.file]) if e.file in sums else e
        for e in weights.TABLE
    )
    monkeypatch.setattr(weights, "TABLE", table)
    for name in imagenettewoof.ARCHIVES:
        command.main(name)
    assert "imagewoof2-320.tgz" in capsys.readouterr().out and len(load_data(PROFILE, "test")) == 40


def test_classes_are_those_of_imagenet_and_the_profile_names_their_rows():
    numbers = [i for i, _ in imagenettewoof.CLASSES.values()]
    info = imagenet_info()
    assert [info.label_names()[i] for i in numbers] == list(imagenettewoof.CLASSES) == sorted(NETTE + WOOF)
    assert [info.index_to_description(i).split(",")[0] for i in numbers] == [
        n for _, n in imagenettewoof.CLASSES.values()
    ]
    assert evening.generation.checkpoint_classes == tuple(numbers) and evening.data.num_classes == 20


def refused(root, split, kind, message):
    forget()
    with pytest.raises(kind, match=message) as error:
        load_data(PROFILE, split, root)
    assert "\n" not in str(error.value)


def test_missing_and_damaged_data(archives, unpacked, tmp_path):
    refused(
        None,
        "train",
        FileNotFoundError,
        r"no imagenette2-320/ and no imagenette2-320.tgz in .*weights; run python -m cop weights",
    )
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(archives / "imagenette2-320.tgz", one)
    refused(
        one,
        "train",
        FileNotFoundError,
        "no imagewoof2-320/ .* in .*one or .*weights; run python -m cop weights imagewoof",
    )
    whole = (archives / "imagewoof2-320.tgz").read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>", b""):
        (one / "imagewoof2-320.tgz").write_bytes(content)
        refused(
            one, "test", ValueError, r"imagewoof2-320.tgz is no whole archive \(.*\); delete it and download it again"
        )
    shutil.copy(archives / "imagenette2-320.tgz", one / "imagewoof2-320.tgz")
    refused(one, "test", ValueError, r"holds no folder imagewoof2-320\); delete it")
    assert not [
        f for f in os.listdir(tmp_path / "cache" / "data") if f.startswith("imagewoof") and not f.endswith(".lock")
    ]

    woof = unpacked / "imagewoof2-320"
    (woof / "val" / WOOF[4] / f"{WOOF[4]}_1.JPEG").unlink()
    refused(unpacked, "test", ValueError, "has 39 val images; expected 40, as published: .*imagewoof2-320")
    shutil.rmtree(woof / "train" / WOOF[4])
    refused(
        unpacked, "train", ValueError, f"has no train images of class {WOOF[4]} .1 classes have none.; found 494 images"
    )
    (woof / "train" / "n02123045").mkdir()
    refused(
        unpacked, "train", ValueError, "has a class n02123045; expected those of Imagenette and Imagewoof, n01440764, "
    )
    shutil.rmtree(woof / "val")
    refused(
        unpacked,
        "test",
        FileNotFoundError,
        "imagewoof2-320 has no folder val/; expected train/ and val/: unpack imagewoof again",
    )
