"""What a profile costs before anything is run: the cost of every stage, the table of them, and what can be cut.

Multiply-adds are those of `cop.measure.cost.macs` on the meta device, of the networks that the stages themselves build,
times how often a stage runs them.

Letters: N patches of an image, K targets of CoMAE, V tokens known, M tokens hidden, L tokens of a sequence, D width.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

import pandas as pd
import torch
from torch import nn

from cop.configs import Profile
from cop.data.sets import imagenettewoof
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
from cop.paper.kl16 import KL16
from cop.paper.mar import MAR, draw_num_masked, mask_lengths
from cop.profiles import get_profile
from cop.scale import budget
from cop.scale.budget import Assumptions, Stage, amount, hours, kept, parabola, passing, running, size, training
from cop.show.report import markdown
from cop.train import shards
from cop.train.loop import seeded

# train + val (the official training images), test
IMAGES = {"fashion-subset": (12_000, 2_000), "fashion": (60_000, 10_000), "tiny-imagenet": (100_000, 10_000)}
IMAGES |= dict.fromkeys(LAYOUTS, (OFFICIAL["train"], OFFICIAL["val"]))
IMAGES["imagenette-woof"] = imagenettewoof.IMAGES["train"], imagenettewoof.IMAGES["val"]
INCEPTION = 5.7e9  # multiply-adds of Inception v3 on an image
CLASSIFIERS = ("ViT", "RViT", "CViT", "DynamicViT")  # Table 5; the controls of notebook 5 cost as much as CViT each
TESTED = ("ViT", "ViT+C", "RViT", "CViT", "DynamicViT")
GMAC, MMAC = 1e9, 1e6


def plan(profile: str | Profile) -> list[Stage]:
    """The stages of a profile in the order they run. Raises ValueError for data of an unknown number of images."""
    profile = get_profile(profile)
    if profile.data.name not in IMAGES:
        unknown = f"no plan for data {profile.data.name!r}: the number of images must be known"
        raise ValueError(f"{unknown}; expected one of {', '.join(IMAGES)}")
    first = [*tokenising(profile), *comae_stages(profile), predicting(profile)]
    return in_precision(profile, [*first, *generating(profile), *classifying(profile)])


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


@functools.cache
def autoencoder(side: int) -> KL16:
    with torch.device("meta"):
        return KL16(image_side=side).eval()


def encoding(profile: Profile) -> int:
    """Multiply-adds of encoding one image; 0 for tokens that are linear in the pixels."""
    if profile.tokens.kind != "kl16":
        return 0
    side = profile.data.image_size
    model, image = autoencoder(side), torch.empty(1, 3, side, side, device="meta")
    return macs(lambda: model.quant_conv(model.encoder(image)))


def drawn_latents(profile: Profile) -> int:
    """Normal numbers per image of a training: KL-16's latents are drawn from their posterior."""
    return profile.num_tokens * profile.tokens.dim if profile.tokens.kind == "kl16" else 0


def tokenising(profile: Profile) -> list[Stage]:
    if profile.tokens.kind != "kl16":
        return []
    (n, words), one = looks(profile), encoding(profile)
    N, C, side = profile.num_tokens, profile.tokens.dim, profile.data.image_size
    values = f"mean and log-variance of {N} x {C} values in 2 bytes"
    text = f"{words}, {one / GMAC:.1f} GMAC each; {values}; memory: four maps of 128 x {side} x {side} in 4 bytes"
    model, counts = autoencoder(side), {"macs_tf32": one, "disk": 4 * N * C}
    return [running("KL-16 moments", model, n, shards.BATCH, budget.widest(side), text, **counts)]


def comae_stages(profile: Profile) -> list[Stage]:
    c, N, C = profile.comae, profile.num_tokens, profile.tokens.dim
    K, D, (n, words) = min(c.targets_per_image, N), c.enc_dim, looks(profile)
    with torch.device("meta"):
        model, tokens, targets = CoMAE(c, profile.grid, C), torch.empty(1, N, C), torch.arange(N)[None]
        weights, noise = torch.empty(1, K, N), torch.empty(1, K, N, C)
    f, g = macs(model.weights, tokens, targets[:, :K]), macs(model.reconstruct, tokens, targets[:, :K], weights, noise)
    one, activations = f + g + (2 * f + g) / 2 + 2 * g / 2, kept(N, D, c.enc_depth) + kept(N, c.dec_dim, c.dec_depth)
    backward = "backward 2 f + g in the steps that train f, 2 g in those that train g; the noise is drawn on the GPU"
    text = f"{one / GMAC:.1f} GMAC: f {f / GMAC:.2f} and g {g / GMAC:.2f} forward for {K} targets; {backward}"
    sizes, normals = (c.steps, c.batch_size, one, K * activations), drawn_latents(profile)
    first = training("CoMAE training", model, *sizes, text, normals=normals)
    full = macs(model.weights, tokens, targets)
    together = max(1, min(N, profile.ranking.chunk_bytes // (4 * N * D * int(8 + 2 * c.mlp_ratio))))
    passes = f"{N} encoder passes, what targets share computed once"
    text = f"{words}, {full / GMAC:.0f} GMAC each ({passes}); one byte a rank, by PageRank and by in-strength"
    return [first, running("ranking", model, n, 1, together * passing(N, D), text, macs=full, disk=2 * N)]


def predicting(profile: Profile) -> Stage:
    p, N, C = profile.predictor, profile.num_tokens, profile.tokens.dim
    with torch.device("meta"):
        model, tokens, seen = TokenPredictor(N, C, p), torch.empty(1, N, C), torch.zeros(1, N, dtype=torch.bool)
    one, normals = macs(model, tokens, seen), drawn_latents(profile)
    sizes, text = (p.steps, p.batch_size, 3 * one, kept(N, p.dim, p.depth)), "GMAC (forward, backward twice that)"
    return training("entropy predictor (ours)", model, *sizes, f"3 x {one / GMAC:.2f} {text}", normals=normals)


def generating(profile: Profile) -> list[Stage]:
    g, N, config, side = profile.generation, profile.num_tokens, mar_sizes(profile), profile.data.image_size
    C, D, buffer, S = config.channels, g.dim, g.buffer_size, g.num_sampling_steps
    with torch.device("meta"):
        model, judge = MAR(config).eval(), build(profile, "RViT").eval()
        tokens, condition, places = torch.empty(1, N, C), torch.empty(1, D), torch.arange(N)[None]
        image, time = torch.empty(1, profile.data.channels, side, side), torch.empty(1)
    denoise, decode, decoder_bytes = macs(model.diffloss.net, tokens[:, 0], time, condition), 0, 0
    if profile.tokens.kind == "kl16":
        decoder = autoencoder(side)
        decode, decoder_bytes = macs(decoder.decode, tokens), 4 * size(decoder) + ENCODED * budget.widest(side)

    def counted(V: int, wanted: int) -> int:
        return macs(model.predict, tokens[:, :V], condition, places[:, :V], places[:, V : V + wanted])

    at_one, per_wanted = parabola(lambda V: counted(V, 1), (0, N // 2, N - 1)), counted(0, 2) - counted(0, 1)

    def predict(V: int, wanted: int) -> float:
        return at_one(V) + (wanted - 1) * per_wanted

    generator = seeded(0)
    M = round(mean(draw_num_masked(N, config.mask_ratio_min, generator) for _ in range(2000)))
    z, rows = predict(N - M, M), M * g.diffusion_batch_mul
    activations = kept(N - M + buffer, D, g.depth) + kept(N + buffer, D, g.depth)  # of the encoder, of the decoder
    activations += 48 * rows * g.diffloss_width * g.diffloss_depth
    network = f"{z / GMAC:.1f} GMAC with {M} of {N} tokens hidden, the mean"
    diffusion = f"{rows} rows of the diffusion MLP at {denoise / MMAC:.1f} MMAC in float32"

    def trained_mar(name: str, steps: int, start: str, times: int) -> Stage:
        counts = {"macs_fp32": 3 * rows * denoise, "normals": drawn_latents(profile) + rows * C}
        words = f"3 x ({network}, + {diffusion}); {start}"
        return training(name, model, steps, g.batch_size, 3 * z, activations, words, True, times, **counts)

    lengths = mask_lengths(N, g.num_iter)
    write = sum(predict(N - before, before - after) for before, after in zip([N, *lengths], lengths, strict=False))
    steps = f"{len(lengths)} steps of {write / len(lengths) / GMAC:.1f} GMAC in the mean"

    def sampling(name: str, systems: int, branches: int) -> Stage:
        counts = {"macs": branches * write, "macs_tf32": branches * N * S * denoise + decode, "normals": N * S * C}
        counts |= {"disk": side**2 * profile.data.channels + N, "beside": decoder_bytes}
        one = f"{branches} x ({steps}, {N} x {S} rows of the diffusion MLP in TF32)"
        words = f"{systems} systems x {g.count:,} images x ({one} + decoder {decode / GMAC:.0f} GMAC in TF32)"
        memory, words = branches * passing(N + buffer, D) + 4 * N * S * C, f"{words}; pixels in a byte"
        return running(f"sampling{name}", model, systems * g.count, BATCH, memory, words, **counts)

    # A bank of drafts is ranked for both sets of images that it lends orders to.
    (_, ranking), images, encode = comae_stages(profile), 2 * g.count, encoding(profile)
    one = ranking.macs / looks(profile)[0]
    text = f"2 x {g.count:,} drafts, {one / GMAC:.0f} GMAC each and encoder {encode / GMAC:.0f} GMAC in TF32"
    work = {"macs": images * one, "macs_tf32": images * encode, "disk": 0, "derivation": text}
    drafts = replace(ranking, name="ranking drafts, other order sources (ours)", **work)

    # RViT says the class of every image, and Inception its features where the profile asks for them.
    swept, others = sum(float(s) != float(g.cfg_scale) for s in g.cfg_sweep), len(MODES) - 1
    sets, own, inception = 2 * (len(SYSTEMS) + others) + swept, macs(judge, image), INCEPTION if g.features else 0
    networks = f"RViT {own / GMAC:.1f} GMAC + Inception {inception / GMAC:.1f} in TF32"
    text, memory = f"{sets} sets x {g.count:,} images x ({networks})", passing(N + 1, profile.classifier.dim)
    judging = running("judging samples", judge, sets * g.count, 256, memory, text, macs=own, macs_tf32=inception)

    base = [] if g.checkpoint else [trained_mar("MAR training", g.steps, "random orders", 1)]
    start = f"from the {'released weights' if g.checkpoint else 'base'}"
    return [
        *base,
        trained_mar("CMAR, ascending and random fine-tuning", g.fine_tune_steps, start, len(KINDS)),
        sampling(" without guidance", len(SYSTEMS), 1),
        sampling(" with guidance", len(SYSTEMS) + swept, 2),
        sampling(", other order sources without guidance (ours)", others, 1),
        sampling(", other order sources with guidance (ours)", others, 2),
        drafts,
        judging,
    ]


def cvit_on_meta(profile: Profile) -> tuple[nn.Module, torch.Tensor, Callable[[int], float]]:
    """A CViT, an image for it, and its multiply-adds by its number of kept patches."""
    d, N = profile.data, profile.num_tokens
    with torch.device("meta"):
        model, image = build(profile, "CViT").eval(), torch.empty(1, d.channels, d.image_size, d.image_size)
    return model, image, parabola(lambda k: macs(model, image, torch.arange(k)[None]), (1, N // 2, N))


def over_ratios(profile: Profile) -> float:
    """Multiply-adds of a CViT on one image, once with each of the hundred mask ratios."""
    at = cvit_on_meta(profile)[2]
    return sum(at(keep_count(profile.num_tokens, r / 100)) for r in range(100))


def classifying(profile: Profile) -> list[Stage]:
    c, N = profile.classifier, profile.num_tokens
    model, image, at = cvit_on_meta(profile)
    with torch.device("meta"):
        dynamic = build(profile, "DynamicViT").eval()
    counts = [keep_count(N, mask_rate_schedule((i + 0.5) / 32)) for i in range(32)]
    masked, whole, soft = mean(map(at, counts)), at(N), macs(dynamic.soft, image, seeded(0))
    schedule = f"(mean over the schedule of mask rates: {mean(counts):.0f} of {N} patches)"
    teacher = f"(3 x {soft / GMAC:.2f} + {whole / GMAC:.2f} GMAC of the teacher)"
    work = dict.fromkeys(CLASSIFIERS, (c.steps, 3 * masked, f"3 x {masked / GMAC:.2f} GMAC {schedule}"))
    work["ViT"] = c.steps, 3 * whole, f"3 x {whole / GMAC:.2f} GMAC"
    work["DynamicViT"] = max(1, c.steps // FINE_TUNING), 3 * soft + whole, teacher
    unfused = {"DynamicViT": 5 * c.heads * (N + 1) ** 2 * (c.depth - dynamic.stages[0])}  # its masked attention is kept
    stages = []
    for system, (steps, one, words) in work.items():
        memory = kept(N + 1, c.dim, c.depth) + unfused.get(system, 0)
        stages.append(training(f"{system} training", model, steps, c.batch_size, one, memory, words, ema=True))
    test, ratios = IMAGES[profile.data.name][1], over_ratios(profile)
    work = f"{ratios / GMAC:,.0f} GMAC (all ratios; {ratios / whole:.1f} whole images)"
    text = f"{len(TESTED)} systems x {test:,} images x {work}; DynamicViT counted as the others"
    text, counts = f"{text}; one bit per image, ratio and top-1 or top-5", {"macs": ratios, "disk": 100 * 2 / 8}
    memory, images = passing(N + 1, c.dim), len(TESTED) * test
    return [*stages, running("curves over 100 mask ratios", model, images, 256, memory, text, **counts)]


def main(profile: str, devices: Sequence[str] | None = None, utilisation: float = Assumptions.utilisation) -> None:
    """Print the plan of a profile and what can be cut, in Markdown.

    Raises ValueError as `plan` and `device`, and for a utilisation outside 0..1.
    """
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation is {utilisation}, expected a share above 0, at most 1")
    assumptions, chosen = Assumptions(utilisation), tuple(devices or budget.DEVICES)
    shown = [budget.device(d) for d in chosen]
    rates = ", ".join(f"{d.name}: {d.count} x {d.tflops:g} TFLOP/s, {d.memory} GiB" for d in shown)
    assumed = f"{utilisation:.0%} of the dense bf16 rate ({rates}), {assumptions.scaling:.0%} of the linear gain"
    units = "1 multiply-add = 2 FLOP. Reading images is not counted."
    print(f"# What the profile {get_profile(profile).name} costs\n")
    print(f"Assumed, not measured: {assumed} on several devices. {units}\n")
    stages = plan(profile)
    rows = markdown(budget.table(stages, assumptions, chosen))
    print(rows, "", reading(profile, stages, shown[0], assumptions), "## What can be cut\n", sep="\n")
    print(markdown(cuts(profile, assumptions, chosen[0])))


def reading(profile: str | Profile, stages: Sequence[Stage], device: budget.Device, assumptions: Assumptions) -> str:
    """How many images a second CViT's training takes, and how many cores decode so many; "" if all are in memory."""
    profile = get_profile(profile)
    if profile.data.name not in (*LAYOUTS, "imagenette-woof"):
        return ""
    (stage,) = (s for s in stages if s.name == "CViT training")
    rate = profile.classifier.steps * profile.classifier.batch_size / hours(stage, device, assumptions) / 3600
    cores = f"{amount(rate / assumptions.decoded)} cores decode, at {assumptions.decoded:g} each"
    return (
        "Threads decode images ahead of the steps. In the hours above, CViT's training takes "
        f"{amount(rate)} a second on {device.name}, as many as {cores}: with fewer cores classifiers take longer. "
        "CoMAE and MAR read latents.\n"
    )


def cuts(profile: str | Profile, assumptions: Assumptions | None = None, name: str = "H100") -> pd.DataFrame:
    """What can be left out or made smaller, what it saves (by planning again with the smaller numbers), and its price."""
    profile, assumptions, chosen = get_profile(profile), assumptions or Assumptions(), budget.device(name)
    c, g, N = profile.comae, profile.generation, profile.num_tokens

    def spent(stages: list[Stage]) -> dict[str, float]:
        return {s.name: hours(s, chosen, assumptions) for s in stages}

    def comae(**changes) -> list[Stage]:
        return comae_stages(replace(profile, comae=replace(c, **changes)))

    def generation(**changes) -> list[Stage]:
        return generating(replace(profile, generation=replace(g, **changes)))

    before, rows = spent(plan(profile)), []

    def smaller(change: str, stages: list[Stage], price: str) -> None:
        after = spent(in_precision(profile, stages))
        if touched := [n for n in after if after[n] < 0.999 * before[n]]:
            rows.append([change, sum(before[n] for n in touched), sum(after[n] for n in touched), price])

    moved = "unknown; over its last quarter the paper's Fig. 6 moves in the fourth digit"
    smaller("CoMAE for a fifth of its steps", comae(steps=c.steps // 5), moved)
    fewer = "several tokens at once, so the order decides less; its FID is untested here"
    smaller("a quarter of the sampling steps", generation(num_iter=max(1, g.num_iter // 4)), fewer)
    biased = "FID is biased upwards and noisier: not comparable with FID-50K"
    smaller("10,000 images per system", generation(count=min(g.count, 10_000)), biased)
    narrow = c.enc_dim // 4
    if narrow % (4 * c.enc_heads) == 0:  # 2-D RoPE
        change = f"CoMAE's encoder {narrow} wide (the paper: 64 in section 4, 256 in section 8)"
        smaller(change, comae(enc_dim=narrow), f"masks of rank {narrow} at most; untested")
    seen = min(1.0, g.fine_tune_steps * g.batch_size / looks(profile)[0])
    few = sum(map(cvit_on_meta(profile)[2], tested_counts(N))) / over_ratios(profile)
    sources, curves = sum(h for n, h in before.items() if "order sources" in n), before["curves over 100 mask ratios"]
    ours = "nothing of the paper; ours: whose order it must be"
    rows.append(["no order sources but the training bank", sources, 0.0, ours])
    change, ranking = "rank only what fine-tuning shows, in the flip shown", before["ranking"]
    if seen < 1:
        rows.append([change, ranking, seen * ranking, "CViT's training needs every order"])
    interpolated = "AuC and curve are interpolated; what notebook 5 does"
    rows.append(["15 kept counts instead of 100 ratios", curves, curves * few, interpolated])
    columns = ["cut", f"h before, {name}", "h after", "price"]
    return pd.DataFrame([[cut, amount(old), amount(new), price] for cut, old, new, price in rows], columns=columns)
