"""Image files without torch: which files are photographs, how one is opened, ADM's centre crop."""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cop.files import local, write

FORMATS = {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",),
           "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pnm", ".pbm", ".pfm"),
           "AVIF": (".avif",)}  # fmt: skip
SUFFIXES = tuple(s for suffixes in FORMATS.values() for s in suffixes)
HEIC = (".heic", ".heif", ".hif")  # read where the optional package pillow-heif is installed
UNREAD = (".jxl", ".jp2", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")  # photographs all the same
HEIC_HELP = "HEIC is read with the optional package pillow-heif: pip install pillow-heif, or convert the files to JPEG"
DRAWN = ".order.png"  # ends the name of a drawing of `cop rank`
DRAWN_BY = "cop rank"  # the Software field of its PNG file, whatever its name


# ---------------------------------------------------------------------------------------------- one image


def upright(image: Image.Image, channels: int = 3) -> Image.Image:
    """The image at its own size in mode RGB (channels 3) or L (channels 1): EXIF orientation applied, transparency laid
    over white, more than 8 bits reduced to 8 (`eight_bits`)."""
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # Pillow would clip these, not scale them
        image = eight_bits(image)
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that Pillow converts it to
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "L":
        image = image.convert("RGB")  # from LAB there is no direct way to L
    return image.convert("L" if channels == 1 else "RGB")


def eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits (mode I;16), 32-bit integers (I) or floats (F) as mode L.

    Of 16 bits 65535 is white. Integers and floats do not say what is white: it is the first of 1, 255 and 65535 that
    no value exceeds, if the greatest value reaches a tenth of it. Otherwise, and with negative values, the least value
    is black and the greatest is white. Raises ValueError for NaN or infinite values.
    """
    values = np.asarray(image).astype(np.float64)  # (H, W)
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError(f"mode {image.mode} with NaN or infinite values")
    black, white = 0, 65535
    if not image.mode.startswith("I;16"):
        white = next((w for w in (1, 255, 65535) if high <= w), np.inf)
        if low < 0 or high < white / 10:
            black, white = low, high if high > low else low + max(1, abs(low))
    values[values == image.info.get("transparency")] = white  # laid over white
    return Image.fromarray(np.rint((values - black) * (255 / (white - black))).astype(np.uint8))


def scaled(image: Image.Image, size: int, channels: int = 3, multiple: int = 1, longest: float = math.inf) -> Image.Image:
    """An upright image of mode RGB (channels 3) or L (channels 1) whose short side is `size`, as ADM prepares ImageNet: halve with a
    box filter while the short side is at least twice `size`, then bicubic. The long side becomes the nearest multiple of
    `multiple`, which must divide `size`, and at most `longest` times the short one."""
    image = upright(image, channels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    sides = [max(size, multiple * round(min(side * scale, longest * size) / multiple)) for side in image.size]
    return image if image.size == tuple(sides) else image.resize(sides, Image.Resampling.BICUBIC)


def center_crop(image: Image.Image, size: int, channels: int = 3) -> Image.Image:
    """The centre of `scaled`, size x size."""
    image = scaled(image, size, channels)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode(file, image_size: int, channels: int, name: str | None = None, prepare: Callable = center_crop) -> np.ndarray:
    """An image (path, file object or PIL image) as uint8 (C, H, W), the centre square by default. ValueError names a damaged file."""
    pixels = np.array(read(file, lambda image: prepare(image, image_size, channels), name))  # (H, W) or (H, W, 3)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))


def read(file, prepare: Callable[[Image.Image], Image.Image] = upright, name: str | None = None) -> Image.Image:
    """An image (path, file object or PIL image), prepared while its file is open.

    Raises FileNotFoundError for no file, ValueError naming a file that is damaged, of another format or too large.
    """
    name = name or file
    try:
        given = isinstance(file, Image.Image)  # and stays open
        with nullcontext(file) if given else Image.open(file, formats=[*FORMATS, *heif()]) as image:
            return prepare(image)
    except FileNotFoundError:
        link = "it is a broken link" if not given and os.path.islink(file) else "check the path"
        raise FileNotFoundError(f"no image file {name}; {link}") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"cannot read image {name}: {error} Scale it down, or, if you trust the file, set "
                         "PIL.Image.MAX_IMAGE_PIXELS = None before you call cop.rank") from error  # fmt: skip
    except PermissionError as error:
        raise ValueError(f"cannot read image {name}: {error.strerror}; check its permissions") from error
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged input
        advice = HEIC_HELP if is_heic(file) and not heif() else (
            f"Expected a whole file of one of the formats {', '.join(FORMATS)}; replace or remove it")  # fmt: skip
        raise ValueError(f"cannot read image {name}: {error}. {advice}") from error


@cache
def heif() -> tuple[str, ...]:
    """The format HEIF, if the optional package that reads it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def is_heic(file) -> bool:
    """Whether the file at this path begins as HEIC does, whatever its name."""
    with suppress(OSError, TypeError, ValueError), open(file, "rb") as opened:
        return opened.read(12)[4:] in (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1")
    return False


# ---------------------------------------------------------------------------------------------- files


def walk(folder: Path, unreadable: dict[Path, str] | None = None) -> list[Path]:
    """All files below `folder`, without the hidden ones and those in hidden folders (macOS's `._*` companions are hidden).

    Links to folders are followed, each folder once. A folder that is missing or may not be read raises FileNotFoundError, or is put into `unreadable` with the reason.
    """

    def refuse(error: OSError):
        reason = f"cannot read folder {error.filename}: {error.strerror}; check the path and its permissions"
        if unreadable is None:
            raise FileNotFoundError(reason) from error
        unreadable[Path(error.filename)] = reason

    found, seen = [], {os.path.realpath(folder)}
    for d, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        below = {os.path.realpath(os.path.join(d, f)): f for f in sorted(folders, reverse=True) if not f.startswith(".")}
        folders[:] = [f for real, f in below.items() if real not in seen]
        seen |= below.keys()
        found += [Path(d, f) for f in files if not f.startswith(".")]
    return found


def photographs(paths: Iterable[str | os.PathLike]) -> tuple[list[Path], dict[Path, str]]:
    """The files named, and all images in and below the folders named, sorted by path within each folder; each file once.

    Hidden files and the drawings of `cop rank` count as nothing. The second result names what had to be left out, and
    why: a path that does not exist, a folder that cannot be read or holds no image, photographs of formats not read.
    Raises FileNotFoundError where nothing is named and nothing left out.
    """
    reasons = {s: "the format is not read; convert the files to JPEG" for s in UNREAD} | {s: HEIC_HELP for s in HEIC if not heif()}
    found, left_out = {}, {}
    for path in paths:
        try:
            path = local(path)
        except FileNotFoundError as error:
            left_out[Path(os.fspath(path)[:200])] = str(error)
            continue
        inside, without = [path], {}
        if os.path.isdir(path):
            files = [p for p in sorted(walk(path, without)) if p.suffix.lower() in SUFFIXES + HEIC + UNREAD]
            without |= {p: reasons[p.suffix.lower()] for p in files if p.suffix.lower() in reasons}
            inside = [p for p in files if p not in without]
        inside = [p for p in inside if not p.name.startswith("._") and not is_drawing(p)]
        if os.path.isdir(path) and not inside and not without:
            without[path] = f"no images in {path}; expected files {', '.join(SUFFIXES)}"
        left_out |= without
        for p in inside:
            found.setdefault(Path(os.path.realpath(p.parent), p.name), p)
    if not found and not left_out:
        raise FileNotFoundError("no photographs among what was given; hidden files and drawings of `cop rank` do not count")
    return list(found.values()), left_out


def is_drawing(path: Path) -> bool:
    """Whether `cop rank` drew this file."""
    if path.name.endswith(DRAWN):
        return True
    with suppress(Exception):  # whatever cannot be read is none
        if path.suffix.lower() == ".png":
            with Image.open(path, formats=["PNG"]) as image:
                return image.info.get("Software") == DRAWN_BY
    return False


def told(left_out: dict[Path, str]) -> list[str]:
    """A line for every reason to leave out files, naming the file, or the first one and how many share the reason."""
    by_reason = {}
    for path, reason in left_out.items():
        by_reason.setdefault(reason, []).append(path)
    files = {reason: f"{p[0]}" if len(p) == 1 else f"{len(p)} files such as {p[0]}" for reason, p in by_reason.items()}
    return [reason if p[0].name in reason else f"{files[reason]}: {reason}" for reason, p in by_reason.items()]


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
