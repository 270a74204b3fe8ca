"""Imagenette and Imagewoof together: 20 classes of ImageNet-1k that anyone can fetch, 26,348 images of 320 px on the short side.

    root/imagenette2-320/train/<wnid>/*.JPEG and root/imagenette2-320/val/<wnid>/*.JPEG, or root/imagenette2-320.tgz
    root/imagewoof2-320, or root/imagewoof2-320.tgz, alike

What does not lie at the root is looked for where `python -m cop weights imagenette` and `python -m cop weights imagewoof` put
the archives. An archive is unpacked once, into the cache. Splits, order and unreadable images are as in `imagenet`: every 25th
training image of a class is `val`, the official validation images are `test`.

ImageNet has 50 validation images of each class, and 393 of a class are tested here: 343 of these or more are training images of
ImageNet. Weights that were trained on it (MAR's, and ViTs of ImageNet-21k) have seen them.
"""

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock

from cop import paths
from cop.configs import DataConfig
from cop.data.images import ImageSet, dataset
from cop.data.sets.imagenet import Files, image_files, image_set
from cop.files import write_folder
from cop.weights import table as weights

IMAGES = {"train": 18_494, "val": 7_854}  # of both archives, as published
ARCHIVES = ("imagenette", "imagewoof")  # entries of cop.weights, ten classes each
CLASSES = {  # WordNet id: number of the class in ImageNet-1k, name
    "n01440764": (0, "tench"),
    "n02086240": (155, "Shih-Tzu"),
    "n02087394": (159, "Rhodesian ridgeback"),
    "n02088364": (162, "beagle"),
    "n02089973": (167, "English foxhound"),
    "n02093754": (182, "Border terrier"),
    "n02096294": (193, "Australian terrier"),
    "n02099601": (207, "golden retriever"),
    "n02102040": (217, "English springer"),
    "n02105641": (229, "Old English sheepdog"),
    "n02111889": (258, "Samoyed"),
    "n02115641": (273, "dingo"),
    "n02979186": (482, "cassette player"),
    "n03000684": (491, "chain saw"),
    "n03028079": (497, "church"),
    "n03394916": (566, "French horn"),
    "n03417042": (569, "garbage truck"),
    "n03425413": (571, "gas pump"),
    "n03445777": (574, "golf ball"),
    "n03888257": (701, "parachute"),
}


@dataset("imagenette-woof")
def imagenette_woof(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    """The images of both archives or folders. Raises FileNotFoundError for a missing one, ValueError for a damaged archive,
    another class, another number of images than published, and as `image_set`."""
    part, files, labels = "val" if split == "test" else "train", [], []
    for name in ARCHIVES:
        folder = folder_of(name, root) / part
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder.parent} has no folder {part}/; expected train/ and val/: unpack {name} again"
            )
        for wnid in sorted(p.name for p in os.scandir(folder) if p.is_dir() and not p.name.startswith(".")):
            if wnid not in CLASSES:
                raise ValueError(
                    f"{folder} has a class {wnid}; expected those of Imagenette and Imagewoof, {', '.join(CLASSES)}"
                )
            found = [entry.path for entry in image_files(folder / wnid)]
            files += found
            labels += [list(CLASSES).index(wnid)] * len(found)
    data = image_set(Files(Path(), np.array([os.fsencode(f) for f in files])), labels, files, list(CLASSES), cfg, split)
    if len(files) != IMAGES[part]:
        raise ValueError(
            f"{cfg.name} has {len(files):,} {part} images; expected {IMAGES[part]:,}, as published: get {folder.parent} "
            "and its companion again (DataConfig.limit takes fewer, equally of each class)"
        )
    data.class_names = [english for _, english in CLASSES.values()]
    return data


def folder_of(name: str, root: Path | None) -> Path:
    """The folder of an archive: at the root or in the folder of weights, else in the cache, where an archive found there is unpacked."""
    entry = weights.find(name)
    stem, places = entry.file.removesuffix(".tgz"), [p for p in (root, weights.folder()) if p]
    if here := next((p / stem for p in places if (p / stem).is_dir()), None):
        return here
    archive = next((p / entry.file for p in places if (p / entry.file).is_file()), None)
    if archive is None:
        looked = " or ".join(map(str, places))
        raise FileNotFoundError(
            f"no {stem}/ and no {entry.file} in {looked}; run python -m cop weights {name}, or get {entry.source} "
            "and give its folder as root=... or COP_DATA"
        )
    target = paths.cache() / "data" / f"{stem}-{archive.stat().st_size}"
    if target.is_dir():  # also in a cache that cannot be written
        return target / stem
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            write_folder(target, lambda part: unpack(archive, part))
    return target / stem


def unpack(archive: Path, folder: Path) -> None:
    """All files of a .tgz, below a folder. Raises ValueError naming the archive unless it is whole, holds the folder of its name, and
    nothing but files and folders that stay below `folder`: Python 3.11.2, which Debian 12 has, knows no `filter` of tarfile for this."""
    stem, root = archive.name.removesuffix(".tgz"), folder.resolve()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = (root / member.name).resolve()
                if not (member.isfile() or member.isdir()) or not path.is_relative_to(root):
                    raise tarfile.TarError(f"it holds {member.name!r}, which is a link or leads elsewhere")
                (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
                if member.isfile():
                    with tar.extractfile(member) as source, open(path, "wb") as target:
                        shutil.copyfileobj(source, target)
        reason = "" if (folder / stem).is_dir() else f"it holds no folder {stem}"
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = str(error)
    if reason:
        raise ValueError(f"{archive} is no whole archive ({reason}); delete it and download it again")
