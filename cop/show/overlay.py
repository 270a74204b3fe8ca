"""The collapse order of any photograph, drawn over it at its own resolution: `python -m cop rank photo.jpg ...`."""

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from cop.orders import check_ranking, ranks_of

SMALLEST = 4  # pixels of a patch in the drawing: a photograph with smaller ones is enlarged


def overlay(
    photo: Image.Image, ranking: Tensor, first: float = 0.22, grid: tuple[int, int] | None = None
) -> Image.Image:
    """The photograph, RGB and of the same size, with its patches coloured by rank.

    ranking: (N,), [0] the patch seen first, of the centre square (what is outside was not ranked and stays as it is), or of the
    whole photograph in `grid` rows and columns.
    Patches are tinted from yellow (first) to blue (last); the first `first` of them have a white frame. A photograph
    whose patches are smaller than `SMALLEST` px is enlarged by a whole factor. Raises ValueError for no ranking, for one of another
    number of patches, and for a photograph so narrow that it would be enlarged beyond PIL.Image.MAX_IMAGE_PIXELS.
    """
    check_ranking(ranking, len(ranking))
    N = len(ranking)
    rows, columns = grid or (round(N**0.5), round(N**0.5))
    if rows * columns != N:
        raise ValueError(f"ranking has {N} patches; expected {'a square number of them' if grid is None else f'{rows} x {columns}'}")
    shape = photo.size if grid else (min(photo.size),) * 2  # what was ranked
    times = max(1, -(-SMALLEST * rows // shape[1]), -(-SMALLEST * columns // shape[0]))
    if times > 1 and Image.MAX_IMAGE_PIXELS and photo.width * photo.height * times**2 > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"the photograph has {photo.width} x {photo.height} px, and a drawing of its patches would have {times}² times as "
            f"many, more than the {Image.MAX_IMAGE_PIXELS} of PIL.Image.MAX_IMAGE_PIXELS; crop it"
        )
    photo = photo.resize((photo.width * times, photo.height * times), Image.Resampling.NEAREST) if times > 1 else photo
    width, height = times * shape[0], times * shape[1]
    left, top = (photo.width - width) // 2, (photo.height - height) // 2
    x_edges, y_edges = (np.linspace(0, side, n + 1).round().astype(int) for side, n in ((width, columns), (height, rows)))
    place = ranks_of(ranking[None])[0].numpy().reshape(rows, columns)  # of each patch in the order
    row = np.searchsorted(y_edges, np.arange(height), side="right") - 1  # of each pixel
    column = np.searchsorted(x_edges, np.arange(width), side="right") - 1
    colours = matplotlib.colormaps["plasma_r"](np.arange(N) / max(1, N - 1), bytes=True)[:, :3]  # (N, 3)
    ranked = photo.crop((left, top, left + width, top + height))
    ranked = Image.blend(ranked, Image.fromarray(colours[place][row][:, column]), 0.45)
    draw, line = ImageDraw.Draw(ranked), max(1, min(width // columns, height // rows) // 40)
    for patch in ranking[: max(1, round(first * N))].tolist():
        y, x = divmod(patch, columns)
        corners = (x_edges[x], y_edges[y], x_edges[x + 1] - 1, y_edges[y + 1] - 1)
        draw.rectangle(corners, outline="white", width=line)
    drawn = photo.copy()
    drawn.paste(ranked, (left, top))
    return drawn


def film_strip(photo: Image.Image, ranking: Tensor, per_step: int = 1, first: float = 0.22, frames: int = 7, side: int = 192) -> Image.Image:
    """What had been seen before each choice: frames in a row, the patches not yet seen grey, those chosen next framed white.

    ranking: (N,), of the centre square of the photograph; per_step: patches of one choice. At most `frames` choices, evenly
    from the first one to that which completes the first `first` of the patches, and at the end what they show; each frame is
    `side` px wide. Raises ValueError for no ranking, and for one whose patches are no square.
    """
    check_ranking(ranking, len(ranking))
    N, G = len(ranking), round(len(ranking) ** 0.5)
    if G * G != N:
        raise ValueError(f"ranking has {N} patches; expected a square number of them")
    short = min(photo.size)
    left, top = (photo.width - short) // 2, (photo.height - short) // 2
    whole = photo.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC).convert("RGB")
    edges = np.linspace(0, side, G + 1).round().astype(int)
    total, gap = max(1, round(first * N)), max(2, side // 24)
    steps = list(range(0, total, per_step))
    shown = [steps[i] for i in np.linspace(0, len(steps) - 1, min(frames, len(steps))).round().astype(int)]
    drawn = Image.new("RGB", ((len(shown) + 1) * (side + gap) - gap, side), "white")
    for i, seen in enumerate([*shown, total]):
        frame = Image.new("RGB", (side, side), (70, 70, 78))
        draw = ImageDraw.Draw(frame)
        for k, patch in enumerate(ranking[: min(total, seen + per_step)].tolist()):
            y, x = divmod(patch, G)
            box = tuple(int(e) for e in (edges[x], edges[y], edges[x + 1], edges[y + 1]))
            if k < seen:
                frame.paste(whole.crop(box), box[:2])
            else:
                draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="white", width=max(1, side // G // 10))
        drawn.paste(frame, (i * (side + gap), 0))
    return drawn
