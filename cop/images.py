"""What every source of images shares: the `ImageSet`, ADM's centre crop, ranks within a class, a file cache."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cop.files import write

SPLITS = ("train", "val", "test")
FORMATS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",),
           "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pnm"),
           "AVIF": (".avif",)}  # fmt: skip
SUFFIXES = tuple(s for suffixes in FORMATS.values() for s in suffixes)


# ---------------------------------------------------------------------------------------------- one interface


class ImageSet(torch.utils.data.Dataset):
    """Images with labels, in memory or decoded from files when they are asked for.

    images: uint8 tensor (n, C, H, W), or `cop.imagenet.LazyImages`, which is indexed alike.
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


def upright(image: Image.Image, channels: int = 3) -> Image.Image:
    """The image at its own size in mode RGB (channels 3) or L (channels 1): EXIF orientation applied, transparency laid
    over white, 16 bits reduced to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # 16-bit grey: Pillow would clip it, not scale it
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def center_crop(image: Image.Image, size: int, channels: int = 3) -> Image.Image:
    """An upright size x size image of mode RGB (channels 3) or L (channels 1).

    As ADM prepares ImageNet: halve with a box filter while the short side is at least twice `size`, resize
    the short side to `size` (bicubic), crop the centre.
    """
    image = upright(image, channels)
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
    pixels = np.array(read(file, lambda image: center_crop(image, image_size, channels), name))  # (H, W) or (H, W, 3)
    return np.ascontiguousarray(pixels.reshape(image_size, image_size, -1).transpose(2, 0, 1))


def read(file, prepare: Callable[[Image.Image], Image.Image] = upright, name: str | None = None) -> Image.Image:
    """An image (path, file object or PIL image), prepared while its file is open. ValueError names a damaged file."""
    try:
        given = isinstance(file, Image.Image)  # and stays open
        with nullcontext(file) if given else Image.open(file, formats=list(FORMATS)) as image:
            return prepare(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"no image file {file}; check the path") from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged input
        raise ValueError(f"cannot read image {name or file}: {error}. Expected a whole file of one of the "
                         f"formats {', '.join(FORMATS)}; replace or remove it") from error  # fmt: skip


# ---------------------------------------------------------------------------------------------- files


def walk(folder: Path) -> list[Path]:
    """All files below `folder`. Raises FileNotFoundError when a folder is missing or may not be read."""

    def refuse(error: OSError):
        raise FileNotFoundError(f"cannot read folder {error.filename}: {error.strerror}; check the path and "
                                "its permissions") from error  # fmt: skip

    walked = os.walk(folder, onerror=refuse)
    return [Path(d, f) for d, _, files in walked for f in files if not f.startswith(".")]


def file_size(path: str | Path) -> int:
    """Bytes of a file, −1 of one that cannot be looked at, such as a broken link: who reads it gets the error."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays atomically; a cache that cannot be written (full or read-only disk) is not an error."""

    def fill(part: Path) -> None:
        with part.open("wb") as file:  # to a name numpy would append its own suffix
            np.savez(file, **arrays)

    with suppress(OSError):
        write(path, fill)
