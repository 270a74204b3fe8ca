"""CViT: classification from the first patches of a ranking (section 3.4), and the rivals that are the same model.

`CViT` is timm's `VisionTransformer` with one more argument, `keep_idx`: the patches that stay in the sequence. Weights,
names, initialisation, pretrained tags and training scripts are timm's. ViT, ViT+C, RViT and CViT of Table 5 are all this
one class; they differ only in the ranking they are trained and tested with:

    ViT    trained on all patches,     tested with random rankings
    ViT+C  trained on all patches,     tested with collapse rankings
    RViT   trained with random masks,  tested with random rankings
    CViT   trained along the collapse ranking, tested along it

The fifth system, `cop.paper.dynamicvit.DynamicViT`, chooses its patches itself, inside the network.

Letters: B batch, C image channels, N patches, K kept patches, D width, P prefix tokens (class and registers).
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, get_pretrained_cfg, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from cop.paper.hub import PretrainedViT


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

    The paper's "cosine annealing schedule favouring lower mask rates" (section 3.4), read as a draw per batch, so that
    all sequences of a batch have one length. Raises ValueError for u outside 0..1.
    """
    if not 0 <= u <= 1:
        raise ValueError(f"u is {u}, expected a draw from 0 to 1, for instance torch.rand((), generator=g).item()")
    return 0.99 * (1 - math.cos(math.pi * u / 2))  # $r = 0.99\,(1 - \cos(\pi u / 2))$


def kept(ranking: Tensor, mask_rate: float, num_patches: int | None = None) -> Tensor:
    """keep_idx (B, K): the first K patches of each ranking (B, N), whose first entry is the patch seen first.

    mask_rate: fraction of patches that are not seen, see `keep_count`. num_patches: N of the model
    (`model.patch_embed.num_patches`). Raises ValueError if the ranking is not (B, N), or of another grid than that.
    """
    if ranking.ndim != 2:
        raise ValueError(f"ranking has shape {tuple(ranking.shape)}, expected (B, N); add the batch axis with [None]")
    N = ranking.shape[1]
    if num_patches not in (None, N):
        grids = f"ranking has N = {N} patches, the model's grid has {num_patches}"
        raise ValueError(f"{grids}: rank the same patches that the model sees (image size / patch size)")
    return ranking[:, : keep_count(N, mask_rate)]


def check_keep_idx(keep_idx: Tensor, batch: int, num_patches: int) -> None:
    """Raise ValueError unless keep_idx is a LongTensor (batch, K >= 1) of distinct patch numbers in 0..N-1.

    It sorts a small integer tensor; for one on an accelerator it also waits for the device.
    """
    if not isinstance(keep_idx, Tensor) or keep_idx.dtype != torch.long:
        found = keep_idx.dtype if isinstance(keep_idx, Tensor) else type(keep_idx).__name__
        raise ValueError(f"keep_idx is {found}, expected a LongTensor of patch numbers; convert with .long()")
    if keep_idx.ndim != 2 or keep_idx.shape[0] != batch:
        shape = tuple(keep_idx.shape)
        raise ValueError(f"keep_idx has shape {shape}, expected ({batch}, K): one row for each image")
    if keep_idx.shape[1] == 0:
        raise ValueError("keep_idx is empty (K = 0), expected at least one patch per image")
    ordered = keep_idx.detach().cpu().sort(dim=1).values  # (B, K)
    low, high = ordered[:, 0].min().item(), ordered[:, -1].max().item()
    if low < 0 or high >= num_patches:
        wrong = low if low < 0 else high
        raise ValueError(f"keep_idx holds {wrong}, expected patch numbers 0 to {num_patches - 1}")
    repeats = ordered[:, 1:] == ordered[:, :-1]  # (B, K-1)
    if repeats.any():
        row, at = repeats.nonzero()[0].tolist()
        twice = ordered[row, at].item()
        raise ValueError(f"keep_idx row {row} holds patch {twice} twice, expected distinct patches")


class CViT(VisionTransformer, PretrainedViT):
    """timm's VisionTransformer that can be shown a few patches only. Takes timm's constructor arguments.

    Dropped patches leave the sequence altogether, which saves the time; they are not masked inside the attention. Each
    kept patch carries its own position embedding, so the order within `keep_idx` has no meaning.
    """

    def __init__(self, *args, **kwargs):
        if kwargs.get("dynamic_img_size"):
            raise ValueError("dynamic_img_size=True is not supported: a ranking belongs to one grid; set img_size")
        super().__init__(*args, **kwargs)

    __init__.__wrapped__ = VisionTransformer.__init__  # whose signature it has

    def embed(self, images: Tensor, keep_idx: Tensor) -> Tensor:
        """Tokens of the kept patches, before the position embedding: (B, C, H, W), (B, K) -> (B, K, D)."""
        rows = torch.arange(len(images), device=images.device)[:, None]  # (B, 1)
        if keep_idx.shape[1] == self.patch_embed.num_patches:
            return self.patch_embed(images)[rows, keep_idx]  # timm's path: keeping all is bit-identical
        # The patch projection is a convolution whose stride is its kernel size, thus one matrix product per patch: the
        # kept patches are cut out first, and nothing else is projected.
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
            raise ValueError(f"{sorted(kwargs)} cannot be combined with keep_idx: dropped patches need no mask")
        check_keep_idx(keep_idx, len(x), self.patch_embed.num_patches)
        if tuple(x.shape[-2:]) != tuple(self.patch_embed.img_size):
            raise ValueError(f"images are {tuple(x.shape[-2:])} pixels, the model takes {self.patch_embed.img_size}")
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


# The pretrained tags of timm's ViT-B/16 and ViT-S/16, loaded by timm, which resamples the position embedding from the 14 x 14
# patches of 224 px to the 16 x 16 of 256 px. The starred tag is the default (decision 30).
_TAGS = {
    "base": ("orig_in21k*", "augreg_in21k", "orig_in21k_ft_in1k", "augreg_in21k_ft_in1k", "augreg_in1k", "mae"),
    "small": ("augreg_in21k*", "augreg_in21k_ft_in1k", "augreg_in1k"),
}
_CFGS = {
    f"cvit_{size}_patch16_256.{tag}": get_pretrained_cfg(f"vit_{size}_patch16_224.{tag.strip('*')}")
    for size, tags in _TAGS.items()
    for tag in tags
}
default_cfgs = generate_default_cfgs({n: replace(cfg, input_size=(3, 256, 256)) for n, cfg in _CFGS.items()})


@register_model
def cvit_base_patch16_256(pretrained: bool = False, **kwargs) -> CViT:
    """ViT-B/16 at 256 px: 256 patches, one for each latent of KL-16. The paper's classifier.

    Like timm's `orig_in21k`, the default tag, it has no head unless num_classes is passed.
    """
    return _patch16_256("cvit_base_patch16_256", pretrained, {"embed_dim": 768, "num_heads": 12} | kwargs)


@register_model
def cvit_small_patch16_256(pretrained: bool = False, **kwargs) -> CViT:
    """ViT-S/16 at 256 px, a quarter of ViT-B/16's multiply-adds. Like timm's `augreg_in21k`, the default tag, it has a head for
    21,843 classes unless num_classes is passed."""
    return _patch16_256("cvit_small_patch16_256", pretrained, {"embed_dim": 384, "num_heads": 6} | kwargs)


def _patch16_256(variant: str, pretrained: bool, sizes: dict) -> CViT:
    sizes = {"img_size": 256, "patch_size": 16, "depth": 12} | sizes
    return build_model_with_cfg(CViT, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **sizes)


def masked_loss(
    model: CViT, images: Tensor, labels: Tensor, ranking: Tensor | None, u: float, label_smoothing: float = 0.0,
    rate: float | None = None,
) -> Tensor:
    """Cross-entropy of one training batch at the mask rate drawn by u (section 3.4), or at `rate`.

    Args:
        images: (B, C, H, W); labels: LongTensor (B,).
        ranking: LongTensor (B, N): collapse rankings train a CViT, random ones an RViT, None a plain ViT.
        u: uniform draw in 0..1, one per batch, see `mask_rate_schedule`.
    Raises ValueError for a ranking of another grid or batch, or labels outside the head's classes.
    """
    if labels.numel() and not 0 <= labels.min() <= labels.max() < model.num_classes:
        found = f"labels run from {labels.min()} to {labels.max()}"
        raise ValueError(f"{found}, the head has classes 0 to {model.num_classes - 1}")
    keep_idx = None
    if ranking is not None:
        keep_idx = kept(ranking, mask_rate_schedule(u) if rate is None else rate, model.patch_embed.num_patches)  # (B, K)
    return F.cross_entropy(model(images, keep_idx), labels, label_smoothing=label_smoothing)


@torch.no_grad()
def attention_rollout(model: CViT, images: Tensor) -> Tensor:
    """How much the class token draws on each patch, through all blocks: (B, C, H, W) -> (B, N), rows sum below 1.

    Attention rollout (Abnar and Zuidema 2020): the product over the blocks of the mean of the heads' mean attention and
    the identity, for the residual path. timm's fused attention returns no weights, so they are computed once more here.
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
