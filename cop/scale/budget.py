"""What a stage costs: multiply-adds, memory and disk as numbers, hours on a device, and the table of many stages.

Everything that is not counted is a stated assumption (`Assumptions`) or a formula in a docstring. Hours are those of the
arithmetic only: reading and decoding images, Python and idle processes come on top.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import pandas as pd
from torch import nn

from cop.paper.kl16 import CHANNEL_MULTIPLES


@dataclass(frozen=True)
class Device:
    """Accelerators by their data sheet."""

    name: str
    tflops: float  # dense bf16 with fp32 accumulation, of one; TF32 runs at half of it on all of these
    fp32: float  # float32 without tensor cores
    memory: float  # GiB of one
    count: int = 1


CARDS = (
    Device("H100", 989, 67, 80),
    Device("RTX 5090", 209.5, 104.8, 32),
    Device("RTX 4090", 165.2, 82.6, 24),
    Device("8 x H100", 989, 67, 80, 8),
)
DEVICES = {d.name: d for d in CARDS}


def device(name: str) -> Device:
    """A device by name. Raises ValueError for an unknown one."""
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}; expected one of {', '.join(DEVICES)}")
    return DEVICES[name]


@dataclass(frozen=True)
class Assumptions:
    """What the plan takes for granted. Only `decoded` and `drawn` were measured."""

    utilisation: float = 0.35  # of the data sheet's rate: a fair training loop on one GPU; narrow layers reach less
    scaling: float = 0.9  # of the linear gain, on more than one GPU
    memory_share: float = 0.9  # of a GPU's memory that a program can fill
    drawn: float = 2e8  # normal random numbers that a core draws in a second
    decoded: float = 120  # JPEGs of ImageNet's size a core decodes in a second: tests/benchmarks/bench_decoding.py


@dataclass(frozen=True)
class Stage:
    """One stage of a profile. All counts are totals, all sizes bytes."""

    name: str
    macs: float = 0  # multiply-adds in bf16: networks under autocast
    macs_tf32: float = 0  # in TF32: convolutions of KL-16 and Inception, MAR's diffusion in sampling
    fixed: float = 0  # memory: weights, and in training gradients, AdamW's two moments and EMA
    per_image: float = 0  # memory: activations of one image of the batch
    batch: int = 1  # images per optimiser step, or at a time
    disk: float = 0
    derivation: str = ""
    macs_fp32: float = 0  # in float32: MAR's diffusion in training, and all of a profile without mixed precision
    normals: float = 0  # random numbers drawn on the CPU

    @property
    def total(self) -> float:
        return self.macs + self.macs_tf32 + self.macs_fp32

    @property
    def precision(self) -> str:
        """Shares of the multiply-adds by the precision they are done in."""
        parts = {"bf16": self.macs, "TF32": self.macs_tf32, "float32": self.macs_fp32}
        return ", ".join(f"{v / self.total:.0%} {k}" for k, v in parts.items() if v)

    def memory(self, batch: int) -> float:
        """Peak GiB with that many images on the device at once."""
        return (self.fixed + batch * self.per_image) / 2**30

    def images_that_fit(self, device: Device, assumptions: Assumptions) -> int:
        """The largest power of two of images at once, at most the batch; 0 if not even the weights fit."""
        limit, n = assumptions.memory_share * device.memory, 1
        if self.memory(1) > limit:
            return 0
        while 2 * n <= self.batch and self.memory(2 * n) <= limit:
            n *= 2
        return n


def hours(stage: Stage, device: Device, assumptions: Assumptions) -> float:
    """2 FLOP per multiply-add over rate x utilisation; TF32 at half the rate; several devices at `scaling`."""
    several = device.count * assumptions.scaling if device.count > 1 else 1
    rate = 1e12 * device.tflops * assumptions.utilisation * several
    return 2 * (stage.macs + 2 * stage.macs_tf32 + device.tflops / device.fp32 * stage.macs_fp32) / rate / 3600


def trained(parameters: int, ema: bool = False) -> float:
    """Bytes in training, all float32: 4 weight + 4 gradient + 8 for AdamW's two moments (+ 4 for the average)."""
    return parameters * (20 if ema else 16)


def kept(tokens: float, width: int, blocks: int) -> float:
    """Bytes of the activations kept for the backward pass: 34 x tokens x width x blocks.

    Korthikanti et al. (2022), Eq. 1, in 16 bits, without the attention matrices, which a fused kernel never stores.
    """
    return 34 * tokens * width * blocks


def passing(tokens: float, width: int) -> float:
    """Bytes of a forward pass: residual, normalised input, q, k, v and the MLP's 4 D of one block, 2 bytes each."""
    return 18 * tokens * width


def widest(side: int) -> float:
    """Bytes of KL-16's feature maps of an image: four of its widest level, 128 channels at full size, 4 bytes each."""
    return 4 * 128 * CHANNEL_MULTIPLES[0] * side**2 * 4


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def parabola(f: Callable[[int], int], at: tuple[int, int, int]) -> Callable[[int], float]:
    """The parabola through f at three places, exactly.

    A transformer's multiply-adds are one in its number of tokens, so that three counts serve all.
    """
    points = [(a, f(a)) for a in at]

    def value(x: int) -> float:
        return float(sum(y * prod(Fraction(x - b, a - b) for b in at if b != a) for a, y in points))

    return value


def training(
    name: str,
    model: nn.Module,
    steps: int,
    batch: int,
    one: float,
    per_image: float,
    words: str,
    ema: bool = False,
    times: int = 1,
    **counts: float,
) -> Stage:
    """A stage that trains: `one` multiply-adds in bf16 an image, and other `counts` of `Stage`, also for one image.

    times: how many networks are trained so, one after the other.
    """
    images = times * steps * batch
    counts = {k: images * v for k, v in counts.items()} | {"disk": times * (16 if ema else 12) * size(model)}
    memory = {"fixed": trained(size(model), ema), "per_image": per_image, "batch": batch}
    text = f"{f'{times} x ' if times > 1 else ''}{steps:,} steps x {batch} images x {words}"
    return Stage(name, macs=images * one, derivation=text, **memory, **counts)


def running(
    name: str, model: nn.Module, images: int, batch: int, per_image: float, words: str, beside: float = 0, **counts
) -> Stage:
    """A stage that applies a network: `counts` of `Stage` are for one image; `beside`: bytes beside its weights."""
    memory = {"fixed": 4 * size(model) + beside, "per_image": per_image, "batch": batch, "derivation": words}
    return Stage(name, **memory, **{k: images * v for k, v in counts.items()})


def amount(x: float) -> str:
    """Two significant digits, and no more than needed."""
    return f"{x:,.0f}" if x >= 10 else f"{x:.1f}" if x >= 1 else f"{x:.2g}"


def table(
    stages: Sequence[Stage], assumptions: Assumptions | None = None, devices: Sequence[str] = tuple(DEVICES)
) -> pd.DataFrame:
    """One row per stage and a total.

    Memory is that of the full batch; beside it stands how many images the smallest device holds at once: fewer than the
    batch means gradient accumulation or checkpointing.
    """
    assumptions, chosen = assumptions or Assumptions(), [device(d) for d in devices]
    small = min(chosen, key=lambda d: d.memory)

    def sums(stages: Sequence[Stage]) -> dict:
        return {
            "multiply-adds": f"{sum(s.total for s in stages):.2e}",
            **{f"h, {d.name}": amount(sum(hours(s, d, assumptions) for s in stages)) for d in chosen},
            "precision": "",
            "CPU h, random numbers": amount(sum(s.normals for s in stages) / assumptions.drawn / 3600),
            "disk, GB": amount(sum(s.disk for s in stages) / 1e9),
            "GiB at images": "",
            f"images in {small.memory} GiB": "",
            "derivation": "",
        }

    def row(s: Stage) -> dict:
        memory = {"GiB at images": f"{s.memory(s.batch):.1f} at {s.batch}"}
        memory |= {f"images in {small.memory} GiB": s.images_that_fit(small, assumptions)}
        return {"stage": s.name} | sums([s]) | memory | {"precision": s.precision, "derivation": s.derivation}

    return pd.DataFrame([*map(row, stages), {"stage": "**all**"} | sums(stages)])
