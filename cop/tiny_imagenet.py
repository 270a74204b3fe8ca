"""Tiny-ImageNet: 200 classes of 64 px, from the official zip, its parts, or the unpacked folder."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from cop import paths
from cop.images import SUFFIXES, ImageSet, decode, rank_in_class, save_npz, walk
from cop.profiles import DataConfig

TINY_HELP = ("Download http://cs231n.stanford.edu/tiny-imagenet-200.zip (about 240 MB) and give the zip, the "
             "folder that holds it, or the unpacked folder as root=... or in COP_DATA")  # fmt: skip
CACHE_VERSION = 1  # raise it when decoding or the split rule changes


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"cannot read {name} in {archive.filename}: {error}. {TINY_HELP}") from error


class _Tree:
    """Files of a folder, a zip, or several zips by their relative name, read without unpacking."""

    def __init__(self, root: Path):
        self.read: dict[str, Callable[[], bytes]] = {}  # name -> its bytes
        zips = [root] if root.is_file() else sorted(root.glob("tiny*imagenet*.zip"))
        places = (root, root / "tiny-imagenet-200", root / "tiny-imagenet")
        unpacked = [p for p in places if (p / "train").is_dir()]
        state = [CACHE_VERSION]  # whatever changes when the decoded data change: the key of the cache
        if unpacked:
            for path in sorted(walk(unpacked[0])):
                self.read[path.relative_to(unpacked[0]).as_posix()] = path.read_bytes
                stat = path.stat()
                state.append((str(path), stat.st_size, stat.st_mtime_ns))
        else:
            for path in zips:
                try:
                    archive = zipfile.ZipFile(path)
                except zipfile.BadZipFile as error:
                    raise ValueError(f"{path} is not a whole zip file ({error}). {TINY_HELP}") from error
                for name in archive.namelist():
                    if name.rpartition("/")[2].startswith("."):  # a companion that macOS adds
                        continue
                    short = name.removeprefix("tiny-imagenet-200/")
                    self.read[short] = partial(_read_member, archive, name)
                state.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
        self.key = hashlib.sha256(repr(state).encode()).hexdigest()[:16]

    def text(self, name: str) -> list[list[str]]:
        """The tab-separated lines of a text file."""
        return [line.split("\t") for line in self.read[name]().decode().splitlines() if line]


def tiny_imagenet(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    if root is None or not root.exists():
        raise FileNotFoundError(f"Tiny-ImageNet needs a root that exists, got {root}. {TINY_HELP}")
    tree = _Tree(root)
    train = [n for n in tree.read if n.startswith("train/") and n.lower().endswith(SUFFIXES)]
    has_val = "val/val_annotations.txt" in tree.read
    if not train or not has_val:
        raise FileNotFoundError(f"{root} holds {len(train)} files train/<wnid>/images/*.JPEG and "
                                f"{'the' if has_val else 'no'} file val/val_annotations.txt; expected both. "
                                f"{TINY_HELP}")  # fmt: skip
    wnids = sorted({n.split("/")[1] for n in train})
    words = dict(line[:2] for line in tree.text("words.txt")) if "words.txt" in tree.read else {}
    class_names = [words.get(w, w).split(",")[0] for w in wnids]  # the first of the synonyms

    name = f"tiny-imagenet-{split}-{cfg.image_size}px-{cfg.channels}ch-{tree.key}.npz"
    cached = paths.cache() / "data" / name
    try:
        with np.load(cached, allow_pickle=False) as stored:
            images, labels = stored["images"], stored["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged: decode again
        names = _tiny_split(tree, train, wnids, split)
        images = np.empty((len(names), cfg.channels, cfg.image_size, cfg.image_size), np.uint8)
        for image, name in zip(images, names, strict=True):
            file = BytesIO(tree.read[name]())
            image[:] = decode(file, cfg.image_size, cfg.channels, f"{name} in {root}")
        labels = np.array(list(names.values()), np.int64)
        save_npz(cached, images=images, labels=labels)
    return ImageSet(torch.from_numpy(images), labels, class_names, split, cfg.name)


def _tiny_split(tree: _Tree, train: list[str], wnids: list[str], split: str) -> dict[str, int]:
    """Name -> label of a split's images. Train omits exact copies of val and test, val those of test."""
    label = {w: i for i, w in enumerate(wnids)}
    annotated = [line[:2] for line in tree.text("val/val_annotations.txt")]
    missing = [f for f, w in annotated if w not in label or f"val/images/{f}" not in tree.read]
    if missing:
        raise ValueError(f"val/val_annotations.txt names {missing[0]}, whose image or training class is "
                         f"missing; {len(missing)} such lines. {TINY_HELP}")  # fmt: skip
    test = {f"val/images/{f}": label[w] for f, w in annotated}
    if split == "test":
        return test
    train = sorted(train, key=lambda n: (len(n), n))  # n01443537_2 before n01443537_10
    labels = [label[n.split("/")[1]] for n in train]
    held_out = rank_in_class(labels) % 10 == 9  # the same images whether a class has 100 or 500
    digest = {n: hashlib.md5(tree.read[n](), usedforsecurity=False).digest() for n in [*test, *train]}
    seen = {digest[n] for n in test}
    val = {n: y for n, y, v in zip(train, labels, held_out, strict=True) if v and digest[n] not in seen}
    if split == "val":
        return val
    seen |= {digest[n] for n in val}
    return {n: y for n, y, v in zip(train, labels, held_out, strict=True) if not v and digest[n] not in seen}
