"""ImageNet-1k at its full size: read from a folder, from parquet files or from tar shards, decoded when asked for.

    imagenet      root/train/<wnid>/*.JPEG and root/val/<wnid>/*.JPEG, as torchvision arranges it
    imagenet-hf   root/data/train-*.parquet and root/data/validation-*.parquet, the files of Hugging Face's
                  `ILSVRC/imagenet-1k`; without a root that data set is downloaded by name
    imagenet-wds  root/imagenet1k-train-*.tar and root/imagenet1k-validation-*.tar, the shards of `timm/imagenet-1k-wds`

The last two are in `cop.data.sets.imagenet_shards`. All three give the same images under the same indices: they are put in
the order of class and original file name, whatever order they are stored in. The split rule counts in that order: every
25th image of a class of the training part is `val`, the rest `train`; the official validation part is `test`.

**Unreadable images.** A file that cannot be decoded keeps its place: it is read as the next readable image of its class
in its split (after the last comes the first). So labels, counts, splits, and every index stored in a cache stay as they
are; which image it is depends on the files alone, not on processes, batches or subsets; and no pass over 1.28 million
files is needed beforehand. Each one is named and counted in the log, and more than one in a thousand is an error. An
error of the disk or the network is not a damaged image: it is raised.

**Reading ahead.** Images are decoded by threads. Who knows which will be asked for next says so (`ImageSet.ahead`, as
`cop.train.loop.fit` does), and finds them decoded then. Which images these are, and so every result, stays the same.
"""

import functools
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cop.configs import DataConfig
from cop.data.images import ImageSet, dataset, rank_in_class
from cop.data.pictures import SUFFIXES, decode, file_size

LAYOUTS = ("imagenet", "imagenet-hf", "imagenet-wds")
OFFICIAL = {"train": 1_281_167, "val": 50_000}  # images of the two parts that have labels
HELP = ("Get ImageNet-1k from https://image-net.org and arrange it as root/train/<wnid>/*.JPEG and "
        "root/val/<wnid>/*.JPEG (as torchvision.datasets.ImageNet does) for data 'imagenet'; or the parquet files of "
        "https://huggingface.co/datasets/ILSVRC/imagenet-1k for 'imagenet-hf'; or the tar shards of "
        "https://huggingface.co/datasets/timm/imagenet-1k-wds for 'imagenet-wds'. Give root=... or COP_DATA")  # fmt: skip

THREADS = 32  # at most: more of them only wait for each other

log = logging.getLogger(__name__)
counting = threading.Lock()  # of unreadable images


# ------------------------------------------------------------------------------------------------- images on demand


@functools.cache
def decoders(process: int) -> ThreadPoolExecutor:
    """The threads of this process that decode images; a fork inherits none. Pillow's decoders run outside Python's lock,
    so they work side by side, and processes of one machine share its cores."""
    return ThreadPoolExecutor(thread_count(), "decode")


def thread_count() -> int:
    """Threads that decode, for each of the processes that were started together on this machine."""
    return max(1, min(THREADS, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class LazyImages:
    """The images of a split, read when indexed: an int gives uint8 (C, H, W), a LongTensor (B,) a batch of them.

    source: has `read(row)`, the bytes of an image file, and `name(row)`, for messages.
    rows: (n,) rows of the source in this split, class after class; labels: (n,) their classes, ascending.
    index: the images of the split that this object holds, all of them unless it is a subset.
    Raises ValueError when more than one image in a thousand (and more than ten) cannot be decoded.
    """

    def __init__(self, source, rows: np.ndarray, labels: np.ndarray, image_size: int, channels: int, index=None):
        self.source, self.rows, self.labels = source, rows, labels
        self.image_size, self.channels = image_size, channels
        self.index = np.arange(len(rows)) if index is None else index
        self.unreadable: dict[int, str] = {}  # row -> name; subsets share it
        self.coming: dict[int, Future] = {}  # images that are being decoded ahead

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i) -> Tensor:
        if isinstance(i, Tensor) and i.ndim:
            pool = decoders(os.getpid())
            decoded = [self.coming.pop(j, None) or pool.submit(self._image, j) for j in i.tolist()]
            return torch.stack([image.result() for image in decoded])
        return self._image(int(i))

    def __getstate__(self) -> dict:
        return vars(self) | {"coming": {}}  # threads stay in their process

    def ahead(self, idx: Tensor) -> None:
        """Begin to decode images (B,) that will be asked for next. An error is raised when they are."""
        for i in idx.tolist():
            if i not in self.coming:
                self.coming[i] = decoders(os.getpid()).submit(self._image, i)

    def _image(self, i: int) -> Tensor:
        at = self.index[i]
        first, end = np.searchsorted(self.labels, self.labels[at] + np.arange(2))  # its class within the split
        for step in range(end - first):
            pixels = self._decode(int(self.rows[first + (at - first + step) % (end - first)]))
            if pixels is not None:
                return torch.from_numpy(pixels)
        raise ValueError(f"none of the {end - first} images of class {self.labels[at]} can be read, such as "
                         f"{self.source.name(int(self.rows[at]))}; get the images again")  # fmt: skip

    def _decode(self, row: int) -> np.ndarray | None:
        if row in self.unreadable:
            return None
        data, name = self.source.read(row), self.source.name(row)
        try:
            return decode(BytesIO(data), self.image_size, self.channels, name)
        except ValueError as error:
            with counting:
                new = row not in self.unreadable  # once, whichever thread came first
                self.unreadable[row] = name
                count = len(self.unreadable)
            if new:
                log.warning("%s. Skipped: the next image of its class takes its place (%d unreadable so far)",
                            str(error).split(". Expected")[0], count)  # fmt: skip
            if count > max(10, len(self.rows) // 1000):
                raise ValueError(f"{count} of {len(self.rows)} images cannot be read, the last one {name}; "
                                 "expected a few at most: get the images again") from error  # fmt: skip
            return None

    def subset(self, idx: Tensor) -> "LazyImages":
        part = LazyImages(self.source, self.rows, self.labels, self.image_size, self.channels, self.index[idx.numpy()])
        part.unreadable = self.unreadable
        return part


def file_stem(name: str) -> str:
    """The original name of an image, without folder and suffix, and without the wnid that Hugging Face appends to it."""
    base = name.rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    return stem[:-10] if stem[-10:-8] == "_n" and stem[-8:].isdigit() else stem


def image_set(source, labels, names: Sequence[str], classes: Sequence[str], cfg: DataConfig, split: str) -> ImageSet:
    """The images of a split among those of a part (train for train and val, else the official validation images).

    labels: class of every row of the source; names: their files. Raises ValueError for another number of classes than
    `num_classes`, for a class without images, and, of 1,000 classes, for another number of images than ImageNet-1k has.
    """
    part, labels = "val" if split == "test" else "train", np.asarray(labels, np.int64)
    expected = OFFICIAL[part] if cfg.num_classes == 1000 else 0
    if len(classes) != cfg.num_classes or (len(labels) and not 0 <= labels.min() <= labels.max() < cfg.num_classes):
        found = max(len(classes), int(labels.max(initial=0)) + 1)
        raise ValueError(f"{cfg.name} has {found} classes, num_classes is {cfg.num_classes}; expected the same: "
                         "complete the data, or set num_classes")  # fmt: skip
    counts = np.bincount(labels, minlength=cfg.num_classes)
    if not counts.all():
        empty = np.flatnonzero(counts == 0)
        raise ValueError(f"{cfg.name} has no {part} images of class {classes[empty[0]]} ({len(empty)} classes have none); "
                         f"found {len(labels)} images: complete the data")  # fmt: skip
    if expected and len(labels) != expected:
        raise ValueError(f"{cfg.name} has {len(labels):,} {part} images; expected {expected:,}, as ImageNet-1k: complete "
                         "the copy, or remove what does not belong to it (DataConfig.limit takes fewer, equally of each class)")  # fmt: skip
    stems = np.array([os.fsencode(file_stem(n)) for n in names])
    rows = np.lexsort((stems, labels))  # by class, then by name
    labels = labels[rows]
    if split != "test":
        held_out = rank_in_class(labels) % 25 == 24
        rows, labels = (rows[held_out], labels[held_out]) if split == "val" else (rows[~held_out], labels[~held_out])
    images = LazyImages(source, rows, labels, cfg.image_size, cfg.channels)
    return ImageSet(images, labels, class_names(classes), split, cfg.name)


def class_names(classes: Sequence[str]) -> list[str]:
    """English names where the classes are ImageNet-1k's wnids, the first of the synonyms; else the classes."""
    info = imagenet_info()
    if list(classes) != info.label_names():
        return list(classes)
    return [info.index_to_description(i).split(",")[0] for i in range(len(classes))]


def imagenet_info():
    """timm's table of ImageNet-1k's classes."""
    from timm.data import ImageNetInfo  # seconds to import, and only ImageNet needs it

    return ImageNetInfo("imagenet-1k")


def numbered_classes(cfg: DataConfig) -> list[str]:
    """Classes of a source that knows their numbers only: ImageNet's wnids in order, if there are 1,000."""
    return imagenet_info().label_names() if cfg.num_classes == 1000 else [str(i) for i in range(cfg.num_classes)]


def check_root(root: Path | None, cfg: DataConfig) -> Path:
    if root is None or not root.is_dir():
        raise FileNotFoundError(f"no ImageNet folder {root if root else '(no root given)'}. {HELP}")
    return root


def refuse_layout(root: Path, cfg: DataConfig, expected: str) -> FileNotFoundError:
    """The error for a root of another layout, which says what lies there."""
    inside = sorted(p.name + "/" * p.is_dir() for p in root.iterdir() if not p.name.startswith("."))
    shown = ", ".join(inside[:4]) + (f", ... ({len(inside)} in all)" if len(inside) > 4 else "")
    return FileNotFoundError(f"{root} holds {shown or 'nothing'}; expected {expected} for data {cfg.name!r}. {HELP}")


# --------------------------------------------------------------------------------------------------------- a folder


class Files:
    """Image files below a folder; `files` are their relative names as bytes, 40 bytes each instead of a Path's 400."""

    def __init__(self, folder: Path, files: np.ndarray):
        self.folder, self.files = folder, files

    def name(self, row: int) -> str:
        return str(self.folder / os.fsdecode(self.files[row]))

    def read(self, row: int) -> bytes:
        return Path(self.name(row)).read_bytes()


def image_files(folder: Path | str) -> list[os.DirEntry]:
    return [e for e in os.scandir(folder) if e.name.lower().endswith(SUFFIXES) and e.name[0] != "."]


def imagenet_contents(cfg: DataConfig, root: Path | None) -> list[str] | None:
    """Name and size of every file of an ImageNet subset (images, or the parquet files or tar shards that hold them), for
    another subset may have as many classes. The same subset in another layout counts as another one.

    None for 1,000 classes, which are all of ImageNet-1k in any layout: `image_set` takes no other number of images.
    """
    if cfg.num_classes == 1000:
        return None
    if root is None:
        return []
    if cfg.name == "imagenet":
        parts = [root / part for part in ("train", "val") if (root / part).is_dir()]
        files = [e.path for part in parts for f in os.scandir(part) if f.is_dir() and f.name[0] != "." for e in image_files(f.path)]
    else:
        suffix = ".tar" if cfg.name == "imagenet-wds" else ".parquet"
        files = [str(f) for place in (root, root / "data") for f in place.glob(f"*{suffix}")]
    return [f"{file[len(str(root)):]} {file_size(file)}" for file in files]


@dataset("imagenet", contents=imagenet_contents)
def imagenet(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    """ImageNet from a torchvision-style folder. Raises FileNotFoundError for another layout, ValueError as `image_set`."""
    root = check_root(root, cfg)
    folder = root / ("val" if split == "test" else "train")
    if not folder.is_dir():
        raise refuse_layout(root, cfg, f"a folder {folder.name}/ of class folders")
    classes = sorted(p.name for p in os.scandir(folder) if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise refuse_layout(folder, cfg, "one folder per class, <wnid>/*.JPEG, not images without class")
    if cfg.num_classes == len(classes) == 1000 and classes != numbered_classes(cfg):
        foreign = sorted(set(classes) - set(numbered_classes(cfg)))
        raise ValueError(f"{folder} has 1000 class folders, of which {len(foreign)} are no wnids of ImageNet-1k, such as "
                         f"{foreign[0]}; expected n01440764 to n15075141: their order numbers the classes")  # fmt: skip
    files, labels = [], []
    for label, wnid in enumerate(classes):
        found = [f"{wnid}/{entry.name}" for entry in image_files(folder / wnid)]
        files += found
        labels += [label] * len(found)
    source = Files(folder, np.array([os.fsencode(f) for f in files]))
    return image_set(source, labels, files, classes, cfg, split)
