"""How much memory every stage needs for one more image, so that a dry run on two images can foretell the real run.

A stage takes its images in portions, so what it needs may grow only by what it keeps of each: an order, a picture, a
row of features. `growth` runs every stage on 2 and on 4 synthetic images, one at a time, with networks of the true width
and resolution, and counts the bytes of the tensors that are alive at once. `check` multiplies by the images of the real
profile. Arrays of other libraries and what an operation needs within itself are not seen.
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

from cop.configs import Profile
from cop.devices import limited
from cop.lessons import classification, classifiers, evaluation, generation, held_out, ordering, pipeline, ranks
from cop.paper import entropy, reconstruction
from cop.profiles import dry_run, replace
from cop.scale.plan import IMAGES
from cop.scale.rehearsal import environment, place_of_dry_run
from cop.train.loop import seeded

FEW, MANY = 2, 4  # images of the two runs
HOST = 64  # GiB that a stage may need at the real number of images


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that operations inside the block make: `peak` is the most alive at once.

    What was there before (weights, images), and views of it, are not counted.
    """

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
    """A stage that takes `count` images in the real profile: the bytes it needs for `FEW` images, and for one more."""

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
    """Every stage that works on images, by name: the real number of images, and a call with another number."""
    small, g = shallow(profile), profile.generation
    every, tested = IMAGES.get(profile.data.name, (0, 0))
    sample = pipeline.sample(small, "test", MANY, device)
    images, tokens, labels = sample.images, sample.tokens, sample.labels
    order = pipeline.rankings(small, "test", device=device)
    encoder, judge = pipeline.comae(small, 0, device)[0], classifiers.trained(small, "RViT", 0, device)[0]
    predictor, data = pipeline.predictor(small, 0, device)[0], pipeline.load_data(small, "test")
    N, drafts, device_ = profile.num_tokens, ((images + 1) * 127.5).to(torch.uint8), pipeline.resolve_device(device)
    ks, counts = [0, N // 2, N], [max(1, N // 4), N]

    def certainty(n: int) -> object:
        return entropy.certainty_curve(judge, images[:n], labels[:n], order[:n], ks)

    def test(n: int) -> object:
        part = data.subset(slice(n))
        return classification.evaluate(judge, part, data.labels[:n], order[:n], counts, device=device_)

    found = {
        "a sample with its tokens": (1000, lambda n: pipeline.sample(small, "test", n, device)),
        "the tokens of a sample": (10_000, lambda n: pipeline.sample_tokens(small, "train", n, device)),
        "ranking": (every, lambda n: pipeline.rankings(small, "val", limit=n, device=device)),
        "ranking photographs": (1000, lambda n: ranks.rank(images[:n], small, device=device)),
        "orders of a sample": (1000, lambda n: ordering.sample_orders(small, "test", n, device=device)),
        "CoMAE's losses": (200, lambda n: reconstruction.evaluate(encoder, tokens[:n], seeded(0))),
        "swapping masks": (200, lambda n: reconstruction.mask_swaps(encoder, tokens[:n], seeded(0))),
        "curves of entropy": (200, lambda n: entropy.predictor_curve(predictor, tokens[:n], order[:n], ks)),
        "curves of certainty": (200, certainty),
        "testing a classifier": (tested, test),
    }
    if not g.steps:
        return found
    base = generation.mar(small, device)[0]

    def judging(n: int) -> object:
        counted = replace(small, generation=replace(small.generation, count=n))
        return evaluation.evaluate(counted, 0, "base", cfg_scale=g.cfg_scale, device=device)

    def sampling(n: int) -> object:
        return generation.generate(small, 0, "base", "random", g.cfg_scale, n, device)

    return found | {
        "held-out loss": (1000, lambda n: held_out.held_out_loss(base, tokens[:n], labels[:n], order[:n], 0)),
        "sampling": (g.count, sampling),
        "ranking drafts": (g.count, lambda n: generation._ranked(small, 0, drafts[:n], device)),
        "judging samples": (g.count, judging),
    }


def growth(profile: Profile, device: str = "auto") -> list[Growth]:
    """What every stage of a profile needs for one image more, in a cache of its own, so that nothing is found there."""
    found, place = [], place_of_dry_run(dry_run(profile), fresh=False)
    # The tokenizer is loaded once: reading the weights of KL-16 every time would hide what grows.
    once = mock.patch.object(pipeline, "tokenizer", functools.cache(pipeline.tokenizer))
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
    rows = [[f.stage, f"{f.more / 2**20:.3f}", f"{f.count:,}", f"{f.total:.1f}"] for f in found]
    return pd.DataFrame(rows, columns=["stage", "MiB for one more image", "images", "GiB for all"])


def check(profile: Profile, device: str = "auto", most: float = HOST) -> list[Growth]:
    """`growth`. Raises RuntimeError naming the stages that need more than `most` GiB at the real number of images."""
    found, over = growth(profile, device), []
    for f in found:
        if f.total > most:
            over.append(f"{f.stage}: {f.more / 2**20:,.1f} MiB an image, {f.total:,.0f} GiB for {f.count:,}")
    if over:
        size = f"more than {most:g} GiB at the size of profile {profile.name!r}"
        raise RuntimeError(f"{size}: {'; '.join(over)}. Take the images in portions")
    return found
