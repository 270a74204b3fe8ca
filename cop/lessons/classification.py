"""The classifiers of sections 3.4 and 4.4, tested: Table 5's five systems, and controls along other orders.

A control is trained and tested exactly as CViT, with another order. Results are kept per image, so that any two systems
can be compared on the same images.

Letters: B images of a batch, n images of a split, N patches, K kept patches, S settings (numbers of kept patches).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cop.configs import FOLDS, Profile
from cop.data.images import ImageSet
from cop.data.loading import load_data
from cop.devices import at_a_time, inference
from cop.lessons import classifiers, ordering, pipeline
from cop.lessons.classifiers import coarseness, name_of, order_trained_on, system_config
from cop.orders import Order, as_order, check_ranking, registered
from cop.orders.registry import NEEDS
from cop.paper.cvit import CViT, keep_count
from cop.paper.dynamicvit import DynamicViT, matched_base_rate, mean_tokens
from cop.profiles import get_profile, in_fold
from cop.train.artefacts import Artefact, load_or_compute, stored, versioned
from cop.train.loop import progress
from cop.train.processes import processes
from cop.train.together import Job, together

RATES = [r / 100 for r in range(100)]  # the mask rates of Table 5's AuC
SHOWN = (0.0, 0.3, 0.5, 0.78)  # the mask rates of Table 5's columns
CURVES = {("ViT", "random"), ("ViT", "collapse"), ("RViT", "random"), ("CViT", "collapse"), ("DynamicViT", None)}  # of Fig. 8


def controls(brief: bool = False) -> tuple[str, ...]:
    """Orders that a classifier is trained and tested along beside collapse and random: those of every seed first, then,
    unless `brief`, those of seed 0; of each, orders that look at no image first, then by what they need."""
    asked = [o for o in registered().values() if o.trained == "every seed" or (o.trained == "seed 0" and not brief)]
    asked.sort(key=lambda o: (o.trained != "every seed", o.looks, NEEDS.index(o.needs)))
    return tuple(o.name for o in asked if o.name not in ("collapse", "random"))


def classifier(
    profile: str | Profile, system: str | Tensor | Callable, seed: int = 0, device: str = "auto"
) -> tuple[CViT | DynamicViT, Artefact]:
    """A trained system: ViT, RViT, CViT, DynamicViT, `coarser` (a ViT on patches of twice the side), or a control, named
    after the order it is trained along; in place of the name may stand the ranking of the training images, or a function
    of an `ordering.Batch`. See `classifiers.trained`."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    if not isinstance(system, str):
        system = ordering.fixed(profile, "train", system, seed, device)
    order = None if system == "RViT" else order_trained_on(system)

    def rankings(flipped: bool) -> Tensor:
        return ordering.ranking_of(profile, "train", order, seed, device, flipped, compact=True)

    return classifiers.trained(profile, system, seed, device, rankings if order else None)


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


def hits_config(profile: Profile, system: str | Order, order: str | Order | None, seed: int, counts: Sequence[int] | None,
                matched: bool) -> dict:  # fmt: skip
    """What determines the result of `hits`, and its defaults filled in."""
    N = profile.num_tokens // coarseness(system) ** 2
    order = tested_along(system) if order is None else as_order(order)
    if counts is None:
        curve = (system, order and order.name) in CURVES
        counts = [N] if system == "coarser" else tested_counts(N) if curve else spread_counts(N)
        if profile.classifier.rate is not None:
            asked = {"coarser": {N}, "ViT": {keep_count(N, profile.classifier.rate), N}}
            counts = sorted(asked.get(name_of(system), {keep_count(N, profile.classifier.rate)}))
    if matched:
        counts = [k for k in counts if k >= mean_tokens(N, 0.0, profile.classifier.depth)]
    config = system_config(profile, system, seed) | {"tested": pipeline.order_config(profile, order, seed)}
    return versioned("hits", 1, config | {"counts": list(counts), "matched": matched, "split": "test"})


def tested_along(system: str | Order) -> Order | None:
    """The order that a system is tested along unless told: the one it was trained for, random ones if that is none."""
    return None if system in ("DynamicViT", "coarser") else order_trained_on(system) or as_order("random")


def hits(profile: str | Profile, system: str | Tensor | Callable, order: str | Tensor | Callable | None = None, seed: int = 0,
         counts: Sequence[int] | None = None, matched: bool = False, device: str = "auto") -> Hits:  # fmt: skip
    """A system of `classifier` tested on the test split along an order (a name, the ranking of the test images, or a function
    of an `ordering.Batch`), loaded or computed.

    Without an order each system is tested along the one it was trained for: ViT and RViT along random ones, `coarser`
    on whole images; DynamicViT prunes itself. counts, unless given: `tested_counts` for the curves of Fig. 8, whose knees are
    asked for, and `spread_counts` for controls.
    """
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    if cross_validated(profile):
        return hits_of_folds(profile, system, order, seed, counts, matched, device)
    system = system if isinstance(system, str) else as_order(system)
    order = tested_along(system) if order is None else order
    order = None if order is None else ordering.fixed(profile, "test", order, seed, device)
    system = system if isinstance(system, str) else ordering.fixed(profile, "train", system, seed, device)
    config = hits_config(profile, system, order, seed, counts, matched)
    counts = config["counts"]

    def compute(_: Path):
        model, _ = classifier(profile, system, seed, device)
        data = load_data(profile, "test")
        ranking = None if order is None else ordering.ranking_of(profile, "test", order, seed, device)
        if processes()[0] > 0:  # the first of many processes tests, the others wait for what it stores
            return {}, None
        with inference(profile, device):
            found = evaluate(model, data, data.labels, ranking, counts, matched=matched, device=device)
        return packed(found), None

    found = load_or_compute("hits", config, compute).tensors
    return unpacked(found, counts, profile.num_tokens // coarseness(system) ** 2)


def cross_validated(profile: Profile) -> bool:
    """Whether all images of the profile's classes are test images, each in one of FOLDS folds."""
    return profile.classifier.folds and profile.data.fold is None


def first_fold(profile: Profile) -> Profile:
    """The profile of a single network of a system: of the first fold, where every image is tested in one of several."""
    return in_fold(profile, 0) if cross_validated(profile) else profile


def packed(hits: Hits) -> dict[str, Tensor]:
    """Hits as they are stored, a bit an image."""
    bits = {k: torch.from_numpy(np.packbits(getattr(hits, k), axis=1)) for k in ("top1", "top5")}
    return bits | {"n": torch.tensor([hits.top1.shape[1]])}


def unpacked(found: Mapping[str, Tensor], counts: Sequence[int], num_patches: int) -> Hits:
    """What `packed` made of hits with K of these counts."""
    top1, top5 = (np.unpackbits(found[k].numpy(), axis=1, count=int(found["n"])).astype(bool) for k in ("top1", "top5"))
    return Hits(tuple(counts), top1, top5, num_patches)


def folds_config(profile: Profile, system: str, order: str | None, seed: int, counts: Sequence[int] | None, matched: bool) -> dict:
    """What determines the result of `hits_of_folds` of names."""
    return hits_config(in_fold(profile, None), system, order, seed, counts, matched) | {"folds": FOLDS}


def hits_of_folds(profile: Profile, system, order, seed: int, counts, matched: bool, device: str) -> Hits:
    """`hits` of all images of the pool, by the folds in which they are tested; stored where system and order are names."""

    def folds() -> Hits:
        return pooled(profile, [hits(in_fold(profile, f), system, order, seed, counts, matched, device) for f in range(FOLDS)])

    if not all(x is None or isinstance(x, str) for x in (system, order)):
        return folds()
    config = folds_config(profile, system, order, seed, counts, matched)
    found = load_or_compute("hits", config, lambda _: (packed(folds()), None)).tensors
    return unpacked(found, config["counts"], profile.num_tokens // coarseness(system) ** 2)


def pooled(profile: Profile, parts: Sequence[Hits]) -> Hits:
    """The hits of every image of the pool, each by the systems that were not trained on it."""
    rows = [pipeline.rows_of(in_fold(profile, f), "test") for f in range(len(parts))]
    back = torch.cat(rows).argsort().numpy()
    top1, top5 = (np.concatenate([getattr(p, k) for p in parts], 1)[:, back] for k in ("top1", "top5"))
    return Hits(parts[0].counts, top1, top5, parts[0].num_patches)


def all_hits(
    profile: str | Profile, tests: Mapping[str, tuple[str, str | None]], seed: int = 0, device: str = "auto"
) -> dict[str, Hits]:
    """`hits` of several tests, name -> (system, order), side by side where they are missing: first what several need
    (rankings, ViT, RViT), then one process per network, then one per test."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    if cross_validated(profile):
        return {name: hits(profile, *test, seed=seed, device=device) for name, test in tests.items()}
    named = [test for test in tests.values() if all(x is None or isinstance(x, str) for x in test)]  # others are no jobs
    jobs = [Job("hits", hits_config(profile, *test, seed, None, False), hits, (profile, *test, seed), {"device": device})
            for test in named]  # fmt: skip
    missing = [test for test, job in zip(named, jobs, strict=True) if not stored(job.stage, job.config)]
    if len(missing) > 1:
        systems = dict.fromkeys(system for system, _ in missing)
        along = [order_trained_on(s) for s in systems] + [order and as_order(order) for _, order in missing]
        ordering.prepare(profile, [order for order in along if order], seed, device, ("train", "test"))
        shared = {"ViT", "RViT"} & {*systems, *["ViT"] * ("DynamicViT" in systems)}
        for system in sorted(shared):
            classifier(profile, system, seed, device)
        together([Job("classifier", classifiers.classifier_config(profile, s, seed), classifier, (profile, s, seed, device))
                  for s in systems if s not in shared], device)  # fmt: skip
        together(jobs, device)
    return {name: hits(profile, *test, seed=seed, device=device) for name, test in tests.items()}
