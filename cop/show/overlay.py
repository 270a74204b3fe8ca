"""The collapse order of any photograph, drawn over it at its own resolution: `python -m cop rank photo.jpg ...`."""

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from cop.orders import check_ranking, ranks_of

SMALLEST = 4  # pixels of a patch in the drawing: a photograph with smaller ones is enlarged


def overlay(photo: Image.Image, ranking: Tensor, first: float = 0.22) -> Image.Image:
    """The photograph, RGB and of the same size, with its patches coloured by rank.

    ranking: (N,), [0] the patch seen first, of the centre square (what is outside was not ranked and stays as it is).
    Patches are tinted from yellow (first) to blue (last); the first `first` of them have a white frame. A photograph
    whose patches are smaller than `SMALLEST` px is enlarged by a whole factor. Raises ValueError for no ranking.
    """
    check_ranking(ranking, len(ranking))
    N, G = len(ranking), round(len(ranking) ** 0.5)
    if G * G != N:
        raise ValueError(f"ranking has {N} patches; expected a square number of them")
    times = max(1, -(-SMALLEST * G // min(photo.size)))
    photo = photo.resize((photo.width * times, photo.height * times), Image.Resampling.NEAREST) if times > 1 else photo
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    edges = np.linspace(0, side, G + 1).round().astype(int)
    place = ranks_of(ranking[None])[0].numpy().reshape(G, G)  # of each patch in the order
    cell = np.searchsorted(edges, np.arange(side), side="right") - 1  # patch row or column of each pixel
    colours = matplotlib.colormaps["plasma_r"](np.arange(N) / max(1, N - 1), bytes=True)[:, :3]  # (N, 3)
    square = photo.crop((left, top, left + side, top + side))
    tint = Image.fromarray(colours[place[cell][:, cell]])
    square = Image.blend(square, tint, 0.45)
    draw = ImageDraw.Draw(square)
    for patch in ranking[: max(1, round(first * N))].tolist():
        y, x = divmod(patch, G)
        draw.rectangle((edges[x], edges[y], edges[x + 1] - 1, edges[y + 1] - 1), outline="white", width=max(1, side // (40 * G)))
    drawn = photo.copy()
    drawn.paste(square, (left, top))
    return drawn
