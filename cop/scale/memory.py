"""What every stage needs of memory for one more image: the question that a dry run on two images must answer.

A stage takes its images in portions, so what it needs may grow only by what it keeps of each: an order, a picture, a
row of features. `growth` runs every stage on 2 and on 4 synthetic images, one at a time, with networks of the true width
and resolution, and counts the bytes of the tensors that are alive at once. `check` multiplies by the images of the real
profile. Not seen are arrays of other libraries and what an operation needs within itself.
"""

import functools
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cop.devices import limited
from cop.lessons import classification, evaluation, generation, held_out, pipeline
from cop.paper import entropy, reconstruction
from cop.profiles import Profile, dry_run, replace
from cop.scale.plan import IMAGES
from cop.scale.rehearsal import environment, place_of_dry_run
from cop.train.loop import seeded

FEW, MANY = 2, 4  # images of the two runs
HOST = 64  # GiB that a stage may need at the real number of images


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that operations inside the block make: `peak`, the most alive at once. What was there
    before (weights, images), and views of it, are not counted."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.alive = 0, 0, set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = op(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if not isinstance(x, Tensor) or x.is_meta:
                continue
            if (storage := x.untyped_storage())._cdata not in self.alive | given:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, storage: int, size: int) -> None:
        self.alive.discard(storage)
        self.now -= size


@dataclass(frozen=True)
class Growth:
    """A stage on so many images of the real profile, and what it needed: bytes for `FEW` images, and for one more."""

    stage: str
    count: int
    few: float
    more: float

    @property
    def total(self) -> float:
        """GiB at the real number of images, one at a time."""
        return (self.few + max(0.0, self.more) * (self.count - FEW)) / 2**30


def shallow(profile: Profile) -> Profile:
    """The dry run of a profile with `MANY` images and few blocks: depth costs time, but no memory without gradients."""
    dry = dry_run(profile)
    return replace(
        dry,
        name=f"{dry.name}-memory",
        data=replace(dry.data, limit=MANY),
        comae=replace(dry.comae, enc_depth=2, dec_depth=2),
        predictor=replace(dry.predictor, depth=2),
        classifier=replace(dry.classifier, depth=4),
        generation=replace(dry.generation, depth=1),
    )


def stages(profile: Profile, device: str = "auto") -> dict[str, tuple[int, Callable[[int], object]]]:
    """Every stage that works on images, by name: the real profile's number of images, and a call with another number."""
    small, g = shallow(profile), profile.generation
    every, tested = IMAGES.get(profile.data.name, (0, 0))
    sample = pipeline.sample(small, "test", MANY, device)
    order = pipeline.rankings(small, "test", device=device)
    encoder, judge = pipeline.comae(small, 0, device)[0], pipeline.classifier(small, 0, device)[0]
    predictor, data = pipeline.predictor(small, 0, device)[0], pipeline.load_data(small, "test")
    N, bytes_ = profile.num_tokens, ((sample.images + 1) * 127.5).to(torch.uint8)
    ks = [0, N // 2, N]
    found = {
        "a sample with its tokens": (1000, lambda n: pipeline.sample(small, "test", n, device)),
        "the tokens of a sample": (10_000, lambda n: pipeline.sample_tokens(small, "train", n, device)),
        "ranking": (every, lambda n: pipeline.rankings(small, "val", limit=n, device=device)),
        "ranking photographs": (1000, lambda n: pipeline.rank(sample.images[:n], small, device=device)),
        "orders of a sample": (1000, lambda n: pipeline.orders(small, "test", n, device=device)),
        "CoMAE's losses": (200, lambda n: reconstruction.evaluate(encoder, sample.tokens[:n], seeded(0))),
        "swapping masks": (200, lambda n: reconstruction.mask_swaps(encoder, sample.tokens[:n], seeded(0))),
        "curves of entropy": (200, lambda n: entropy.predictor_curve(predictor, sample.tokens[:n], order[:n], ks)),
        "curves of certainty": (200, lambda n: entropy.certainty_curve(judge, sample.images[:n], sample.labels[:n], order[:n], ks)),
        "testing a classifier": (tested, lambda n: classification.evaluate(
            judge, data.subset(slice(n)), data.labels[:n], order[:n], [max(1, N // 4), N], device=pipeline.resolve_device(device))),
    }  # fmt: skip
    if g.steps:
        base = generation.mar(small, 0, device)[0]
        found |= {
            "held-out loss": (1000, lambda n: held_out.held_out_loss(base, sample.tokens[:n], sample.labels[:n], order[:n], 0)),
            "sampling": (g.count, lambda n: generation.generate(small, 0, "base", "random", g.cfg_scale, n, device)),
            "ranking drafts": (g.count, lambda n: generation._ranked(small, 0, bytes_[:n], device)),
            "judging samples": (g.count, lambda n: evaluation.evaluate(
                replace(small, generation=replace(small.generation, count=n)), 0, "base", cfg_scale=g.cfg_scale, device=device)),
        }  # fmt: skip
    return found


def growth(profile: Profile, device: str = "auto") -> list[Growth]:
    """What every stage of a profile needs for one image more, in a cache of its own, so that nothing is found there."""
    found, place = [], place_of_dry_run(dry_run(profile), fresh=False)
    once = mock.patch.object(pipeline, "tokenizer", functools.cache(pipeline.tokenizer))  # reading KL-16 would hide what grows
    with tempfile.TemporaryDirectory() as cache, environment(**place | {"COP_CACHE": cache}), limited(1), once:
        for name, (count, call) in stages(profile, device).items():
            call(FEW + 1)  # what is loaded once is loaded now
            peaks = []
            for n in (FEW, MANY):
                with Held() as held:
                    call(n)
                peaks.append(held.peak)
            found.append(Growth(name, count, peaks[0], (peaks[1] - peaks[0]) / (MANY - FEW)))
    return found


def table(found: list[Growth]) -> pd.DataFrame:
    return pd.DataFrame([{"stage": f.stage, "MiB for one more image": f"{f.more / 2**20:.3f}", "images": f"{f.count:,}",
                          "GiB for all": f"{f.total:.1f}"} for f in found])  # fmt: skip


def check(profile: Profile, device: str = "auto", most: float = HOST) -> list[Growth]:
    """`growth`. Raises RuntimeError naming the stages that would need more than `most` GiB at the real number of images."""
    found = growth(profile, device)
    over = [f"{f.stage}: {f.more / 2**20:,.1f} MiB an image, {f.total:,.0f} GiB for {f.count:,}" for f in found if f.total > most]
    if over:
        raise RuntimeError(f"more than {most:g} GiB at the size of profile {profile.name!r}: {'; '.join(over)}. Take the images in portions")
    return found
