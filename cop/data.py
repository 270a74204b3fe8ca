"""Images: one `ImageSet` for every source, and `load_data(profile, split)`.

Sources (`DataConfig.name`): the embedded Fashion-MNIST subset, the full Fashion-MNIST, Tiny-ImageNet,
ImageNet, and any folder of images. Splits: `train` to fit, `val` for choices, `test` only for reporting. The
split rules are fixed and depend on file order alone, so that no test image can become a training image:

    source          train                     val                           test
    fashion-subset  1,000 per class           the next 200 per class        200 per class of the test file
    fashion         the other 55,000          ranks 1,000-1,499 of a class  the official test file
    tiny-imagenet   the other 90 %            every 10th image of a class   the official validation images
    imagenet        the other 96 %            every 25th image of a class   the official validation images
    folder          root/train, or the first  root/val, or the 9th          root/test, or the 10th
                    8 of every 10 of a class

The subset's train (val) lies inside the full Fashion-MNIST's train (val).
"""

import gzip
import hashlib
import lzma
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cop import paths
from cop.profiles import DataConfig, Profile, get_profile

SPLITS = ("train", "val", "test")
FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                   "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]  # fmt: skip
FORMATS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",),
           "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pnm"),
           "AVIF": (".avif",)}  # fmt: skip
SUFFIXES = tuple(s for suffixes in FORMATS.values() for s in suffixes)


# ---------------------------------------------------------------------------------------------- one interface


class ImageSet(torch.utils.data.Dataset):
    """Images with labels, in memory or decoded from files when they are asked for.

    images: uint8 tensor (n, C, H, W), or a `LazyImages`, which is indexed alike.
    labels: LongTensor (n,) of indices into `class_names`.
    """

    def __init__(self, images, labels, class_names: Sequence[str], split: str = "", name: str = ""):
        self.images = images
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self.class_names = list(class_names)
        self.split, self.name = split, name
        if len(self.images) != len(self.labels):
            raise ValueError(f"{name}: {len(self.images)} images, {len(self.labels)} labels; expected equal")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.images[i], int(self.labels[i])  # (C, H, W) uint8

    def batch(self, idx, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images `idx` (indices, slice or mask) as float32 (B, C, H, W) in [-1, 1], and their labels (B,).

        flip: bool (B,), which images to mirror left-right. Drawn by the caller: randomness is an argument.
        """
        idx = torch.arange(len(self))[idx]  # (B,)
        images = self.images[idx].float() / 127.5 - 1  # (B, C, H, W)
        if flip is not None:
            images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
        return images, self.labels[idx]

    def subset(self, idx) -> "ImageSet":
        """The images `idx` (indices, slice or mask) as a set of its own."""
        idx = torch.arange(len(self))[idx]
        return ImageSet(self.images[idx] if isinstance(self.images, Tensor) else self.images.subset(idx),
                        self.labels[idx], self.class_names, self.split, self.name)  # fmt: skip


class LazyImages:
    """Image files, decoded when indexed: an int gives uint8 (C, H, W), a LongTensor (B,) a batch of them."""

    def __init__(self, files: Sequence[Path], image_size: int, channels: int):
        self.files, self.image_size, self.channels = list(files), image_size, channels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i) -> Tensor:
        if isinstance(i, Tensor) and i.ndim:
            return torch.stack([self[int(j)] for j in i])
        return torch.from_numpy(decode(self.files[int(i)], self.image_size, self.channels))

    def subset(self, idx: Tensor) -> "LazyImages":
        return LazyImages([self.files[int(i)] for i in idx], self.image_size, self.channels)


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
    given = root or cfg.root or os.environ.get("COP_DATA")
    data = LOADERS[cfg.name](cfg, split, Path(given).expanduser() if given else None)
    if len(data.class_names) > cfg.num_classes:
        found = len(data.class_names)
        raise ValueError(f"{cfg.name} has {found} classes, num_classes is {cfg.num_classes}; set it to {found}")
    return data if cfg.limit is None else data.subset(first_stratified(data.labels, cfg.limit))


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")


def rank_in_class(labels) -> np.ndarray:
    """For every image, how many images of its class come before it: (n,) int."""
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])  # where each class begins in the sorted list
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - starts
    return ranks


def first_stratified(labels, k: int) -> Tensor:
    """Indices (k,) of k images, in file order: the first of every class, the second of every class, ..."""
    labels = np.asarray(labels)
    order = np.lexsort((labels, rank_in_class(labels)))  # by rank, then class
    return torch.from_numpy(np.sort(order[:k]))


# ---------------------------------------------------------------------------------------------- one image


def center_crop(image: Image.Image, size: int, channels: int = 3) -> Image.Image:
    """An upright size x size image of mode RGB (channels 3) or L (channels 1).

    As ADM prepares ImageNet: halve with a box filter while the short side is at least twice `size`, resize
    the short side to `size` (bicubic), crop the centre. EXIF orientation is applied, transparency laid over
    white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # 16-bit grey: Pillow would clip it, not scale it
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    if min(image.size) != size:
        scale = size / min(image.size)
        width, height = max(size, round(image.width * scale)), max(size, round(image.height * scale))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode(file, image_size: int, channels: int, name: str | None = None) -> np.ndarray:
    """An image (path, file object or PIL image) as uint8 (C, H, W). ValueError names a damaged file."""
    try:
        given = isinstance(file, Image.Image)  # and stays open
        with nullcontext(file) if given else Image.open(file, formats=list(FORMATS)) as image:
            pixels = np.array(center_crop(image, image_size, channels))  # (H, W) or (H, W, 3)
    except FileNotFoundError:
        raise FileNotFoundError(f"no image file {file}; check the path") from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged input
        raise ValueError(f"cannot read image {name or file}: {error}. Expected a whole file of one of the "
                         f"formats {', '.join(FORMATS)}; replace or remove it") from error  # fmt: skip
    return np.ascontiguousarray(pixels.reshape(image_size, image_size, -1).transpose(2, 0, 1))


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
        "root=ROOT or COP_DATA=ROOT")


def read_fashion(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """`part` (train | t10k) of the official files: images uint8 (n, 28, 28), labels uint8 (n,)."""
    images = read_idx(min(folder.glob(f"{part}-images-idx3-ubyte*")))  # min: the unpacked file if both exist
    labels = read_idx(min(folder.glob(f"{part}-labels-idx1-ubyte*")))
    if labels.ndim != 1 or images.shape != (len(labels), 28, 28) or not len(labels) or labels.max() > 9:
        raise ValueError(f"{folder}/{part}-*: images {images.shape} and labels {labels.shape} do not belong "
                         "together; expected (n, 28, 28) and (n,) with labels 0-9")  # fmt: skip
    return images, labels


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
                         "python -m cop.embedded.recipe") from error  # fmt: skip
    return _fashion_set(rows[:, 1:].reshape(-1, 28, 28), rows[:, 0], cfg, split)


def _fashion(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    images, labels = read_fashion(fashion_files(root), "t10k" if split == "test" else "train")
    if split != "test":
        ranks = rank_in_class(labels)
        val = (ranks >= 1000) & (ranks < 1500)
        images, labels = (images[val], labels[val]) if split == "val" else (images[~val], labels[~val])
    return _fashion_set(images, labels, cfg, split)


# ---------------------------------------------------------------------------------------------- Tiny-ImageNet

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
            for path in sorted(_walk(unpacked[0])):
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
                    short = name.removeprefix("tiny-imagenet-200/")
                    self.read[short] = partial(_read_member, archive, name)
                state.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
        self.key = hashlib.sha256(repr(state).encode()).hexdigest()[:16]

    def text(self, name: str) -> list[list[str]]:
        """The tab-separated lines of a text file."""
        return [line.split("\t") for line in self.read[name]().decode().splitlines() if line]


def _tiny_imagenet(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
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
        _save_npz(cached, images=images, labels=labels)
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


def _save_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays atomically; a cache that cannot be written (full or read-only disk) is not an error."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = file.name
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------- folders


def _walk(folder: Path) -> list[Path]:
    """All files below `folder`. Raises FileNotFoundError when a folder is missing or may not be read."""

    def refuse(error: OSError):
        raise FileNotFoundError(f"cannot read folder {error.filename}: {error.strerror}; check the path and "
                                "its permissions") from error  # fmt: skip

    walked = os.walk(folder, onerror=refuse)
    return [Path(d, f) for d, _, files in walked for f in files if not f.startswith(".")]


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in _walk(folder) if p.suffix.lower() in SUFFIXES)


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

    split: "all" takes every image (your photos). Otherwise root/train, root/val and root/test are the splits
    where they exist; a folder without them is divided by rank in the class (8 train, 1 val, 1 test of ten).
    Raises FileNotFoundError for a missing, unreadable or empty folder, ValueError naming a damaged file.
    """
    root = Path(root).expanduser()
    if split != "all":
        check_split(split)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; expected a folder of images, or of one folder per class")
    _walk(root)  # an unreadable folder fails here, by name
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


def _imagenet(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    part = "val" if split == "test" else "train"
    if root is None or not (root / part).is_dir():
        raise FileNotFoundError(f"no ImageNet folder {root / part if root else '(no root given)'}. Get "
                                "ImageNet-1k "
                                "from https://image-net.org, arrange it as root/train/<wnid>/*.JPEG and "
                                "root/val/<wnid>/*.JPEG (as torchvision.datasets.ImageNet does), and give "
                                "root=... or COP_DATA")  # fmt: skip
    classes = _subfolders(root / "train") if (root / "train").is_dir() else _subfolders(root / "val")
    files, labels = _labelled(root / part, classes)
    labels = torch.tensor(labels)
    data = ImageSet(LazyImages(files, cfg.image_size, cfg.channels), labels, classes, split, cfg.name)
    if split == "test":
        return data
    held_out = torch.from_numpy(rank_in_class(labels) % 25 == 24)
    return data.subset(held_out if split == "val" else ~held_out)


LOADERS: dict[str, Callable[[DataConfig, str, Path | None], ImageSet]] = {
    "fashion-subset": _fashion_subset,
    "fashion": _fashion,
    "tiny-imagenet": _tiny_imagenet,
    "folder": _folder,
    "imagenet": _imagenet,
}
