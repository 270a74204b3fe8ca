"""ImageNet from a folder, parquet files and tar shards: the same images from all three, and bad input."""

import io
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cop import paths
from cop.configs import DataConfig, Profile, TokenConfig
from cop.data.images import SPLITS, ImageSet
from cop.data.loading import data_config, forget, load_data
from cop.data.pictures import decode
from cop.data.sets import imagenet, imagenet_shards

WNIDS = ("n01440764", "n01443537", "n01484850")  # the first three of ImageNet-1k
PER_CLASS = {"train": 50, "val": 2}
SOURCES = ("imagenet", "imagenet-hf", "imagenet-wds")


def profile(name="imagenet", num_classes=3, size=16, **kwargs):
    data = DataConfig(name, image_size=size, channels=3, num_classes=num_classes, **kwargs)
    return Profile(name, data=data, tokens=TokenConfig("raw", 8, 192))


def jpeg(seed, width=40, height=28):
    """A picture that differs for every seed, as the bytes of a JPEG file."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def pictures(part):
    """(class, original name, file) of every image of a part, in the order that all loaders are to give."""
    out = []
    for c, wnid in enumerate(WNIDS):
        for i in range(PER_CLASS[part]):
            name = f"{wnid}_{10 + 7 * i}" if part == "train" else f"ILSVRC2012_val_{c + 3 * i:08d}"
            out.append((c, name, jpeg(1000 * (part == "val") + 100 * c + i)))
    return sorted(out, key=lambda image: image[:2])


def shuffled(images):
    return [images[i] for i in np.random.default_rng(5).permutation(len(images))]


def write_folder(root, damaged=()):
    for part in PER_CLASS:
        for c, name, data in pictures(part):
            (root / part / WNIDS[c]).mkdir(parents=True, exist_ok=True)
            (root / part / WNIDS[c] / f"{name}.JPEG").write_bytes(data[:200] if name in damaged else data)
    return root


def write_parquet(root, damaged=(), typed=True):
    """Two files a part with the columns and names of ILSVRC/imagenet-1k, where names end with the class."""
    datasets = pytest.importorskip("datasets")
    (root / "data").mkdir(parents=True)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WNIDS))}
    for part, stored in (("train", "train"), ("val", "validation")):
        images = shuffled(pictures(part))
        for k, half in enumerate((images[::2], images[1::2])):
            rows = {"image": [{"bytes": d[:200] if n in damaged else d, "path": f"{n}_{WNIDS[c]}.JPEG"} for c, n, d in half],
                    "label": [c for c, _, _ in half]}  # fmt: skip
            file = root / "data" / f"{stored}-{k:05d}-of-00002.parquet"
            if typed:
                datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(str(file))
            else:  # without the library's metadata, as other writers do
                import pyarrow

                pyarrow.parquet.write_table(pyarrow.table(rows), file)
    return root


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_tars(root, damaged=()):
    """Two shards a part as timm/imagenet-1k-wds: NAME.cls, NAME.jpg and NAME.json, numbered anew."""
    root.mkdir(parents=True, exist_ok=True)
    for part, stored, digits in (("train", "train", 4), ("val", "validation", 2)):
        images = shuffled(pictures(part))
        for k, half in enumerate((images[::2], images[1::2])):
            with tarfile.open(root / f"imagenet1k-{stored}-{k:0{digits}d}.tar", "w") as archive:
                for i, (c, name, data) in enumerate(half):
                    about = {"filename": f"{name}.JPEG", "label": c, "width": 40, "height": 28}
                    add(archive, f"{k:04d}{i:04d}.cls", str(c).encode())
                    add(archive, f"{k:04d}{i:04d}.jpg", data[:200] if name in damaged else data)
                    add(archive, f"{k:04d}{i:04d}.json", json.dumps(about).encode())
    return root


WRITERS = dict(zip(SOURCES, (write_folder, write_parquet, write_tars), strict=True))


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("COP_DATA", raising=False)
    forget()
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return {name: write(tmp_path_factory.mktemp(name) / "root") for name, write in WRITERS.items()}


# ------------------------------------------------------------------------------------------ three layouts, one data set


@pytest.mark.parametrize("source", SOURCES)
def test_every_layout_gives_the_same_pixels_labels_and_splits(roots, source):
    images = pictures("train")
    held_out = [i for c in range(3) for i in (50 * c + 24, 50 * c + 49)]  # every 25th of a class
    kept = [i for i in range(150) if i not in held_out]
    expected = {"train": [images[i] for i in kept], "val": [images[i] for i in held_out], "test": pictures("val")}
    for split in SPLITS:
        data = load_data(profile(source), split, roots[source])
        assert (data.split, data.name, len(data)) == (split, source, len(expected[split]))
        assert data.labels.tolist() == [c for c, _, _ in expected[split]]
        pixels = torch.stack([torch.from_numpy(decode(io.BytesIO(d), 16, 3)) for _, _, d in expected[split]])
        assert torch.equal(data.images[torch.arange(len(data))], pixels)


def test_layouts_are_one_data_set_for_hashes():
    configs = [data_config(profile(name, root=name).data) for name in SOURCES]
    assert configs[0] == configs[1] == configs[2] and configs[0]["name"] == "imagenet" and configs[0]["root"] is None
    for other in (profile("tiny-imagenet"), profile(num_classes=4), profile(size=32), profile(limit=9)):
        assert data_config(other.data) not in configs


@pytest.mark.parametrize("source", SOURCES)
def test_a_subset_of_imagenet_is_known_by_its_files(roots, tmp_path, monkeypatch, source):
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(roots[source], moved)
    shutil.copytree(roots[source], other)
    file = next(f for f in sorted(other.rglob("*")) if f.is_file())
    file.write_bytes(file.read_bytes() + b"x")
    a, b, c = (data_config(profile(source, root=str(r)).data) for r in (roots[source], moved, other))
    assert a == b != c and len(a["source"]) == 16  # not where they lie, but which they are
    monkeypatch.setenv("COP_DATA", str(other))
    assert data_config(profile(source).data) == c
    whole = data_config(profile(source, num_classes=1000).data)
    assert "source" not in whole, "all 1,000 classes are ImageNet-1k itself"


def test_it_is_lazy_and_indexed_like_a_tensor(roots, monkeypatch):
    train = load_data(profile(), "train", roots["imagenet"])
    calls = []
    monkeypatch.setattr(imagenet, "decode", lambda *args: calls.append(args) or decode(*args))
    assert train.class_names == list(WNIDS) and not calls
    images, labels = train.batch([0, 143], flip=torch.tensor([False, True]))
    assert images.shape == (2, 3, 16, 16) and labels.tolist() == [0, 2] and len(calls) == 2
    torch.testing.assert_close(images[1].flip(-1), train[143][0].float() / 127.5 - 1)
    assert torch.equal(train.subset([7, 143]).subset([1])[0][0], train[143][0])
    again = pickle.loads(pickle.dumps(train))  # as worker processes get it
    assert torch.equal(again[5][0], train[5][0])
    assert load_data(profile(limit=4), "train", roots["imagenet"]).labels.tolist() == [0, 0, 1, 2]


def test_parquet_without_the_librarys_metadata(roots, tmp_path):
    root = write_parquet(tmp_path / "plain", typed=False)
    for split in SPLITS:
        plain, typed = (load_data(profile("imagenet-hf"), split, r) for r in (root, roots["imagenet-hf"]))
        assert torch.equal(plain.images[torch.arange(len(plain))], typed.images[torch.arange(len(plain))])


def test_without_a_root_parquet_comes_from_the_hub(roots, monkeypatch):
    datasets = pytest.importorskip("datasets")
    load, asked = datasets.load_dataset, []

    def hub(name, split):
        asked.append((name, split))
        files = sorted(map(str, (roots["imagenet-hf"] / "data").glob(f"{split}-*.parquet")))
        return load("parquet", data_files=files, split="train")

    monkeypatch.setattr(datasets, "load_dataset", hub)
    assert len(load_data(profile("imagenet-hf"), "test")) == 6 and len(load_data(profile("imagenet-hf"), "val")) == 6
    assert asked == [("ILSVRC/imagenet-1k", "validation"), ("ILSVRC/imagenet-1k", "train")]

    def refuse(name, split):
        raise ConnectionError("Couldn't reach the Hub\nand more lines")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(FileNotFoundError, match=r"\(Couldn't reach the Hub\): accept its terms.*hf auth login"):
        load_data(profile("imagenet-hf"), "train")


def test_parquet_needs_the_library(roots, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RuntimeError, match=r"needs Hugging Face datasets.*cop\[paper\]"):
        load_data(profile("imagenet-hf"), "train", roots["imagenet-hf"])


def test_the_index_of_the_shards_is_made_once_renewed_and_survives_damage(tmp_path, monkeypatch):
    root = write_tars(tmp_path / "wds")
    first = load_data(profile("imagenet-wds"), "train", root)[3][0]
    (cached,) = (paths.cache() / "data").iterdir()  # one file, no temporary left behind
    monkeypatch.setattr(imagenet_shards, "tar_members", None)  # reading the shards again would fail
    forget()
    assert len(load_data(profile("imagenet-wds"), "val", root)) == 6
    assert torch.equal(load_data(profile("imagenet-wds"), "train", root)[3][0], first)
    monkeypatch.undo()
    monkeypatch.setenv("COP_CACHE", str(cached.parent.parent))
    cached.write_bytes(cached.read_bytes()[:300])
    forget()
    assert torch.equal(load_data(profile("imagenet-wds"), "train", root)[3][0], first)
    os.utime(root / "imagenet1k-train-0000.tar", ns=(1, 1))  # another file
    forget()
    assert torch.equal(load_data(profile("imagenet-wds"), "train", root)[3][0], first)
    assert len(list(cached.parent.iterdir())) == 2


# ------------------------------------------------------------------------------------------ unreadable images


@pytest.mark.parametrize("source", SOURCES)
def test_an_unreadable_image_is_read_as_the_next_of_its_class(tmp_path, source, roots, caplog):
    """Of 50 files of a class, number 24 and 49 are val: 25 stands in for a bad 23, 0 for a bad 48, 1 if 0 is bad too."""
    images = pictures("train")
    damaged = [images[50 + i][1] for i in (0, 23, 48)]
    root = WRITERS[source](tmp_path / "root", damaged)
    whole, train = (load_data(profile(source), "train", r) for r in (roots[source], root))
    position = {i: n for n, i in enumerate(i for i in range(50) if i not in (24, 49))}  # within train's class
    assert torch.equal(train.labels, whole.labels)
    with caplog.at_level(logging.WARNING):
        got = train.images[torch.arange(len(train))]
    expected = whole.images[torch.arange(len(whole))].clone()
    for bad, instead in ((0, 1), (23, 25), (48, 1)):
        expected[48 + position[bad]] = whole.images[48 + position[instead]]
    assert torch.equal(got, expected)
    warnings = [r.getMessage() for r in caplog.records if "takes its place" in r.getMessage()]
    assert len(warnings) == 3 and all(any(name in w for w in warnings) for name in damaged)
    assert any("3 unreadable so far" in w for w in warnings)

    alone = load_data(profile(source), "train", root).subset([48 + position[23]])  # the same whoever asks
    assert torch.equal(alone[0][0], expected[48 + position[23]])
    val = load_data(profile(source), "val", root)  # no damage there: the split rule counts unreadable files too
    assert torch.equal(
        val.images[torch.arange(6)], load_data(profile(source), "val", roots[source]).images[torch.arange(6)]
    )


def test_many_unreadable_images_are_an_error(tmp_path):
    names = [name for _, name, _ in pictures("train")]
    root = write_folder(tmp_path / "some", damaged=names[60:75])
    with pytest.raises(ValueError, match=r"1[1-5] of 144 images cannot be read, the last one .*JPEG; expected a few"):
        load_data(profile(), "train", root).batch(slice(None))
    root = write_folder(tmp_path / "class", damaged=[name for _, name, _ in pictures("val")[2:4]])
    with pytest.raises(ValueError, match="none of the 2 images of class 1 can be read, such as .*n01443537"):
        load_data(profile(), "test", root).batch([2])


def test_an_error_of_the_disk_is_no_damaged_image(roots, monkeypatch):
    train = load_data(profile(), "train", roots["imagenet"])

    def fail(row):
        raise OSError(5, "Input/output error", train.images.source.name(row))

    monkeypatch.setattr(train.images.source, "read", fail)
    with pytest.raises(OSError, match="Input/output error"):
        train.batch([0, 1])
    assert not train.images.unreadable


# ------------------------------------------------------------------------------------------ reading ahead


def test_images_read_ahead_are_those_asked_for_and_decoded_once(roots, monkeypatch):
    train = load_data(profile(), "train", roots["imagenet"])
    plain = train.subset(slice(None))
    calls = []
    monkeypatch.setattr(imagenet, "decode", lambda *args: calls.append(args) or decode(*args))
    first, second = torch.tensor([5, 77, 5]), torch.tensor([77, 140, 0])
    train.ahead(first)
    for image in train.images.coming.values():
        image.result()
    assert len(calls) == 2  # while nobody asked for them
    train.ahead(second)  # 77 comes already
    got = [train.batch(first), train.batch(second)]
    assert len(calls) == 2 + 2 + 2 and not train.images.coming  # 5 twice, 77 again for the second
    for (images, labels), idx in zip(got, (first, second), strict=True):
        assert torch.equal(images, plain.batch(idx)[0]) and torch.equal(labels, plain.batch(idx)[1])
    train.ahead(first)
    assert torch.equal(pickle.loads(pickle.dumps(train)).batch(first)[0], got[0][0])  # decodes for itself


def test_batches_are_those_of_batch_and_one_ahead(roots, monkeypatch):
    train = load_data(profile(), "train", roots["imagenet"])
    chosen, asked = torch.arange(3, 144, 4), []
    monkeypatch.setattr(train, "ahead", lambda idx: asked.append(idx.tolist()) or train.images.ahead(idx))
    parts = []
    for images, labels in train.batches(10, chosen):
        parts.append((images, labels))
        assert len(train.images.coming) == len(chosen[10 * len(parts) : 10 * len(parts) + 10])
    assert [len(images) for images, _ in parts] == [10, 10, 10, 6]
    assert torch.equal(torch.cat([images for images, _ in parts]), train.batch(chosen)[0])
    assert torch.equal(torch.cat([labels for _, labels in parts]), train.labels[chosen])
    monkeypatch.undo()
    memory = ImageSet(train.images[torch.arange(9)], train.labels[:9], train.class_names)
    assert [len(labels) for _, labels in memory.batches(4)] == [4, 4, 1]  # nothing to decode


def test_damage_found_ahead_is_counted_once(tmp_path, caplog):
    images = pictures("train")
    damaged = [images[50 + i][1] for i in (0, 1, 7)]
    train = load_data(profile(), "train", write_folder(tmp_path / "root", damaged))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            train.ahead(torch.arange(48, 60))
            got = train.batch(torch.arange(48, 60).repeat(2))[0]
    assert sorted(n.rpartition("/")[2] for n in train.images.unreadable.values()) == sorted(f"{n}.JPEG" for n in damaged)
    warnings = [r.getMessage() for r in caplog.records if "takes its place" in r.getMessage()]
    assert len(warnings) == 3
    assert [sum(f"({k} unreadable so far)" in w for w in warnings) for k in (1, 2, 3)] == [1, 1, 1]
    assert torch.equal(got[0], got[2]) and torch.equal(got[0], got[12])  # 2 stands in for 0 and 1


def test_an_error_ahead_is_raised_when_the_image_is_asked_for(roots, monkeypatch):
    train = load_data(profile(), "train", roots["imagenet"])
    read = train.images.source.read

    def fail(row):
        if row == train.images.rows[9]:
            raise OSError(5, "Input/output error")
        return read(row)

    monkeypatch.setattr(train.images.source, "read", fail)
    train.ahead(torch.tensor([8, 9]))
    assert len(train.batch([8])[0]) == 1
    with pytest.raises(OSError, match="Input/output error"):
        train.batch([9])


def test_threads_are_divided_over_the_processes_of_a_machine(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 24)
    for processes, threads in ((None, 24), ("2", 12), ("8", 3), ("48", 1)):
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        if processes:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert imagenet.thread_count() == threads
    monkeypatch.setattr(os, "cpu_count", lambda: 256)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert imagenet.thread_count() == imagenet.THREADS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_decodes_with_threads_of_its_own(roots):
    """As `notebook_launcher` starts processes: from one whose threads exist already."""
    train = load_data(profile(), "train", roots["imagenet"])
    train.batch([0, 1])
    child = multiprocessing.get_context("fork").Process(target=train.batch, args=([2, 3],))
    child.start()
    child.join(60)
    code = child.exitcode
    child.kill()
    assert code == 0  # None: it waited for threads that it does not have


# ------------------------------------------------------------------------------------------ wrong data


@pytest.mark.parametrize("source", SOURCES)
def test_roots_of_another_layout_are_refused_by_name(tmp_path, source):
    for root in (None, tmp_path / "nowhere") if source != "imagenet-hf" else (tmp_path / "nowhere",):
        with pytest.raises(FileNotFoundError, match="image-net.org"):
            load_data(profile(source), "train", root)
    (tmp_path / "ILSVRC").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FileNotFoundError, match=rf"holds ILSVRC/, notes.txt; expected .*for data '{source}'"):
        load_data(profile(source), "train", tmp_path)


def test_folders_of_another_layout(tmp_path):
    root = write_folder(tmp_path / "root")
    flat = tmp_path / "flat"
    (flat / "val").mkdir(parents=True)
    for file in (root / "val").rglob("*.JPEG"):
        (flat / "val" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        FileNotFoundError, match=r"holds ILSVRC2012_val_00000000.JPEG.*\(6 in all\); expected one folder per class"
    ):
        load_data(profile(), "test", flat)
    with pytest.raises(FileNotFoundError, match=r"expected a folder train/ of class folders"):
        load_data(profile(), "train", flat)
    for file in (root / "train" / WNIDS[1]).iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="no train images of class n01443537 .*found 100 images"):
        load_data(profile(), "train", root)


@pytest.mark.parametrize("source", SOURCES)
def test_another_number_of_classes_is_refused(roots, source):
    for classes in (2, 4, 1000):
        with pytest.raises(ValueError, match=f"num_classes is {classes}; expected the same|no train images of class"):
            load_data(profile(source, classes), "train", roots[source])
    with pytest.raises(ValueError, match="imagenet has 3 classes, num_classes is 1000; expected the same"):
        load_data(profile("imagenet", 1000), "train", roots["imagenet"])


def test_a_thousand_classes_are_those_of_imagenet_and_complete(tmp_path, monkeypatch):
    wnids, picture = imagenet.imagenet_info().label_names(), jpeg(0, 16, 16)
    for wnid in wnids:
        (tmp_path / "val" / wnid).mkdir(parents=True)
        (tmp_path / "val" / wnid / "1.JPEG").write_bytes(picture)
    with pytest.raises(ValueError, match="has 1,000 val images; expected 50,000, as ImageNet-1k: complete"):
        load_data(profile(num_classes=1000), "test", tmp_path)
    monkeypatch.setitem(imagenet.OFFICIAL, "val", 999)
    with pytest.raises(ValueError, match="has 1,000 val images; expected 999, .*remove what does not belong"):
        load_data(profile(num_classes=1000), "test", tmp_path)
    monkeypatch.setitem(imagenet.OFFICIAL, "val", 1000)
    data = load_data(profile(num_classes=1000), "test", tmp_path)
    assert data.class_names[:2] == ["tench", "goldfish"] and data.labels.tolist() == list(range(1000))
    (tmp_path / "val" / wnids[7]).rename(tmp_path / "val" / "hen")
    forget()
    with pytest.raises(ValueError, match="1 are no wnids of ImageNet-1k, such as hen"):
        load_data(profile(num_classes=1000), "test", tmp_path)


def test_incomplete_or_damaged_parquet(tmp_path, roots):
    root = write_parquet(tmp_path / "root")
    first, second = sorted((root / "data").glob("train-*"))
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="train-00001-of-00002.parquet is no whole parquet file .*download it again"):
        load_data(profile("imagenet-hf"), "train", root)
    second.write_bytes(content[:8] + bytes(len(content) - 12) + b"PAR1")
    with pytest.raises(ValueError, match="cannot read the parquet files of .*data"):
        load_data(profile("imagenet-hf"), "train", root)
    second.unlink()
    with pytest.raises(FileNotFoundError, match="has 1 of 2 train files; train-00001-of-00002.parquet is missing"):
        load_data(profile("imagenet-hf"), "train", root)
    pyarrow = pytest.importorskip("pyarrow")
    pyarrow.parquet.write_table(pyarrow.table({"picture": [1]}), second)
    first.unlink()
    second.rename(root / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"have columns \['picture'\]; expected 'image' and 'label'"):
        load_data(profile("imagenet-hf"), "train", root)


def test_incomplete_or_damaged_shards(tmp_path):
    root = write_tars(tmp_path / "root")
    first, second = sorted(root.glob("imagenet1k-train-*"))
    content = first.read_bytes()
    first.unlink()
    with pytest.raises(FileNotFoundError, match="has 1 train shards up to number 1; 1 are missing, the first number 0"):
        load_data(profile("imagenet-wds"), "train", root)
    for damaged in (content[: len(content) // 2], content[:1000], b"no tar at all" * 100):
        first.write_bytes(damaged)
        with pytest.raises(ValueError, match="imagenet1k-train-0000.tar is no whole tar shard"):
            load_data(profile("imagenet-wds"), "train", root)
    for members, lacks in (
        ({"a.jpg": b"x"}, "sample a of .* has no label"),
        ({"b.cls": b"1"}, "sample b of .* has no image"),
    ):
        with tarfile.open(first, "w") as archive:
            for name, data in members.items():
                add(archive, name, data)
        with pytest.raises(ValueError, match=lacks):
            load_data(profile("imagenet-wds"), "train", root)
    with tarfile.open(first, "w") as archive:
        add(archive, "._a.jpg", b"a companion that macOS adds")
    tarfile.open(second, "w").close()
    with pytest.raises(ValueError, match="the 2 shards from .* hold no images"):
        load_data(profile("imagenet-wds"), "train", root)
    assert not (paths.cache() / "data").exists()  # failures leave no index


def test_names_of_the_three_layouts():
    for name in (
        "n01440764_10026.JPEG",
        "n01440764_10026_n01440764.JPEG",
        "n01440764/n01440764_10026.JPEG",
        "n01440764_10026",
    ):
        assert imagenet.file_stem(name) == "n01440764_10026"
    assert imagenet.file_stem("ILSVRC2012_val_00000001_n01751748.JPEG") == "ILSVRC2012_val_00000001"


def test_grey_is_read_too(roots):
    grey = replace(profile(), data=replace(profile().data, channels=1), tokens=TokenConfig("raw", 8, 64))
    assert load_data(grey, "test", roots["imagenet"])[0][0].shape == (1, 16, 16)
