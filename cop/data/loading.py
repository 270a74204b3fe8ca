"""`load_data(profile, split)`: the images of a profile, from any source, as an `ImageSet`.

Sources (`DataConfig.name`): the embedded Fashion-MNIST subset, the full Fashion-MNIST, Tiny-ImageNet,
ImageNet in three layouts, 20 classes of it (Imagenette and Imagewoof), and any folder of images. Splits: `train` to fit, `val` for choices, `test` only for
reporting. The split rules are fixed and depend on the files alone, so that no test image can become a training one:

    source          train                     val                           test
    fashion-subset  1,000 per class           the next 200 per class        the official test file
    fashion         the other 55,000          ranks 1,000-1,499 of a class  the official test file
    tiny-imagenet   the other 90 %            every 10th image of a class   the official validation images
    imagenet        the other 96 %            every 25th image of a class   the official validation images
    imagenette-woof as imagenet, of the two archives' train/ and val/
    folder          root/train, or the first  root/val, or the 9th          root/test, or the 10th
                    8 of every 10 of a class

The subset's train (val) lies inside the full Fashion-MNIST's train (val). `imagenet`, `imagenet-hf` and
`imagenet-wds` are the same images in the same order from a folder, parquet files or tar shards.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from cop.configs import FOLDS, DataConfig, Profile, as_dict
from cop.data import sets
from cop.data.images import DATASETS, SPLITS, ImageSet, Source, check_split, first_stratified, rank_in_class
from cop.profiles import get_profile


def load_data(profile: str | Profile, split: str, root: str | os.PathLike | None = None) -> ImageSet:
    """The images of a profile's split: train | val | test, or pool: these three one after another, whatever `per_class` says.

    root: where data that are not embedded lie; otherwise `profile.data.root`, otherwise `$COP_DATA`.
    Raises ValueError for an unknown profile, data name or split, an image size that the patches do not
    divide, more classes than `num_classes`, or a damaged file (named); FileNotFoundError for missing data
    (what to get, where to put it).

    The same images are read once per process: every call returns the same object, not to be written to, until `forget`.
    """
    profile = get_profile(profile)
    cfg, patch = profile.data, profile.tokens.patch_size
    load = source(cfg).load
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
    try:
        return _read(load, cfg, split, data_root(cfg, root))
    except Exception:
        forget()  # who mends the data and asks again is to get them
        raise


@lru_cache(maxsize=8)
def _read(load: Callable, cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    if split == "pool" or cfg.fold is not None:
        whole = replace(cfg, fold=None, per_class=None)
        if split == "pool":
            return joined([_read(load, whole, part, root) for part in SPLITS])
        pool = _read(load, whole, "pool", root)
        part = pool.subset(fold_rows(pool.labels, cfg.fold, split))
        part.split = split
        return part
    data = load(cfg, split, root)
    if len(data.class_names) > cfg.num_classes:
        found = len(data.class_names)
        raise ValueError(f"{cfg.name} has {found} classes, num_classes is {cfg.num_classes}; set it to {found}")
    if cfg.class_step:
        data = every_class(data, cfg.class_step)
    elif cfg.without_step:
        data = other_classes(data, cfg.without_step)
    return data if cfg.limit is None else data.subset(first_stratified(data.labels, cfg.limit))


def source(cfg: DataConfig) -> Source:
    """The registered data set. Raises ValueError for an unknown name."""
    if cfg.name not in DATASETS:
        raise ValueError(f"unknown data {cfg.name!r}; expected one of {', '.join(DATASETS)}")
    return DATASETS[cfg.name]


def forget() -> None:
    """Read data anew from here on: to call when files have changed after this process has read them."""
    _read.cache_clear()
    _fingerprints.clear()
    sets.tiny_imagenet.tree.cache_clear()


def data_root(cfg: DataConfig, root: str | os.PathLike | None = None) -> Path | None:
    """Where data that are not embedded lie: root, otherwise that of the profile, otherwise `$COP_DATA`."""
    given = root or cfg.root or os.environ.get("COP_DATA")
    return Path(given).expanduser().absolute() if given else None


def data_config(cfg: DataConfig) -> dict:
    """What determines the images, for hashes: not where the files lie, nor in which layout all of ImageNet-1k does.

    Named data sets as they are published, and embedded or synthetic ones, are known by their fields. Anything else adds
    `source`, the fingerprint of the files at `data_root`: names and sizes, which say the labels too (`contents` of `dataset`).
    It is taken once per process and folder. Where nothing lies there is none: what is stored may be read without the data.
    """
    found = as_dict(cfg) | {"root": None, "name": source(cfg).same_as}
    root = data_root(cfg)
    asked = (root, cfg.name, cfg.num_classes, cfg.per_class, cfg.class_step)
    if asked not in _fingerprints:
        rows = source(cfg).contents(cfg, root) if source(cfg).contents else None
        if rows == []:  # not there yet: look again
            return found
        _fingerprints[asked] = (
            rows and hashlib.sha256("\n".join(sorted(rows)).encode(errors="surrogateescape")).hexdigest()[:16]
        )
    return found | ({"source": _fingerprints[asked]} if _fingerprints[asked] else {})


_fingerprints: dict[tuple, str | None] = {}


def joined(parts: Sequence[ImageSet]) -> ImageSet:
    """Splits in memory, one after another, as the split `pool`."""
    images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return ImageSet(images, labels, parts[0].class_names, "pool", parts[0].name)


def fold_rows(labels, fold: int, split: str) -> Tensor:
    """The images of a split where every image is the test image of one of FOLDS folds: indices into the pool with these labels.
    Of each class every fifth image is tested, of the others every tenth is for choices. Raises ValueError for no such fold."""
    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold is {fold}; expected 0 to {FOLDS - 1}, or None for no cross-validation")
    rank = torch.from_numpy(rank_in_class(labels))
    tested, chosen_by = rank % FOLDS == fold, rank // FOLDS % 10 == 9
    asked = {"test": tested, "val": ~tested & chosen_by, "train": ~tested & ~chosen_by, "pool": torch.ones_like(tested)}
    return asked[split].nonzero()[:, 0]


def every_class(data: ImageSet, step: int) -> ImageSet:
    """The images of classes 0, step, 2 step, ... of the sorted classes, renumbered from 0. A rule that looks at no image.

    Raises ValueError for a step that leaves fewer than two classes."""
    names = data.class_names[::step] if step > 0 else []
    if len(names) < 2:
        raise ValueError(
            f"class_step is {step} for {len(data.class_names)} classes; expected 1 or more, and two classes left"
        )
    kept = data.subset((data.labels % step == 0).nonzero()[:, 0])
    return ImageSet(kept.images, kept.labels // step, names, data.split, data.name)


def other_classes(data: ImageSet, step: int) -> ImageSet:
    """The images of the classes that `every_class` leaves out, renumbered from 0. Raises ValueError for a step that leaves fewer
    than two of them."""
    left = [i for i in range(len(data.class_names)) if step < 1 or i % step]
    if step < 2 or len(left) < 2:
        raise ValueError(f"without_step is {step} for {len(data.class_names)} classes; expected 2 or more, and two classes left")
    kept = data.subset((data.labels % step != 0).nonzero()[:, 0])
    renumbered = kept.labels - kept.labels // step - 1
    return ImageSet(kept.images, renumbered, [data.class_names[i] for i in left], data.split, data.name)
