"""`read_images`: whatever a user calls images, as one batch of the size that a profile's models take."""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cop.configs import Profile
from cop.data.pictures import center_crop, decode, photographs, scaled, told
from cop.files import local
from cop.profiles import get_profile

LONGEST = 16  # long side of a whole photograph in short sides; a longer one is squeezed
ROUNDING = 1e-3  # by which the values of images may lie outside [-1, 1]


def read_images(images, profile: str | Profile = "natural") -> Tensor:
    """Any images as float32 (B, C, H, W) in [-1, 1] of the profile's size and channels.

    images: one of these, or several in a list, a tuple, a generator, `Path.glob(...)`, and the rows are in their order:
    - a path (`~` is your home) or an open file of an image, or a PIL image of any mode;
    - a uint8 array (H, W) or (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) RGBA, or a batch of the last three with B in front.
      Channels come last; with channels H may not be 1, 3 or 4, for then they might come first;
    - a float tensor (C, H, W) of the profile's size and channels in [-1, 1], or a batch (B, C, H, W).
    A set of paths is sorted by path. Files, PIL images and arrays are centre-cropped and resized to the profile's size.
    A folder, given alone, is all images in it and below it, sorted by path, without hidden files and drawings of
    `python -m cop rank`; what cannot be read is left out, and a warning names it.

    The batch's attribute `files` is a list with the file of every row, None where the image was no file. Raises
    ValueError or FileNotFoundError, naming the file or the value, for anything else, for no images, for a folder of
    which nothing can be read, and for an unreadable file that is not in a folder.
    """
    data = get_profile(profile).data
    parts, files = _read(images, lambda image: _image(image, data.image_size, data.channels))
    batch = torch.stack(parts)
    batch.files = files
    return batch


def read_whole(images, profile: str | Profile = "natural") -> list[Tensor]:
    """As `read_images`, but for the crop: a list of float32 (C, H, W), each with the attribute `file`.

    Files, PIL images and arrays are resized so that the short side is the profile's size and the long one the nearest multiple of
    a patch, at most `LONGEST` times the short one; so the patches cover all of the image, slightly stretched. Float tensors may
    have any height and width that patches divide.
    """
    profile = get_profile(profile)
    prepare = functools.partial(scaled, multiple=profile.tokens.patch_size, longest=LONGEST)

    def whole(image) -> Tensor:
        return _image(image, profile.data.image_size, profile.data.channels, prepare, profile.tokens.patch_size)

    parts, files = _read(images, whole)
    for part, file in zip(parts, files, strict=True):
        part.file = file
    return parts


def _read(images, one: Callable[[object], Tensor]) -> tuple[list[Tensor], list[str | None]]:
    """All images by the function of one of them, and their files; checked and raising as `read_images` says."""
    left_out, is_folder = {}, False
    if isinstance(images, (str, os.PathLike)):
        images = local(images)
        is_folder = os.path.isdir(images)
    folder = images
    if is_folder:
        images, left_out = photographs([folder])
    elif isinstance(images, (set, frozenset)):
        if not all(isinstance(x, (str, os.PathLike)) for x in images):
            raise ValueError("images are a set, which has no order; expected a list, or a set of paths")
        images = sorted(images, key=os.fspath)
    elif isinstance(images, (np.ndarray, Tensor)):
        images = list(images) if images.ndim == 4 else [images]
    elif (
        isinstance(images, (os.PathLike, bytes, bytearray, memoryview, Mapping))
        or hasattr(images, "read")
        or not isinstance(images, Iterable)
    ):
        images = [images]
    parts, files = [], []
    for image in images:
        try:
            parts.append(one(image))
            files.append(os.fspath(image) if isinstance(image, (str, os.PathLike)) else None)
        except (ValueError, OSError) as error:
            if not is_folder:
                raise
            left_out[image] = str(error)
    if not parts:
        raise ValueError("; ".join(told(left_out)) or "images is empty; expected at least one")
    if left_out:
        warnings.warn(f"{len(left_out)} left out of {folder}: {'; '.join(told(left_out))}", stacklevel=4)
    extremes = torch.stack([torch.stack(part.aminmax()) for part in parts])  # NaN anywhere makes both NaN
    if not torch.isfinite(extremes).all():
        raise ValueError("images contain NaN or infinite values; expected numbers in [-1, 1]")
    low, high = extremes.min().item(), extremes.max().item()
    if low < -1 - ROUNDING or high > 1 + ROUNDING:
        raise ValueError(f"images range from {low:.4g} to {high:.4g}; expected [-1, 1]: x / 127.5 - 1 if x is in 0..255, and "
                         "clamp(-1, 1) what an interpolation has overshot")  # fmt: skip
    return parts, files


def _image(image, size: int, channels: int, prepare: Callable = center_crop, patch: int | None = None) -> Tensor:
    """One image, not a folder, as a float tensor (C, H, W). patch: of what sides of a float tensor have to be multiples of, if it
    need not be of the size."""
    if torch.is_tensor(image):
        free = patch and image.ndim == 3 and len(image) == channels and not any(side % patch or not side for side in image.shape[1:])
        if not free and tuple(image.shape) != (channels, size, size) or not image.is_floating_point():
            raise ValueError(
                f"an image is {tuple(image.shape)} {image.dtype}; expected a float tensor (B, {channels}, {size}, "
                f"{size}) or ({channels}, {size}, {size}) in [-1, 1], or files, PIL images or uint8 arrays"
            )
        return image.detach().float()
    if isinstance(image, np.ndarray):
        layout = image.ndim == 2 or image.ndim == 3 and image.shape[2] in (1, 3, 4) and image.shape[0] not in (1, 3, 4)
        if image.dtype != np.uint8 or not layout or 0 in image.shape:
            raise ValueError(
                f"an array of shape {image.shape} and type {image.dtype}; expected uint8 (H, W), (H, W, 1), (H, W, 3), "
                "(H, W, 4) or a batch (B, H, W, 3), channels last, H not 1, 3 or 4; give others as PIL images"
            )
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    elif isinstance(image, (str, os.PathLike)):
        image = local(image)
        if os.path.isdir(image):
            raise ValueError(f"{image} is a folder among several images; expected files, or one folder alone")
    elif not isinstance(image, Image.Image) and not hasattr(image, "read"):
        raise ValueError(
            f"an image is given as {type(image).__name__}; expected a path, a PIL image, a uint8 array, a float "
            "tensor, or several of them in a list; open bytes with PIL.Image.open(io.BytesIO(...))"
        )
    return torch.from_numpy(decode(image, size, channels, prepare=prepare)).float() / 127.5 - 1
