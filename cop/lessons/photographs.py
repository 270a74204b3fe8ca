"""`python -m cop rank photo.jpg ...`: order photographs one after the other and write a drawing of each.

What is wrong with the paths is known before torch is imported, which takes longer than to rank a photograph.
"""

import io
import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from cop.configs import Profile
from cop.data.pictures import DRAWN, DRAWN_BY, is_drawing, photographs, read, told
from cop.files import write
from cop.profiles import get_profile

log = logging.getLogger(__name__)


def places(photos: list[Path], out: str | Path | None) -> list[Path]:
    """Where the drawing of each photograph goes: FILE.order.png beside it, or in the folder `out`, which is made.

    The drawings of photographs of one name lie in folders of `out` named after theirs, as is logged. For a single
    photograph `out` may be the PNG file itself. Raises ValueError for several photographs and one file, or a file in the
    way; OSError where no folder can be made.
    """
    if not out:
        return [photo.with_name(photo.name + DRAWN) for photo in photos]
    out = Path(out).expanduser()
    if out.suffix.lower() == ".png" and not out.is_dir():
        if len(photos) > 1:
            raise ValueError(f"--out {out} is one file for {len(photos)} photographs; give a folder")
        if out.exists() and not is_drawing(out):
            raise ValueError(f"--out {out} exists and is no drawing of this command; give another name")
        return [out] * len(photos)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder, or a new name that ends in .png for one photograph")
    out.mkdir(parents=True, exist_ok=True)
    same = defaultdict(list)  # some systems take a.jpg and A.jpg for one name
    for photo in photos:
        same[photo.name.casefold()].append(os.path.realpath(photo.parent))
    shared = {name: os.path.commonpath(parents) for name, parents in same.items()}
    for name in (n for n, parents in same.items() if len(parents) > 1):
        log.warning("%d photographs are named %s: their drawings lie in folders of %s named after theirs", len(same[name]), name, out)
    return [out / os.path.relpath(os.path.realpath(p.parent), shared[p.name.casefold()]) / (p.name + DRAWN) for p in photos]


def draw(paths: Sequence[str | Path], profile: str | Profile, seed: int = 0, out: str | Path | None = None,
         device: str = "auto", order: str = "collapse", graph: str | None = None, exact: bool = False,
         crop: bool = True, strip: bool = False) -> tuple[list[Path], dict[Path, str]]:  # fmt: skip
    """Order photographs one after the other and write the drawing of each to its place (`places`).

    Returns what was written; and what was left out, because it could not be read or its drawing not written, with the
    reason: it is logged, and the others are drawn all the same. order, graph, exact, crop: as in `rank`. strip: also
    write the film strip of each order, NAME.strip.png beside NAME.png. Raises as `cop.data.pictures.photographs` and
    `places`, for an unknown order, and ValueError for strips of whole photographs, which are not square.
    """
    profile, written = get_profile(profile), []
    if strip and not crop:
        raise ValueError("--strip draws the square that was ranked; leave out --no-crop")
    photos, left_out = photographs(paths)
    targets = places(photos, out)
    for line in told(left_out):
        log.error("%s", line)
    if not photos:
        return written, left_out
    from cop.data.inputs import read_images, read_whole
    from cop.lessons.ranks import grid_of, ranker
    from cop.orders import get
    from cop.show.overlay import film_strip, overlay
    from cop.train.loop import progress

    rank = ranker(profile, seed, device, order, graph, exact, crop)  # an order or a model that cannot be had ends the run before any photograph is blamed
    per_step = profile.looking.per_step if get(order).needs == "predictor" else 1
    mark, failed = PngInfo(), {}
    mark.add_text("Software", DRAWN_BY)
    for path, target in progress(list(zip(photos, targets, strict=True)), "ranking"):
        try:
            photo = read(path)
            image = (read_images if crop else read_whole)(photo, profile)[0]
            ranking = rank(image[None])[0]
            drawings = {target: overlay(photo, ranking, grid=None if crop else grid_of(image, profile))}
            if strip:
                drawings[target.with_suffix(".strip.png")] = film_strip(photo, ranking, per_step)
        except (ValueError, OSError) as error:
            failed[path] = str(error)
            continue
        try:
            for place, drawing in drawings.items():
                buffer = io.BytesIO()
                drawing.save(buffer, "PNG", pnginfo=mark)
                write(place, buffer.getvalue())
                written.append(place)
        except OSError as error:
            failed[path] = f"cannot write {place}, the drawing of {path}: {error.strerror}; give --out another folder"
    for line in told(failed):
        log.error("%s", line)
    return written, left_out | failed
