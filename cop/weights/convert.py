"""Published checkpoints to safetensors, checked name by name and shape by shape; and how DynamicViT's are read."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from cop.files import write
from cop.paper.kl16 import KL16, check_state, load_strictly, read_state_dict
from cop.weights.table import find, places


def model_of(name: str) -> nn.Module | None:
    """The network that an entry's weights belong to, without memory for them; None for what is used as published."""
    with torch.device("meta"):
        if name == "kl16":
            return KL16()
        if name.startswith("mar_"):
            from cop.paper.mar import MAR, mar_config

            return MAR(mar_config(name))
        if name in ("deit_base", "dynamicvit_deit_base"):
            from timm.models.vision_transformer import VisionTransformer

            from cop.paper.dynamicvit import DynamicViT

            return (VisionTransformer if name == "deit_base" else DynamicViT)(img_size=224)  # B/16, 1,000 classes
    return None


def convert(name: str, source: str | Path | Mapping, target: str | os.PathLike | None = None) -> Path:
    """Write the weights of a published checkpoint as safetensors (float32), once, and return the path.

    target: by default NAME.safetensors in `folder()`. Of several sets of weights the averaged one is taken
    (`model_ema`, else `model`). Raises FileNotFoundError, and ValueError for an unreadable checkpoint, for weights that
    are missing, unexpected or of another shape (named), and for an entry that is used as published.
    """
    model = model_of(find(name).name)
    if model is None:
        raise ValueError(f"{name} is used as published; there is nothing to convert")
    # KL-16's checkpoint also holds the networks of its training losses.
    state = {k: v for k, v in read_state_dict(source).items() if not (name == "kl16" and k.startswith("loss."))}
    check_state(model, state, name)
    target = Path(target) if target else places(find(name))[0]
    write(target, lambda part: save_file({k: v.float().contiguous().clone() for k, v in state.items()}, part))
    return target


def load_dynamicvit(model: nn.Module, source: str | Path | Mapping) -> nn.Module:
    """Give a `DynamicViT` of DeiT-B's size the weights of DynamicViT-DeiT-B, or of DeiT-B, and return it.

    With DeiT-B's the predictors stay as they are, as at the start of DynamicViT's training. DeiT takes images normalised
    by ImageNet's mean and standard deviation, ours are in [-1, 1]: the patch projection takes up the difference. Position
    embeddings are resampled to the model's grid. Raises FileNotFoundError, and ValueError as `convert`.
    """
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.layers import resample_abs_pos_embed

    own = model.state_dict()
    state = dict(read_state_dict(source))
    if not any(k.startswith("score_predictor.") for k in state):
        state |= {k: v for k, v in own.items() if k.startswith("score_predictor.")}
    if (embedding := state.get("pos_embed")) is not None and embedding.shape[-1:] == own["pos_embed"].shape[-1:]:
        grid = list(model.patch_embed.grid_size)
        state["pos_embed"] = resample_abs_pos_embed(embedding.float(), grid, num_prefix_tokens=1)
    model = load_strictly(model, state, "DynamicViT")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    projection = model.patch_embed.proj  # of (x - mean) / std for x in [0, 1]; we have 2 x - 1
    with torch.no_grad():
        projection.bias += (projection.weight * (0.5 - mean) / std).sum((1, 2, 3))
        projection.weight /= 2 * std
    return model
