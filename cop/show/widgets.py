"""Pictures with controls, one per notebook: an entropy map, masks, two orders, generation, first patches, and looking.

Where widgets do not run (on GitHub, in the book, without ipywidgets, or with `COP_PROGRESS=0`, which headless runs set)
their first picture stands in their place, which moves where motion is the point: an animated PNG.
Letters: B images, N patches, G patches per side, P pixels per side of a patch.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from cop.data.images import ImageSet
from cop.orders import check_ranking
from cop.paper.cvit import CViT
from cop.paper.entropy import GaussianTokens
from cop.show import figures, figures_classification, figures_widgets
from cop.show.panel import Panel, menu, numbered, pad


def check_image(image: int, count: int) -> None:
    if not 0 <= image < count:
        raise ValueError(f"image is {image}; expected a number from 0 to {count - 1}")


class EntropyMap(Panel):
    """Notebook 1: how uncertain every patch is under a Gaussian model once some are seen, which one clicks."""

    slides = None

    def __init__(self, model: GaussianTokens, image: np.ndarray, title: str, seen: Sequence[int] = ()):
        """image: (H, W) or (H, W, 3) in [0, 1]; seen: the patches of the first picture. Raises ValueError for unknown patches."""
        if not set(seen) <= set(range(model.N)):
            raise ValueError(f"seen is {list(seen)}; expected patches from 0 to {model.N - 1}")
        self.model, self.image, self.title, self.grid = model, image, title, round(model.N**0.5)
        self.before = self.left(())
        super().__init__(seen=tuple(seen))

    def left(self, seen: Sequence[int]) -> np.ndarray:
        """The entropy of every patch once these are seen, in nats, (N,)."""
        known = torch.zeros(self.model.N, dtype=torch.bool)
        known[list(seen)] = True
        return self.model.left(known).cpu().numpy()

    def draw(self, seen: Sequence[int]) -> Figure:
        return figures_widgets.entropies(self.image, seen, self.before, self.left(seen), self.grid, self.says(seen))

    def says(self, seen: Sequence[int]) -> str:
        away, all_away = self.before[list(seen)].sum(), self.before.sum() - self.left(seen).sum()
        return f"The patches seen take {away:.0f} nats with them and tell {all_away - away:.0f} about the others"

    def say(self, seen: Sequence[int]) -> str:
        what = f"Entropy of every patch of {self.title} before and after {len(seen)} of {self.model.N} are seen"
        return f"{what}. {self.says(seen)}; {self.left(seen).sum():.0f} are left."

    def choices(self) -> dict:
        return {"seen": pad(self.grid, self.start["seen"], True, self.left, self.before.max())}


class MaskMap(Panel):
    """Notebook 2: which patches CoMAE lets through for a target, and what it makes of them, for the target that one clicks."""

    slides = None

    def __init__(
        self,
        masks: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
        images: np.ndarray,
        grid: int,
        titles: Sequence[str],
        image: int = 0,
        target: int | None = None,
    ):
        """masks: from an image and a target to the weights (N,) and the reconstruction (P, P) or (P, P, 3) in [0, 1]; images: as
        of `OrderPlayer`; target: of the first picture, by default the middle. Raises ValueError for an unknown image or target."""
        check_image(image, len(images))
        target = grid * (grid // 2) + grid // 2 if target is None else target
        if not 0 <= target < grid**2:
            raise ValueError(f"target is {target}; expected a patch from 0 to {grid**2 - 1}")
        self.masks, self.images, self.grid, self.titles = functools.cache(masks), images, grid, list(titles)
        super().__init__(image=image, target=(target,))

    def draw(self, image: int, target: tuple[int]) -> Figure:
        label = f"{self.titles[image]}: what CoMAE lets through for patch {target[0]}"
        return figures_widgets.mask_of(self.images[image], target[0], *self.masks(image, target[0]), self.grid, label)

    def say(self, image: int, target: tuple[int]) -> str:
        high, which = (self.masks(image, target[0])[0] > 0.5).sum(), f"patch {target[0]} of {self.titles[image]}"
        return f"Mask of {which}, with {high} weights above one half, and the patch beside its reconstruction."

    def choices(self) -> dict:
        image = menu("image", numbered(self.titles), self.start["image"])
        target = pad(self.grid, self.start["target"], False, lambda t: self.masks(image.value, t[0])[0], 1)
        image.observe(lambda _: target.paint(), "value")
        return {"image": image, "target": target}


class OrderPlayer(Panel):
    """Notebooks 3 and 4: an image revealed, or generated, along any two orders side by side."""

    def __init__(
        self,
        images: np.ndarray | Mapping[str, np.ndarray],
        orders: Mapping[str, Tensor],
        grid: int,
        titles: Sequence[str],
        image: int = 0,
        left: str = "collapse",
        right: str = "random",
        seen: int | None = None,
        moves: Sequence[int] = (),
    ):
        """images: (B, H, W) or (B, H, W, 3) in [0, 1], the same for all orders or those of each by its name; orders: by
        name, a ranking (B, N), or (N,) for all images; titles: B of them; image, left, right, seen: the first picture, which
        sees 22 % unless told; moves: the numbers of patches seen in the animation.

        Raises ValueError for images that do not divide into the grid, for a ranking of another shape or with a patch
        missing, another number of titles, and an unknown image or order."""
        images = images if isinstance(images, Mapping) else dict.fromkeys(orders, images)
        B, N = len(next(iter(images.values()))), grid**2
        for one in images.values():
            if one.ndim not in (3, 4) or one.shape[1] != one.shape[2] or one.shape[1] % grid:
                raise ValueError(
                    f"images are {one.shape}; expected (B, H, H) or (B, H, H, 3) with H a multiple of {grid}"
                )
        if len(titles) != B:
            raise ValueError(f"{len(titles)} titles for {B} images; expected one per image")
        check_image(image, B)
        for name in (left, right):
            if name not in orders:
                raise ValueError(f"unknown order {name!r}; expected one of {', '.join(orders)}")
        self.images, self.grid, self.titles, self.orders, self.moves = images, grid, list(titles), {}, moves
        for name, ranking in orders.items():
            if check_ranking(ranking, N).ndim == 2 and len(ranking) != B:
                raise ValueError(
                    f"order {name!r} ranks {len(ranking)} images, there are {B}; expected one ranking per image"
                )
            self.orders[name] = ranking.cpu().expand(B, -1).numpy()
        super().__init__(N, image=image, left=left, right=right, seen=round(0.22 * N) if seen is None else seen)

    def draw(self, image: int, left: str, right: str, seen: int) -> Figure:
        sides = [(name, self.images[name][image], self.orders[name][image]) for name in (left, right)]
        return figures_widgets.two_orders(sides, seen, self.grid, self.titles[image])

    def say(self, image: int, left: str, right: str, seen: int) -> str:
        return (f"{self.titles[image]} after {seen} of {self.most} patches, on the left in the order "
                f"{left}, on the right in the order {right}.")  # fmt: skip

    def choices(self) -> dict:
        image = menu("image", numbered(self.titles), self.start["image"])
        return {"image": image} | {side: menu(side, list(self.orders), self.start[side]) for side in ("left", "right")}


class PatchSlider(Panel):
    """Notebook 5: any image of a split at its first patches, and what a classifier makes of them."""

    fewest = 1  # a classifier says nothing of no patch

    def __init__(self, model: CViT, data: ImageSet, ranking: Tensor, image: int = 0, seen: int | None = None):
        """ranking: (n, N), one per image of `data`; image, seen: the first picture, which sees 22 % unless told.

        Raises ValueError for a ranking of another grid or number of images, and an unknown image."""
        N = model.patch_embed.num_patches
        if check_ranking(ranking, N).shape != (len(data), N):
            raise ValueError(f"the ranking is {tuple(ranking.shape)} for {len(data)} images; expected one per image")
        check_image(image, len(data))
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
        return (f"Test image {image} ({names[int(self.data.batch([image])[1])]}) at its first {seen} of {self.most} "
                f"patches; the classifier says {names[p.argmax()]}, {p.max():.0%}.")  # fmt: skip

    def choices(self) -> dict:
        import ipywidgets as w

        return {"image": w.BoundedIntText(self.start["image"], 0, len(self.data) - 1, description="image")}


class LookPlayer(Panel):
    """Notebook 6: looking step by step: what is seen, what a predictor expects of the rest, and where its doubt sends the eye."""

    def __init__(
        self,
        think: Callable[[int, Tensor], tuple[np.ndarray, np.ndarray]],
        images: np.ndarray,
        ranking: Tensor,
        titles: Sequence[str],
        per_step: int,
        image: int = 0,
        seen: int | None = None,
    ):
        """think: from an image and the patches seen of it (k,) to the expected image, as one of `images`, and the doubt (N,);
        images: (B, H, W) or (B, H, W, 3); ranking: (B, N), of which `per_step` patches are looked at a time; image, seen: the first
        picture. Raises ValueError for an unknown image, and for rankings of another number of images."""
        check_image(image, len(images))
        N = ranking.shape[1]
        if len(check_ranking(ranking, N)) != len(images):
            raise ValueError(f"the ranking is {tuple(ranking.shape)} for {len(images)} images; expected one per image")
        self.images, self.ranking, self.titles = images, ranking.cpu(), list(titles)
        self.think = functools.cache(lambda image, seen: think(image, self.ranking[image, :seen]))
        self.step, self.grid, self.moves = per_step, round(N**0.5), range(0, N // 2 + 1, per_step)
        seen = per_step * round(0.22 * N / per_step) if seen is None else seen
        super().__init__(N, image=image, seen=seen)

    def draw(self, image: int, seen: int) -> Figure:
        order, label = self.ranking[image].numpy(), self.titles[image]
        (guess, doubt), top = self.think(image, seen), self.think(image, 0)[1].max()
        after = order[seen : seen + self.step]
        return figures_widgets.looked(self.images[image], order[:seen], after, guess, doubt, top, self.grid, label)

    def say(self, image: int, seen: int) -> str:
        share = self.think(image, seen)[1].sum() / self.think(image, 0)[1].sum()
        what = f"{self.titles[image]} after {seen} of {self.most} patches"
        return f"{what}, what a predictor expects of the rest, and its doubt, of which {share:.0%} is left."

    def choices(self) -> dict:
        return {"image": menu("image", numbered(self.titles), self.start["image"])}
