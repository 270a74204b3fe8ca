"""Images: the embedded subset and its recipe, every source on trees that the tests write, bad input."""

import hashlib
import json
import lzma
import zipfile
from dataclasses import fields
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cop import paths
from cop.configs import FOLDS, DataConfig, Profile, TokenConfig, key
from cop.data import pictures
from cop.data.embedded import recipe
from cop.data.images import SPLITS, ImageSet, dataset, first_stratified, rank_in_class
from cop.data.loading import data_config, fold_rows, forget, load_data
from cop.data.pictures import center_crop, decode
from cop.data.sets import tiny_imagenet
from cop.data.sets.fashion import fashion_contents, fashion_files, read_idx
from cop.lessons import pipeline
from cop.profiles import get_profile, replace, smoke


def test_the_other_classes_are_those_that_a_step_leaves_out():
    whole = load_data("demo", "val")
    config = replace(smoke.data, limit=None, without_step=4)  # without classes 0, 4 and 8
    others = load_data(replace(smoke, data=config), "val")
    assert others.class_names == [n for i, n in enumerate(whole.class_names) if i % 4] and config.classes == 7
    kept = whole.labels % 4 != 0
    assert [whole.class_names[i] for i in whole.labels[kept]] == [others.class_names[i] for i in others.labels]
    both = replace(smoke, data=replace(config, class_step=5))  # a classifier's classes are what it says
    assert load_data(both, "val").class_names == whole.class_names[::5] and both.data.classes == 2
    with pytest.raises(ValueError, match="without_step is 1 for 10 classes; expected 2 or more"):
        load_data(replace(smoke, data=replace(smoke.data, without_step=1)), "val")


def test_every_class_is_a_rule_of_the_sorted_classes():
    whole, third = load_data("smoke", "val"), load_data(replace(smoke, data=replace(smoke.data, class_step=3)), "val")
    assert third.class_names == whole.class_names[::3] and len(third.class_names) == replace(smoke.data, class_step=3).classes == 4
    all_of = load_data(replace(smoke, data=replace(smoke.data, limit=None)), "val")
    rows = (all_of.labels % 3 == 0).nonzero()[:, 0]
    rows = rows[first_stratified(all_of.labels[rows], 64)]
    assert torch.equal(third.images, all_of.images[rows]) and torch.equal(third.labels * 3, all_of.labels[rows])
    with pytest.raises(ValueError, match="class_step is 10 for 10 classes; expected 1 or more, and two classes left"):
        load_data(replace(smoke, data=replace(smoke.data, class_step=10)), "val")


def profile(name, size=8, channels=3, patch=4, **kwargs):
    data = DataConfig(name, image_size=size, channels=channels, **kwargs)
    return Profile(name, data=data, tokens=TokenConfig("raw", patch, patch**2 * channels))


def noise(seed, size=8):
    """A picture that differs for every seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def encoded(seed, form="PNG"):
    buffer = BytesIO()
    noise(seed).save(buffer, form)
    return buffer.getvalue()


def folder(root, size=8):
    """All images of a folder that has fewer than nine of a class."""
    return load_data(profile("folder", size), "train", root)


def digests(images):
    return [hashlib.sha256(x.numpy().tobytes()).digest() for x in images.images]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("COP_DATA", raising=False)
    forget()


# ------------------------------------------------------------------------------------------ the embedded subset


@pytest.fixture(scope="module")
def subset():
    return {split: load_data("demo", split) for split in SPLITS}


@pytest.fixture(scope="module")
def official():
    try:
        return fashion_files()
    except FileNotFoundError:
        pytest.skip("the official Fashion-MNIST files are not installed")


def test_subset_is_stratified_and_disjoint(subset):
    for split, per_class in {"train": 1000, "val": 200, "test": 1000}.items():
        data = subset[split]
        assert torch.bincount(data.labels).tolist() == [per_class] * 10
        assert data.images.shape == (10 * per_class, 1, 32, 32) and data.images.dtype == torch.uint8
        assert len(data.class_names) == 10 and (data.split, data.name) == (split, "fashion-subset")
        assert not data.images[..., :2].any() and not data.images[:, :, -2:].any()  # the border is zero
        assert data.images[..., 2:-2, 2:-2].float().mean() > 50  # and the garment is not
    sets = [set(digests(subset[s])) for s in SPLITS]
    assert len(sets[0] | sets[1] | sets[2]) == 22_000  # no image twice, in a split or across


def test_stored_subset_has_the_recorded_checksums_and_size():
    recorded = json.loads(recipe.CHECKSUMS.read_text())
    files = {name: (paths.embedded / name).read_bytes() for name in recorded["files"]}
    assert {name: recipe.sha256(data) for name, data in files.items()} == recorded["files"]
    assert len(files) == 3 and sum(map(len, files.values())) <= 8_500_000
    assert "Zalando SE" in (paths.embedded / "LICENSE").read_text()


def test_recipe_rebuilds_the_subset_byte_for_byte(official):
    built = recipe.build(official)
    recorded = json.loads(recipe.CHECKSUMS.read_text())
    assert recipe.checksums(official, built) == recorded
    for split, (_, packed) in built.items():
        assert packed == (paths.embedded / f"fashion_{split}.xz").read_bytes()


def test_recipe_writes_checks_and_refuses(tmp_path, monkeypatch, capsys):
    """The command on a small source of our own: it notices other rows, damage, and a source that is not the recorded."""
    store, source = tmp_path / "embedded", tmp_path / "source"
    store.mkdir()
    monkeypatch.setattr(paths, "embedded", store)
    monkeypatch.setattr(recipe, "CHECKSUMS", store / "checksums.json")
    monkeypatch.setattr(recipe, "RANKS", {"train": ("train", 0, 5), "val": ("train", 5, 7), "test": ("t10k", 0, 2)})
    write_fashion(source, 9, 3)
    assert recipe.main(["--source", str(source)]) == 0
    assert [len(load_data("demo", s)) for s in SPLITS] == [50, 20, 20]
    capsys.readouterr()

    def check():
        return recipe.main(["--source", str(source), "--check"]), capsys.readouterr().out

    stored = store / "fashion_val.xz"
    rows = lzma.decompress(stored.read_bytes())
    assert check()[0] == 0
    stored.write_bytes(lzma.compress(rows, preset=0))
    code, out = check()
    assert code == 0 and "fashion_val.xz: same rows, other compressor" in out and "fashion_train.xz: identical" in out
    for damaged in (lzma.compress(rows[785:]), b"not xz"):
        stored.write_bytes(damaged)
        code, out = check()
        assert code == 1 and "fashion_val.xz: DIFFERENT" in out
    stored.unlink()
    assert check()[0] == 1

    before = {p.name: p.read_bytes() for p in store.iterdir()}
    write_fashion(tmp_path / "foreign", 8, 3)
    assert recipe.main(["--source", str(tmp_path / "foreign")]) == 1
    assert "differs from checksums.json" in capsys.readouterr().err
    assert recipe.main(["--source", str(tmp_path / "nowhere")]) == 2
    assert {p.name: p.read_bytes() for p in store.iterdir()} == before


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"x" + b[1:], lambda b: b""])
def test_damaged_subset_is_one_clear_error(tmp_path, monkeypatch, damage):
    (tmp_path / "fashion_val.xz").write_bytes(damage((paths.embedded / "fashion_val.xz").read_bytes()))
    monkeypatch.setattr(paths, "embedded", tmp_path)
    with pytest.raises(ValueError, match="fashion_val.xz is damaged.*install the package again"):
        load_data("demo", "val")
    with pytest.raises(FileNotFoundError, match="fashion_test.xz is missing"):
        load_data("demo", "test")


# ------------------------------------------------------------------------------------------ the interface


def test_batch_is_scaled_and_flipped(subset):
    data = subset["val"]
    images, labels = data.batch([3, 7], flip=torch.tensor([True, False]))
    expected = data.images[[3, 7]].float() / 127.5 - 1
    assert images.dtype == torch.float32 and labels.tolist() == data.labels[[3, 7]].tolist()
    torch.testing.assert_close(images[0], expected[0].flip(-1))
    torch.testing.assert_close(images[1], expected[1])
    assert images.min() == -1 and images.max() <= 1
    pixels, label = data[3]
    assert torch.equal(pixels, data.images[3]) and label == labels[0] and isinstance(label, int)
    with pytest.raises(IndexError):
        data.batch([len(data)])


def test_a_data_set_is_indexed_and_iterated_as_others_are(subset):
    data = subset["val"]
    for chosen in (slice(4), [0, 1, 2, 3], torch.arange(4), np.arange(len(data)) < 4):
        part = data[chosen]
        assert isinstance(part, ImageSet) and len(part) == 4 and torch.equal(part.images, data.images[:4])
        assert part.class_names == data.class_names and part.split == "val"
    pairs = list(data[-3:])
    assert [y for _, y in pairs] == data.labels[-3:].tolist() and torch.equal(pairs[2][0], data[-1][0])
    with pytest.raises(IndexError):
        data[len(data)]
    images, labels = next(iter(torch.utils.data.DataLoader(data, batch_size=5)))
    assert torch.equal(images, data.images[:5]) and torch.equal(labels, data.labels[:5])


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="data 'folder' is registered already, by cop.data.sets.folder; choose another"):
        dataset("folder")(lambda cfg, split, root: None)


def test_limit_takes_the_first_of_every_class(subset):
    limited = load_data(smoke, "train")
    counts = torch.bincount(limited.labels, minlength=10)
    assert len(limited) == smoke.data.limit and counts.max() - counts.min() <= 1
    firsts = [digests(subset["train"])[int((subset["train"].labels == c).nonzero()[0])] for c in range(10)]
    assert set(firsts) <= set(digests(limited))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 70))
def test_first_stratified_is_as_even_as_the_classes_allow(labels, k):
    idx = first_stratified(labels, k).tolist()
    assert idx == sorted(set(idx)) and len(idx) == min(k, len(labels))
    rank = rank_in_class(labels)
    assert rank.tolist() == [labels[:i].count(y) for i, y in enumerate(labels)]
    left_out = set(range(len(labels))) - set(idx)
    assert all(rank[i] <= rank[j] for i in idx for j in left_out)


# ------------------------------------------------------------------------------------------ full Fashion-MNIST


def write_fashion(folder, per_class_train, per_class_test):
    folder.mkdir(parents=True)
    for part, per_class in (("train", per_class_train), ("t10k", per_class_test)):
        labels = np.tile(np.arange(10, dtype=np.uint8), per_class)
        images = np.zeros((len(labels), 28, 28), np.uint8)
        images[:, 0, :4] = np.arange(len(labels), dtype=">u4").view(np.uint8).reshape(-1, 4)  # its own number
        images[:, 1] = part == "train"
        for kind, code, array in (("images", 3, images), ("labels", 1, labels)):
            header = bytes([0, 0, 8, code]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{part}-{kind}-idx{code}-ubyte").write_bytes(header + array.tobytes())


def test_fashion_in_torchvisions_layout(tmp_path):
    write_fashion(tmp_path / "FashionMNIST" / "raw", 1600, 3)
    sets = {s: load_data(profile("fashion", 32, 1), s, tmp_path) for s in SPLITS}
    assert {s: torch.bincount(d.labels).unique().tolist() for s, d in sets.items()} == {
        "train": [1100], "val": [500], "test": [3]}  # fmt: skip
    assert len(set().union(*(digests(d) for d in sets.values()))) == 16_030


def test_subset_splits_lie_inside_the_full_splits(official, subset):
    for split in SPLITS:
        assert set(digests(subset[split])) <= set(digests(load_data(profile("fashion", 32, 1), split)))


def test_fashion_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist.*torchvision.datasets.FashionMNIST"):
        load_data(profile("fashion", 32, 1), "train", tmp_path)
    write_fashion(tmp_path / "raw", 2, 2)
    images = tmp_path / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-5])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.*get it again"):
        load_data(profile("fashion", 32, 1), "train", tmp_path)
    for garbage in (b"", b"\0\0\x08", b"GIF89a" * 10):
        images.write_bytes(garbage)
        with pytest.raises(ValueError, match="cannot read"):
            read_idx(images)
    labels = tmp_path / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 3]))
    with pytest.raises(ValueError, match="do not belong together"):
        load_data(profile("fashion", 32, 1), "test", tmp_path)
    with pytest.raises(ValueError, match="image_size=64"):
        load_data(profile("fashion-subset", 64, 1), "test")


# ------------------------------------------------------------------------------------------ Tiny-ImageNet

WNIDS = ("n02", "n01", "n03")


def tiny_files():
    """A tree of 3 classes x 20 training images and 2 labelled validation images a class, as name -> bytes.

    n01_3 is a copy of a validation image, n02_4 a copy of n02_19, which the split rule holds out.
    """
    files = {f"val/images/val_{i}.JPEG": encoded(1000 + i) for i in range(6)}
    for c, w in enumerate(WNIDS):
        files |= {f"train/{w}/images/{w}_{i}.JPEG": encoded(100 * c + i) for i in range(20)}
    lines = [f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t9\t9\n" for i in range(6)]
    files["val/val_annotations.txt"] = "".join(lines).encode()
    files["words.txt"] = b"n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn99\tunused\n"
    files["train/n01/images/n01_3.JPEG"] = files["val/images/val_0.JPEG"]
    files["train/n02/images/n02_4.JPEG"] = files["train/n02/images/n02_19.JPEG"]
    return files


def write_zip(path, files, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(prefix + name, data)


def write_tree(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def place(layout, root):
    """Write the tiny tree in one of the layouts that users have; returns the root to give."""
    files = tiny_files()
    if layout == "two zips":
        train = {n: d for n, d in files.items() if n.startswith("train")}
        write_zip(root / "tiny_imagenet_train_100pc.zip", train)
        write_zip(root / "tiny_imagenet_val.zip", {n: d for n, d in files.items() if n not in train})
    elif layout == "one zip":
        write_zip(root / "tiny-imagenet-200.zip", files, "tiny-imagenet-200/")
        return root / "tiny-imagenet-200.zip"
    else:
        write_tree(root / "tiny-imagenet-200", files)
        return root if layout == "parent" else root / "tiny-imagenet-200"
    return root


@pytest.mark.parametrize("layout", ["two zips", "one zip", "folder", "parent"])
def test_tiny_imagenet_in_every_layout(tmp_path, layout):
    root = place(layout, tmp_path)
    sets = {s: load_data(profile("tiny-imagenet"), s, root) for s in SPLITS}
    assert sets["test"].class_names == ["goldfish", "bullfrog", "n03"]  # sorted by wnid, first synonym
    counts = {s: torch.bincount(d.labels).tolist() for s, d in sets.items()}
    assert counts == {"train": [17, 17, 18], "val": [2, 2, 2], "test": [2, 2, 2]}  # two copies left out
    held_out = [noise(100 * c + i) for c in range(3) for i in (9, 19)]
    assert {x.tobytes() for x in held_out} == {x.permute(1, 2, 0).numpy().tobytes() for x in sets["val"].images}
    assert torch.equal(sets["test"].images[4].permute(1, 2, 0), torch.from_numpy(np.array(noise(1004))))
    assert sets["test"].labels.tolist() == [1, 0, 2, 1, 0, 2]
    assert len(set().union(*(digests(d) for d in sets.values()))) == sum(map(len, sets.values()))


PARTS = ("tiny_imagenet_train_100pc.zip", "tiny_imagenet_train_20classes_100to499.zip", "tiny_imagenet_val.zip")


def place_parts(root, first):
    """Three zips: the first images of each class, the others of every second class, the rest."""
    train = {n: d for n, d in tiny_files().items() if n.startswith("train")}
    number = {n: int(n.rsplit("_", 1)[1].removesuffix(".JPEG")) for n in train}
    few = {n: d for n, d in train.items() if number[n] < first}
    more = {n: d for n, d in train.items() if n not in few and "n02" not in n}
    root.mkdir()
    for name, files in zip(PARTS, (few, more, {n: d for n, d in tiny_files().items() if n not in train}), strict=True):
        write_zip(root / name, files)
    return root


def tiny(**kwargs):
    return profile("tiny-imagenet", num_classes=3, **kwargs)


@pytest.mark.parametrize("kwargs", [{"per_class": 10}, {"per_class": 20, "class_step": 2}])
def test_the_first_images_of_a_class_are_the_same_from_the_whole_and_from_parts(tmp_path, kwargs):
    whole, parts = place("one zip", tmp_path), place_parts(tmp_path / "parts", first=10)
    for split in SPLITS:
        a, b = (load_data(tiny(**kwargs), split, root) for root in (whole, parts))
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    numbers = range(kwargs["per_class"])
    first = {np.asarray(Image.open(BytesIO(tiny_files()[f"train/{w}/images/{w}_{i}.JPEG"]))).tobytes() for w in WNIDS for i in numbers}
    used = [x.permute(1, 2, 0).numpy().tobytes() for s in ("train", "val") for x in load_data(tiny(**kwargs), s, parts).images]
    assert set(used) <= first and len(used) >= len(WNIDS[:: kwargs.get("class_step", 1)]) * len(numbers) - 2  # two copies
    assert len(load_data(tiny(), "train", whole)) > len(load_data(tiny(per_class=10), "train", whole))  # not one cached file


def test_a_class_with_fewer_images_than_per_class_is_named(tmp_path):
    parts = place_parts(tmp_path / "parts", first=10)
    with pytest.raises(ValueError, match=r"class n02 of .*parts has 10 training images; expected per_class, 11 \(1 classes"):
        load_data(tiny(per_class=11), "train", parts)
    for bad in (tiny(per_class=0), profile("folder", per_class=5)):
        with pytest.raises(ValueError, match="per_class is [05] for data .*; expected None, or a positive number"):
            load_data(bad, "train", parts)


def test_tiny_imagenet_itself_is_known_by_name_and_anything_else_by_its_files(tmp_path, monkeypatch):
    def source(root, **kwargs):
        return data_config(tiny(root=str(root), **kwargs).data).get("source")

    whole, parts = place("one zip", tmp_path), place_parts(tmp_path / "parts", first=10)
    (tmp_path / "unpacked").mkdir()
    unpacked = place("folder", tmp_path / "unpacked")
    assert source(whole) == source(unpacked) != source(parts) and source(whole, per_class=10) == source(parts, per_class=10)
    assert len({source(whole), source(whole, per_class=10), source(whole, class_step=2), source(parts)}) == 4
    assert source(tmp_path / "nowhere") is None
    # as if these were the published classes and labels
    known = (sorted(WNIDS), sorted([f"val_{i}.JPEG", WNIDS[i % 3]] for i in range(6)))
    monkeypatch.setattr(tiny_imagenet, "OFFICIAL", hashlib.sha256(repr(known).encode()).hexdigest()[:16])
    monkeypatch.setattr(tiny_imagenet, "PER_CLASS", 20)
    forget()
    assert source(whole) is source(unpacked) is source(parts, per_class=10) is source(parts, per_class=20, class_step=2) is None
    assert source(parts) and source(parts, per_class=20)


def test_tiny_imagenet_cache_is_used_renewed_and_survives_damage(tmp_path, monkeypatch):
    root = place("one zip", tmp_path)
    first = load_data(profile("tiny-imagenet"), "val", root)
    (cached,) = (paths.cache() / "data").iterdir()  # one file, no temporary left behind
    monkeypatch.setattr("cop.data.sets.tiny_imagenet.decode", None)  # decoding again would fail
    forget()
    assert torch.equal(load_data(profile("tiny-imagenet"), "val", root).images, first.images)
    monkeypatch.undo()
    monkeypatch.setenv("COP_CACHE", str(cached.parent.parent))
    cached.write_bytes(cached.read_bytes()[:100])
    forget()
    assert torch.equal(load_data(profile("tiny-imagenet"), "val", root).images, first.images)
    files = tiny_files() | {"train/n01/images/n01_9.JPEG": encoded(5555)}
    write_zip(root, files, "tiny-imagenet-200/")  # other content, so another key
    assert load_data(profile("tiny-imagenet"), "val", root) is load_data(profile("tiny-imagenet"), "val", root), "read once"
    forget()
    assert not torch.equal(load_data(profile("tiny-imagenet"), "val", root).images, first.images)


def test_companions_of_macos_count_as_nothing(tmp_path):
    """`._name` beside every file of a disk that macOS wrote to, and the same names in its zips."""
    files = tiny_files()
    hidden = {f"{n.rpartition('/')[0]}/._{n.rpartition('/')[2]}".lstrip("/"): b"\0\5\x16\7" for n in files}
    write_zip(tmp_path / "one.zip", files | hidden)
    write_tree(tmp_path / "tree", files | hidden | {"train/.thumbnails/x/1.JPEG": encoded(1)})
    for root in (tmp_path / "one.zip", tmp_path / "tree"):
        for split, count in (("train", 52), ("val", 6), ("test", 6)):
            assert len(load_data(profile("tiny-imagenet"), split, root)) == count
    write_tree(tmp_path / "photos", {"cat/1.png": encoded(1), "cat/._1.png": b"x", "cat/.trash/2.png": encoded(2), "._cat.png": b"x"})
    assert len(folder(tmp_path / "photos")) == 1


def test_tiny_imagenet_errors(tmp_path):
    natural = profile("tiny-imagenet")
    for root in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match="tiny-imagenet-200.zip"):
            load_data(natural, "train", root)
    files = tiny_files()
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"PK\3\4 and then nothing")
    with pytest.raises(ValueError, match="bad.zip is not a whole zip"):
        load_data(natural, "train", bad)
    write_zip(bad, files | {"train/n01/images/n01_2.JPEG": encoded(3)[:50]})
    with pytest.raises(ValueError, match=r"n01_2\.JPEG"):
        load_data(natural, "train", bad)
    write_zip(bad, files | {"val/val_annotations.txt": b"val_0.JPEG\tn77\t0\n"})
    with pytest.raises(ValueError, match=r"names val_0\.JPEG"):
        load_data(natural, "test", bad)
    write_zip(bad, files)
    content = bytearray(bad.read_bytes())
    content[content.index(files["val/images/val_2.JPEG"]) + 30] ^= 1  # one bit of one member
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=r"val/images/val_2\.JPEG in .*bad\.zip"):
        load_data(natural, "test", bad)
    assert not (paths.cache() / "data").exists()  # failures leave no cache


# ------------------------------------------------------------------------------------------ which data, for hashes


def test_named_and_embedded_data_keep_their_keys(tmp_path, monkeypatch):
    """Whatever $COP_DATA is: the released artefacts are found by these."""
    noise(0).save(tmp_path / "0.png")
    monkeypatch.setenv("COP_DATA", str(tmp_path))
    for name in ("demo", "smoke", "natural", "paper", "paper-dry-run"):
        assert data_config(get_profile(name).data).keys() <= {f.name for f in fields(DataConfig)}
    assert key(pipeline.images_config(get_profile("demo"))) in {p.name.partition("-")[2] for p in paths.released.glob("tokens-*")}


def test_two_folders_have_two_fingerprints_wherever_they_lie(tmp_path):
    def source(root):
        return data_config(DataConfig("folder", str(root))).get("source")

    for name in "abcdef":
        for label in ("x", "y"):
            (tmp_path / name / label).mkdir(parents=True)
            noise(0 if name == "c" else 1).save(tmp_path / name / label / "0.bmp")  # all of one size
    (tmp_path / "d" / "x" / "0.bmp").rename(tmp_path / "d" / "x" / "1.bmp")
    (tmp_path / "e" / "y").rename(tmp_path / "e" / "z")
    noise(1).save(tmp_path / "f" / "x" / "1.bmp")
    found = {name: source(tmp_path / name) for name in "abcdef"}
    assert found["a"] == found["b"] and len(set(found.values())) == 5 and None not in found.values()
    assert source(tmp_path / "later") is None
    (tmp_path / "a").rename(tmp_path / "later")
    assert source(tmp_path / "later") == found["a"]  # that there was nothing is not remembered


def test_fashion_mnist_itself_is_known_by_name_and_other_idx_files_by_their_contents(tmp_path, monkeypatch):
    def source(root):
        return data_config(DataConfig("fashion", str(root))).get("source")

    write_fashion(tmp_path / "a", 1, 1), write_fashion(tmp_path / "b", 2, 1)
    assert source(tmp_path / "nowhere") is None and None not in {source(tmp_path / "a"), source(tmp_path / "b")}
    assert source(tmp_path / "a") != source(tmp_path / "b")
    (tmp_path / "embedded").mkdir()
    sums = {row.split()[0]: row.split()[1] for row in fashion_contents(DataConfig("fashion"), tmp_path / "a")}
    (tmp_path / "embedded" / "checksums.json").write_text(json.dumps({"sources": sums}))
    monkeypatch.setattr(paths, "embedded", tmp_path / "embedded")
    forget()
    assert source(tmp_path / "a") is None and source(tmp_path / "b")


# ------------------------------------------------------------------------------------------ folders


def test_flat_and_class_folders(tmp_path):
    flat = tmp_path / "flat"
    write_tree(flat, {f"{i}.png": encoded(i) for i in range(3)} | {"notes.txt": b"hello", ".hidden.png": b"x"})
    photos = folder(flat)
    assert photos.images.shape == (3, 3, 8, 8) and photos.labels.tolist() == [0, 0, 0]
    assert photos.class_names == ["flat"]
    classes = tmp_path / "classes"
    write_tree(classes, {f"{c}/{i:02}.png": encoded(50 * ord(c) + i) for c in "ba" for i in range(10)})
    sets = {s: load_data(profile("folder"), s, classes) for s in SPLITS}
    assert {s: torch.bincount(d.labels).tolist() for s, d in sets.items()} == {
        "train": [8, 8], "val": [1, 1], "test": [1, 1]}  # fmt: skip
    assert sets["val"].class_names == ["a", "b"]
    assert np.array_equal(sets["test"].images[0], decode(classes / "a" / "09.png", 8, 3))


def test_folder_with_split_folders_numbers_classes_once(tmp_path):
    names = "train/cat/1.png", "train/dog/2.png", "val/dog/3.png"
    write_tree(tmp_path, {name: encoded(i) for i, name in enumerate(names)})
    val = load_data(profile("folder"), "val", tmp_path)
    assert val.labels.tolist() == [1] and val.class_names == ["cat", "dog"]
    with pytest.raises(FileNotFoundError, match="no folder test"):
        load_data(profile("folder"), "test", tmp_path)


def test_folder_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="needs root"):
        load_data(profile("folder"), "train")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no images in"):
        folder(tmp_path)
    write_tree(tmp_path, {"good.png": encoded(1), "corrupt.png": encoded(2)[:100]})
    with pytest.raises(ValueError, match=r"corrupt\.png.*replace or remove it"):
        folder(tmp_path)
    (tmp_path / "corrupt.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")  # a format we do not open
    with pytest.raises(ValueError, match=r"corrupt\.png"):
        folder(tmp_path)
    (tmp_path / "corrupt.png").unlink()
    with pytest.raises(FileNotFoundError, match="too few for a val split"):
        load_data(profile("folder"), "val", tmp_path)
    write_tree(tmp_path, {"cat/1.png": encoded(4)})
    with pytest.raises(ValueError, match="beside class folders"):
        folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="check the path"):
        decode(tmp_path / "absent.png", 8, 3)

    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)  # a folder without read permission, also when root runs the tests
    with pytest.raises(FileNotFoundError, match="cannot read folder.*Permission denied"):
        folder(tmp_path / "cat")


def test_photographs_of_a_folder_and_below(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "heif", lambda: ())
    write_tree(tmp_path, {n: encoded(i) for i, n in enumerate(("b/z/1.png", "b/2.JFIF", "a.png", "b.png", "b/._2.jpg", ".x/3.png",
                                                              "b/a.png.order.png", "c.dng", "d/e.heic", "d/f.HEIC", "notes.txt"))})
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "d" / "round").symlink_to(tmp_path)  # a link to a folder is followed, but not round in circles
    (tmp_path / "elsewhere").symlink_to(tmp_path.with_name("other"))
    write_tree(tmp_path.with_name("other"), {"linked.png": encoded(9)})
    files, left_out = pictures.photographs([tmp_path, str(tmp_path / "b.png"), tmp_path / "d/../b/2.JFIF", tmp_path / "b/._2.jpg"])
    assert [p.relative_to(tmp_path).as_posix() for p in files] == [
        "a.png", "b/2.JFIF", "b/z/1.png", "b.png", "broken.jpg", "elsewhere/linked.png"]  # fmt: skip
    lines = pictures.told(left_out)
    assert len(left_out) == 3 and len(lines) == 2
    assert f"{tmp_path}/c.dng: the format is not read" in lines[0]
    assert f"2 files such as {tmp_path}/d/e.heic: HEIC is read with the optional package pillow-heif" in lines[1]
    with pytest.raises(FileNotFoundError, match="no photographs among what was given"):
        pictures.photographs([tmp_path / "b/a.png.order.png"])
    _, left_out = pictures.photographs(["https://example.org/a.jpg", "*.jpg", "~nobody-here/a.jpg", "x" * 9000])
    (url, pattern, home, long) = pictures.told(left_out)
    assert "looks like a URL" in url and "https://example.org" in url and "patterns are not expanded" in pattern
    assert "check the path" in home and len(long) < 300
    with pytest.raises(FileNotFoundError, match="it is a broken link"):
        pictures.read(tmp_path / "broken.jpg")


def test_one_unreadable_folder_does_not_hide_the_others(tmp_path, monkeypatch):
    write_tree(tmp_path, {"a/1.png": encoded(1), "b/2.png": encoded(2)})
    scan = pictures.os.scandir

    def refuse(path):
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    files, left_out = pictures.photographs([tmp_path])
    assert [f.name for f in files] == ["2.png"] and "cannot read folder" in left_out[tmp_path / "a"]


def test_what_cannot_be_read_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "heif", lambda: ())
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")  # HEIC under a wrong name
    with pytest.raises(ValueError, match="phone.jpg.*pip install pillow-heif"):
        pictures.read(tmp_path / "phone.jpg")
    noise(1).save(tmp_path / "large.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # the picture has 64
        with pytest.raises(ValueError, match=r"large.png.*64 pixels.*Scale it down, or, if you trust the file, set PIL"):
            pictures.read(tmp_path / "large.png")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ValueError, match="large.png: Permission denied; check its permissions"):
        pictures.read(tmp_path / "large.png")


def test_heic_is_read_by_the_optional_package(tmp_path):
    pytest.importorskip("pillow_heif", reason="reading HEIC needs `pip install pillow-heif`")
    assert pictures.heif() == ("HEIF",)
    Image.new("RGB", (64, 48), (200, 100, 50)).save(tmp_path / "a.heic")
    assert pictures.photographs([tmp_path]) == ([tmp_path / "a.heic"], {})
    assert np.abs(decode(tmp_path / "a.heic", 8, 3).mean((1, 2)) - (200, 100, 50)).max() < 4


# ------------------------------------------------------------------------------------------ one image


def test_center_crop_is_the_centre():
    x = np.zeros((8, 12, 3), np.uint8)
    x[:, 2:10] = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(x), 8)), x[:, 2:10])
    tall = Image.fromarray(x).transpose(Image.Transpose.TRANSPOSE)
    assert np.array_equal(np.asarray(center_crop(tall, 8)), x[:, 2:10].transpose(1, 0, 2))


def test_center_crop_halves_by_box_means():
    x = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    means = x.reshape(16, 2, 16, 2).mean((1, 3))
    assert np.abs(np.asarray(center_crop(Image.fromarray(x), 16, 1)) - means).max() <= 1  # Pillow rounds once per axis


SIDES = st.integers(1, 70)
MODES = st.sampled_from("1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I F I;16 I;16L I;16B".split())


@given(SIDES, SIDES, st.sampled_from([4, 16]), MODES)
def test_center_crop_of_any_size_and_mode(width, height, size, mode):
    for channels, expected in ((1, "L"), (3, "RGB")):
        cropped = center_crop(Image.new(mode, (width, height)), size, channels)
        assert cropped.size == (size, size) and cropped.mode == expected


def test_orientation_transparency_and_depth():
    x = np.arange(64, dtype=np.uint8).reshape(8, 8)
    image = Image.fromarray(x)
    image.getexif()[0x0112] = 6  # taken with the camera on its side: turn clockwise
    buffer = BytesIO()
    image.save(buffer, "PNG", exif=image.getexif())
    buffer.seek(0)
    assert np.array_equal(decode(buffer, 8, 1)[0], np.rot90(x, -1))
    assert (decode(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 8, 3) == 255).all()  # transparent is white
    grey = decode(Image.fromarray(x), 8, 3)
    assert grey.shape == (3, 8, 8) and all(np.array_equal(c, x) for c in grey)
    deep = Image.fromarray(x.astype(np.uint16) * 257)
    assert np.array_equal(decode(deep, 8, 1)[0], x)


X = np.arange(64).reshape(8, 8) * 4  # 0 .. 252


@pytest.mark.parametrize("name, values, want", [
    ("I of 8 bits", X.astype(np.int32), X),
    ("I of 16 bits", X.astype(np.int32) * 257, X),
    ("I of 32 bits", X.astype(np.int32) * 2**22 - 2**29, X / 252 * 255),
    ("a mask", (X > 99).astype(np.int32), (X > 99) * 255),
    ("labels", X.astype(np.int32) // 28, X // 28 / 9 * 255),
    ("F of 0..1", X.astype(np.float32) / 255, X),
    ("F of 8 bits", X.astype(np.float32), X),
    ("F of 16 bits", X.astype(np.float32) * 257, X),
    ("F of high dynamic range", X.astype(np.float32) / 200, X / 252 * 255),
    ("F with negative values", X.astype(np.float32) / 126 - 1, X / 252 * 255),
    ("a constant", np.full((8, 8), -7, np.int32), X * 0),
    ("16 bits", X.astype(np.uint16) * 257, X),
    ("12 bits in 16", X.astype(np.uint16) * 16, X / 16),
])  # fmt: skip
def test_integers_and_floats_are_scaled_as_the_rule_says(name, values, want, tmp_path):
    image = Image.fromarray(values)
    assert image.mode in ("I", "F", "I;16")
    assert np.abs(decode(image, 8, 1)[0].astype(float) - want).max() <= 1
    image.save(tmp_path / "a.tif")
    assert np.array_equal(decode(tmp_path / "a.tif", 8, 1), decode(image, 8, 1))


def test_other_modes_are_what_a_viewer_shows(tmp_path):
    grey = X.astype(np.uint8)
    Image.fromarray(X.astype(np.uint16) * 257).save(tmp_path / "a.pgm")
    assert np.array_equal(decode(tmp_path / "a.pgm", 8, 1)[0], X)
    (tmp_path / "b.pfm").write_bytes(b"Pf\n8 8\n-1.0\n" + (X[::-1] / 255).astype("<f4").tobytes())  # rows from below
    assert np.array_equal(decode(tmp_path / "b.pfm", 8, 1)[0], X)
    premultiplied = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(grey * 0 + 128)]).convert("La")
    assert np.abs(decode(premultiplied, 8, 1)[0].astype(float) - (X / 2 + 127)).max() <= 2
    colour = noise(3)
    for mode in ("LAB", "HSV", "YCbCr", "CMYK", "RGBX"):
        assert np.abs(decode(colour.convert(mode), 8, 3).astype(int) - decode(colour, 8, 3)).mean() < 4, mode
        assert np.abs(decode(colour.convert(mode), 8, 1).astype(int) - decode(colour, 8, 1)).mean() < 4, mode
    Image.fromarray(X.astype(np.uint16) * 257).save(tmp_path / "c.png", transparency=40 * 257)
    assert np.array_equal(decode(tmp_path / "c.png", 8, 1)[0], np.where(X == 40, 255, X))
    with pytest.raises(ValueError, match="mode F with NaN or infinite values"):
        decode(Image.fromarray(np.full((8, 8), np.nan, np.float32)), 8, 1)


# ------------------------------------------------------------------------------------------ arguments


def test_bad_arguments_name_the_value_and_the_choices():
    cases = [
        ("nope", "train", "unknown profile 'nope'; expected one of smoke, demo"),
        ("demo", "valid", "unknown split 'valid'; expected one of train, val, test"),
        (profile("mnist"), "train", "unknown data 'mnist'; expected one of fashion-subset"),
        (profile("fashion-subset", 32, 1, patch=5), "train", "32 is not divisible into patches of 5 px"),
        (profile("fashion-subset", 32, 2), "train", "channels is 2"),
        (profile("fashion-subset", 32, 1, limit=0), "train", "limit is 0"),
        (profile("fashion-subset", 32, 1, num_classes=4), "test", "10 classes, num_classes is 4"),
    ]
    for name, split, message in cases:
        with pytest.raises(ValueError, match=message):
            load_data(name, split)


def test_root_comes_from_argument_profile_or_environment(tmp_path, monkeypatch):
    for name in "abc":
        write_tree(tmp_path / name / "train", {f"{i}.png": encoded(i) for i in range("abc".index(name) + 1)})
    monkeypatch.setenv("COP_DATA", str(tmp_path / "a"))
    assert len(load_data(profile("folder"), "train")) == 1
    configured = profile("folder", root=str(tmp_path / "b"))
    assert len(load_data(configured, "train")) == 2
    assert len(load_data(configured, "train", tmp_path / "c")) == 3


# ------------------------------------------------------------------------------------------------- cross-validation


@given(classes=st.integers(2, 5), each=st.integers(50, 80), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_every_image_is_tested_in_one_fold_and_never_trained_on_there(classes, each, seed):
    labels = torch.arange(classes).repeat_interleave(each)[torch.randperm(classes * each, generator=torch.Generator().manual_seed(seed))]
    tested = []
    for fold in range(FOLDS):
        parts = {split: fold_rows(labels, fold, split) for split in ("train", "val", "test", "pool")}
        assert sorted(torch.cat([parts[s] for s in ("train", "val", "test")]).tolist()) == parts["pool"].tolist()
        count = labels[parts["test"]].bincount(minlength=classes)
        assert count.max() - count.min() == 0 and len(parts["val"]) > 0
        tested += parts["test"].tolist()
    assert sorted(tested) == list(range(classes * each))
    with pytest.raises(ValueError, match="fold is 5; expected 0 to 4"):
        fold_rows(labels, FOLDS, "test")


def test_the_pool_is_all_splits_and_a_fold_a_part_of_it():
    pool = load_data(smoke, "pool")
    assert len(pool) == sum(len(load_data(smoke, split)) for split in ("train", "val", "test"))
    first = load_data(replace(smoke, data=replace(smoke.data, fold=0)), "test")
    rows = fold_rows(pool.labels, 0, "test")
    assert torch.equal(first.images, pool.images[rows]) and torch.equal(first.labels, pool.labels[rows]) and first.split == "test"
