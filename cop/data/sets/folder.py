"""Any folder of images: class subfolders, or flat."""

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from cop.configs import DataConfig
from cop.data.images import SPLITS, ImageSet, dataset, rank_in_class
from cop.data.pictures import SUFFIXES, decode, file_size, walk


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


def folder_contents(cfg: DataConfig, root: Path | None) -> list[str]:
    """Name and size of every image, and, since pictures without compression are equally large, the beginnings of some
    thousand of them, evenly spread."""
    files = _images_below(root) if root and root.is_dir() else []
    rows = [f"{file.relative_to(root).as_posix()} {file_size(file)}" for file in files]
    for i in range(0, len(files), len(files) // 1000 + 1):
        with suppress(OSError), files[i].open("rb") as file:
            rows[i] += " " + hashlib.sha256(file.read(1 << 16)).hexdigest()
    return rows


@dataset("folder", contents=folder_contents)
def folder(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    """Any folder of images, decoded at once: class subfolders, or flat (all label 0).

    root/train, root/val and root/test are the splits where they exist; a folder without them is divided by rank in the
    class (8 train, 1 val, 1 test of ten). Raises FileNotFoundError for a missing, unreadable or empty folder, ValueError
    naming a damaged file.
    """
    if root is None:
        raise FileNotFoundError("data 'folder' needs root=..., the path of a folder of images")
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; expected a folder of images, or of one folder per class")
    walk(root)  # an unreadable folder fails here, by name
    parts = [root / s for s in SPLITS if (root / s).is_dir()]
    if parts:
        if root / split not in parts:
            raise FileNotFoundError(f"{root} has {', '.join(p.name for p in parts)} but no folder {split}; add it")
        classes = sorted({c for p in parts for c in _subfolders(p)})  # one numbering for all splits
        files, labels = _labelled(root / split, classes)
    else:
        classes = _subfolders(root)
        files, labels = _labelled(root, classes)
        digit = rank_in_class(labels) % 10
        keep = {"train": digit < 8, "val": digit == 8, "test": digit == 9}[split]
        if not keep.any():
            raise FileNotFoundError(
                f"{root} has {len(files)} images, too few for a {split} split; "
                f"expected 10 or more in a class, or {root / split}/"
            )
        files, labels = [f for f, k in zip(files, keep, strict=True) if k], np.asarray(labels)[keep]
    images = np.stack([decode(f, cfg.image_size, cfg.channels) for f in files])
    return ImageSet(torch.from_numpy(images), labels, classes or [root.name], split, cfg.name)
