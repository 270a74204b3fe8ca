"""Fashion-MNIST: the subset that comes with the package, and the full data set from the official idx files."""

import gzip
import hashlib
import json
import lzma
import zlib
from pathlib import Path

import numpy as np
import torch

from cop import paths
from cop.configs import DataConfig
from cop.data.images import ImageSet, dataset, rank_in_class

FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                   "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]  # fmt: skip


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


def fashion_contents(cfg: DataConfig, root: Path | None) -> list[str] | None:
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


@dataset("fashion-subset")
def fashion_subset(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    path = paths.embedded / f"fashion_{split}.xz"
    try:
        rows = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8).reshape(-1, 1 + 28 * 28)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; it is part of the package, install that again") from None
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); install the package again, or rebuild it with "
                         "python -m cop.data.embedded.recipe") from error  # fmt: skip
    return _fashion_set(rows[:, 1:].reshape(-1, 28, 28), rows[:, 0], cfg, split)


@dataset("fashion", contents=fashion_contents)
def fashion(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    images, labels = read_fashion(fashion_files(root), "t10k" if split == "test" else "train")
    if split != "test":
        ranks = rank_in_class(labels)
        val = (ranks >= 1000) & (ranks < 1500)
        images, labels = (images[val], labels[val]) if split == "val" else (images[~val], labels[~val])
    return _fashion_set(images, labels, cfg, split)
