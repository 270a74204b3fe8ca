"""The stages of the paper, each one call: load or train, load or compute. What the notebooks import.

Everything here is plumbing between a profile and the modules; the equations are in those. Every stage is found
again by the hash of what determines it (`cop.train.artefacts`), so a notebook that needs CoMAE never trains it twice.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cop import paths
from cop.data.images import ImageSet, decode, first_stratified, local, photographs, told
from cop.data.loading import data_config, load_data
from cop.data.tokens import Tokens, fit_tokens, tokens_from_state
from cop.devices import at_a_time, inference
from cop.files import write
from cop.orders import (
    centre_out_order,
    collapse_order,
    low_discrepancy_order,
    mean_order,
    random_order,
    raster_order,
    reversed_order,
    variance_order,
)
from cop.paper import ranking
from cop.paper.comae import CoMAE, comae_loss
from cop.paper.cvit import CViT, masked_loss
from cop.paper.entropy import GaussianTokens, TokenPredictor, predictor_loss
from cop.paper.patches import patchify
from cop.paper.reconstruction import evaluate
from cop.profiles import Profile, all_classes, as_dict, for_classifiers, get_profile, key, scale_config
from cop.train import shards
from cop.train.artefacts import Artefact, clear_if_old, load_or_compute, versioned
from cop.train.loop import fit, restored, seeded, seeded_build
from cop.train.processes import on_cpu, processes, wait
from cop.weights import table as weights

LOG_EVERY = 10  # steps per row of a released history
RANKED = 64  # images ranked at a time, by one process
ROUNDING = 1e-3  # by which the values of images may lie outside [-1, 1]


def resolve_device(device: str = "auto") -> str:
    """`auto` -> cuda if there is one, else cpu; anything else is passed through."""
    return ("cpu" if on_cpu() else "cuda") if device == "auto" else device


# ------------------------------------------------------------------------------------------ images and tokens


def images_config(profile: Profile) -> dict:
    """What determines the images and tokens of a profile, for hashes: not where the files happen to lie, nor in which layout."""
    return versioned("tokens", 1, {"data": data_config(profile.data), "tokens": as_dict(profile.tokens)})


def tokenizer(profile: str | Profile, device: str = "auto") -> Tokens:
    """The profile's token map, fitted on its training images. device: of KL-16; the other kinds need none."""
    profile = all_classes(get_profile(profile))

    def compute(_: Path):
        return fit_tokens(profile, load_data(profile, "train")).state(), None

    state = load_or_compute("tokens", images_config(profile), compute).tensors
    return tokens_from_state(profile, state).to(resolve_device(device))


def token_source(profile: str | Profile, split: str, device: str = "cpu") -> Callable[..., Tensor]:
    """The tokens of a split, by image: source(idx, flip=None, generator=None) -> (B, N, C) on `device`.

    flip: bool (B,), which images to mirror. KL-16's latents are encoded once, both flips of every image, and then read
    from shards; `generator` draws from their posterior, as in training, and without it they are the mode. The other
    kinds are computed from the images and draw nothing.
    """
    profile = get_profile(profile)
    data, tokens = load_data(profile, split), tokenizer(profile, device)
    if profile.tokens.kind == "kl16":
        stored = shards.moments(profile, split, data, tokens, device)
        return lambda idx, flip=None, generator=None: shards.latents(stored, idx, flip, generator).to(device)
    return lambda idx, flip=None, generator=None: tokens.encode(data.batch(idx, flip)[0].to(device))


def draw_flip(profile: Profile, batch: int, generator: torch.Generator) -> Tensor | None:
    """Which images of a training batch to mirror: half of them, bool (batch,); None where the profile mirrors none."""
    return torch.rand(batch, generator=generator) < 0.5 if profile.data.hflip else None


# ----------------------------------------------------------------------------------------------------- CoMAE


def comae_config(profile: Profile, seed: int) -> dict:
    """What determines a trained CoMAE."""
    profile = all_classes(profile)
    return versioned("comae", 2, images_config(profile) | {"comae": as_dict(profile.comae), "seed": seed} | scale_config(profile))


def comae(profile: str | Profile, seed: int = 0, device: str = "auto") -> tuple[CoMAE, Artefact]:
    """The trained CoMAE of a profile (section 3.1), with its history. Vary it through `replace(profile, comae=...)`."""
    profile, device = all_classes(get_profile(profile)), resolve_device(device)

    def build() -> CoMAE:
        return CoMAE(profile.comae, profile.grid, profile.tokens.dim)

    def compute(directory: Path):
        tokens = token_source(profile, "train", device)

        def loss(model: nn.Module, idx: Tensor, generator: torch.Generator, step: int) -> dict[str, Tensor]:
            flip = draw_flip(profile, len(idx), generator)
            return comae_loss(model, tokens(idx, flip, generator), generator, step)

        model, history = fit(seeded_build(build, seed, 10), loss, profile.comae, size=len(load_data(profile, "train")),
                             seed=seed, directory=directory, alternate=("encoder", "decoder"), device=device,
                             desc="CoMAE", checkpoint_every=profile.checkpoint_every, scale=profile.scale,
                             watch=watcher(profile, directory, device))  # fmt: skip
        return model.state_dict() | watched(profile, directory), thin(history)

    artefact = load_or_compute("comae", comae_config(profile, seed), compute)
    weights = {k: v for k, v in artefact.tensors.items() if not k.startswith("watched.")}
    return restored(build, weights).to(device).eval(), artefact


WATCHED = 100  # validation images whose loss and orders are kept during a training; the graphs of the first fifth of them


def watcher(profile: Profile, directory: Path, device: str) -> Callable[[nn.Module, int], None]:
    """For `fit`: at the steps that `profile.comae.watched` names, keep L_r, the orders (n, N) and, as bytes, the graphs of
    some validation images in the folder of the training, where they survive an interruption."""

    @torch.no_grad()
    def watch(model: nn.Module, step: int) -> None:
        if step not in profile.comae.watched:
            return
        tokens = sample_tokens(profile, "val", WATCHED, device)
        loss = evaluate(model, tokens, seeded(0, 3))["reconstruction"]
        A = model.dependencies(tokens, profile.ranking.chunk_bytes)
        found = {"loss": torch.tensor(loss), "orders": collapse_order(scores_of(A, profile)).short(),
                 "graphs": (255 * A[: max(1, len(A) // 5)]).round().byte()}  # fmt: skip
        write(directory / f"watched-{step}.safetensors", save(found))

    return watch


def watched(profile: Profile, directory: Path) -> dict[str, Tensor]:
    """What `watcher` kept, stacked over the steps: `watched.loss` (S,), `.orders` (S, n, N) and `.graphs` (S, n / 5, N, N)."""
    rows = [load_file(directory / f"watched-{step}.safetensors") for step in profile.comae.watched]
    return {f"watched.{k}": torch.stack([row[k] for row in rows]).contiguous() for k in (rows[0] if rows else ())}


def rankings_config(profile: Profile, split: str, seed: int, limit: int | None = None) -> dict:
    """What determines the orders of the images of a split: not how much memory they may take."""
    own = {k: v for k, v in as_dict(profile.ranking).items() if k != "chunk_bytes"}
    config = comae_config(profile, seed) | {"ranking": own, "split": split, "limit": limit}
    return versioned("ranking", 1, config | ({"class_step": profile.data.class_step} if profile.data.class_step else {}))


def thin(history: pd.DataFrame) -> pd.DataFrame:
    """The mean of every LOG_EVERY steps of a history, labelled with the last of them."""
    group = history["step"] // LOG_EVERY
    return history.groupby(group).mean().assign(step=history.groupby(group)["step"].max()).reset_index(drop=True)


def rankings(
    profile: str | Profile, split: str, seed: int = 0, limit: int | None = None, by: str = "pagerank",
    device: str = "auto", flipped: bool = False,
) -> Tensor:  # fmt: skip
    """The collapse order of every image of a split (or of `limit` images, equally of each class), (n, N) long.

    by: `pagerank`, or `in_strength` for the control order. flipped: of the mirrored images, whose orders are not the
    mirrored orders, for CoMAE is not equivariant. N encoder passes per image and one PageRank: the expensive part of
    using an order, so both are computed once and cached as one byte a rank; for training on KL-16, of both flips, in shards.
    """
    if by not in ("pagerank", "in_strength"):
        raise ValueError(f"unknown score {by!r}; expected pagerank or in_strength")
    profile, device = get_profile(profile), resolve_device(device)
    config = rankings_config(profile, split, seed, limit)
    small = torch.uint8 if profile.num_tokens <= 256 else torch.int16

    def in_shards(directory: Path, flips: tuple[bool, ...], size: int) -> shards.Shards:
        model, tokens = comae(profile, seed, device)[0], token_source(profile, split, device)
        images = selection(load_data(profile, split), limit)

        def orders(rows: Tensor) -> dict[str, Tensor]:  # (n, flips, N) each
            found = {"pagerank": [], "in_strength": []}
            for idx in images[rows].split(at_a_time(RANKED)):
                both = [tokens(idx, torch.full((len(idx),), flip)) for flip in flips]
                with inference(profile, device):
                    graphs = [model.dependencies(x, profile.ranking.chunk_bytes) for x in both]
                found["pagerank"].append(torch.stack([collapse_order(scores_of(A, profile)).cpu() for A in graphs], 1))
                found["in_strength"].append(torch.stack([collapse_order(ranking.in_strength(A)).cpu() for A in graphs], 1))
            return {k: torch.cat(v).to(small) for k, v in found.items()}

        return shards.compute_shards(directory, config, len(images), orders, size=size, desc=f"ranking {split}")

    if profile.tokens.kind == "kl16" and split == "train":  # only training mirrors images
        directory = paths.cache() / f"orders-{key(config)}"
        if processes()[0] == 0:
            clear_if_old(directory)
        wait()
        try:  # the shards alone, without the models that made them
            stored = shards.open_shards(directory, config)
        except FileNotFoundError:
            stored = in_shards(directory, (False, True), shards.SHARD)
        return stored.all(by)[:, int(flipped)].long()

    def compute(directory: Path):
        stored = in_shards(directory / "shards", (flipped,), at_a_time(RANKED))
        return {k: stored.all(k)[:, 0] for k in ("pagerank", "in_strength")}, None

    config |= {"flipped": True} if flipped else {}
    return load_or_compute("ranking", config, compute).tensors[by].long()


def selection(images: ImageSet, limit: int | None) -> Tensor:
    """Indices of the images in use: all, or the first `limit` with the classes in turn."""
    return torch.arange(len(images)) if limit is None else first_stratified(images.labels, min(limit, len(images)))


def scores_of(A: Tensor, profile: Profile) -> Tensor:
    """PageRank with the profile's numbers: dependencies (B, N, N) -> scores (B, N)."""
    return ranking.pagerank(A, profile.ranking.damping, orientation=profile.ranking.orientation)


@dataclass(frozen=True)
class Sample:
    """Some images of a split with everything the notebooks ask of them."""

    images: Tensor  # (B, C, H, W) in [-1, 1]
    labels: Tensor  # (B,)
    class_names: list[str]
    tokens: Tensor  # (B, N, C)


def sample(profile: str | Profile, split: str, count: int, device: str = "auto") -> Sample:
    """`count` images of a split, the classes in turn, with their tokens. Of many images take `sample_tokens`."""
    profile = get_profile(profile)
    data = load_data(profile, split)
    images, labels = data.batch(selection(data, count))
    return Sample(images, labels, data.class_names, tokenizer(profile, device).encode(images))


def sample_tokens(profile: str | Profile, split: str, count: int, device: str = "auto") -> Tensor:
    """The tokens alone of so many images, (count, N, C): the images are read and encoded a few at a time."""
    profile, device = get_profile(profile), resolve_device(device)
    tokens = token_source(profile, split, device)
    return torch.cat([tokens(idx).cpu() for idx in selection(load_data(profile, split), count).split(at_a_time(RANKED))])


def mean_ranking(profile: str | Profile, seed: int = 0, device: str = "auto") -> Tensor:
    """The mean collapse order (N,), one for every image: of all training images of the classes that classifiers use, so
    that it knows nothing of the images it is tested on, and whichever notebook asks gets the same."""
    profile = for_classifiers(profile)

    def compute(_: Path):
        return {"order": mean_order(rankings(profile, "train", seed, device=device))}, None

    config = versioned("mean-order", 1, rankings_config(profile, "train", seed))
    return load_or_compute("mean-order", config, compute).tensors["order"].long()


def orders(profile: str | Profile, split: str, count: int, seed: int = 0, device: str = "auto") -> dict[str, Tensor]:
    """The collapse order of `sample(profile, split, count)` and every control, by name, each (count, N)."""
    profile, device = get_profile(profile), resolve_device(device)
    data, tokens = load_data(profile, split), tokenizer(profile, device)
    chosen = selection(data, count)
    n = len(chosen)
    contrast = torch.cat([variance_order(looked_at(tokens, x)) for x, _ in data.batches(at_a_time(RANKED), chosen)])
    collapse, counted = (rankings(profile, split, seed, by=by, device=device)[chosen] for by in ("pagerank", "in_strength"))
    fixed = {"mean order": mean_ranking(profile, seed, device), "centre-out": centre_out_order(profile.grid),
             "low-discrepancy": low_discrepancy_order(profile.grid), "raster": raster_order(profile.grid)}  # fmt: skip
    return {"collapse": collapse, "in-strength": counted, "random": random_order(n, profile.num_tokens, seeded(seed, 40)),
            "variance": contrast, "reversed": reversed_order(collapse)} | {k: v.expand(n, -1) for k, v in fixed.items()}  # fmt: skip


def looked_at(tokens: Tokens, images: Tensor) -> Tensor:
    """What the contrast of a patch is measured on, (B, N, P): raw tokens are its pixels already; components and latents have
    unit variance each, noise included, so for those it is the grey pixels."""
    return tokens.encode(images) if tokens.kind == "raw" else patchify(images.mean(1, keepdim=True), tokens.patch_size)


def rank(images, profile: str | Profile = "natural", seed: int = 0, device: str = "auto") -> Tensor:
    """The collapse order of any images, (B, N) long, `[b, 0]` the patch seen first.

    The profile says whose encoder: that of `natural` was trained on photographs and comes with the package.
    images: one of these, or several in a list, a tuple, a generator, `Path.glob(...)`, and the rows are in their order:
    - a path (`~` is your home) or an open file of an image, or a PIL image of any mode;
    - a uint8 array (H, W) or (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) RGBA, or a batch of the last three with B in front.
      Channels come last; with channels H may not be 1, 3 or 4, for then they might come first;
    - a float tensor (C, H, W) of the profile's size and channels in [-1, 1], or a batch (B, C, H, W).
    A set of paths is sorted by path. Files, PIL images and arrays are centre-cropped and resized to the profile's size.
    A folder, given alone, is all images in it and below it, sorted by path, without hidden files and drawings of
    `python -m cop rank`; what cannot be read is left out, and a warning names it:
    `cop.data.images.photographs([folder])[0]` are the files of the rows otherwise. Raises ValueError or
    FileNotFoundError, naming the file or the value, for anything else, for no images, for a folder of which nothing can
    be read, and for an unreadable file that is not in a folder.
    """
    profile, device = get_profile(profile), resolve_device(device)
    batch = as_batch(images, profile)
    model, tokens = comae(profile, seed, device)[0], tokenizer(profile, device)

    def order(x: Tensor) -> Tensor:
        x = tokens.encode(x.to(device))
        with inference(profile, device):
            A = model.dependencies(x, profile.ranking.chunk_bytes)
        return collapse_order(scores_of(A, profile)).cpu()

    return torch.cat([order(x) for x in batch.split(at_a_time(RANKED))])


def as_batch(images, profile: Profile) -> Tensor:
    """What `rank` accepts, as one float tensor (B, C, H, W) in [-1, 1] of the profile's size."""
    size, channels = profile.data.image_size, profile.data.channels
    if isinstance(images, (str, os.PathLike)) and os.path.isdir(local(images)):
        return _folder_batch(images, size, channels)
    if isinstance(images, (set, frozenset)):
        if not all(isinstance(x, (str, os.PathLike)) for x in images):
            raise ValueError("images are a set, which has no order; expected a list, or a set of paths")
        images = sorted(images, key=os.fspath)
    if isinstance(images, (np.ndarray, Tensor)):
        images = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, (str, bytes, bytearray, memoryview, Mapping)) or hasattr(images, "read") or not isinstance(images, Iterable):
        images = [images]
    parts = [_image(x, size, channels) for x in images]
    if not parts:
        raise ValueError("images is empty; expected at least one")
    batch = torch.stack(parts)
    if not torch.isfinite(batch).all():
        raise ValueError("images contain NaN or infinite values; expected numbers in [-1, 1]")
    low, high = (x.item() for x in batch.aminmax())
    if low < -1 - ROUNDING or high > 1 + ROUNDING:
        raise ValueError(f"images range from {low:.4g} to {high:.4g}; expected [-1, 1]: x / 127.5 - 1 if x is in 0..255, and "
                         "clamp(-1, 1) what an interpolation has overshot")  # fmt: skip
    return batch


def _folder_batch(folder: str | os.PathLike, size: int, channels: int) -> Tensor:
    files, left_out = photographs([folder])
    parts = []
    for file in files:
        try:
            parts.append(_image(file, size, channels))
        except (ValueError, OSError) as error:
            left_out[file] = str(error)
    if not parts:
        raise ValueError("; ".join(told(left_out)))
    if left_out:
        warnings.warn(f"{len(left_out)} left out of {folder}: {'; '.join(told(left_out))}", stacklevel=4)
    return torch.stack(parts)


def _image(image, size: int, channels: int) -> Tensor:
    """One image, not a folder, as a float tensor (C, H, W)."""
    if torch.is_tensor(image):
        if tuple(image.shape) != (channels, size, size) or not image.is_floating_point():
            raise ValueError(f"an image is {tuple(image.shape)} {image.dtype}; expected a float tensor (B, {channels}, {size}, "
                             f"{size}) or ({channels}, {size}, {size}) in [-1, 1], or files, PIL images or uint8 arrays")
        return image.detach().float()
    if isinstance(image, np.ndarray):
        layout = image.ndim == 2 or image.ndim == 3 and image.shape[2] in (1, 3, 4) and image.shape[0] not in (1, 3, 4)
        if image.dtype != np.uint8 or not layout or 0 in image.shape:
            raise ValueError(f"an array of shape {image.shape} and type {image.dtype}; expected uint8 (H, W), (H, W, 1), (H, W, 3), "
                             "(H, W, 4) or a batch (B, H, W, 3), channels last, H not 1, 3 or 4; give others as PIL images")
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    elif isinstance(image, (str, os.PathLike)):
        image = local(image)
        if os.path.isdir(image):
            raise ValueError(f"{image} is a folder among several images; expected files, or one folder alone")
    elif not isinstance(image, Image.Image) and not hasattr(image, "read"):
        raise ValueError(f"an image is given as {type(image).__name__}; expected a path, a PIL image, a uint8 array, a float "
                         "tensor, or several of them in a list; open bytes with PIL.Image.open(io.BytesIO(...))")
    return torch.from_numpy(decode(image, size, channels)).float() / 127.5 - 1


def target_patches(tokens: Tokens, context: Tensor, targets: Tensor, values: Tensor) -> Tensor:
    """Reconstructed targets as pixels: context (B, N, C), targets (B, K), values (B, K, C) -> (B, K, channels, P, P)."""
    B, K = targets.shape
    x = context[:, None].repeat(1, K, 1, 1).flatten(0, 1)  # (B K, N, C)
    x[torch.arange(B * K), targets.flatten()] = values.flatten(0, 1)
    patches = patchify(tokens.decode(x), tokens.patch_size)  # (B K, N, channels P P)
    chosen = patches[torch.arange(B * K), targets.flatten()]
    return chosen.unflatten(-1, (tokens.patch_size, tokens.patch_size, -1)).unflatten(0, (B, K)).movedim(-1, 2)


def greedy_order(profile: str | Profile, device: str = "auto") -> Tensor:
    """The greedy order of the Gaussian model of the training tokens, one for all images: (N,)."""
    profile = all_classes(get_profile(profile))
    config = versioned("greedy", 1, images_config(profile) | {"greedy": {"floor": profile.predictor.floor, "images": 10_000}})

    def compute(_: Path):
        train = sample_tokens(profile, "train", 10_000, device)
        return {"order": GaussianTokens.fit(train, floor=profile.predictor.floor).greedy_order()}, None

    return load_or_compute("greedy", config, compute).tensors["order"].long()


# ----------------------------------------------------------------------------- instruments: entropy and certainty


def predictor_config(profile: Profile, seed: int) -> dict:
    """What determines a trained predictor."""
    profile = all_classes(profile)
    config = images_config(profile) | {"predictor": as_dict(profile.predictor), "seed": seed}
    return versioned("predictor", 1, config | scale_config(profile))


def predictor(profile: str | Profile, seed: int = 0, device: str = "auto") -> tuple[TokenPredictor, Artefact]:
    """The trained token predictor of notebook 1: masked tokens -> mean and scale."""
    profile, device = all_classes(get_profile(profile)), resolve_device(device)
    config = predictor_config(profile, seed)

    def build() -> TokenPredictor:
        return TokenPredictor(profile.num_tokens, profile.tokens.dim, profile.predictor)

    def compute(directory: Path):
        tokens = token_source(profile, "train", device)

        def loss(model, idx, generator, step):
            return {"loss": predictor_loss(model, tokens(idx, generator=generator), generator)}

        model, history = fit(seeded_build(build, seed, 20), loss, profile.predictor, size=len(load_data(profile, "train")),
                             seed=seed, directory=directory, device=device, desc="predictor",
                             checkpoint_every=profile.checkpoint_every, scale=profile.scale)  # fmt: skip
        return model.state_dict(), thin(history)

    artefact = load_or_compute("predictor", config, compute)
    return restored(build, artefact.tensors).to(device).eval(), artefact


def uniform(generator: torch.Generator) -> float:
    """One number for all images of a step: it sets the mask rate, so that all sequences have one length."""
    return torch.rand((), generator=generator).item()


def build_classifier(profile: Profile) -> CViT:
    """The ViT of section 3.4 at the profile's size, weights drawn from the global generator."""
    c = profile.classifier
    return CViT(img_size=profile.data.image_size, patch_size=profile.tokens.patch_size, in_chans=profile.data.channels,
                num_classes=profile.data.classes, embed_dim=c.dim, depth=c.depth, num_heads=c.heads)  # fmt: skip


def untrained(build: Callable[[], nn.Module], seed: int, pretrained: str | None) -> nn.Module:
    """A classifier before its training: weights drawn from the seed or, if `pretrained` names an entry of `cop.weights`,
    those, whose position embedding timm resamples to the image size and whose head is drawn anew for its classes."""
    model = seeded_build(build, seed, 30)
    if pretrained:
        name, file = f"cvit_base_patch16_256.{pretrained.removeprefix('vit_base_')}", str(weights.fetch(pretrained))
        source = seeded_build(lambda: timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file},
                                                        num_classes=model.num_classes), seed, 30)  # fmt: skip
        model.load_state_dict(source.state_dict())
    return model


def classifier_config(profile: Profile, seed: int) -> dict:
    """What determines a trained RViT."""
    config = images_config(profile) | {"classifier": as_dict(profile.classifier), "seed": seed, "order": "random"}
    return versioned("classifier", 1, config | scale_config(profile))


def classifier(profile: str | Profile, seed: int = 0, device: str = "auto") -> tuple[CViT, Artefact]:
    """RViT: a classifier trained on random subsets of the patches, so that it can judge any of them (section 4.4)."""
    profile, device = get_profile(profile), resolve_device(device)
    config = classifier_config(profile, seed)

    def compute(directory: Path):
        train = load_data(profile, "train")

        def loss(model, idx, generator, step, u):
            images, labels = train.batch(idx, draw_flip(profile, len(idx), generator))
            order = random_order(len(idx), profile.num_tokens, generator)
            return {"loss": masked_loss(model, images.to(device), labels.to(device), order.to(device), u)}

        c = profile.classifier
        model, history = fit(untrained(lambda: build_classifier(profile), seed, c.pretrained), loss, c,
                             size=len(train), seed=seed, directory=directory, device=device, desc="RViT",
                             ema=c.ema, ema_warmup=c.ema_warmup and not c.pretrained,  # given weights are worth as much as later ones
                             checkpoint_every=profile.checkpoint_every,
                             scale=profile.scale, per_step=uniform, ahead=train.ahead)  # fmt: skip
        return model.state_dict(), thin(history)

    artefact = load_or_compute("classifier", config, compute)
    return restored(lambda: build_classifier(profile), artefact.tensors).to(device).eval(), artefact


__all__ = ["Sample", "comae", "rankings", "orders", "sample", "rank", "tokenizer", "predictor", "classifier", "load_data",
           "replace", "seeded"]  # fmt: skip
