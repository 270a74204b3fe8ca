"""The classifiers of sections 3.4 and 4.4, trained and tested: Table 5's five systems, and controls beyond the paper.

Every system is the same ViT, trained by the same loop for the same steps on the same batches; what differs is which
patches it sees. A control is trained and tested exactly as CViT, with another order. Results are kept per image, so
that any two systems can be compared on the same images.

Letters: B images of a batch, n images of a split, N patches, K kept patches, S settings (numbers of kept patches).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cop.data.images import ImageSet
from cop.data.loading import load_data
from cop.devices import at_a_time, inference
from cop.lessons import pipeline
from cop.orders import (
    centre_out_order,
    check_ranking,
    collapse_order,
    low_discrepancy_order,
    mirrored,
    random_order,
    reversed_order,
    variance_order,
)
from cop.paper.cvit import CViT, attention_rollout, keep_count, masked_loss
from cop.paper.dynamicvit import DynamicViT, dynamicvit_loss, matched_base_rate, mean_tokens
from cop.profiles import Profile, as_dict, get_profile, replace, scale_config
from cop.train.artefacts import Artefact, load_or_compute, stored, versioned
from cop.train.loop import fit, progress, restored, seeded
from cop.train.processes import processes
from cop.train.together import Job, together

RATES = [r / 100 for r in range(100)]  # the mask rates of Table 5's AuC
SHOWN = (0.0, 0.3, 0.5, 0.78)  # the mask rates of Table 5's columns
CONTROLS = ("mean order", "reversed", "variance")  # trained and tested in exactly CViT's way, with every seed
FURTHER = ("centre-out", "low-discrepancy", "in-strength", "attention")  # the same, with seed 0 only
ORDERS = ("collapse", "random", *CONTROLS, *FURTHER)
ONE_FOR_ALL = ("mean order", "centre-out", "low-discrepancy")  # orders that do not depend on the image
OF_COMAE = ("collapse", "reversed", "mean order", "in-strength")  # orders that a trained CoMAE determines
CURVES = {("ViT", "random"), ("ViT", "collapse"), ("RViT", "random"), ("CViT", "collapse"), ("DynamicViT", None)}  # of Fig. 8
BASE_RATE = 0.7  # DynamicViT is trained to keep 0.7, 0.49 and 0.34 of the patches, its published setting
FINE_TUNING = 3  # it starts from the trained ViT, which also teaches it, and takes a third of the ViT's steps
TRAINED_ON = {"ViT": None, "RViT": "random", "CViT": "collapse"}  # DynamicViT chooses for itself

# ----------------------------------------------------------------------------------------------------- orders


def order_config(profile: Profile, order: str | None, seed: int) -> dict:
    """What determines the order of that name for every image, for hashes. Raises ValueError for an unknown name."""
    if order is not None and order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; expected one of {', '.join(ORDERS)}, or None for whole images")
    config = {"order": order}
    if order in OF_COMAE:
        config |= {"rankings": pipeline.rankings_config(profile, "train", seed)}
    return versioned("order", 1, config)


def ranking_of(
    profile: str | Profile, split: str, order: str, seed: int = 0, device: str = "auto", flipped: bool = False
) -> Tensor:
    """An order by name for every image of a split: LongTensor (n, N), `[i, 0]` the patch of image i seen first.

    The mean order is that of the training images, `attention` that of the ViT trained on whole images, `random` one
    fixed draw per image. flipped: of the mirrored images, for collapse, reversed and in-strength. Raises ValueError
    for an unknown name.
    """
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    order_config(profile, order, seed)
    data = load_data(profile, split)
    n, N = len(data), profile.num_tokens
    if order in ("collapse", "reversed"):
        found = pipeline.rankings(profile, split, seed, device=device, flipped=flipped)
        return found if order == "collapse" else reversed_order(found)
    if order == "in-strength":
        return pipeline.rankings(profile, split, seed, by="in_strength", device=device, flipped=flipped)
    if order == "random":
        return random_order(n, N, seeded(seed, 50))
    if order in ("variance", "attention"):
        return _by_looking(profile, split, order, seed, device)
    fixed = {"centre-out": centre_out_order, "low-discrepancy": low_discrepancy_order}
    one = fixed[order](profile.grid) if order in fixed else pipeline.mean_ranking(profile, seed, device)
    return one.expand(n, -1)


def _by_looking(profile: Profile, split: str, order: str, seed: int, device: str) -> Tensor:
    """Orders that need the pixels of an image, but no CoMAE: computed in batches."""
    data, parts = load_data(profile, split), []
    model = classifier(profile, "ViT", seed, device)[0] if order == "attention" else None
    tokens = pipeline.tokenizer(profile, device)
    for images, _ in data.batches(at_a_time(250)):
        with inference(profile, device):
            scores = attention_rollout(model, images) if model else None
        parts.append(variance_order(pipeline.looked_at(tokens, images)) if model is None else collapse_order(scores))
    return torch.cat(parts)


# ---------------------------------------------------------------------------------------------------- training


def build(profile: Profile, system: str) -> CViT | DynamicViT:
    """The untrained network of a system at the profile's size, weights drawn from the global generator."""
    c = profile.classifier
    sizes = dict(img_size=profile.data.image_size, in_chans=profile.data.channels, num_classes=profile.data.classes,
                 embed_dim=c.dim, depth=c.depth, num_heads=c.heads)  # fmt: skip
    patch = profile.tokens.patch_size * (2 if system == "coarser" else 1)
    return (DynamicViT if system == "DynamicViT" else CViT)(patch_size=patch, **sizes)


def order_trained_on(system: str) -> str | None:
    """The order a system is trained along: a control is named after its order; None sees whole images."""
    return None if system in ("coarser", "DynamicViT") else TRAINED_ON.get(system, system)


def system_config(profile: Profile, system: str, seed: int) -> dict:
    """What determines a trained system, for hashes."""
    config = pipeline.images_config(profile) | {"classifier": as_dict(profile.classifier), "seed": seed}
    config |= scale_config(profile)
    config |= {"base_rate": BASE_RATE, "fine_tuning": FINE_TUNING} if system == "DynamicViT" else {}
    config |= {"system": system, "trained": order_config(profile, order_trained_on(system), seed)}
    return versioned("classifier", 2 if system == "DynamicViT" else 1, config)


def classifier(
    profile: str | Profile, system: str, seed: int = 0, device: str = "auto"
) -> tuple[CViT | DynamicViT, Artefact]:
    """A trained system: ViT, RViT, CViT, DynamicViT, `coarser` (a ViT on patches of twice the side), or a control,
    named after the order it is trained along. All start from the same weights and see the same batches, but DynamicViT,
    which is fine-tuned from the trained ViT, as it was published."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    if system == "RViT":
        return pipeline.classifier(profile, seed, device)
    config = system_config(profile, system, seed)

    def compute(directory: Path):
        train, order = load_data(profile, "train"), order_trained_on(system)
        ranking = (
            None if order is None else checked(ranking_of(profile, "train", order, seed, device), len(train), profile)
        )
        teacher = classifier(profile, "ViT", seed, device)[0] if system == "DynamicViT" else None

        # CoMAE ranks the mirrored image itself, for it is not equivariant; other orders of an image are mirrored with it.
        # An order that is one for all images stays as it is: mirrored, it would be another one.
        mirror, own = None, ranking is not None and order not in ONE_FOR_ALL
        if own and profile.data.hflip and order in ("collapse", "reversed", "in-strength"):
            mirror = ranking_of(profile, "train", order, seed, device, flipped=True)

        def loss(model, idx, generator, step, u):
            flip = pipeline.draw_flip(profile, len(idx), generator)
            images, labels = (x.to(device) for x in train.batch(idx, flip))
            if system == "DynamicViT":
                return {"loss": dynamicvit_loss(model, images, labels, BASE_RATE, generator, teacher)}
            seen = None if ranking is None else ranking[idx]
            if own and flip is not None:
                seen = mirrored(seen, profile.grid, flip) if mirror is None else torch.where(flip[:, None], mirror[idx], seen)
            return {"loss": masked_loss(model, images, labels, seen, u)}

        # DynamicViT starts from the trained ViT, and no pretrained weights fit coarser patches.
        named = None if system in ("DynamicViT", "coarser") else profile.classifier.pretrained
        model, settings = pipeline.untrained(lambda: build(profile, system), seed, named), profile.classifier
        warmup = settings.ema_warmup and not named and teacher is None
        if teacher is not None:  # everything but the predictors, which the ViT does not have
            model.load_state_dict(teacher.state_dict(), strict=False)
            settings = replace(settings, steps=max(1, settings.steps // FINE_TUNING))
        model, history = fit(model, loss, settings,
                             size=len(train), seed=seed, directory=directory, device=device, desc=system,
                             ema=settings.ema, ema_warmup=warmup, checkpoint_every=profile.checkpoint_every,
                             scale=profile.scale, per_step=pipeline.uniform, ahead=train.ahead)  # fmt: skip
        return model.state_dict(), pipeline.thin(history)

    artefact = load_or_compute("classifier", config, compute)
    return restored(lambda: build(profile, system), artefact.tensors).to(device).eval(), artefact


def checked(ranking: Tensor, images: int, profile: Profile) -> Tensor:
    """The ranking itself. Raises ValueError for rankings of another grid or of another number of images."""
    if len(ranking) != images:
        raise ValueError(f"{len(ranking)} rankings for {images} images; expected one per image, of the same split in "
                         "the same order (see cop.lessons.classification.ranking_of)")  # fmt: skip
    return check_ranking(ranking, profile.num_tokens)


# -------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class Hits:
    """Which test images are classified right, when how many patches are kept."""

    counts: tuple[int, ...]  # numbers of patches kept, increasing, S of them
    top1: np.ndarray  # bool (S, n): the true class is the first guess
    top5: np.ndarray  # bool (S, n): it is among the first five
    num_patches: int  # N

    def at(self, rate: float, top: int = 1) -> np.ndarray:
        """Hits (n,) at a mask rate. Raises ValueError if that number of patches was not evaluated."""
        k = keep_count(self.num_patches, rate)
        if k not in self.counts:
            raise ValueError(f"mask rate {rate} keeps {k} patches, evaluated are {', '.join(map(str, self.counts))}")
        return (self.top1 if top == 1 else self.top5)[self.counts.index(k)]

    def curve(self, rates: Sequence[float] = RATES, top: int = 1) -> np.ndarray:
        """Accuracy at each mask rate; between evaluated counts it is interpolated, outside them it is nan."""
        accuracy = (self.top1 if top == 1 else self.top5).mean(1)
        kept = [keep_count(self.num_patches, r) for r in rates]
        return np.interp(kept, self.counts, accuracy, left=np.nan, right=np.nan)

    def area(self) -> np.ndarray:
        """Each image's share in the AuC (n,): its hits averaged over the 100 mask rates, in per cent; their mean is the
        AuC. Between evaluated counts hits are interpolated, as in `curve`."""
        kept = [keep_count(self.num_patches, r) for r in RATES]
        weights = np.stack([np.interp(kept, self.counts, row) for row in np.eye(len(self.counts))])  # (S, 100)
        return 100 * weights.mean(1) @ self.top1  # (n,)


def spread_counts(num_patches: int) -> list[int]:
    """Some fifteen numbers of kept patches: those of Table 5's columns and enough for the curve between them, closer
    together where it bends."""
    fractions = (0.01, 0.03, 0.06, 0.09, 0.125, 0.17, 0.28, 0.34, 0.42, 0.6, 0.84)
    return sorted({keep_count(num_patches, r) for r in (*SHOWN, *(1 - f for f in fractions))})


def tested_counts(num_patches: int) -> list[int]:
    """Numbers of kept patches that are evaluated: all of them up to 64 patches, for a knee depends on every point of its
    curve. Beyond that `spread_counts`, between which the hundred mask rates of the AuC are interpolated."""
    return list(range(1, num_patches + 1)) if num_patches <= 64 else spread_counts(num_patches)


@torch.no_grad()
def evaluate(model, images: Tensor | ImageSet, labels: Tensor, ranking: Tensor | None, counts: Sequence[int], *,
             matched: bool = False, batch: int = 50, device: str = "cpu") -> Hits:  # fmt: skip
    """Test a classifier with K patches per image, for each K of `counts`.

    images (n, C, H, W), or a set of images, each read once, in batches; labels (n,); ranking (n, N), or None for a network that prunes itself (DynamicViT) or sees
    everything (K = N only). DynamicViT prunes by its published rule, base rate K / N, or, `matched`, such that it has
    K tokens on average over its blocks. All images of one K run in rectangular batches; small ones stay in a processor's
    cache, and take two thirds of the time of large ones. Raises ValueError for
    rankings of another grid or number of images.
    """
    N = model.patch_embed.num_patches
    if ranking is not None:
        if len(ranking) != len(images):
            raise ValueError(f"{len(ranking)} rankings for {len(images)} images; expected one per image")
        check_ranking(ranking, N)
    pruned = isinstance(model, DynamicViT)
    if ranking is None and not pruned and list(counts) != [N]:
        raise ValueError(f"counts are {list(counts)} without a ranking; expected [{N}], or the order to see patches in")
    batch = at_a_time(batch)
    parts, rows = torch.arange(len(images)).split(batch), [[] for _ in counts]
    read = images.split(batch) if isinstance(images, Tensor) else (x for x, _ in images.batches(batch))
    for idx, x in progress(zip(parts, read, strict=True), "testing", len(parts)):
        x = x.to(device)
        for K, found in zip(counts, rows, strict=True):
            if pruned:
                rate = matched_base_rate(N, K, len(model.blocks)) if matched else min(1.0, (K + 1e-9) / N)
                logits = model(x, rate)  # (B, classes)
            else:
                logits = model(x) if K == N else model(x, ranking[idx, :K])  # (B, classes)
            best = logits.topk(min(5, logits.shape[1])).indices.cpu()  # (B, 5)
            found.append(best == labels[idx][:, None])
    right = torch.stack([torch.cat(found) for found in rows]).numpy()  # (S, n, 5)
    return Hits(tuple(counts), right[:, :, 0], right.any(2), N)


def hits_config(profile: Profile, system: str, order: str | None, seed: int, counts: Sequence[int] | None, matched: bool) -> dict:
    """What determines the result of `hits`, and its defaults filled in."""
    N = profile.num_tokens // (4 if system == "coarser" else 1)
    if order is None and system not in ("DynamicViT", "coarser"):
        order = order_trained_on(system) or "random"
    if counts is None:
        counts = [N] if system == "coarser" else tested_counts(N) if (system, order) in CURVES else spread_counts(N)
    if matched:
        counts = [k for k in counts if k >= mean_tokens(N, 0.0, profile.classifier.depth)]
    config = system_config(profile, system, seed) | {"tested": order_config(profile, order, seed)}
    return versioned("hits", 1, config | {"counts": list(counts), "matched": matched, "split": "test"})


def hits(profile: str | Profile, system: str, order: str | None = None, seed: int = 0, counts: Sequence[int] | None = None,
         matched: bool = False, device: str = "auto") -> Hits:  # fmt: skip
    """A system of `classifier` tested on the test split along an order of `ranking_of`, loaded or computed.

    Without an order each system is tested along the one it was trained for: ViT and RViT along random ones, `coarser`
    on whole images; DynamicViT prunes itself. counts, unless given: `tested_counts` for the curves of Fig. 8, whose knees are
    asked for, and `spread_counts` for controls.
    """
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    config = hits_config(profile, system, order, seed, counts, matched)
    counts, order = config["counts"], config["tested"]["order"]

    def compute(_: Path):
        model, _ = classifier(profile, system, seed, device)
        data = load_data(profile, "test")
        ranking = (
            None if order is None else checked(ranking_of(profile, "test", order, seed, device), len(data), profile)
        )
        if processes()[0] > 0:  # the first of many processes tests, the others wait for what it stores
            return {}, None
        with inference(profile, device):
            found = evaluate(model, data, data.labels, ranking, counts, matched=matched, device=device)
        packed = {k: torch.from_numpy(np.packbits(getattr(found, k), axis=1)) for k in ("top1", "top5")}
        return packed | {"n": torch.tensor([len(data)])}, None

    stored = load_or_compute("hits", config, compute).tensors
    top1, top5 = (
        np.unpackbits(stored[k].numpy(), axis=1, count=int(stored["n"])).astype(bool) for k in ("top1", "top5")
    )
    return Hits(tuple(counts), top1, top5, profile.num_tokens // (4 if system == "coarser" else 1))


def all_hits(profile: str | Profile, tests: Mapping[str, tuple[str, str | None]], seed: int = 0, device: str = "auto") -> dict[str, Hits]:
    """`hits` of several tests, name -> (system, order), side by side where they are missing: first what several need
    (orders, ViT, RViT), then one process per network, then one per test."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    jobs = [Job("hits", hits_config(profile, *test, seed, None, False), hits, (profile, *test, seed), {"device": device})
            for test in tests.values()]  # fmt: skip
    missing = [test for test, job in zip(tests.values(), jobs, strict=True) if not stored(job.stage, job.config)]
    if len(missing) > 1:
        systems = dict.fromkeys(system for system, _ in missing)
        if any(order in OF_COMAE for _, order in missing) or any(order_trained_on(s) in OF_COMAE for s in systems):
            for split, flipped in [("train", False), ("test", False)] + [("train", True)] * profile.data.hflip:
                ranking_of(profile, split, "collapse", seed, device, flipped=flipped)
        needed = set(systems) | {"ViT"} if {"DynamicViT", "attention"} & set(sum(missing, ())) else set(systems)
        for system in {"ViT", "RViT"} & needed:
            classifier(profile, system, seed, device)
        together([Job("classifier", system_config(profile, s, seed), classifier, (profile, s, seed, device))
                  for s in systems if s not in ("ViT", "RViT")], device)  # fmt: skip
        together(jobs, device)
    return {name: hits(profile, *test, seed=seed, device=device) for name, test in tests.items()}
