"""What a profile costs before anything is run: multiply-adds, memory, disk and hours of every stage.

Multiply-adds are those of `cop.measure.cost.macs` on the meta device, of the networks that the stages themselves build,
times how often a stage runs them. Everything else is a stated assumption (`Assumptions`) or a formula in a docstring.
Hours are those of the arithmetic only: reading and decoding images, Python and idle processes come on top.

Letters: N patches of an image, K targets of CoMAE, V tokens known, M tokens hidden, L tokens of a sequence, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import mean

import pandas as pd
import torch

from cop.data.sets.imagenet import LAYOUTS, OFFICIAL
from cop.data.tokens import BATCH as ENCODED
from cop.lessons.classification import tested_counts
from cop.lessons.classifiers import FINE_TUNING, build
from cop.lessons.generation import BATCH, KINDS, SYSTEMS, mar_sizes
from cop.measure.cost import macs
from cop.orders.bank import MODES
from cop.paper.comae import CoMAE
from cop.paper.cvit import keep_count, mask_rate_schedule
from cop.paper.entropy import TokenPredictor
from cop.paper.kl16 import CHANNEL_MULTIPLES, KL16
from cop.paper.mar import MAR, draw_num_masked, mask_lengths
from cop.profiles import Profile, get_profile
from cop.show.report import markdown
from cop.train import shards
from cop.train.loop import seeded

# train + val (the official training images), test
IMAGES = {"fashion-subset": (12_000, 2_000), "fashion": (60_000, 10_000), "tiny-imagenet": (100_000, 10_000)}
IMAGES |= dict.fromkeys(LAYOUTS, (OFFICIAL["train"], OFFICIAL["val"]))
INCEPTION = 5.7e9  # multiply-adds of Inception v3 on an image
CLASSIFIERS = ("ViT", "RViT", "CViT", "DynamicViT")  # Table 5; the controls of notebook 5 cost as much as CViT each


@dataclass(frozen=True)
class Device:
    """Accelerators by their data sheet."""

    name: str
    tflops: float  # dense bf16 with fp32 accumulation, of one; TF32 runs at half of it on all of these
    fp32: float  # float32 without tensor cores
    memory: float  # GiB of one
    count: int = 1


DEVICES = {d.name: d for d in (Device("H100", 989, 67, 80), Device("RTX 5090", 209.5, 104.8, 32), Device("8 x H100", 989, 67, 80, 8))}


@dataclass(frozen=True)
class Assumptions:
    """What the plan takes for granted. Nothing but `decoded` and `drawn` was measured."""

    utilisation: float = 0.35  # of the data sheet's rate: a fair training loop on one GPU; narrow layers reach less
    scaling: float = 0.9  # of the linear gain, on more than one GPU
    memory_share: float = 0.9  # of a GPU's memory that a program can fill
    drawn: float = 2e8  # normal random numbers that a core draws in a second
    decoded: float = 120  # JPEGs of ImageNet's size that a core decodes in a second: tests/benchmarks/bench_decoding.py


@dataclass(frozen=True)
class Stage:
    """One stage of a profile. All counts are totals, all sizes bytes."""

    name: str
    macs: float  # multiply-adds in bf16: networks under autocast
    macs_tf32: float  # ... in TF32: convolutions of KL-16 and Inception, and MAR's diffusion in sampling (`devices.inference`)
    fixed: float  # memory: weights, and in training gradients, AdamW's two moments and EMA
    per_image: float  # memory: activations of one image of the batch
    batch: int  # images per optimiser step, or at a time
    disk: float
    derivation: str
    macs_fp32: float = 0.0  # ... and in float32: MAR's diffusion in training, and all of a profile without mixed precision
    normals: float = 0.0  # random numbers drawn on the CPU

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


# ------------------------------------------------------------------------------------------------------- memory


def trained(parameters: int, ema: bool = False) -> float:
    """Bytes per parameter: 4 weight + 4 gradient + 8 for AdamW's two moments (+ 4 for the average), all float32."""
    return parameters * (20 if ema else 16)


def kept(tokens: float, width: int, blocks: int) -> float:
    """Activations kept for the backward pass: 34 bytes x tokens x width x blocks.

    Korthikanti et al. (2022), Eq. 1, in 16 bits, without the attention matrices, which a fused kernel never stores.
    """
    return 34 * tokens * width * blocks


def passing(tokens: float, width: int) -> float:
    """Activations of a forward pass: residual, normalised input, q, k, v and the MLP's 4 D of one block, 2 bytes each."""
    return 18 * tokens * width


def widest(side: int) -> float:
    """Feature maps of KL-16 on one image: four live ones of its widest level, 128 channels at full size, 4 bytes each."""
    return 4 * 128 * CHANNEL_MULTIPLES[0] * side**2 * 4


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def parabola(f: Callable[[int], int], at: tuple[int, int, int]) -> Callable[[int], float]:
    """The parabola through f at three places, exactly: a transformer's multiply-adds are one in its number of tokens,
    so three counts serve all."""
    points = [(x, Fraction(f(x))) for x in at]

    def value(x: int) -> float:
        total = Fraction(0)
        for i, (a, y) in enumerate(points):
            for j, (b, _) in enumerate(points):
                y = y * Fraction(x - b, a - b) if i != j else y
            total += y
        return float(total)

    return value


def kept_patches(model: torch.nn.Module, image: torch.Tensor, num_patches: int) -> Callable[[int], float]:
    """Multiply-adds of a CViT on the meta device, by its number of kept patches."""
    return parabola(lambda k: macs(model, image, torch.arange(k)[None]), (1, num_patches // 2, num_patches))


# ------------------------------------------------------------------------------------------------------- stages


def plan(profile: str | Profile) -> list[Stage]:
    """The stages of a profile in the order they run. Raises ValueError for data of an unknown number of images."""
    profile = get_profile(profile)
    if profile.data.name not in IMAGES:
        raise ValueError(f"no plan for data {profile.data.name!r}: the number of images must be known; expected one of "
                         f"{', '.join(IMAGES)}")  # fmt: skip
    first = [*tokenising(profile), *comae_stages(profile), predicting(profile)]
    stages = [*first, *generating(profile), *classifying(profile)]
    return in_precision(profile, stages)


def in_precision(profile: Profile, stages: list[Stage]) -> list[Stage]:
    """The stages as they are counted below, which is for bf16; all in float32 for a profile without it."""
    if profile.scale.mixed_precision == "bf16":
        return stages
    return [replace(s, macs=0, macs_tf32=0, macs_fp32=s.total) for s in stages]


def looks(profile: Profile) -> tuple[int, str]:
    """How many images are encoded and ranked once and for all, and in words: both flips where the profile mirrors."""
    (training, test), per_class = IMAGES[profile.data.name], profile.data.per_class
    total = test + (min(training, per_class * profile.data.num_classes) if per_class else training)
    flips = 2 if profile.data.hflip else 1
    return total * flips, f"{total:,} images of all splits{' x 2 flips' if flips == 2 else ''}"


def tokenising(profile: Profile) -> list[Stage]:
    if profile.tokens.kind != "kl16":
        return []
    n, words = looks(profile)
    side = profile.data.image_size
    with torch.device("meta"):
        model = KL16(image_side=side)
    one = encoding(profile)
    values = 2 * profile.tokens.dim * profile.num_tokens
    return [Stage("KL-16 moments", 0, n * one, 4 * size(model), widest(side), shards.BATCH, n * values * 2,
                  f"{words}, {one / 1e9:.1f} GMAC each; mean and log-variance of {profile.num_tokens} x {profile.tokens.dim} values "
                  f"in 2 bytes; memory: four maps of 128 x {side} x {side} in 4 bytes")]  # fmt: skip


def encoding(profile: Profile) -> int:
    """Multiply-adds of encoding one image; 0 for tokens that are linear in the pixels."""
    if profile.tokens.kind != "kl16":
        return 0
    side = profile.data.image_size
    with torch.device("meta"):
        model, image = KL16(image_side=side).eval(), torch.empty(1, 3, side, side)
    return macs(lambda: model.quant_conv(model.encoder(image)))


def drawn_latents(profile: Profile) -> int:
    """Normal numbers per image of a training: KL-16's latents are drawn from their posterior."""
    return profile.num_tokens * profile.tokens.dim if profile.tokens.kind == "kl16" else 0


def comae_stages(profile: Profile) -> list[Stage]:
    c, N = profile.comae, profile.num_tokens
    K = min(c.targets_per_image, N)
    with torch.device("meta"):
        model = CoMAE(c, profile.grid, profile.tokens.dim)
        tokens, targets = torch.empty(1, N, profile.tokens.dim), torch.arange(N)[None]
        w, noise = torch.empty(1, K, N), torch.empty(1, K, N, profile.tokens.dim)
    f, g = macs(model.weights, tokens, targets[:, :K]), macs(model.reconstruct, tokens, targets[:, :K], w, noise)
    one = f + g + (2 * f + g) / 2 + 2 * g / 2
    n, words = looks(profile)
    full = macs(model.weights, tokens, targets)
    together = max(1, min(N, profile.ranking.chunk_bytes // (4 * N * c.enc_dim * int(8 + 2 * c.mlp_ratio))))
    return [
        Stage("CoMAE training", c.steps * c.batch_size * one, 0, trained(size(model)),
              K * (kept(N, c.enc_dim, c.enc_depth) + kept(N, c.dec_dim, c.dec_depth)), c.batch_size, 12 * size(model),
              f"{c.steps:,} steps x {c.batch_size} images x {one / 1e9:.1f} GMAC: f {f / 1e9:.2f} and g {g / 1e9:.2f} forward for {K} "
              "targets; backward 2 f + g in the steps that train f, 2 g in those that train g; the noise is drawn on the GPU",
              normals=c.steps * c.batch_size * drawn_latents(profile)),
        Stage("ranking", n * full, 0, 4 * size(model), together * passing(N, c.enc_dim), 1, 2 * n * N,
              f"{words}, {full / 1e9:.0f} GMAC each ({N} encoder passes, what targets share computed once); one byte a rank, by PageRank and by in-strength"),
    ]  # fmt: skip


def predicting(profile: Profile) -> Stage:
    p, N = profile.predictor, profile.num_tokens
    with torch.device("meta"):
        model, tokens = TokenPredictor(N, profile.tokens.dim, p), torch.empty(1, N, profile.tokens.dim)
        seen = torch.zeros(1, N, dtype=torch.bool)
    one = macs(model, tokens, seen)
    return Stage("entropy predictor (ours)", 3 * p.steps * p.batch_size * one, 0, trained(size(model)), kept(N, p.dim, p.depth),
                 p.batch_size, 12 * size(model),
                 f"{p.steps:,} steps x {p.batch_size} images x 3 x {one / 1e9:.2f} GMAC (forward, backward twice that)",
                 normals=p.steps * p.batch_size * drawn_latents(profile))  # fmt: skip


def generating(profile: Profile) -> list[Stage]:
    g, N = profile.generation, profile.num_tokens
    config, side = mar_sizes(profile), profile.data.image_size
    with torch.device("meta"):
        model = MAR(config).eval()
        condition, token = torch.empty(1, g.dim), torch.empty(1, config.channels)
        autoencoder = KL16(image_side=side).eval() if profile.tokens.kind == "kl16" else None
        latent = torch.empty(1, N, config.channels)
    denoise = macs(model.diffloss.net, token, torch.empty(1, device="meta"), condition)
    decode = macs(autoencoder.decode, latent) if autoencoder else 0

    def counted(known: int, wanted: int) -> int:
        places = torch.arange(N)[None]
        known_tokens = torch.empty(1, known, config.channels, device="meta")
        return macs(model.predict, known_tokens, condition, places[:, :known], places[:, known : known + wanted])

    at_one, per_wanted = parabola(lambda known: counted(known, 1), (0, N // 2, N - 1)), counted(0, 2) - counted(0, 1)

    def predict(known: int, wanted: int) -> float:
        return at_one(known) + (wanted - 1) * per_wanted

    generator = seeded(0)
    M = round(mean(draw_num_masked(N, config.mask_ratio_min, generator) for _ in range(2000)))
    z, rows = predict(N - M, M), M * g.diffusion_batch_mul
    L = (N - M + g.buffer_size, N + g.buffer_size)  # of the encoder, of the decoder
    memory = sum(kept(length, g.dim, g.depth) for length in L) + 48 * rows * g.diffloss_width * g.diffloss_depth

    def training(name: str, steps: int, times: int, start: str) -> Stage:
        images = times * steps * g.batch_size
        return Stage(name, 3 * images * z, 0, trained(size(model), ema=True), memory, g.batch_size,
                     times * 16 * size(model),
                     f"{f'{times} x ' if times > 1 else ''}{steps:,} steps x {g.batch_size} images x 3 x ({z / 1e9:.1f} GMAC with {M} of {N} "
                     f"tokens hidden, the mean, + {rows} rows of the diffusion MLP at {denoise / 1e6:.1f} MMAC in float32); {start}",
                     3 * images * rows * denoise, images * (drawn_latents(profile) + rows * config.channels))  # fmt: skip

    lengths = mask_lengths(N, g.num_iter)
    write = sum(predict(N - before, before - after) for before, after in zip([N, *lengths], lengths, strict=False))
    chains = N * g.num_sampling_steps * denoise

    def sampling(name: str, systems: int, branches: int) -> Stage:
        images = systems * g.count
        portion = 4 * size(autoencoder) + ENCODED * widest(side) if autoencoder else 0
        noise = N * g.num_sampling_steps * config.channels
        return Stage(name, images * branches * write, images * (branches * chains + decode), 4 * size(model) + portion,
                     branches * passing(N + g.buffer_size, g.dim) + 4 * noise, BATCH,
                     images * (side**2 * profile.data.channels + N),
                     f"{systems} systems x {g.count:,} images x ({branches} x ({len(lengths)} steps of {write / len(lengths) / 1e9:.1f} GMAC in the mean, "
                     f"{N} x {g.num_sampling_steps} rows of the diffusion MLP in TF32) + decoder "
                     f"{decode / 1e9:.0f} GMAC in TF32); pixels in a byte", normals=images * noise)  # fmt: skip

    def drafts() -> Stage:
        """A bank of drafts is ranked for every set of images that it lends orders to."""
        (_, ranking), images, encode = comae_stages(profile), 2 * g.count, encoding(profile)
        one = ranking.macs / looks(profile)[0]
        return replace(ranking, name="ranking drafts, other order sources (ours)", macs=images * one, macs_tf32=images * encode, disk=0,
                       derivation=f"2 x {g.count:,} drafts, {one / 1e9:.0f} GMAC each and encoder {encode / 1e9:.0f} GMAC in TF32")  # fmt: skip

    def judging(sets: int) -> Stage:
        """RViT says the class of every image, and Inception its features where the profile asks for them."""
        with torch.device("meta"):
            judge, image = build(profile, "RViT").eval(), torch.empty(1, profile.data.channels, side, side)
        own, inception = macs(judge, image), INCEPTION if g.features else 0
        images = sets * g.count
        return Stage("judging samples", images * own, images * inception, 4 * size(judge), passing(N + 1, profile.classifier.dim), 256, 0,
                     f"{sets} sets x {g.count:,} images x (RViT {own / 1e9:.1f} GMAC + Inception {inception / 1e9:.1f} in TF32)")  # fmt: skip

    extra, others = sum(float(s) != float(g.cfg_scale) for s in g.cfg_sweep), len(MODES) - 1
    first = [] if g.checkpoint else [training("MAR training", g.steps, 1, "random orders")]
    start = "from the released weights" if g.checkpoint else "from the base"
    return [*first, training("CMAR, ascending and random fine-tuning", g.fine_tune_steps, len(KINDS), start),
            sampling("sampling without guidance", len(SYSTEMS), 1), sampling("sampling with guidance", len(SYSTEMS) + extra, 2),
            sampling("sampling, other order sources without guidance (ours)", others, 1),
            sampling("sampling, other order sources with guidance (ours)", others, 2), drafts(),
            judging(2 * (len(SYSTEMS) + others) + extra)]  # fmt: skip


def classifying(profile: Profile) -> list[Stage]:
    c, N, d = profile.classifier, profile.num_tokens, profile.data
    with torch.device("meta"):
        image = torch.empty(1, d.channels, d.image_size, d.image_size)
        model, dynamic = build(profile, "CViT").eval(), build(profile, "DynamicViT").eval()
    at = kept_patches(model, image, N)
    counts = [keep_count(N, mask_rate_schedule((i + 0.5) / 32)) for i in range(32)]
    masked, whole, soft = mean(map(at, counts)), at(N), macs(dynamic.soft, image, seeded(0))
    steps = max(1, c.steps // FINE_TUNING)
    work = {"ViT": (c.steps, 3 * whole, f"3 x {whole / 1e9:.2f} GMAC"),
            "DynamicViT": (steps, 3 * soft + whole, f"(3 x {soft / 1e9:.2f} + {whole / 1e9:.2f} GMAC of the teacher)")}
    along = (c.steps, 3 * masked,
             f"3 x {masked / 1e9:.2f} GMAC (mean over the schedule of mask rates: {mean(counts):.0f} of {N} patches)")  # fmt: skip
    unfused = {"DynamicViT": 5 * c.heads * (N + 1) ** 2 * (c.depth - dynamic.stages[0])}  # its masked attention is kept
    stages = []
    for system in CLASSIFIERS:
        n, one, words = work.get(system, along)
        stages.append(Stage(f"{system} training", n * c.batch_size * one, 0, trained(size(model), ema=True),
                            kept(N + 1, c.dim, c.depth) + unfused.get(system, 0), c.batch_size, 16 * size(model),
                            f"{n:,} steps x {c.batch_size} images x {words}"))  # fmt: skip
    test, ratios = IMAGES[d.name][1], [at(keep_count(N, r / 100)) for r in range(100)]
    tested = ("ViT", "ViT+C", "RViT", "CViT", "DynamicViT")
    stages.append(Stage("curves over 100 mask ratios", len(tested) * test * sum(ratios), 0, 4 * size(model), passing(N + 1, c.dim), 256,
                        len(tested) * 100 * 2 * test / 8,
                        f"{len(tested)} systems x {test:,} images x {sum(ratios) / 1e9:,.0f} GMAC (all ratios; {sum(ratios) / whole:.1f} whole images); "
                        "DynamicViT counted as the others; one bit per image, ratio and top-1 or top-5"))  # fmt: skip
    return stages


# -------------------------------------------------------------------------------------------------------- tables


def device(name: str) -> Device:
    """A device by name. Raises ValueError for an unknown one."""
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}; expected one of {', '.join(DEVICES)}")
    return DEVICES[name]


def table(
    stages: Sequence[Stage], assumptions: Assumptions | None = None, devices: Sequence[str] = tuple(DEVICES)
) -> pd.DataFrame:
    """One row per stage and a total; memory at the full batch, and how many images at once the smallest device holds
    (fewer than the batch means gradient accumulation or checkpointing)."""
    assumptions, chosen = assumptions or Assumptions(), [device(d) for d in devices]
    small = min(chosen, key=lambda d: d.memory)

    def row(stages: Sequence[Stage], **others) -> dict:
        spent = {f"h, {d.name}": amount(sum(hours(s, d, assumptions) for s in stages)) for d in chosen}
        return {"stage": stages[0].name, "multiply-adds": f"{sum(s.total for s in stages):.2e}", **spent,
                "precision": stages[0].precision, "CPU h, random numbers": amount(sum(s.normals for s in stages) / assumptions.drawn / 3600),
                "disk, GB": amount(sum(s.disk for s in stages) / 1e9), "GiB at images": f"{stages[0].memory(stages[0].batch):.1f} at {stages[0].batch}",
                f"images in {small.memory} GiB": stages[0].images_that_fit(small, assumptions), "derivation": stages[0].derivation} | others  # fmt: skip

    blank = {"stage": "**all**", "precision": "", "GiB at images": "", f"images in {small.memory} GiB": "", "derivation": ""}
    return pd.DataFrame([*(row([s]) for s in stages), row(stages, **blank)])


def amount(x: float) -> str:
    """Two significant digits, and no more than needed."""
    return f"{x:,.0f}" if x >= 10 else f"{x:.1f}" if x >= 1 else f"{x:.2g}"


def main(profile: str, devices: Sequence[str] | None = None, utilisation: float = Assumptions.utilisation) -> None:
    """Print the plan of a profile and what can be cut, in Markdown. Raises ValueError as `plan` and `device`, and for a
    utilisation outside 0..1."""
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation is {utilisation}, expected a share above 0, at most 1")
    assumptions, chosen = Assumptions(utilisation), tuple(devices or DEVICES)
    shown, name = [device(d) for d in chosen], get_profile(profile).name
    rates = ", ".join(f"{d.name}: {d.count} x {d.tflops:g} TFLOP/s, {d.memory} GiB" for d in shown)
    print(f"# What the profile {name} costs\n\nAssumed, not measured: {utilisation:.0%} of the dense bf16 rate ({rates}), "
          f"{assumptions.scaling:.0%} of the linear gain on several devices. 1 multiply-add = 2 FLOP. Reading images is not counted.\n")  # fmt: skip
    stages = plan(profile)
    print(markdown(table(stages, assumptions, chosen)), "", reading(profile, stages, shown[0], assumptions), "## What can be cut\n", sep="\n")
    print(markdown(cuts(profile, assumptions, chosen[0])))


def reading(profile: str | Profile, stages: Sequence[Stage], device: Device, assumptions: Assumptions) -> str:
    """How many images a second CViT's training takes in these hours, and how many cores decode so many; "" if all images
    are in memory."""
    profile = get_profile(profile)
    if profile.data.name not in LAYOUTS:
        return ""
    (stage,) = (s for s in stages if s.name == "CViT training")
    rate = profile.classifier.steps * profile.classifier.batch_size / hours(stage, device, assumptions) / 3600
    return (f"Threads decode images ahead of the steps. In the hours above, CViT's training takes {amount(rate)} a second on {device.name}, "
            f"as many as {amount(rate / assumptions.decoded)} cores decode, at {assumptions.decoded:g} each: with fewer cores classifiers "
            "take longer. CoMAE and MAR read latents.\n")  # fmt: skip


def cuts(profile: str | Profile, assumptions: Assumptions | None = None, name: str = "H100") -> pd.DataFrame:
    """What can be left out or made smaller, what it saves (by planning again with the smaller numbers), and its price."""
    profile, assumptions, chosen = get_profile(profile), assumptions or Assumptions(), device(name)
    c, g = profile.comae, profile.generation

    def spent(stages: Sequence[Stage]) -> dict[str, float]:
        return {s.name: hours(s, chosen, assumptions) for s in stages}

    before = spent(plan(profile))
    seen = min(1.0, g.fine_tune_steps * g.batch_size / looks(profile)[0])
    smaller = {  # change: (stages with smaller numbers, price)
        "CoMAE for a fifth of its steps": (comae_stages(replace(profile, comae=replace(c, steps=c.steps // 5))),
            "unknown; over its last quarter the paper's Fig. 6 moves in the fourth digit"),
        "a quarter of the sampling steps": (generating(replace(profile, generation=replace(g, num_iter=max(1, g.num_iter // 4)))),
            "several tokens at once, so the order decides less; its FID is untested here"),
        "10,000 images per system": (generating(replace(profile, generation=replace(g, count=min(g.count, 10_000)))),
            "FID is biased upwards and noisier: not comparable with FID-50K"),
    }  # fmt: skip
    narrow = c.enc_dim // 4
    if narrow % (4 * c.enc_heads) == 0:  # 2-D RoPE
        less = comae_stages(replace(profile, comae=replace(c, enc_dim=narrow)))
        smaller[f"CoMAE's encoder {narrow} wide (the paper: 64 in section 4, 256 in section 8)"] = (less, f"masks of rank {narrow} at most; untested")
    rows = []
    for change, (less, price) in smaller.items():
        after = spent(in_precision(profile, less))
        touched = [n for n in after if after[n] < 0.999 * before[n]]
        rows.append([change, sum(before[n] for n in touched), sum(after[n] for n in touched), price])
    sources = sum(h for n, h in before.items() if "order sources" in n)
    rows += [["no order sources but the training bank", sources, 0.0, "nothing of the paper; ours: whose order it must be"],
             ["rank only what fine-tuning shows, in the flip shown", before["ranking"], seen * before["ranking"],
              "CViT's training needs every order"],
             ["15 kept counts instead of 100 ratios", before["curves over 100 mask ratios"],
              before["curves over 100 mask ratios"] * few_counts(profile), "AuC and curve are interpolated; what notebook 5 does"]]  # fmt: skip
    columns = ["cut", f"h before, {name}", "h after", "price"]
    return pd.DataFrame([[r[0], amount(r[1]), amount(r[2]), r[3]] for r in rows], columns=columns)


def few_counts(profile: Profile) -> float:
    """Share of the hundred ratios' multiply-adds that `classification.tested_counts` takes."""
    d, N = profile.data, profile.num_tokens
    with torch.device("meta"):
        model, image = build(profile, "CViT").eval(), torch.empty(1, d.channels, d.image_size, d.image_size)
    at = kept_patches(model, image, N)
    return sum(map(at, tested_counts(N))) / sum(at(keep_count(N, r / 100)) for r in range(100))
