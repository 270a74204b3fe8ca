"""The stages of the paper, each one call: load or train, load or compute. What the notebooks import.

Everything here is plumbing between a profile and the modules; the equations are in those. Every stage is found
again by the hash of what determines it (`cop.train.artefacts`), so a notebook that needs CoMAE never trains it twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cop import paths
from cop.configs import Profile, as_dict, key, scale_config
from cop.data.images import ImageSet, first_stratified
from cop.data.loading import data_config, fold_rows, load_data
from cop.data.tokens import Tokens, fit_tokens, tokens_from_state
from cop.data.tokens import target_patches as target_patches
from cop.devices import at_a_time, inference
from cop.files import write
from cop.orders import Order, added, collapse_order, small_type
from cop.paper import ranking
from cop.paper.comae import CoMAE, comae_loss
from cop.paper.entropy import TokenPredictor, predictor_loss
from cop.paper.measured import measured_graph
from cop.paper.reconstruction import evaluate
from cop.profiles import all_classes, get_profile, in_fold
from cop.train import shards
from cop.train.artefacts import Artefact, clear_if_old, load_or_compute, versioned
from cop.train.loop import fit, restored, seeded, seeded_build
from cop.train.processes import on_cpu, processes, wait

if TYPE_CHECKING:
    import pandas as pd

LOG_EVERY = 10  # steps per row of a released history
RANKED = 64  # images ranked at a time, by one process


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


def measured_config(profile: Profile, seed: int) -> dict:
    """What determines the measured graph of an image: the predictor, and which quantity is measured."""
    own = {k: v for k, v in as_dict(profile.measured).items() if k not in ("images", "chunk_bytes")}
    return versioned("measured", 1, predictor_config(profile, seed) | {"measured": own})


def with_graph(profile: Profile, graph: str | None) -> Profile:
    """The profile with its orders by another graph, a name of `GRAPHS`; None: its own. Raises ValueError for an unknown one."""
    graph = graph or profile.ranking.graph
    if graph not in GRAPHS:
        raise ValueError(f"unknown graph {graph!r}; expected one of {', '.join(GRAPHS)}")
    return replace(profile, ranking=replace(profile.ranking, graph=graph))


def exact_graph(profile: str | Profile, seed: int = 0, device: str = "auto") -> Callable[[Tensor], Tensor]:
    """The function from tokens (B, N, C) to the graphs (B, N, N) of the profile: `ranking.graph` says whether CoMAE's, of N encoder
    passes an image, or the measured ones, of N + 1 passes of the predictor. Its model is loaded or trained here."""
    profile, device = with_graph(get_profile(profile), None), resolve_device(device)
    measured, c = profile.ranking.graph == "measured", profile.measured
    model = (predictor if measured else comae)(profile, seed, device)[0]

    def graphs(tokens: Tensor) -> Tensor:
        with inference(profile, device):
            if measured:
                return measured_graph(model, tokens, c.unit, c.alone, c.chunk_bytes)
            return model.dependencies(tokens, profile.ranking.chunk_bytes)

    return graphs


def rankings_config(profile: Profile, split: str, seed: int, limit: int | None = None) -> dict:
    """What determines the orders of the images of a split: not how much memory they may take."""
    own = {k: v for k, v in as_dict(profile.ranking).items() if k != "chunk_bytes"}
    graph = GRAPHS[with_graph(profile, None).ranking.graph](profile, seed)
    config = graph | {"ranking": own, "split": split, "limit": limit}
    return versioned("ranking", 1, config | ({"class_step": profile.data.class_step} if profile.data.class_step else {}))


def order_config(profile: Profile, order: Order | None, seed: int) -> dict:
    """What determines an order for every image, for hashes: its name, the graph that it needs, and its source if that is no
    part of the package. The classifier that an order needs is the profile's, which stands in every configuration that an
    order stands in."""
    config = {"order": order and order.name}
    if order and order.name in added():
        config |= {"source": order.fingerprint()}
    if order and order.settings:
        config |= {"settings": as_dict(getattr(profile, order.settings))}
    if order and order.needs == "comae":
        config |= {"rankings": rankings_config(profile, "train", seed)}
    if order and order.needs == "predictor":
        config |= {"predictor": predictor_config(profile, seed)}
    if order and order.needs == "measured":
        config |= {"rankings": rankings_config(with_graph(profile, "measured"), "train", seed)}
    return versioned("order", order.version if order else 1, config)


def thin(history: "pd.DataFrame") -> "pd.DataFrame":
    """The mean of every LOG_EVERY steps of a history, labelled with the last of them."""
    group = history["step"] // LOG_EVERY
    return history.groupby(group).mean().assign(step=history.groupby(group)["step"].max()).reset_index(drop=True)


def rankings(
    profile: str | Profile, split: str, seed: int = 0, limit: int | None = None, by: str = "pagerank",
    device: str = "auto", flipped: bool = False, compact: bool = False,
) -> Tensor:  # fmt: skip
    """The order by the profile's graph of every image of a split (or of `limit` images, equally of each class), (n, N) long.

    by: a name of `SCORES`. flipped: of the mirrored images, whose orders are not the mirrored orders, for CoMAE is not
    equivariant, nor is the predictor. compact: as stored, one byte a rank (int16 for more than 256 patches). N passes per image
    and one PageRank: the expensive part of using an order, so all of `SCORES` are computed once and cached; for training on KL-16,
    of both flips, in shards. Raises ValueError for an unknown score.
    """
    if by not in SCORES:
        raise ValueError(f"unknown score {by!r}; expected one of {', '.join(SCORES)}")
    profile, device = get_profile(profile), resolve_device(device)
    if profile.data.fold is not None:  # an image is in another split of every fold, and ranked once
        whole = in_fold(profile, None)
        return rankings(whole, "pool", seed, None, by, device, flipped, compact)[rows_of(profile, split)]
    config = rankings_config(profile, split, seed, limit)

    def in_shards(directory: Path, flips: tuple[bool, ...], size: int) -> shards.Shards:
        graph, tokens = exact_graph(profile, seed, device), token_source(profile, split, device)
        images = selection(load_data(profile, split), limit)

        def orders(rows: Tensor) -> dict[str, Tensor]:  # (n, flips, N) each
            found = {name: [] for name in SCORES}
            for idx in images[rows].split(at_a_time(RANKED)):
                both = [tokens(idx, torch.full((len(idx),), flip)) for flip in flips]
                graphs = [graph(x) for x in both]
                for name in SCORES:
                    found[name].append(torch.stack([ranked(A, profile, name) for A in graphs], 1))
            return {k: torch.cat(v).to(small_type(profile.num_tokens)) for k, v in found.items()}

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
        found = stored.all(by)[:, int(flipped)]
        return found if compact else found.long()

    def compute(directory: Path):
        stored = in_shards(directory / "shards", (flipped,), at_a_time(RANKED))
        return {k: stored.all(k)[:, 0] for k in SCORES}, None

    config |= {"flipped": True} if flipped else {}
    found = load_or_compute("ranking", config, compute).tensors[by]
    return found if compact else found.long()


def rows_of(profile: Profile, split: str) -> Tensor:
    """Which images of the pool are those of a split of a fold."""
    return fold_rows(load_data(in_fold(profile, None), "pool").labels, profile.data.fold, split)


def selection(images: ImageSet, limit: int | None) -> Tensor:
    """Indices of the images in use: all, or the first `limit` with the classes in turn."""
    return torch.arange(len(images)) if limit is None else first_stratified(images.labels, min(limit, len(images)))


def scores_of(A: Tensor, profile: Profile) -> Tensor:
    """PageRank with the profile's numbers: dependencies (B, N, N) -> scores (B, N)."""
    return ranking.pagerank(A, profile.ranking.damping, orientation=profile.ranking.orientation)


SCORES = {"pagerank": scores_of, "in_strength": lambda A, profile: ranking.in_strength(A)}


def ranked(A: Tensor, profile: Profile, by: str = "pagerank") -> Tensor:
    """The order (B, N) by a score of dependency graphs A (B, N, N), on the CPU."""
    return collapse_order(SCORES[by](A, profile)).cpu()


@dataclass(frozen=True)
class Sample:
    """Some images of a split with everything the notebooks ask of them."""

    images: Tensor  # (B, C, H, W) in [-1, 1]
    labels: Tensor  # (B,)
    class_names: list[str]
    tokens: Tensor  # (B, N, C)

    @property
    def titles(self) -> list[str]:
        """The name of each image's class, (B,)."""
        return [self.class_names[int(y)] for y in self.labels]


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


# ------------------------------------------------------------------------------------------------- predictor


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


GRAPHS = {"comae": comae_config, "measured": measured_config}  # whose graph the orders are of, and what determines it

__all__ = ["Sample", "comae", "load_data", "predictor", "rankings", "replace", "sample", "seeded", "tokenizer"]
