"""`load_data(profile, split)`: the images of a profile, from any source, as an `ImageSet`.

Sources (`DataConfig.name`): the embedded Fashion-MNIST subset, the full Fashion-MNIST, Tiny-ImageNet,
ImageNet in three layouts, and any folder of images. Splits: `train` to fit, `val` for choices, `test` only for
reporting. The split rules are fixed and depend on the files alone, so that no test image can become a training one:

    source          train                     val                           test
    fashion-subset  1,000 per class           the next 200 per class        200 per class of the test file
    fashion         the other 55,000          ranks 1,000-1,499 of a class  the official test file
    tiny-imagenet   the other 90 %            every 10th image of a class   the official validation images
    imagenet        the other 96 %            every 25th image of a class   the official validation images
    folder          root/train, or the first  root/val, or the 9th          root/test, or the 10th
                    8 of every 10 of a class

The subset's train (val) lies inside the full Fashion-MNIST's train (val). `imagenet`, `imagenet-hf` and
`imagenet-wds` are the same images in the same order from a folder, parquet files or tar shards.
"""

import gzip
import hashlib
import json
import lzma
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from cop import paths
from cop.data.imagenet import LAYOUTS, imagenet, imagenet_contents
from cop.data.imagenet_shards import imagenet_hf, imagenet_wds
from cop.data.images import (
    SPLITS,
    SUFFIXES,
    ImageSet,
    check_split,
    decode,
    file_size,
    first_stratified,
    rank_in_class,
    walk,
)
from cop.data.synthetic import synthetic
from cop.data.tiny_imagenet import tiny_contents, tiny_imagenet
from cop.profiles import DataConfig, Profile, as_dict, get_profile

FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                   "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]  # fmt: skip


def load_data(profile: str | Profile, split: str, root: str | os.PathLike | None = None) -> ImageSet:
    """The images of a profile's split (train | val | test).

    root: where data that are not embedded lie; otherwise `profile.data.root`, otherwise `$COP_DATA`.
    Raises ValueError for an unknown profile, data name or split, an image size that the patches do not
    divide, more classes than `num_classes`, or a damaged file (named); FileNotFoundError for missing data
    (what to get, where to put it).
    """
    profile = get_profile(profile)
    cfg, patch = profile.data, profile.tokens.patch_size
    if cfg.name not in LOADERS:
        raise ValueError(f"unknown data {cfg.name!r}; expected one of {', '.join(LOADERS)}")
    check_split(split)
    if cfg.image_size % patch:
        raise ValueError(f"image_size {cfg.image_size} is not divisible into patches of {patch} px; choose a "
                         f"multiple of {patch}, or another patch_size")  # fmt: skip
    if cfg.channels not in (1, 3):
        raise ValueError(f"channels is {cfg.channels}; expected 1 (grey) or 3 (colour)")
    if cfg.limit is not None and cfg.limit < 1:
        raise ValueError(f"limit is {cfg.limit}; expected a positive number of images, or None for all")
    if cfg.per_class is not None and (cfg.name != "tiny-imagenet" or cfg.per_class < 1):
        raise ValueError(f"per_class is {cfg.per_class} for data {cfg.name!r}; expected None, or a positive number of training "
                         "images of each class of tiny-imagenet (limit takes fewer of any data)")  # fmt: skip
    data = LOADERS[cfg.name](cfg, split, data_root(cfg, root))
    if len(data.class_names) > cfg.num_classes:
        found = len(data.class_names)
        raise ValueError(f"{cfg.name} has {found} classes, num_classes is {cfg.num_classes}; set it to {found}")
    if cfg.class_step:
        data = every_class(data, cfg.class_step)
    return data if cfg.limit is None else data.subset(first_stratified(data.labels, cfg.limit))


def data_root(cfg: DataConfig, root: str | os.PathLike | None = None) -> Path | None:
    """Where data that are not embedded lie: root, otherwise that of the profile, otherwise `$COP_DATA`."""
    given = root or cfg.root or os.environ.get("COP_DATA")
    return Path(given).expanduser().absolute() if given else None


def data_config(cfg: DataConfig) -> dict:
    """What determines the images, for hashes: not where the files lie, nor in which layout all of ImageNet-1k does.

    Named data sets as they are published, and embedded or synthetic ones, are known by their fields. Anything else adds
    `source`, the fingerprint of the files at `data_root`: names and sizes, which say the labels too (`CONTENTS`). It is
    taken once per process and folder. Where nothing lies there is none: what is stored may be read without the data.
    """
    found = as_dict(cfg) | {"root": None, "name": "imagenet" if cfg.name in LAYOUTS else cfg.name}
    root = data_root(cfg)
    asked = (root, cfg.name, cfg.num_classes, cfg.per_class, cfg.class_step)
    if asked not in _fingerprints:
        rows = CONTENTS[cfg.name](cfg, root) if cfg.name in CONTENTS else None
        if rows == []:  # not there yet: look again
            return found
        _fingerprints[asked] = rows and hashlib.sha256("\n".join(sorted(rows)).encode(errors="surrogateescape")).hexdigest()[:16]
    return found | ({"source": _fingerprints[asked]} if _fingerprints[asked] else {})


_fingerprints: dict[tuple, str | None] = {}


def every_class(data: ImageSet, step: int) -> ImageSet:
    """The images of classes 0, step, 2 step, ... of the sorted classes, renumbered from 0. A rule that looks at no image.

    Raises ValueError for a step that leaves fewer than two classes."""
    names = data.class_names[::step] if step > 0 else []
    if len(names) < 2:
        raise ValueError(f"class_step is {step} for {len(data.class_names)} classes; expected 1 or more, and two classes left")
    kept = data.subset((data.labels % step == 0).nonzero()[:, 0])
    return ImageSet(kept.images, kept.labels // step, names, data.split, data.name)


# ---------------------------------------------------------------------------------------------- Fashion-MNIST


def read_idx(path: Path) -> np.ndarray:
    """An idx file of uint8, gzipped or not: header 0, 0, 8, ndim, big-endian sizes, then the values."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        shape = tuple(np.frombuffer(raw, ">u4", raw[3], offset=4).tolist())
        if raw[:3] != b"\0\0\x08":
            raise ValueError("not an idx file of bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (ValueError, IndexError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}. Expected a whole Fashion-MNIST idx file; "
                         "get it again") from error  # fmt: skip


def fashion_files(root: Path | None = None) -> Path:
    """The folder with the official idx files: `root`, root/FashionMNIST/raw (torchvision) or Debian's.

    Raises FileNotFoundError with what to download.
    """
    places = [Path("/usr/share/datasets/fashion-mnist")]
    if root is not None:
        places = [root, root / "FashionMNIST" / "raw", root / "raw", root / "fashion-mnist"]
    for place in places:
        parts = [f"{p}-{k}-idx?-ubyte*" for p in ("train", "t10k") for k in ("images", "labels")]
        if all(any(place.glob(part)) for part in parts):
            return place
    raise FileNotFoundError(
        f"no Fashion-MNIST idx files in {', '.join(map(str, places))}. Install Debian's package "
        "dataset-fashion-mnist, or run torchvision.datasets.FashionMNIST(ROOT, download=True) and give "
        "root=ROOT or COP_DATA=ROOT"
    )


def read_fashion(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """`part` (train | t10k) of the official files: images uint8 (n, 28, 28), labels uint8 (n,)."""
    images = read_idx(min(folder.glob(f"{part}-images-idx3-ubyte*")))  # min: the unpacked file if both exist
    labels = read_idx(min(folder.glob(f"{part}-labels-idx1-ubyte*")))
    if labels.ndim != 1 or images.shape != (len(labels), 28, 28) or not len(labels) or labels.max() > 9:
        raise ValueError(f"{folder}/{part}-*: images {images.shape} and labels {labels.shape} do not belong "
                         "together; expected (n, 28, 28) and (n,) with labels 0-9")  # fmt: skip
    return images, labels


def _fashion_contents(cfg: DataConfig, root: Path | None) -> list[str] | None:
    """Checksums of pixels and labels; None for Fashion-MNIST's own. Other data come in files of the same names and shapes."""
    try:
        folder = fashion_files(root)
    except FileNotFoundError:
        return []
    sums = {f"{part}-{kind}": hashlib.sha256(values.tobytes()).hexdigest()
            for part in ("train", "t10k") for kind, values in zip(("images", "labels"), read_fashion(folder, part), strict=True)}  # fmt: skip
    official = json.loads((paths.embedded / "checksums.json").read_text())["sources"]
    return None if sums == official else [f"{name} {value}" for name, value in sums.items()]


def _fashion_set(images: np.ndarray, labels: np.ndarray, cfg: DataConfig, split: str) -> ImageSet:
    if cfg.channels != 1 or cfg.image_size not in (28, 32):
        raise ValueError(f"{cfg.name} is grey and 28 px, zero-padded to 32; got channels={cfg.channels}, "
                         f"image_size={cfg.image_size}; set channels=1, image_size=32")  # fmt: skip
    border = (cfg.image_size - 28) // 2
    images = np.pad(images, ((0, 0), (border, border), (border, border)))
    labels = labels.astype(np.int64)
    return ImageSet(torch.from_numpy(images)[:, None], labels, FASHION_CLASSES, split, cfg.name)


def _fashion_subset(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    path = paths.embedded / f"fashion_{split}.xz"
    try:
        rows = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8).reshape(-1, 1 + 28 * 28)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; it is part of the package, install that again") from None
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); install the package again, or rebuild it with "
                         "python -m cop.data.embedded.recipe") from error  # fmt: skip
    return _fashion_set(rows[:, 1:].reshape(-1, 28, 28), rows[:, 0], cfg, split)


def _fashion(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    images, labels = read_fashion(fashion_files(root), "t10k" if split == "test" else "train")
    if split != "test":
        ranks = rank_in_class(labels)
        val = (ranks >= 1000) & (ranks < 1500)
        images, labels = (images[val], labels[val]) if split == "val" else (images[~val], labels[~val])
    return _fashion_set(images, labels, cfg, split)


# ---------------------------------------------------------------------------------------------- folders


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in walk(folder) if p.suffix.lower() in SUFFIXES)


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _labelled(folder: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    """Image files of `folder` with their labels: of its class folders, or label 0 for a flat folder."""
    flat = [p for p in _images_below(folder) if p.parent == folder]
    present = [(i, folder / c) for i, c in enumerate(classes) if (folder / c).is_dir()]
    pairs = [(p, i) for i, subfolder in present for p in _images_below(subfolder)]
    if flat and pairs:
        raise ValueError(f"{folder} holds images ({flat[0].name}) beside class folders "
                         f"({pairs[0][0].parent.name}); expected all in class folders, or none")  # fmt: skip
    pairs = pairs or [(p, 0) for p in flat]
    if not pairs:
        raise FileNotFoundError(f"no images in {folder}; expected files {', '.join(SUFFIXES)} in it or "
                                "in its class folders")  # fmt: skip
    return [p for p, _ in pairs], [i for _, i in pairs]


def image_folder(root: str | os.PathLike, image_size: int, channels: int = 3, split: str = "all") -> ImageSet:
    """Any folder of images, decoded at once: class subfolders, or flat (all label 0).

    split: "all" takes every image. Otherwise root/train, root/val and root/test are the splits
    where they exist; a folder without them is divided by rank in the class (8 train, 1 val, 1 test of ten).
    Raises FileNotFoundError for a missing, unreadable or empty folder, ValueError naming a damaged file.
    """
    root = Path(root).expanduser()
    if split != "all":
        check_split(split)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; expected a folder of images, or of one folder per class")
    walk(root)  # an unreadable folder fails here, by name
    parts = [root / s for s in SPLITS if (root / s).is_dir()]
    if parts and split != "all":
        if root / split not in parts:
            raise FileNotFoundError(f"{root} has {', '.join(p.name for p in parts)} but no folder "
                                    f"{split}; add it")  # fmt: skip
        classes = sorted({c for p in parts for c in _subfolders(p)})  # one numbering for all splits
        files, labels = _labelled(root / split, classes)
    else:
        classes = _subfolders(root)
        files, labels = _labelled(root, classes)
        digit = rank_in_class(labels) % 10
        keep = {"all": digit >= 0, "train": digit < 8, "val": digit == 8, "test": digit == 9}[split]
        if not keep.any():
            raise FileNotFoundError(f"{root} has {len(files)} images, too few for a {split} split; "
                                    f"expected 10 or more in a class, or {root / split}/")  # fmt: skip
        files, labels = [f for f, k in zip(files, keep, strict=True) if k], np.asarray(labels)[keep]
    images = np.stack([decode(f, image_size, channels) for f in files])
    return ImageSet(torch.from_numpy(images), labels, classes or [root.name], split, "folder")


def _folder(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    if root is None:
        raise FileNotFoundError("data 'folder' needs root=..., the path of a folder of images")
    return image_folder(root, cfg.image_size, cfg.channels, split)


def _folder_contents(cfg: DataConfig, root: Path | None) -> list[str]:
    """Name and size of every image, and, since pictures without compression are equally large, the beginnings of some
    thousand of them, evenly spread."""
    files = _images_below(root) if root and root.is_dir() else []
    rows = [f"{file.relative_to(root).as_posix()} {file_size(file)}" for file in files]
    for i in range(0, len(files), len(files) // 1000 + 1):
        with suppress(OSError), files[i].open("rb") as file:
            rows[i] += " " + hashlib.sha256(file.read(1 << 16)).hexdigest()
    return rows


LOADERS: dict[str, Callable[[DataConfig, str, Path | None], ImageSet]] = {
    "fashion-subset": _fashion_subset,
    "fashion": _fashion,
    "tiny-imagenet": tiny_imagenet,
    "folder": _folder,
    "imagenet": imagenet,
    "imagenet-hf": imagenet_hf,
    "imagenet-wds": imagenet_wds,
    "synthetic": lambda cfg, split, root: ImageSet(*synthetic(cfg, split), split, cfg.name),
}
# What tells two sources of one name apart: a line per file, none where there are no data, None for the published data set.
CONTENTS: dict[str, Callable[[DataConfig, Path | None], list[str] | None]] = {
    "fashion": _fashion_contents,
    "tiny-imagenet": tiny_contents,
    "folder": _folder_contents,
} | dict.fromkeys(LAYOUTS, imagenet_contents)
