"""Profiles: one code path, one set of numbers each.

`smoke` runs in seconds (tests), `demo` is the default (embedded Fashion-MNIST, a laptop), `natural` is
Tiny-ImageNet at 64 px, `paper` is the paper's own setting (ImageNet-1k, KL-16, ViT-B/16,
GPUs), `evening` what of it fits into eight hours on one GPU with data that anyone can fetch. Every field says why it exists and what the paper uses; what the paper leaves open is marked *open* with our reason.

Any field can be changed from the outside, and a profile of one's own is a TOML file: see `get_profile`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cop import settings
from cop.configs import (
    BaseConfig,
    ClassifierConfig,
    CoMAEConfig,
    DataConfig,
    GenerationConfig,
    GraphNetConfig,
    MeasuredConfig,
    OnePassConfig,
    PredictorConfig,
    Profile,
    ScaleConfig,
    TokenConfig,
)

# The numbers that are not written here are the defaults of `cop.configs`.
demo = Profile(
    "demo",
    # Twice the steps lower L_r by two per cent; 40 minutes of one core
    comae=CoMAEConfig(
        optimizer="muon",
        lr=2e-3,
        steps=20_000,
        watched=(200, 500, 1000, 2000, 3500, 5000, 7500, 10_000, 12_500, 15_000, 17_500, 20_000),
    ),
    predictor=PredictorConfig(steps=5000),
    base=BaseConfig(steps=6000, lr=3e-3, crop=0.8),
    classifier=ClassifierConfig(dim=128, depth=6, steps=500, lr=1e-3, optimizer="muon", ema=0.99, ema_warmup=False),
    generation=GenerationConfig(
        dim=112,
        depth=3,
        heads=7,
        diffloss_depth=3,
        diffloss_width=256,
        dropout=0.1,
        optimizer="muon",
        lr=4e-3,
        steps=6000,
        batch_size=256,
        ema=0.999,
        warmup=0.05,
        fine_tune_steps=1000,
        fine_tune_batch_size=32,
        fine_tune_lr=2e-4,
        rankings=None,
        val_rankings=None,
        num_sampling_steps=50,
        temperature=1.0,
    ),
)

smoke = Profile(
    "smoke",
    data=DataConfig(limit=64),
    comae=CoMAEConfig(enc_dim=16, enc_depth=2, enc_heads=2, dec_dim=16, dec_depth=2, dec_heads=2, steps=6,
                      batch_size=4, targets_per_image=3, head_depth=2),
    predictor=PredictorConfig(dim=16, depth=2, heads=2, steps=6, batch_size=8),
    classifier=ClassifierConfig(dim=16, depth=4, heads=2, steps=6, batch_size=8),
    generation=GenerationConfig(dim=16, depth=1, heads=2, buffer_size=2, diffloss_depth=1, diffloss_width=16, steps=6,
                                batch_size=8, fine_tune_steps=4, rankings=40, val_rankings=20,
                                num_iter=4, num_sampling_steps=3, count=30),
    checkpoint_every=2,
    measured=MeasuredConfig(images=12),
    onepass=OnePassConfig(width=16, depth=2, steps=6, batch_size=4),
    graphnet=GraphNetConfig(dim=16, depth=1, heads=2, images=12, steps=6, batch_size=4),
)  # fmt: skip

natural = Profile(
    "natural",
    # The first 100 of the 500 training images of a class. What orders an image has not seen the classifiers' classes.
    data=DataConfig(
        "tiny-imagenet", image_size=64, channels=3, num_classes=200, hflip=True, per_class=100, without_step=10
    ),
    # 64 patches, which two cores can learn to the end, and principal components in one scale, so that details nobody can
    # predict do not outweigh what can be learned
    tokens=TokenConfig("components", patch_size=8, dim=16),
    comae=CoMAEConfig(optimizer="muon", lr=2e-3, steps=8000),
    predictor=PredictorConfig(steps=5000, batch_size=48),
    base=BaseConfig(steps=8000, lr=3e-3),
    # 20 of 200 classes: every tenth WordNet id, which spreads over the kinds of things, in five folds. Six epochs; the best of
    # three settings on the first fold's validation images
    classifier=ClassifierConfig(
        class_step=10,
        folds=True,
        dim=128,
        depth=6,
        steps=700,
        lr=1e-3,
        optimizer="muon",
        ema=0.99,
        ema_warmup=False,
    ),
    generation=GenerationConfig(steps=0, clip=None),  # two cores cannot teach a generator photographs: notebook 4 is left out
    checkpoint_every=100,
)

paper = Profile(
    "paper",
    data=DataConfig("imagenet", image_size=256, channels=3, num_classes=1000, hflip=True),
    tokens=TokenConfig("kl16", patch_size=16, dim=16),
    comae=CoMAEConfig(enc_dim=256, enc_depth=12, dec_dim=64, dec_depth=12, targets_per_image=8, batch_size=256,
                      steps=512 * 5004, lr=1e-4),
    predictor=PredictorConfig(dim=256, depth=12, steps=100_000, batch_size=256, lr=1e-4),
    classifier=ClassifierConfig(dim=768, depth=12, heads=12, steps=3 * 5004, batch_size=256, lr=1e-4, ema=0.9999,
                                pretrained="vit_base_orig_in21k"),
    generation=GenerationConfig(dim=768, depth=12, heads=12, buffer_size=64, diffloss_depth=6, diffloss_width=1024,
                                diffusion_batch_mul=4, dropout=0.1, checkpoint="mar_base.pth", steps=800 * 40_036,
                                fine_tune_steps=24_000, lr=8e-4, fine_tune_lr=1e-7, rankings=None, val_rankings=None, ema=0.99999,
                                num_iter=256, num_sampling_steps=100, clip=None, cfg_scale=3.0, cfg_sweep=(2.9, 3.0, 3.1),
                                count=50_000, features="inception"),
    scale=ScaleConfig(micro_batches=8, mixed_precision="bf16", threads=None),
    checkpoint_every=1000,
)  # fmt: skip

# An evening on one GPU of 12 to 24 GB, with two archives that anyone can fetch: 20 classes of ImageNet-1k, 17,754 training images,
# 69 steps of 256 an epoch. A field that is not named here is the paper's.
evening = replace(
    paper,
    name="evening",
    data=DataConfig("imagenette-woof", image_size=256, channels=3, num_classes=20, hflip=True),
    # Section 4's widths: ranking costs an eleventh of section 8's. 101 epochs where the paper has 512 of 72 times as many images.
    comae=replace(paper.comae, enc_dim=64, dec_dim=256, steps=7000),
    predictor=replace(paper.predictor, steps=10_000),  # 144 epochs; paper profile: 100,000 steps, 21 epochs
    # ViT-S/16 from ImageNet-21k, a quarter of ViT-B/16's multiply-adds; 20 epochs, as 3 of so few images are 208 steps; an average
    # over 1,000 steps instead of 10,000 for a tenth of the steps.
    classifier=replace(paper.classifier, dim=384, heads=6, steps=1400, ema=0.999, pretrained="vit_small_augreg_in21k"),
    generation=replace(
        paper.generation,
        # Rows of these classes, by their sorted WordNet ids, in the class embedding of MAR-B, which knows all of ImageNet-1k.
        checkpoint_classes=(0, 155, 159, 162, 167, 182, 193, 207, 217, 229, 258, 273, 482, 491, 497, 566, 569, 571, 574, 701),
        # A sixth of the paper's 24,000 steps, 7 epochs, with six times its learning rate and a sixth of its average's length: so
        # AdamW can move a weight as far as in the paper, and the average follows it as far.
        fine_tune_steps=4000,
        fine_tune_lr=6e-7,
        ema=0.99994,
        num_iter=32,  # 8 tokens a step; paper: *open*, 256. 64 steps would take 2.3 hours more
        num_sampling_steps=50,  # MAR: 100, which would take 1.6 hours more
        count=5000,  # paper: 50,000; Fréchet distances of fewer images are higher
        features=None,  # RViT's, and the test images are real: the reference of the paper's FID is all of ImageNet
    ),
)

PROFILES = {p.name: p for p in (smoke, demo, natural, evening, paper)}
DRY = "-dry-run"  # ends the name of a profile whose figures show that the code runs, and nothing else


def get_profile(profile: str | Path | Profile) -> Profile:
    """The profile that a text names; a `Profile` passes through. A name or a TOML file, and after it fields to change:

        demo
        demo comae.steps=200 comae.betas=[0.9, 0.99] data.limit=none
        my.toml scale.threads=4

    The file holds `base = "demo"` and fields in tables, such as `[comae]` and `steps = 200`; its profile has the name of
    the file. With `-dry-run` at the end it is `dry_run` of the profile. Raises ValueError for an unknown profile or field
    and for a value of another type, FileNotFoundError for a file that is not there.
    """
    if isinstance(profile, Profile):
        return profile
    text = str(profile).strip()
    name, *changes = re.split(r"\s+(?=[\w.]+=)", text.removesuffix(DRY))
    if name.endswith(DRY) or text.endswith(DRY):
        return dry_run(get_profile(" ".join([name.removesuffix(DRY), *changes])))
    if not name.endswith(".toml"):
        if name not in PROFILES:
            raise ValueError(f"unknown profile {name!r}; expected one of {', '.join(PROFILES)}, or a TOML file")
        return changed(PROFILES[name], changes)
    values, own = settings.tables(Path(name).expanduser()), Path(name).stem
    base = values.pop("base", None)
    if base not in list(PROFILES) or own in PROFILES:
        told = f"has base = {base!r}; expected one of {', '.join(PROFILES)}" if own not in PROFILES else "has the name of a profile of the package"
        raise ValueError(f"{name} {told}")
    return changed(settings.with_fields(replace(PROFILES[base], name=own), values.items()), changes)


def changed(profile: Profile, changes: Sequence[str]) -> Profile:
    """A profile with fields replaced, ["comae.steps=200"], and named after them where they change it and do not name it."""
    made = settings.with_fields(profile, [change.partition("=")[::2] for change in changes])
    check(made)
    if made == profile or made.name != profile.name:
        return made
    return replace(made, name=re.sub(r"[^\w.=-]+", "_", "-".join([profile.name, *changes])))


MAY_BE_0 = ("data.fold", "generation.steps", "generation.fine_tune_steps", "generation.checkpoint_classes", "base.steps")
MOST = 10**12  # of any number, but for these:
MOST_BY_ENDING = {"depth": 1000, ("dim", "width", "heads", "image_size", "patch_size", "channels", "buffer_size"): 10**5}


def check(profile: Profile) -> None:
    """Raises ValueError for a number that no stage can use: not finite, negative (but for `generation.clip`) or absurdly large, or 0
    where something is counted; for patches larger than the image, and for heads that do not divide a classifier's width."""
    for name, value in settings.flat(profile).items():
        for number in value if isinstance(value, tuple) else (value,):
            counts = type(number) is int and name not in MAY_BE_0
            least = 1 if counts else -MOST if name == "generation.clip" else 0
            most = next((m for ending, m in MOST_BY_ENDING.items() if name.endswith(ending)), MOST)
            if type(number) in (int, float) and not least <= number <= most:
                kind = "a whole number" if type(number) is int else "a number"
                raise ValueError(f"{name} is {value!r}; expected {kind} from {least:g} to {most:g}")
    if profile.grid < 1:
        raise ValueError(
            f"tokens.patch_size is {profile.tokens.patch_size}; expected at most data.image_size, {profile.data.image_size}"
        )
    if profile.classifier.dim % profile.classifier.heads:
        raise ValueError(
            f"classifier.dim {profile.classifier.dim} does not divide into {profile.classifier.heads} heads: change either"
        )


def spelled(profile: Profile) -> str:
    """A text of which `get_profile` makes this profile wherever it is called, whatever files are there."""
    if profile.name.removesuffix(DRY) in PROFILES and get_profile(profile.name) == profile:
        return profile.name
    own = [f"{name}={value}" for name, value in settings.flat(profile).items() if value != settings.flat(demo)[name]]
    return " ".join([demo.name, *own])


def dry_run(profile: Profile) -> Profile:
    """One step of every stage on two synthetic images: networks, tokens and images keep their sizes, counts shrink.

    CoMAE takes two steps, one for each half of it. Two classes: the bank of orders needs an image of every class. MAR
    starts untrained, and samples in three steps.
    """
    few = {"steps": 1, "batch_size": 2}
    return replace(
        profile,
        name=f"{profile.name}{DRY}",
        data=replace(profile.data, name="synthetic", root=None, num_classes=2, limit=2, per_class=None, without_step=None),
        comae=replace(profile.comae, **few | {"steps": 2}),
        predictor=replace(profile.predictor, **few),
        base=replace(profile.base, **few | {"steps": min(profile.base.steps, 1)}),
        classifier=replace(profile.classifier, **few, pretrained=None, class_step=None, folds=False),
        generation=replace(profile.generation, **few, checkpoint=None, checkpoint_classes=None, fine_tune_steps=1, rankings=None, val_rankings=None,
                           num_iter=3, num_sampling_steps=2, cfg_sweep=(profile.generation.cfg_scale,) * 3, count=2, features=None),
        scale=ScaleConfig(threads=None),
        checkpoint_every=1,
        measured=replace(profile.measured, images=2),
        onepass=replace(profile.onepass, **few),
        graphnet=replace(profile.graphnet, **few, images=2),
    )  # fmt: skip


def for_classifiers(profile: str | Profile) -> Profile:
    """The profile where classes or the orders of many images are wanted: with the classes that `classifier.class_step` leaves."""
    profile = get_profile(profile)
    return replace(profile, data=replace(profile.data, class_step=profile.classifier.class_step))


def in_fold(profile: str | Profile, fold: int | None) -> Profile:
    """The profile with which a fold of a cross-validation is trained and tested: all images of the classifiers' classes, of
    which `fold` is tested. None: all of them, as the split `pool`."""
    profile = for_classifiers(profile)
    return replace(profile, data=replace(profile.data, fold=fold))


def all_classes(profile: Profile) -> Profile:
    """The profile as tokens and CoMAE are trained: they know no classes, and see the images of all, or of those that
    `data.without_step` leaves where no model that orders an image may have seen the classes it is judged on."""
    return replace(profile, data=replace(profile.data, class_step=None, fold=None))
