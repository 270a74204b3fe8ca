"""MAR's loss on test images, by the order that hides their tokens: a sharper instrument than metrics of samples.

The same images, hidden tokens, timesteps and noise go to every model, so that only the weights differ.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from cop.configs import Profile
from cop.data.loading import load_data
from cop.devices import at_a_time, inference
from cop.lessons import generation, pipeline
from cop.orders import random_order, reversed_order
from cop.profiles import get_profile
from cop.train.artefacts import load_or_compute, versioned
from cop.train.loop import seeded


@torch.no_grad()
def held_out_loss(
    model: nn.Module, tokens: Tensor, labels: Tensor, ranking: Tensor, seed: int, batch: int = 50
) -> Tensor:
    """MAR's loss on tokens (B, N, C) that are hidden along `ranking` (B, N), batch by batch: (batches,) float64.

    Mask sizes, timesteps and noise depend on the seed and the batch only, so differences between models are paired.
    """
    parts = torch.arange(len(tokens)).split(at_a_time(batch))
    losses = [model(tokens[p], labels[p], seeded(seed, 80, i), ranking[p]) for i, p in enumerate(parts)]
    return torch.stack(losses).double().cpu()


def losses_by_order(
    profile: str | Profile, seed: int, count: int = 1000, device: str = "auto"
) -> dict[tuple[str, str], Tensor]:
    """(system, order) -> losses (batches,) on test images hidden along their own collapse order, its reverse, or chance.

    Compare models under one order only: orders hide different patches, and some patches are harder than others.
    """
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    models = {"MAR": "base", "continued random": "random", "CMAR": "descending", "ascending": "ascending"}
    kinds = {k: generation.fine_tuned_config(profile, seed, k) for k in generation.KINDS}
    config = versioned("mar-loss", 1, {"models": kinds, "count": count} | generation.bank_config(profile, seed))

    def compute(_: Path):
        tokens, data = pipeline.sample_tokens(profile, "test", count, device), load_data(profile, "test")
        chosen = pipeline.selection(data, count)
        tokens, labels = tokens.to(device), data.labels[chosen]
        collapse = pipeline.rankings(profile, "test", seed, device=device)[chosen]
        chance = random_order(len(collapse), profile.num_tokens, seeded(seed, 81))
        orders, losses = {"random": chance, "collapse": collapse, "reversed": reversed_order(collapse)}, {}
        for name, weights in models.items():
            model = generation.model_of(profile, seed, weights, device)
            with inference(profile, device):
                for order, ranking in orders.items():
                    losses[f"{name}|{order}"] = held_out_loss(model, tokens, labels, ranking, seed)
        return losses, None

    tensors = load_or_compute("mar-loss", config, compute).tensors
    return {
        (name, order): tensors[f"{name}|{order}"] for name in models for order in ("random", "collapse", "reversed")
    }
