"""Generation along an order: the stages MAR, its three fine-tunes, and the images they draw (sections 3.3 and 4.2).

    base        a small MAR trained with random orders from scratch; as `MAR` (random order) and `MAR+C` (collapse order)
    descending  CMAR: the base trained on along collapse orders, 10 % of them replaced by random ones
    ascending   the same along reversed collapse orders (Table 4)
    random      the control that the paper lacks: the base trained on with random orders, for as many steps
    measured    ours: as descending, along the orders of the measured graph; a source of orders too
    most doubted, least doubted   ours: along what a predictor doubts of an image of which part is known; sources too

The three fine-tunes begin with the same weights and see the same images, timesteps and noise; only the orders differ.
Images are paired too: image i of every system has the same class, the same seed and, from one bank, the same order.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cop.configs import Profile, as_dict, scale_config
from cop.data.loading import load_data
from cop.devices import at_a_time, inference
from cop.lessons import ordering, pipeline
from cop.lessons.doubt import DOUBTS, along_doubt, by_doubt
from cop.orders import get, random_order, registered, reversed_order, small_type
from cop.orders.bank import MODES, OrderBank
from cop.paper.mar import MAR, MARConfig, load_mar
from cop.profiles import get_profile
from cop.train.artefacts import Artefact, load_or_compute, stored, versioned
from cop.train.loop import fit, restored, seeded
from cop.train.processes import shared_out
from cop.train.shards import compute_shards
from cop.train.together import Job, together
from cop.weights.table import locate

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("descending", "ascending", "random")
SYSTEMS = {  # name: (weights, order source)
    "MAR": ("base", "random"), "continued random": ("random", "random"), "MAR+C": ("base", "train"),
    "CMAR": ("descending", "train"), "ascending": ("ascending", "train"),
}  # fmt: skip
MEASURED = "measured"
WEIGHTS = ("base", *KINDS, MEASURED, *DOUBTS)  # the base, and what it is fine-tuned to
BATCH = 100  # images sampled at a time, by one process
SAMPLING = {"num_iter", "num_sampling_steps", "clip", "temperature", "cfg_temperature", "cfg_scale", "cfg_sweep", "count", "val_rankings"}
FINE_TUNING = {"fine_tune_steps", "fine_tune_lr", "fine_tune_batch_size", "random_share", "rankings"}


def mar_sizes(profile: Profile) -> MARConfig:
    """The profile's MAR as its own configuration."""
    own = {f.name for f in fields(MARConfig)}
    sizes = {k: v for k, v in as_dict(profile.generation).items() if k in own}
    return MARConfig(grid=profile.grid, channels=profile.tokens.dim, num_classes=profile.data.num_classes, **sizes)


def mar_config(profile: Profile) -> dict:
    """What determines the base model. Its seed is 0: as in the paper there is one, which all systems and seeds start from."""
    base = {k: v for k, v in as_dict(profile.generation).items() if k not in SAMPLING | FINE_TUNING}
    return versioned("mar", 2, pipeline.images_config(profile) | {"mar": base, "seed": 0} | scale_config(profile))


def mar(profile: str | Profile, device: str = "auto") -> tuple[MAR, Artefact | None]:
    """The base: MAR trained with random orders, and its artefact (None for official weights, which are read in place)."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    g = profile.generation
    if g.checkpoint:
        return load_mar(locate(g.checkpoint), mar_sizes(profile), g.checkpoint_classes).to(device), None

    def compute(directory: Path):
        data, tokens = load_data(profile, "train"), pipeline.token_source(profile, "train", device)

        def loss(model, idx, generator, step):
            flip = pipeline.draw_flip(profile, len(idx), generator)
            return {"loss": model(tokens(idx, flip, generator), data.labels[idx], generator)}

        model, history = fit(MAR(mar_sizes(profile), seeded(0, 50)), loss, g, size=len(data), seed=0, ema=g.ema, ema_warmup=g.ema_warmup,
                             directory=directory, device=device, desc="MAR",
                             checkpoint_every=profile.checkpoint_every, scale=profile.scale)  # fmt: skip
        return model.state_dict(), pipeline.thin(history)

    return _restore(profile, load_or_compute("mar", mar_config(profile), compute), device)


def _restore(profile: Profile, artefact: Artefact, device: str) -> tuple[MAR, Artefact]:
    return restored(lambda: MAR(mar_sizes(profile), seeded(0)), artefact.tensors).to(device).eval(), artefact


def bank_config(profile: Profile, seed: int) -> dict:
    """What determines the orders of real images."""
    return {"bank": pipeline.rankings_config(profile, "train", seed, profile.generation.rankings)}


def fine_tuned_config(profile: Profile, seed: int, kind: str) -> dict:
    """What determines a fine-tuned model. The random control knows no collapse order, only how many images have one."""
    if kind == MEASURED:
        return fine_tuned_config(pipeline.with_graph(profile, MEASURED), seed, "descending")
    g = profile.generation
    extra = {k: v for k, v in sorted(as_dict(g).items()) if k in FINE_TUNING}
    config = mar_config(profile) | {"seed": seed, "kind": kind, "fine_tuning": extra}
    if kind in DOUBTS:
        return versioned("mar-tuned", 2, config | source_config(profile, seed, kind) | {"num_iter": g.num_iter})
    return versioned("mar-tuned", 2, config | (bank_config(profile, seed) if kind != "random" else {}))


def fine_tuned(profile: str | Profile, seed: int, kind: str, device: str = "auto") -> tuple[MAR, Artefact]:
    """The base trained on along collapse orders (descending), reversed ones (ascending), random ones, those of the measured graph, or
    those that `by_doubt` makes of training images, in the steps of a generation.

    Only the `rankings` training images that have an order are used, in all of them: an order costs N encoder passes, and
    the control must see the images that the others see. Raises ValueError for another kind.
    """
    if kind == MEASURED:
        return fine_tuned(pipeline.with_graph(get_profile(profile), MEASURED), seed, "descending", device)
    if kind not in (*KINDS, *DOUBTS):
        raise ValueError(f"unknown kind {kind!r} of fine-tuning; expected one of {', '.join(WEIGHTS[1:])}")
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    g, N = profile.generation, profile.num_tokens

    def compute(directory: Path):
        data, tokens = load_data(profile, "train"), pipeline.token_source(profile, "train", device)
        chosen = pipeline.selection(data, g.rankings)
        flips = () if kind == "random" else (False, True) if profile.data.hflip else (False,)
        if kind in DOUBTS:
            orders = [along_doubt(profile, seed, DOUBTS[kind], tokens, chosen, f, device) for f in flips]
        else:
            orders = [pipeline.rankings(profile, "train", seed, g.rankings, device=device, flipped=f, compact=True) for f in flips]

        def loss(model, idx, generator, step):
            # Drawn in every kind, used or not, so that all see the same images, timesteps and noise.
            chance = random_order(len(idx), N, generator)
            replaced = torch.rand(len(idx), 1, generator=generator) < g.random_share
            flip = pipeline.draw_flip(profile, len(idx), generator)
            if kind == "random":
                order = chance
            else:
                order = orders[0][idx] if flip is None else torch.where(flip[:, None], orders[1][idx], orders[0][idx])
                order = order.long()
                order = torch.where(replaced, chance, reversed_order(order) if kind == "ascending" else order)
            seen, labels = tokens(chosen[idx], flip, generator), data.labels[chosen[idx]]
            return {"loss": model(seen, labels, generator, order.to(device))}

        config = replace(g, steps=g.fine_tune_steps, lr=g.fine_tune_lr, optimizer="adamw", batch_size=g.fine_tune_batch_size or g.batch_size)
        model, history = fit(mar(profile, device)[0], loss, config, size=len(chosen), seed=seed + 1000, ema=g.ema,
                             directory=directory, device=device, desc=f"MAR, {kind}",
                             checkpoint_every=profile.checkpoint_every, scale=profile.scale)  # fmt: skip
        return model.state_dict(), pipeline.thin(history)

    return _restore(profile, load_or_compute("mar-tuned", fine_tuned_config(profile, seed, kind), compute), device)


def all_fine_tuned(profile: str | Profile, seed: int, device: str = "auto") -> dict[str, Artefact]:
    """The artefacts of the three fine-tunes, trained side by side if they are missing."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    jobs = [Job("mar-tuned", fine_tuned_config(profile, seed, k), fine_tuned, (profile, seed, k, device)) for k in KINDS]
    if not all(stored(job.stage, job.config) for job in jobs):  # what they share
        mar(profile, device)
        pipeline.rankings(profile, "train", seed, profile.generation.rankings, device=device)
    together(jobs, device)
    return {kind: fine_tuned(profile, seed, kind, device)[1] for kind in KINDS}


def histories(profile: str | Profile, seed: int, device: str = "auto") -> dict[str, "pd.DataFrame"]:
    """The histories of the three fine-tunes, trained if they are missing. An artefact of its own, small where the models are large."""
    import pandas as pd

    profile = get_profile(profile)
    config = versioned("mar-histories", 1, {"models": {k: fine_tuned_config(profile, seed, k) for k in KINDS}})

    def compute(_: Path):
        tuned = all_fine_tuned(profile, seed, device)
        rows = [a.history.assign(kind=KINDS.index(kind)) for kind, a in tuned.items()]
        return {"seed": torch.tensor(seed)}, pd.concat(rows, ignore_index=True)

    found = load_or_compute("mar-histories", config, compute).history
    return {kind: found[found["kind"] == k] for k, kind in enumerate(KINDS)}


def model_of(profile: Profile, seed: int, weights: str, device: str = "auto") -> MAR:
    """`base` or one of the fine-tuned models. Raises ValueError for another name."""
    return mar(profile, device)[0] if weights == "base" else fine_tuned(profile, seed, weights, device)[0]


# ------------------------------------------------------------------------------------------------- order bank


def order_bank(
    profile: str | Profile, seed: int, mode: str, count: int | None = None, device: str = "auto"
) -> OrderBank:
    """The bank of a mode, from the rankings of the profile's images; `two_pass` ranks `count` drafts of the base."""
    profile = get_profile(profile)
    g, classes = profile.generation, profile.data.num_classes
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r} of an order bank; expected one of {', '.join(MODES)}")
    if mode == "random":
        return OrderBank(
            torch.empty(0, profile.num_tokens, dtype=torch.long), torch.empty(0, dtype=torch.long), classes, mode
        )
    if mode == "two_pass":
        images = generate(profile, seed, "base", "random", 1.0, count, device).tensors["images"]
        return OrderBank(_ranked(profile, seed, images, device), new_labels(profile, len(images)), classes, mode)
    split, limit = ("val", g.val_rankings) if mode == "val" else ("train", g.rankings)
    data = load_data(profile, split)
    labels = torch.as_tensor(data.labels).long()[pipeline.selection(data, limit)]
    return OrderBank(pipeline.rankings(profile, split, seed, limit, device=device), labels, classes, mode)


def _ranked(profile: Profile, seed: int, images: Tensor, device: str) -> Tensor:
    device = pipeline.resolve_device(device)
    graph, tokens = pipeline.exact_graph(profile, seed, device), pipeline.tokenizer(profile, device)

    def order(part: Tensor) -> Tensor:
        return pipeline.ranked(graph(tokens.encode(to_float(part.to(device)))), profile)

    return torch.cat(shared_out(images.split(at_a_time(pipeline.RANKED)), order))


# ---------------------------------------------------------------------------------------------------- images


def new_labels(profile: Profile, count: int) -> Tensor:
    """Classes of the images to generate: all in turn, (count,)."""
    return torch.arange(count) % profile.data.num_classes


def to_float(images: Tensor) -> Tensor:
    """uint8 images as float in [-1, 1]."""
    return images.float() / 127.5 - 1


def source_config(profile: Profile, seed: int, source: str) -> dict:
    """What determines the orders of a source."""
    if source == "random":
        return {}
    if source in MODES:
        return bank_config(profile, seed)
    if source == MEASURED:
        return bank_config(pipeline.with_graph(profile, MEASURED), seed)
    if source in DOUBTS:
        return {"bank": pipeline.predictor_config(profile, seed), "width": profile.looking.width}
    return {"bank": pipeline.order_config(profile, get(source), seed)}


def sampling_config(profile: Profile, seed: int, weights: str, source: str, cfg_scale: float, count: int) -> dict:
    """What determines generated images: the model, the source of orders, and the settings of sampling."""
    g = profile.generation
    model = mar_config(profile) | {"seed": seed} if weights == "base" else fine_tuned_config(profile, seed, weights)
    return versioned("generated", 1, model | source_config(profile, seed, source) | {
        "weights": weights, "source": source, "cfg_scale": float(cfg_scale), "count": count, "num_iter": g.num_iter,
        "num_sampling_steps": g.num_sampling_steps, "clip": g.clip, "temperature": g.temperature if cfg_scale == 1 else g.cfg_temperature,
        "val_rankings": g.val_rankings if source == "val" else None})  # fmt: skip


def generate(
    profile: str | Profile, seed: int, weights: str, source: str, cfg_scale: float = 1.0, count: int | None = None,
    device: str = "auto",
) -> Artefact:  # fmt: skip
    """New images: tensors `images` (count, C, H, W) uint8 and `rankings` (count, N) uint8, the order each was made in.

    weights: one of `WEIGHTS`. source: a mode of the order bank, `measured` for the training bank by the
    measured graph, a registered order that is one for all images, or one of `DOUBTS`, whose order depends on what has been generated. With the ascending weights the orders lent are reversed. cfg_scale: 1 is no guidance, at the profile's `temperature`; with guidance it is `cfg_temperature`.
    """
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    g = profile.generation
    count = g.count if count is None else count
    sources = (*MODES, MEASURED, *DOUBTS, *(name for name, order in registered().items() if order.shared))
    if source not in sources or weights not in WEIGHTS:
        raise ValueError(f"weights {weights!r} with orders from {source!r}; expected one of {', '.join(WEIGHTS)} and one "
                         f"of {', '.join(sources)}")  # fmt: skip
    config = sampling_config(profile, seed, weights, source, cfg_scale, count)

    def compute(directory: Path):
        model, tokens = model_of(profile, seed, weights, device), pipeline.tokenizer(profile, device)
        labels = new_labels(profile, count)
        following = by_doubt(profile, seed, device, DOUBTS[source]) if source in DOUBTS else None
        if source in DOUBTS:
            ranking = torch.zeros(count, 0, dtype=torch.long)
        elif source in MODES or source == MEASURED:
            of, mode = (pipeline.with_graph(profile, MEASURED), "train") if source == MEASURED else (profile, source)
            ranking = order_bank(of, seed, mode, count, device).draw(labels, seeded(seed, 60))
        else:
            ranking = ordering.shared_order(profile, source, seed, device).expand(count, -1)
        ranking = reversed_order(ranking) if weights == "ascending" else ranking

        def sampled(rows: Tensor) -> dict[str, Tensor]:
            made = []

            def choose(tokens: Tensor, mask: Tensor, count: int) -> Tensor:
                made.append(following(tokens, mask, count))
                return made[-1]

            with inference(profile, device):
                new = model.sample(labels[rows].to(device), [seed * 1_000_000 + int(i) for i in rows],
                                   None if following else ranking[rows], following=choose if following else None, num_iter=g.num_iter, num_sampling_steps=g.num_sampling_steps, cfg_scale=cfg_scale,
                                   clip=g.clip, temperature=config["temperature"])  # fmt: skip
            along = torch.cat(made, 1).cpu() if following else ranking[rows]
            images = ((tokens.decode(new).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
            return {"images": images, "rankings": along.to(small_type(profile.num_tokens))}

        made = compute_shards(directory / "shards", config, count, sampled, size=at_a_time(BATCH), desc=f"{weights}, {source} orders")
        return {name: made.all(name) for name in ("images", "rankings")}, None

    return load_or_compute("generated", config, compute)


def pictures(
    profile: str | Profile,
    seed: int,
    weights: str,
    source: str,
    cfg_scale: float = 1.0,
    first: int = 60,
    device: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The first images of `generate` and their orders, float (first, C, H, W) in [-1, 1] and (first, N) long.

    A small artefact of its own: figures need a few of the images that the metrics need hundreds of.
    """
    profile = get_profile(profile)
    config = sampling_config(profile, seed, weights, source, cfg_scale, profile.generation.count)
    config = versioned("pictures", 1, config | {"first": first})

    def compute(_: Path):
        tensors = generate(profile, seed, weights, source, cfg_scale, device=device).tensors
        return {k: v[:first].clone() for k, v in tensors.items()}, None

    tensors = load_or_compute("pictures", config, compute).tensors
    return to_float(tensors["images"]), tensors["rankings"].long()
