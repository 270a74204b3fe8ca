"""The ViT that every classifier is fine-tuned from: trained on whole images, once for each data set.

The paper fine-tunes all its systems from one ViT-B/16 with ImageNet-21k weights. This is ours, on the classes that no system
is judged on where `data.without_step` leaves some out.

Letters: B images, N patches.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cop.configs import Profile, as_dict, scale_config
from cop.data.images import ImageSet
from cop.data.loading import joined, load_data
from cop.files import write
from cop.lessons import pipeline
from cop.orders import random_order
from cop.paper.cvit import CViT, keep_count
from cop.profiles import all_classes, get_profile
from cop.train.artefacts import Artefact, load_or_compute, versioned
from cop.train.loop import fit, restored, seeded, seeded_build

LOOKS = 12  # at the validation images during the training


def base_config(profile: Profile, patch: int = 1) -> dict:
    """What determines the base. Its seed is 0: there is one of a data set. patch: 2 is the base of patches of twice the side."""
    profile, c = all_classes(profile), profile.classifier
    size = {"dim": c.dim, "depth": c.depth, "heads": c.heads, "patch": patch * profile.tokens.patch_size}
    config = pipeline.images_config(profile) | {"base": as_dict(profile.base), "size": size}
    return versioned("base", 1, config | scale_config(profile))


def network(profile: Profile, num_classes: int, patch: int = 1, kind: type[CViT] = CViT) -> CViT:
    """An untrained ViT at the profile's size, weights drawn from the global generator. patch: as in `base_config`."""
    c, d = profile.classifier, profile.data
    return kind(
        img_size=d.image_size,
        in_chans=d.channels,
        num_classes=num_classes,
        patch_size=patch * profile.tokens.patch_size,
        embed_dim=c.dim,
        depth=c.depth,
        num_heads=c.heads,
    )


def build(profile: Profile, patch: int = 1) -> CViT:
    """The untrained base, with a class for each of `all_classes`."""
    return network(profile, all_classes(profile).data.classes, patch)


def learned_from(profile: Profile) -> ImageSet:
    """The images that the base learns from. Where it knows other classes than those judged, `base.pool` adds the test images."""
    profile = all_classes(profile)
    train = load_data(profile, "train")
    return joined([train, load_data(profile, "test")]) if profile.base.pool and profile.data.without_step else train


def cropped(images: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """A random square crop of each image (B, C, H, W), of a share between `least` and 1 of its area, scaled to its size."""
    B = len(images)
    side = (least + (1 - least) * torch.rand(B, generator=generator)).sqrt()
    shift = (2 * torch.rand(B, 2, generator=generator) - 1) * (1 - side)[:, None]
    theta = torch.zeros(B, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def base_loss(model: CViT, images: Tensor, labels: Tensor, c, generator: torch.Generator) -> Tensor:
    """Cross-entropy with smoothed labels of crops, of which pairs are mixed; in a share of the steps of a random part of the patches."""
    N, keep_idx = model.patch_embed.num_patches, None
    images = cropped(images, c.crop, generator) if c.crop < 1 else images
    second = torch.randperm(len(images), generator=generator)
    share = beta(c.mixup, generator) if c.mixup else 1.0
    images = share * images + (1 - share) * images[second]
    if torch.rand((), generator=generator).item() < c.masked:
        keep_idx = random_order(len(images), N, generator)[:, : keep_count(N, c.masked_rate)]
    logits = model(images, keep_idx)
    both = [F.cross_entropy(logits, y, label_smoothing=c.smoothing) for y in (labels, labels[second])]
    return share * both[0] + (1 - share) * both[1]


def beta(a: float, generator: torch.Generator) -> float:
    """A draw from Beta(a, a), as Johnk's method makes it from uniform numbers of the generator."""
    while True:
        u, v = torch.rand(2, generator=generator, dtype=torch.float64).pow(1 / a).tolist()
        if 0 < u + v <= 1:
            return u / (u + v)


def base(profile: str | Profile, patch: int = 1, device: str = "auto") -> tuple[CViT, Artefact]:
    """The trained base, with its history; in `tensors["watched"]` (LOOKS, 3) are steps, validation loss and accuracy on whole
    images there, of the weights themselves, not of their average."""
    profile, device = all_classes(get_profile(profile)), pipeline.resolve_device(device)

    def compute(directory: Path):
        data, c = learned_from(profile), profile.base

        def loss(model: nn.Module, idx: Tensor, generator: torch.Generator, step: int) -> dict[str, Tensor]:
            images, labels = (x.to(device) for x in data.batch(idx, pipeline.draw_flip(profile, len(idx), generator)))
            return {"loss": base_loss(model, images, labels, c, generator)}

        looks = sorted({-(-c.steps * (k + 1) // LOOKS) for k in range(LOOKS)})

        def watch(model: nn.Module, step: int) -> None:
            if step in looks:
                found = torch.tensor([[step, *validated(model.eval(), profile)]])
                model.train()
                write(directory / f"watched-{step}.safetensors", save({"watched": found}))

        model, history = fit(seeded_build(lambda: build(profile, patch), 0, 31), loss, c, size=len(data), seed=0,
                             directory=directory, device=device, desc="base", ema=c.ema, ema_warmup=True,
                             checkpoint_every=profile.checkpoint_every, scale=profile.scale, ahead=data.ahead, watch=watch)  # fmt: skip
        seen = [load_file(directory / f"watched-{step}.safetensors")["watched"] for step in looks]
        return model.state_dict() | {"watched": torch.cat(seen)}, pipeline.thin(history)

    artefact = load_or_compute("base", base_config(profile, patch), compute)
    weights = {k: v for k, v in artefact.tensors.items() if k != "watched"}
    return restored(lambda: build(profile, patch), weights).to(device).eval(), artefact


@torch.no_grad()
def validated(model: CViT, profile: Profile, rate: float = 0.0, seed: int = 0) -> tuple[float, float]:
    """Cross-entropy and top-1 accuracy on the validation images, of which `rate` of the patches, drawn at random, are hidden."""
    data, N = load_data(all_classes(profile), "val"), model.patch_embed.num_patches
    found = []
    for k, (images, labels) in enumerate(data.batches(100)):
        keep_idx = random_order(len(images), N, seeded(seed, 60, k))[:, : keep_count(N, rate)] if rate else None
        logits = model(images, keep_idx)
        found.append(
            torch.stack([F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(1) == labels).sum()])
        )
    loss, right = (torch.stack(found).sum(0) / len(data)).tolist()
    return loss, right
