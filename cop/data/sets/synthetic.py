"""Images that nobody has to download: coloured gradients with noise, for dry runs at the true sizes."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cop.configs import DataConfig
from cop.data.images import ImageSet, dataset

SEEDS = {"train": 0, "val": 1, "test": 2}  # no two splits share an image


@dataset("synthetic")
def synthetic(config: DataConfig, split: str, root: Path | None = None) -> ImageSet:
    """`config.limit` images, or one per class, with the classes in turn. Image i of a split is the same however many there are."""
    n = config.limit or config.num_classes
    images = torch.stack([one_image(config, 1_000_003 * SEEDS[split] + i) for i in range(n)])
    names = [f"class {y}" for y in range(config.num_classes)]
    return ImageSet(images, torch.arange(n) % config.num_classes, names, split, config.name)


def one_image(config: DataConfig, seed: int) -> Tensor:
    """Smooth blobs of five sizes, weighted as in photographs (less, the finer they are), uint8 (C, H, H)."""
    generator, size = torch.Generator().manual_seed(seed), config.image_size
    image = torch.zeros(1, config.channels, size, size)
    for cells in (2, 4, 8, 16, size):
        noise = torch.randn(1, config.channels, cells, cells, generator=generator)
        image += F.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False) / cells**0.5
    return ((image[0].tanh() + 1) * 127.5).round().to(torch.uint8)
