"""What every data set shares: the `ImageSet`, ranks within a class, and the registry of data sets."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from cop.configs import DataConfig

SPLITS = ("train", "val", "test")


class ImageSet(torch.utils.data.Dataset):
    """Images with labels, in memory or decoded from files when they are asked for.

    images: uint8 tensor (n, C, H, W), or `cop.data.sets.imagenet.LazyImages`, which is indexed alike.
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

    @overload
    def __getitem__(self, i: int) -> tuple[Tensor, int]: ...

    @overload
    def __getitem__(self, i: slice | Tensor | np.ndarray | Sequence) -> "ImageSet": ...

    def __getitem__(self, i) -> "tuple[Tensor, int] | ImageSet":
        """Image i, uint8 (C, H, W), and its label; of a slice, a mask or indices `subset`."""
        return self.subset(i) if isinstance(i, slice) or np.ndim(i) else (self.images[i], int(self.labels[i]))

    def batch(self, idx, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images `idx` (indices, slice or mask) as float32 (B, C, H, W) in [-1, 1], and their labels (B,).

        flip: bool (B,), which images to mirror left-right. Drawn by the caller: randomness is an argument.
        """
        idx = torch.arange(len(self))[idx]  # (B,)
        images = self.images[idx].float() / 127.5 - 1  # (B, C, H, W)
        if flip is not None:
            images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
        return images, self.labels[idx]

    def ahead(self, idx: Tensor) -> None:
        """Begin to decode the images `idx` (B,) that `batch` will be asked for next; those in memory need no time."""
        if not isinstance(self.images, Tensor):
            self.images.ahead(idx)

    def batches(self, size: int, idx=slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        """`batch` of `size` images after another, all or `idx`; the next ones are decoded while one is in use."""
        parts = torch.arange(len(self))[idx].split(size)
        for k, part in enumerate(parts):
            for soon in parts[k : k + 2]:
                self.ahead(soon)
            yield self.batch(part)

    def subset(self, idx) -> "ImageSet":
        """The images `idx` (indices, slice or mask) as a set of its own."""
        idx = torch.arange(len(self))[idx]
        return ImageSet(self.images[idx] if isinstance(self.images, Tensor) else self.images.subset(idx),
                        self.labels[idx], self.class_names, self.split, self.name)  # fmt: skip


def check_split(split: str) -> None:
    if split not in (*SPLITS, "pool"):
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}, or pool for all of them")


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


class Source(NamedTuple):
    """How a data set is read (`load`), and what `dataset` says of it."""

    load: Callable[[DataConfig, str, Path | None], ImageSet]
    contents: Callable[[DataConfig, Path | None], list[str] | None] | None
    same_as: str


DATASETS: dict[str, Source] = {}


def dataset(name: str, contents: Callable | None = None, same_as: str | None = None) -> Callable:
    """Register load(config, split, root) -> ImageSet as the data set that `DataConfig.name` calls `name`.

    The images depend on nothing but the fields of `config`, the split and the files at `root`, the path that the user
    gave or None. They are uint8 of `config.channels` and `config.image_size`; `class_step` and, unless fewer are read
    anyway, `limit` are applied to them afterwards.

    contents(config, root): what tells two copies apart in the names of stored results, a line per file; [] where nothing
    lies at root, None for the data as they are published. Without it, and for None, the fields of the configuration name
    the data. same_as: the data set whose images these are in another layout. Raises ValueError for a name that is taken.
    """

    def register(load: Callable) -> Callable:
        known = DATASETS.get(name)
        if known and (known.load.__module__, known.load.__qualname__) != (load.__module__, load.__qualname__):
            raise ValueError(f"data {name!r} is registered already, by {known.load.__module__}; choose another name")
        DATASETS[name] = Source(load, contents, same_as or name)
        return load

    return register
