"""CViT: classification from the first patches of a ranking (§3.4), and the rivals that are the same model.

`CViT` is timm's `VisionTransformer` with one more argument, `keep_idx`: the patches that stay in the
sequence. Everything else (weights, names, initialisation, pretrained tags, training scripts) is timm's. ViT,
ViT+C, RViT and CViT of Table 5 are all this one class; they differ only in the ranking they are trained and
tested with:

    ViT    trained on all patches,     tested with random rankings
    ViT+C  trained on all patches,     tested with collapse rankings
    RViT   trained with random masks,  tested with random rankings
    CViT   trained along the collapse ranking, tested along it

The fifth system, `cop.paper.dynamicvit.DynamicViT`, chooses its patches itself, inside the network.

Letters: B batch, C image channels, N patches, K kept patches, D width, P prefix tokens (class and registers).
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
)
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

__all__ = [
    "CViT",
    "attention_rollout",
    "check_head",
    "check_keep_idx",
    "keep_count",
    "kept",
    "mask_rate_schedule",
    "masked_loss",
]

# --------------------------------------------------------------------------------------------------
# Which patches are kept


def keep_count(num_patches: int, mask_rate: float) -> int:
    """K = max(1, round(N(1 - r))): how many of N patches are seen at mask rate r (halves round to even).

    Raises ValueError for N < 1 or a rate outside 0..1.
    """
    if num_patches < 1:
        raise ValueError(f"num_patches is {num_patches}, expected at least 1")
    if not 0 <= mask_rate <= 1:  # also refuses nan
        raise ValueError(
            f"mask_rate is {mask_rate}, expected a fraction from 0 (all seen) to 1; divide per cent by 100"
        )
    return max(1, round(num_patches * (1 - mask_rate)))


def mask_rate_schedule(u: float) -> float:
    """Mask rate of one training batch from u uniform in 0..1: low rates are drawn more often (mean 0.36).

    The paper's "cosine annealing schedule favouring lower mask rates" (§3.4), read as a draw per batch, so
    that all sequences of a batch have one length. Raises ValueError for u outside 0..1.
    """
    if not 0 <= u <= 1:
        raise ValueError(
            f"u is {u}, expected a draw from 0 to 1, for instance torch.rand((), generator=g).item()"
        )
    return 0.99 * (1 - math.cos(math.pi * u / 2))  # $r = 0.99\,(1 - \cos(\pi u / 2))$


def kept(ranking: Tensor, mask_rate: float, num_patches: int | None = None) -> Tensor:
    """The first K patches of each ranking, best first.

    Args:
        ranking: LongTensor (B, N); `ranking[b, 0]` is the patch seen first.
        mask_rate: fraction of patches that are not seen, see `keep_count`.
        num_patches: N of the model (`model.patch_embed.num_patches`); given, it is checked.
    Returns: keep_idx, LongTensor (B, K).
    Raises ValueError if the ranking is not (B, N), or was computed on another grid than the model's.
    """
    if ranking.ndim != 2:
        raise ValueError(
            f"ranking has shape {tuple(ranking.shape)}, expected (B, N); add the batch axis with [None]"
        )
    if num_patches is not None and ranking.shape[1] != num_patches:
        raise ValueError(
            f"ranking has N = {ranking.shape[1]} patches, the model's grid has {num_patches}: "
            "rank the same patches that the model sees (image size / patch size)"
        )
    return ranking[:, : keep_count(ranking.shape[1], mask_rate)]


def check_keep_idx(keep_idx: Tensor, batch: int, num_patches: int) -> None:
    """Raise ValueError unless keep_idx is a LongTensor (batch, K >= 1) of distinct patch numbers in 0..N-1.

    Sorts a small integer tensor; on an accelerator it also waits for the device, so hand over CPU indices if
    you can.
    """
    if not isinstance(keep_idx, Tensor) or keep_idx.dtype != torch.long:
        found = keep_idx.dtype if isinstance(keep_idx, Tensor) else type(keep_idx).__name__
        raise ValueError(f"keep_idx is {found}, expected a LongTensor of patch numbers; convert with .long()")
    if keep_idx.ndim != 2 or keep_idx.shape[0] != batch:
        raise ValueError(
            f"keep_idx has shape {tuple(keep_idx.shape)}, expected ({batch}, K): one row for each image"
        )
    if keep_idx.shape[1] == 0:
        raise ValueError("keep_idx is empty (K = 0), expected at least one patch per image")
    ordered = keep_idx.detach().cpu().sort(dim=1).values  # (B, K)
    low, high = ordered[:, 0].min().item(), ordered[:, -1].max().item()
    if low < 0 or high >= num_patches:
        raise ValueError(
            f"keep_idx holds {low if low < 0 else high}, expected patch numbers 0 to {num_patches - 1}"
        )
    repeats = ordered[:, 1:] == ordered[:, :-1]  # (B, K-1)
    if repeats.any():
        row, at = repeats.nonzero()[0].tolist()
        raise ValueError(
            f"keep_idx row {row} holds patch {ordered[row, at].item()} twice, expected distinct patches"
        )


# --------------------------------------------------------------------------------------------------
# The model


class CViT(VisionTransformer):
    """timm's VisionTransformer that can be shown a few patches only. Takes timm's constructor arguments.

    Dropped patches leave the sequence altogether, they are not masked inside the attention: that is where the
    time is saved. Each kept patch carries its own position embedding, so the order within `keep_idx` has no
    meaning.
    """

    def __init__(self, *args, **kwargs):
        if kwargs.get("dynamic_img_size"):
            raise ValueError(
                "dynamic_img_size=True is not supported: a ranking belongs to one grid; set img_size"
            )
        super().__init__(*args, **kwargs)

    def embed(self, images: Tensor, keep_idx: Tensor) -> Tensor:
        """Tokens of the kept patches, before the position embedding: (B, C, H, W), (B, K) -> (B, K, D)."""
        rows = torch.arange(len(images), device=images.device)[:, None]  # (B, 1)
        if keep_idx.shape[1] == self.patch_embed.num_patches:
            return self.patch_embed(images)[rows, keep_idx]  # timm's path: keeping all is bit-identical
        # The patch projection is a convolution whose stride is its kernel size, thus one matrix product per
        # patch: cut the kept patches out first and project nothing else.
        (ph, pw), (gh, gw) = self.patch_embed.patch_size, self.patch_embed.grid_size
        grid = images.reshape(*images.shape[:2], gh, ph, gw, pw)  # (B, C, gh, ph, gw, pw)
        patches = grid[rows, :, keep_idx // gw, :, keep_idx % gw, :]  # (B, K, C, ph, pw)
        proj = self.patch_embed.proj
        tokens = F.linear(patches.flatten(2), proj.weight.flatten(1), proj.bias)  # (B, K, D)
        return self.patch_embed.norm(tokens)

    def forward_features(self, x: Tensor, keep_idx: Tensor | None = None, **kwargs) -> Tensor:
        """Images (B, C, H, W) -> normalised tokens (B, P + K, D); without keep_idx timm's own method."""
        if keep_idx is None:
            return super().forward_features(x, **kwargs)
        if kwargs:
            raise ValueError(
                f"{sorted(kwargs)} cannot be combined with keep_idx: dropped patches need no mask"
            )
        check_keep_idx(keep_idx, len(x), self.patch_embed.num_patches)
        if tuple(x.shape[-2:]) != tuple(self.patch_embed.img_size):
            raise ValueError(
                f"images are {tuple(x.shape[-2:])} pixels, the model takes {self.patch_embed.img_size}"
            )
        keep_idx = keep_idx.to(x.device)
        patches = self.embed(x, keep_idx)  # (B, K, D)
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        prefix = torch.cat([*prefix, patches.new_empty(1, 0, self.embed_dim)], dim=1)  # (1, P, D)
        if self.pos_embed is not None:
            of_prefix = 0 if self.no_embed_class else self.num_prefix_tokens
            prefix = prefix + self.pos_embed[:, :of_prefix] if of_prefix else prefix  # (1, P, D)
            patches = patches + self.pos_embed[0, of_prefix:][keep_idx]  # (B, K, D)
        x = torch.cat([prefix.expand(len(x), -1, -1), patches], dim=1)  # (B, P + K, D)
        x = self.norm_pre(self.patch_drop(self.pos_drop(x)))  # (B, P + K, D)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)  # (B, P + K, D)
        return self.norm(x)

    def forward(self, x: Tensor, keep_idx: Tensor | None = None, **kwargs) -> Tensor:
        """Class logits (B, num_classes) of images (B, C, H, W) seen at the patches keep_idx (B, K) only.

        On the images' device, wherever the model is (see `cop.devices`). Raises ValueError for indices that
        `check_keep_idx` refuses.
        """
        features = self.forward_features(x.to(self.patch_embed.proj.weight.device), keep_idx=keep_idx, **kwargs)
        return self.forward_head(features).to(x.device)


# Weights: the pretrained tags of timm's ViT-B/16, by timm's own loading, which resamples the position
# embedding from the 14 x 14 patches of 224 px to the 16 x 16 of 256 px. The starred tag is the default
# (decision 30).
_TAGS = ("orig_in21k*", "augreg_in21k", "orig_in21k_ft_in1k", "augreg_in21k_ft_in1k", "augreg_in1k", "mae")

default_cfgs = generate_default_cfgs(
    {
        f"cvit_base_patch16_256.{tag}": replace(
            get_pretrained_cfg(f"vit_base_patch16_224.{tag.strip('*')}"), input_size=(3, 256, 256)
        )
        for tag in _TAGS
    }
    | {
        "cvit_demo_patch4_32": {
            "input_size": (1, 32, 32),
            "num_classes": 10,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
    }
)


def _build(variant: str, pretrained: bool, **kwargs) -> CViT:
    return build_model_with_cfg(
        CViT, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs
    )


@register_model
def cvit_base_patch16_256(pretrained: bool = False, **kwargs) -> CViT:
    """ViT-B/16 at 256 px: 256 patches, one for each latent of KL-16. The paper's classifier.

    Like timm's `orig_in21k`, the default tag, it has no head until you ask for one: pass num_classes.
    """
    sizes = {"img_size": 256, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    return _build("cvit_base_patch16_256", pretrained, **(sizes | kwargs))


@register_model
def cvit_demo_patch4_32(pretrained: bool = False, **kwargs) -> CViT:
    """A classifier for 32 px grey images: 64 patches of 4 px, 0.5 M parameters, trains on a laptop's CPU."""
    sizes = {"img_size": 32, "patch_size": 4, "in_chans": 1, "num_classes": 10}
    sizes |= {"embed_dim": 96, "depth": 4, "num_heads": 4}
    return _build("cvit_demo_patch4_32", pretrained, **(sizes | kwargs))


def check_head(state_dict: Mapping[str, Tensor], num_classes: int) -> None:
    """Raise ValueError if a checkpoint's classifier head has another number of classes than the model.

    A checkpoint without a head (pretrained on another task) passes: its head is to be trained.
    """
    head = state_dict.get("head.weight")
    if head is not None and head.shape[0] != num_classes:
        raise ValueError(
            f"the checkpoint classifies {head.shape[0]} classes, the model {num_classes}: build the model "
            f"with num_classes={head.shape[0]}, or drop 'head.weight' and 'head.bias' to train a new head"
        )


def masked_loss(
    model: CViT,
    images: Tensor,
    labels: Tensor,
    ranking: Tensor | None,
    u: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of one training batch at the mask rate drawn by u (§3.4).

    Args:
        images: (B, C, H, W); labels: LongTensor (B,).
        ranking: LongTensor (B, N): collapse rankings train a CViT, random ones an RViT, None a plain ViT.
        u: uniform draw in 0..1, one per batch, see `mask_rate_schedule`.
    Raises ValueError for a ranking of another grid or batch, or labels outside the head's classes.
    """
    if labels.numel() and not 0 <= labels.min() <= labels.max() < model.num_classes:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, "
            f"the head has classes 0 to {model.num_classes - 1}"
        )
    keep_idx = None
    if ranking is not None:
        keep_idx = kept(ranking, mask_rate_schedule(u), model.patch_embed.num_patches)  # (B, K)
    return F.cross_entropy(model(images, keep_idx), labels, label_smoothing=label_smoothing)


@torch.no_grad()
def attention_rollout(model: CViT, images: Tensor) -> Tensor:
    """How much the class token draws on each patch, through all blocks: (B, C, H, W) -> (B, N), rows sum below 1.

    Attention rollout (Abnar and Zuidema 2020): per block the mean attention of the heads, half of it passed by the
    residual path, multiplied up. timm's fused attention returns no weights, so they are computed here once more.
    """
    rollout, hooks = None, []

    def record(attn, inputs, _):
        nonlocal rollout
        x = inputs[0]  # (B, T, D)
        B, T, _ = x.shape
        q, k, _ = attn.qkv(x).reshape(B, T, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)  # (B, h, T, d)
        weights = (attn.scale * attn.q_norm(q) @ attn.k_norm(k).mT).softmax(-1).mean(1)  # (B, T, T)
        step = (weights + torch.eye(T, device=x.device)) / 2
        rollout = step if rollout is None else step @ rollout

    try:
        hooks = [block.attn.register_forward_hook(record) for block in model.blocks]
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return rollout[:, 0, model.num_prefix_tokens :].to(images.device)
