"""Tiny-ImageNet: 200 classes of 64 px, from the official zip, its parts, or the unpacked folder."""

import hashlib
import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from cop import paths
from cop.configs import DataConfig
from cop.data.images import ImageSet, dataset, rank_in_class
from cop.data.pictures import SUFFIXES, decode, save_npz, walk

TINY_HELP = ("Download http://cs231n.stanford.edu/tiny-imagenet-200.zip (about 240 MB) and give the zip, the "
             "folder that holds it, or the unpacked folder as root=... or in COP_DATA")  # fmt: skip
CACHE_VERSION = 1  # raise it when decoding or the split rule changes
LARGEST = 2**26  # bytes of a file, unpacked: a thousand times an image's
PER_CLASS = 500  # training images of a class, WNID_0.JPEG to WNID_499.JPEG
OFFICIAL = "7f867564e68da28e"  # of the WordNet ids and the labels of the validation images


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > LARGEST:
        raise ValueError(f"{name} in {archive.filename} has {size:,} bytes; expected at most {LARGEST:,}. {TINY_HELP}")
    try:
        return archive.read(name)
    except Exception as error:  # damaged, encrypted, packed by an unknown method: half a dozen types
        raise ValueError(f"cannot read {name} in {archive.filename}: {error}. {TINY_HELP}") from error


def _numbered(name: str) -> tuple[int, str]:
    """The key that sorts n01443537_2 before n01443537_10."""
    return len(name), name


class _Tree:
    """Files of a folder, a zip, or several zips by their relative name, read without unpacking."""

    def __init__(self, root: Path):
        self.read: dict[str, Callable[[], bytes]] = {}  # name -> its bytes
        self.size: dict[str, int] = {}  # name -> how many bytes
        zips = [root] if root.is_file() else sorted(root.glob("tiny*imagenet*.zip"))
        places = (root, root / "tiny-imagenet-200", root / "tiny-imagenet")
        unpacked = [p for p in places if (p / "train").is_dir()]
        state = [CACHE_VERSION]  # whatever changes when the decoded data change: the key of the cache
        if unpacked:
            for path in sorted(walk(unpacked[0])):
                name, stat = path.relative_to(unpacked[0]).as_posix(), path.stat()
                self.read[name], self.size[name] = path.read_bytes, stat.st_size
                state.append((str(path), stat.st_size, stat.st_mtime_ns))
        else:
            for path in zips:
                try:
                    archive = zipfile.ZipFile(path)
                except Exception as error:  # of a damaged directory: half a dozen types
                    raise ValueError(f"{path} is not a whole zip file ({error}). {TINY_HELP}") from error
                for member in archive.infolist():
                    if member.filename.rpartition("/")[2].startswith("."):  # a companion that macOS adds
                        continue
                    name = member.filename.removeprefix("tiny-imagenet-200/")
                    self.read[name] = partial(_read_member, archive, member.filename)
                    self.size[name] = member.file_size
                state.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
        self.key = hashlib.sha256(repr(state).encode()).hexdigest()[:16]

    def train(self, cfg: DataConfig) -> dict[str, list[str]]:
        """Class -> its training images in the order of their numbers, the first `per_class` of them; classes are sorted."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.read, key=_numbered):
            if name.startswith("train/") and name.lower().endswith(SUFFIXES):
                found.setdefault(name.split("/")[1], []).append(name)
        return {wnid: found[wnid][: cfg.per_class] for wnid in sorted(found)}

    def annotated(self) -> list[list[str]]:
        """File and class of every labelled validation image."""
        lines = self.text("val/val_annotations.txt")
        if short := [line for line in lines if len(line) < 2]:
            raise ValueError(f"val/val_annotations.txt has a line {short[0]}; expected a file and a class. {TINY_HELP}")
        return [line[:2] for line in lines]

    def text(self, name: str) -> list[list[str]]:
        """The tab-separated lines of a text file."""
        try:
            return [line.split("\t") for line in self.read[name]().decode().splitlines() if line]
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is no text ({error}). {TINY_HELP}") from error


@lru_cache(maxsize=1)  # a hundred thousand files are looked at once per process
def tree(root: Path) -> _Tree:
    return _Tree(root)


def tiny_contents(cfg: DataConfig, root: Path | None) -> list[str] | None:
    """Name, size and class of the images that `tiny_imagenet` takes; None where they are Tiny-ImageNet's own: the official
    classes, validation labels, and names of training images, as many of a class as `per_class` asks for, or all 500."""
    files = tree(root) if root and root.exists() else None
    if files is None or "val/val_annotations.txt" not in files.read:
        return []
    train, annotated = files.train(cfg), sorted(files.annotated())
    numbers = range(cfg.per_class or PER_CLASS)
    in_use = list(train)[:: cfg.class_step or 1]
    whole = all(train[w] == [f"train/{w}/images/{w}_{i}.JPEG" for i in numbers] for w in in_use)
    if whole and hashlib.sha256(repr((list(train), annotated)).encode()).hexdigest()[:16] == OFFICIAL:
        return None
    rows = [f"{name} {files.size[name]}" for w in in_use for name in train[w]]
    return rows + [f"val/images/{file} {files.size.get(f'val/images/{file}')} {w}" for file, w in annotated]


@dataset("tiny-imagenet", contents=tiny_contents)
def tiny_imagenet(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    """Raises FileNotFoundError where a part is missing, ValueError naming a class with fewer than `per_class` training
    images (of the classes that `class_step` leaves), or a damaged file."""
    if root is None or not root.exists():
        raise FileNotFoundError(f"Tiny-ImageNet needs a root that exists, got {root}. {TINY_HELP}")
    files = tree(root)
    train = files.train(cfg)
    has_val = "val/val_annotations.txt" in files.read
    if not train or not has_val:
        raise FileNotFoundError(f"{root} holds {sum(map(len, train.values()))} files train/<wnid>/images/*.JPEG and "
                                f"{'the' if has_val else 'no'} file val/val_annotations.txt; expected both. "
                                f"{TINY_HELP}")  # fmt: skip
    in_use = list(train)[:: cfg.class_step or 1]  # what others hold has no say in which copies are left out
    few = [w for w in in_use if len(train[w]) < (cfg.per_class or 0)]
    if few:
        raise ValueError(f"class {few[0]} of {root} has {len(train[few[0]])} training images; expected per_class, "
                         f"{cfg.per_class} ({len(few)} classes have fewer): complete the data, or lower per_class. {TINY_HELP}")  # fmt: skip
    words = {line[0]: line[1] for line in files.text("words.txt") if len(line) > 1} if "words.txt" in files.read else {}
    class_names = [words.get(w, w).split(",")[0] for w in train]  # the first of the synonyms

    chosen = "".join(f"-{k}{v}" for k, v in (("first", cfg.per_class), ("step", cfg.class_step)) if v and split != "test")
    name = f"tiny-imagenet-{split}-{cfg.image_size}px-{cfg.channels}ch{chosen}-{files.key}.npz"
    cached = paths.cache() / "data" / name
    try:
        with np.load(cached, allow_pickle=False) as stored:
            images, labels = stored["images"], stored["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged: decode again
        names = _tiny_split(files, sorted((n for w in in_use for n in train[w]), key=_numbered), list(train), split)
        images = np.empty((len(names), cfg.channels, cfg.image_size, cfg.image_size), np.uint8)
        for image, name in zip(images, names, strict=True):
            file = BytesIO(files.read[name]())
            image[:] = decode(file, cfg.image_size, cfg.channels, f"{name} in {root}")
        labels = np.array(list(names.values()), np.int64)
        save_npz(cached, images=images, labels=labels)
    return ImageSet(torch.from_numpy(images), labels, class_names, split, cfg.name)


def _tiny_split(files: _Tree, train: list[str], wnids: list[str], split: str) -> dict[str, int]:
    """Name -> label of a split's images. Train omits exact copies of val and test, val those of test."""
    label = {w: i for i, w in enumerate(wnids)}
    annotated = files.annotated()
    missing = [f for f, w in annotated if w not in label or f"val/images/{f}" not in files.read]
    if missing:
        raise ValueError(f"val/val_annotations.txt names {missing[0]}, whose image or training class is "
                         f"missing; {len(missing)} such lines. {TINY_HELP}")  # fmt: skip
    test = {f"val/images/{f}": label[w] for f, w in annotated}
    if split == "test":
        return test
    labels = [label[n.split("/")[1]] for n in train]
    held_out = rank_in_class(labels) % 10 == 9  # the same images whether a class has 100 or 500
    digest = {n: hashlib.md5(files.read[n](), usedforsecurity=False).digest() for n in [*test, *train]}
    seen = {digest[n] for n in test}
    val = {n: y for n, y, v in zip(train, labels, held_out, strict=True) if v and digest[n] not in seen}
    if split == "val":
        return val
    seen |= {digest[n] for n in val}
    return {n: y for n, y, v in zip(train, labels, held_out, strict=True) if not v and digest[n] not in seen}
