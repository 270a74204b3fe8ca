"""Pictures with controls: notebook 3's order player and notebook 5's patch slider.

Where widgets do not run (on GitHub, in the book, without ipywidgets, or with `COP_PROGRESS=0`, which headless runs set)
their first picture stands in their place. Letters: B images, N patches, G patches per side.
"""

import base64
import functools
import html
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cop.data.images import ImageSet
from cop.orders import check_ranking
from cop.paper.cvit import CViT
from cop.show import figures, figures_classification
from cop.show.figures import STYLE

VIEW = "application/vnd.jupyter.widget-view+json"
SECONDS = 12  # that Play takes for all patches of an image


class Panel:
    """An image revealed patch by patch, by Play or a slider, under further choices. As a cell's last line it shows itself.

    A subclass says what to `draw` and how to `say` it (the alt text) for given values of the controls, and which
    `choices` there are beside `seen`, the number of patches, of which `fewest` are always seen.
    """

    fewest = 0

    def __init__(self, num_patches: int, **start):
        """start: the values of the first picture, by control. Raises ValueError for an impossible number of patches."""
        if not self.fewest <= start["seen"] <= num_patches:
            raise ValueError(
                f"seen is {start['seen']}; expected a number of patches from {self.fewest} to {num_patches}"
            )
        self.num_patches, self.start = num_patches, start

    def draw(self, **values) -> Figure:
        raise NotImplementedError

    def say(self, **values) -> str:
        raise NotImplementedError

    def choices(self) -> dict:
        """ipywidgets controls by the name of the value they hold."""
        raise NotImplementedError

    def picture(self, **values) -> tuple[str, dict]:
        """The picture for these values: PNG in base64, and its alt text and size as shown in CSS pixels."""
        fig, buffer = self.draw(**values), io.BytesIO()
        fig.savefig(buffer, format="png", dpi=STYLE["savefig.dpi"])
        width, height = (round(inches * STYLE["figure.dpi"]) for inches in fig.get_size_inches())
        about = {"alt": self.say(**values), "width": width, "height": height}
        return base64.b64encode(buffer.getvalue()).decode(), about

    @functools.cached_property
    def live(self):
        """The controls over the picture, an ipywidgets box. Raises ImportError without ipywidgets."""
        import ipywidgets as w

        N = self.num_patches
        play = w.Play(value=self.start["seen"], min=self.fewest, max=N, interval=1000 * SECONDS // N, show_repeat=False)
        seen = w.IntSlider(self.start["seen"], self.fewest, N, description="patches", layout={"width": "360px"})
        w.jslink((play, "value"), (seen, "value"))
        self.controls = self.choices() | {"seen": seen}
        shown = w.HTML()

        def update(_=None) -> None:
            data, about = self.picture(**{name: c.value for name, c in self.controls.items()})
            size = f'width="{about["width"]}" height="{about["height"]}"'
            shown.value = (f'<img alt="{html.escape(about["alt"])}" {size} decoding="sync" style="max-width: none" '
                           f'src="data:image/png;base64,{data}">')  # fmt: skip

        for control in self.controls.values():
            control.observe(update, "value")
        update()
        *above, seen = self.controls.values()
        wrap = w.Layout(flex_flow="row wrap")
        return w.VBox([w.HBox(above, layout=wrap), w.HBox([play, seen], layout=wrap), shown])

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        """The first picture, and where somebody can move them the controls, which a notebook prefers to show."""
        data, about = self.picture(**self.start)
        bundle = {"text/plain": about["alt"], "image/png": data}
        if os.environ.get("COP_PROGRESS") != "0" and importlib.util.find_spec("ipywidgets"):
            bundle[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.live.model_id}
        return bundle, {"image/png": about}


class OrderPlayer(Panel):
    """Notebook 3: an image revealed along any two orders side by side."""

    def __init__(self, images: np.ndarray, orders: Mapping[str, Tensor], grid: int, titles: Sequence[str], image: int = 0,
                 left: str = "collapse", right: str = "random", seen: int | None = None):  # fmt: skip
        """images: (B, H, W) or (B, H, W, 3) in [0, 1]; orders: by name, a ranking (B, N), or (N,) for all images;
        titles: B of them; image, left, right, seen: the first picture, which sees 22 % unless told.

        Raises ValueError for images that do not divide into the grid, for a ranking of another shape or with a patch
        missing, another number of titles, and an unknown image or order."""
        B, N = len(images), grid**2
        if images.ndim not in (3, 4) or images.shape[1] != images.shape[2] or images.shape[1] % grid:
            raise ValueError(
                f"images are {images.shape}; expected (B, H, H) or (B, H, H, 3) with H a multiple of {grid}"
            )
        if len(titles) != B:
            raise ValueError(f"{len(titles)} titles for {B} images; expected one per image")
        if not 0 <= image < B:
            raise ValueError(f"image is {image}; expected a number from 0 to {B - 1}")
        for name in (left, right):
            if name not in orders:
                raise ValueError(f"unknown order {name!r}; expected one of {', '.join(orders)}")
        self.images, self.grid, self.titles, self.orders = images, grid, list(titles), {}
        for name, ranking in orders.items():
            if check_ranking(ranking, N).ndim == 2 and len(ranking) != B:
                raise ValueError(
                    f"order {name!r} ranks {len(ranking)} images, there are {B}; expected one ranking per image"
                )
            self.orders[name] = ranking.cpu().expand(B, -1).numpy()
        super().__init__(N, image=image, left=left, right=right, seen=round(0.22 * N) if seen is None else seen)

    def draw(self, image: int, left: str, right: str, seen: int) -> Figure:
        pair = [(name, self.orders[name][image]) for name in (left, right)]
        return figures.two_orders(self.images[image], pair, seen, self.grid, self.titles[image])

    def say(self, image: int, left: str, right: str, seen: int) -> str:
        return (f"{self.titles[image]} after {seen} of {self.num_patches} patches, on the left in the order "
                f"{left}, on the right in the order {right}.")  # fmt: skip

    def choices(self) -> dict:
        import ipywidgets as w

        images = [(f"{i + 1} · {title}", i) for i, title in enumerate(self.titles)]
        options = {"image": images, "left": list(self.orders), "right": list(self.orders)}
        return {name: w.Dropdown(options=those, value=self.start[name], description=name, layout={"width": "240px"})
                for name, those in options.items()}  # fmt: skip


class PatchSlider(Panel):
    """Notebook 5: any image of a split at its first patches, and what a classifier makes of them."""

    fewest = 1  # a classifier says nothing of no patch

    def __init__(self, model: CViT, data: ImageSet, ranking: Tensor, image: int = 0, seen: int | None = None):
        """ranking: (n, N), one per image of `data`; image, seen: the first picture, which sees 22 % unless told.

        Raises ValueError for a ranking of another grid or number of images, and an unknown image."""
        N = model.patch_embed.num_patches
        if check_ranking(ranking, N).shape != (len(data), N):
            raise ValueError(f"the ranking is {tuple(ranking.shape)} for {len(data)} images; expected one per image")
        if not 0 <= image < len(data):
            raise ValueError(f"image is {image}; expected a number from 0 to {len(data) - 1}")
        self.model, self.data, self.ranking = model, data, ranking.cpu()
        super().__init__(N, image=image, seen=max(1, round(0.22 * N)) if seen is None else seen)

    @torch.no_grad()
    def probabilities(self, image: int, seen: int) -> np.ndarray:
        """Of every class, for an image at its first `seen` patches: (classes,)."""
        return self.model(self.data.batch([image])[0], self.ranking[image, None, :seen]).softmax(-1)[0].numpy()

    def draw(self, image: int, seen: int) -> Figure:
        pixels, label = self.data.batch([image])
        return figures_classification.one_guess(figures.to_array(pixels)[0], self.ranking[image].numpy(), seen,
                                                self.model.patch_embed.grid_size[0], self.probabilities(image, seen),
                                                self.data.class_names, int(label))  # fmt: skip

    def say(self, image: int, seen: int) -> str:
        p, names = self.probabilities(image, seen), self.data.class_names
        return (f"Test image {image} ({names[int(self.data.batch([image])[1])]}) at its first {seen} of {self.num_patches} "
                f"patches; the classifier says {names[p.argmax()]}, {p.max():.0%}.")  # fmt: skip

    def choices(self) -> dict:
        import ipywidgets as w

        return {"image": w.BoundedIntText(self.start["image"], 0, len(self.data) - 1, description="image")}
