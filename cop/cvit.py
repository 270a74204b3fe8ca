"""CViT: classification from the first patches of a ranking (§3.4), and the rivals it is compared with.

`CViT` is timm's `VisionTransformer` with one more argument, `keep_idx`: the patches that stay in the
sequence. Everything else (weights, names, initialisation, pretrained tags, training scripts) is timm's. ViT,
ViT+C, RViT and CViT of Table 5 are all this one class; they differ only in the ranking they are trained and
tested with:

    ViT    trained on all patches,     tested with random rankings
    ViT+C  trained on all patches,     tested with collapse rankings
    RViT   trained with random masks,  tested with random rankings
    CViT   trained along the collapse ranking, tested along it

The fifth system, `DynamicViT`, chooses its patches itself, inside the network.

Letters: B batch, C image channels, N patches, K kept patches, D width, P prefix tokens (class and registers).
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
)
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

__all__ = [
    "CViT",
    "DynamicViT",
    "check_head",
    "check_keep_idx",
    "dynamicvit_loss",
    "keep_count",
    "kept",
    "mask_rate_schedule",
    "masked_loss",
    "matched_base_rate",
    "mean_tokens",
    "stage_counts",
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

        Raises ValueError for indices that `check_keep_idx` refuses.
        """
        return self.forward_head(self.forward_features(x, keep_idx=keep_idx, **kwargs))


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


# --------------------------------------------------------------------------------------------------
# DynamicViT (Rao et al. 2021, arXiv 2106.02034): tokens pruned by predictors inside the network.
# Equation numbers of this section are that paper's.


def stage_counts(num_patches: int, base_rate: float) -> tuple[int, int, int]:
    """Patches left after the three pruning stages: int(N rho), int(N rho^2), int(N rho^3), rho = base_rate.

    The CoP paper's "mask rate r" of DynamicViT is base_rate = 1 - r (decision 35): at r = 0.78 and N = 196,
    43, 9 and 2 patches. A count can be 0 (N = 196: rho < 0.172); from there on the class token is alone. That
    is where the paper's DynamicViT curve drops to 0. Raises ValueError for a rate outside 0..1.
    """
    if not 0 <= base_rate <= 1:
        raise ValueError(
            f"base_rate is {base_rate}, expected the kept fraction of one stage, 0 to 1 (1 - mask rate)"
        )
    return tuple(int(num_patches * base_rate**stage) for stage in (1, 2, 3))


def _stages(depth: int) -> tuple[int, int, int]:
    """Block numbers before which tokens are pruned: a quarter, a half and three quarters of the depth."""
    if depth < 4:
        raise ValueError(f"depth is {depth}, DynamicViT's three stages need at least 4 blocks")
    return depth // 4, depth // 2, 3 * depth // 4


def mean_tokens(num_patches: int, base_rate: float, depth: int = 12) -> float:
    """Patch tokens per block, averaged over the blocks: that is how DynamicViT and CViT can be matched."""
    edges = (0, *_stages(depth), depth)
    counts = (num_patches, *stage_counts(num_patches, base_rate))
    return sum((end - start) * n for start, end, n in zip(edges, edges[1:], counts, strict=False)) / depth


def matched_base_rate(num_patches: int, tokens: float, depth: int = 12) -> float:
    """The largest base rate at which DynamicViT has, averaged over its blocks, at most `tokens` patch tokens.

    Raises ValueError for more than N, or fewer than the unpruned first quarter alone costs: N/4 at depth 12,
    so 22 % of the patches is out of DynamicViT's reach and a matched curve ends at 25 %.
    """
    least = mean_tokens(num_patches, 0.0, depth)
    if not least <= tokens <= num_patches:
        raise ValueError(
            f"tokens is {tokens}, DynamicViT averages between {least:g} and {num_patches} at this depth"
        )
    low, high = 0.0, 1.0
    if mean_tokens(num_patches, high, depth) <= tokens:
        return high
    for _ in range(50):  # bisection on a non-decreasing step function
        middle = (low + high) / 2
        low, high = (middle, high) if mean_tokens(num_patches, middle, depth) <= tokens else (low, middle)
    return low


class KeepPredictor(nn.Module):
    """Log-probabilities to drop and to keep each token, Eqs. (1)-(5)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.local_mlp = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU())
        self.global_mlp = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU())
        self.score = nn.Sequential(
            nn.Linear(2 * (dim // 2), dim // 2),
            nn.GELU(),
            nn.Linear(dim // 2, dim // 4),
            nn.GELU(),
            nn.Linear(dim // 4, 2),
        )

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """tokens (B, n, D), decisions so far keep (B, n) -> log pi (B, n, 2); 0 is drop, 1 is keep."""
        x = self.norm(tokens)  # (B, n, D)
        local = self.local_mlp(x)  # Eq. (1) (B, n, D/2)
        weight = keep[..., None]  # (B, n, 1)
        total = weight.sum(1, keepdim=True).clamp_min(1e-6)  # (B, 1, 1)
        context = (self.global_mlp(x) * weight).sum(1, keepdim=True) / total  # Eqs. (2), (3) (B, 1, D/2)
        z = torch.cat([local, context.expand_as(local)], dim=-1)  # Eq. (4) (B, n, D)
        return self.score(z).log_softmax(-1)  # Eq. (5) (B, n, 2)


def draw_decisions(log_pi: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
    """Keep decisions 0 or 1 by the Gumbel-softmax trick, Eq. (7): (B, n, 2) -> (B, n).

    Hard going forward, the gradient of the soft sample going backward. The noise is drawn on the CPU.
    """
    uniform = torch.rand(log_pi.shape, generator=generator).clamp(1e-10, 1 - 1e-7).to(log_pi)
    gumbel = -torch.log(-torch.log(uniform))
    soft = ((log_pi + gumbel) / temperature).softmax(-1)[..., 1]  # (B, n)
    hard = (soft > 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())  # the bracket is exactly 0 and carries the gradient


def masked_attention(attn: Attention, x: Tensor, keep: Tensor) -> Tensor:
    """Self-attention of timm's module in which nobody attends to a dropped token but itself, Eqs. (8)-(10).

    Args: x (B, T, D); keep (B, T), 0 or 1 and differentiable. Returns (B, T, D).
    An additive mask log(keep) would have no finite gradient at 0, hence the product form.
    """
    B, T, _ = x.shape
    qkv = attn.qkv(x).reshape(B, T, 3, attn.num_heads, attn.head_dim)  # (B, T, 3, h, d)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, h, T, d)
    q, k = attn.q_norm(q), attn.k_norm(k)
    scores = attn.scale * q @ k.transpose(-2, -1)  # $P = QK^\top/\sqrt{d}$, Eq. (8) (B, h, T, T)
    # $G_{ij} = 1$ if $i = j$ else $\hat D_j$, Eq. (9)
    itself = torch.eye(T, dtype=x.dtype, device=x.device)
    allowed = (itself + (1 - itself) * keep[:, None, :])[:, None]  # (B, 1, T, T)
    weights = (scores - scores.amax(-1, keepdim=True).detach()).exp() * allowed  # Eq. (10) (B, h, T, T)
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    x = (attn.attn_drop(weights) @ v).transpose(1, 2).reshape(B, T, -1)  # (B, T, D)
    return attn.proj_drop(attn.proj(attn.norm(x)))


def _masked_block(block: Block, x: Tensor, keep: Tensor) -> Tensor:
    """timm's pre-norm block with `masked_attention`: (B, T, D), (B, T) -> (B, T, D)."""
    x = x + block.drop_path1(block.ls1(masked_attention(block.attn, block.norm1(x), keep)))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


class DynamicViT(VisionTransformer):
    """A ViT that prunes its own tokens before blocks L/4, L/2 and 3L/4: timm's ViT plus `predictors`.

    Two passes: `soft` draws decisions and masks attention (training, differentiable), `forward` removes
    tokens for good (testing, fast, deterministic). Needs the class token: pooled patches would include the
    dropped ones.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.global_pool != "token" or self.dynamic_img_size:
            raise ValueError("DynamicViT needs global_pool='token' and dynamic_img_size=False")
        self.stages = _stages(len(self.blocks))
        self.predictors = nn.ModuleList(KeepPredictor(self.embed_dim) for _ in self.stages)

    def soft(
        self, images: Tensor, generator: torch.Generator, temperature: float = 1.0
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Training pass: images (B, C, H, W) -> logits, 3 cumulative decisions (B, N), tokens (B, N, D)."""
        x = self.norm_pre(self._pos_embed(self.patch_embed(images)))  # (B, P + N, D)
        P = self.num_prefix_tokens
        keep, decisions = x.new_ones(len(x), x.shape[1] - P), []  # (B, N)
        for i, block in enumerate(self.blocks):
            if i in self.stages:
                log_pi = self.predictors[len(decisions)](x[:, P:], keep)  # (B, N, 2)
                keep = keep * draw_decisions(log_pi, generator, temperature)  # Eq. (6) (B, N)
                decisions.append(keep)
            if decisions:
                x = _masked_block(
                    block, x, F.pad(keep, (P, 0), value=1.0)
                )  # the class token is never dropped
            else:
                x = block(x)  # (B, P + N, D)
        x = self.norm(x)
        return self.forward_head(x), decisions, x[:, P:]

    def forward(self, images: Tensor, base_rate: float = 1.0) -> Tensor:
        """Class logits with hard pruning: after stage s the int(N base_rate^s) best-scored tokens stay.

        A stage that keeps 0 tokens leaves the class token alone, which `stage_counts` tells beforehand.
        Raises ValueError for a base_rate outside 0..1.
        """
        counts = stage_counts(self.patch_embed.num_patches, base_rate)
        x = self.norm_pre(self._pos_embed(self.patch_embed(images)))  # (B, P + N, D)
        P = self.num_prefix_tokens
        for i, block in enumerate(self.blocks):
            if i in self.stages:
                stage = self.stages.index(i)
                tokens = x[:, P:]  # (B, n, D)
                score = self.predictors[stage](tokens, x.new_ones(tokens.shape[:2]))[..., 1]  # (B, n)
                # back in image order, so that keeping every token changes nothing at all
                best = score.topk(counts[stage], dim=1).indices.sort(dim=1).values  # (B, n')
                tokens = tokens.gather(1, best[..., None].expand(-1, -1, tokens.shape[-1]))  # (B, n', D)
                x = torch.cat([x[:, :P], tokens], dim=1)  # (B, P + n', D)
            x = block(x)
        return self.forward_head(self.norm(x))


def dynamicvit_loss(
    model: DynamicViT,
    images: Tensor,
    labels: Tensor,
    base_rate: float,
    generator: torch.Generator,
    teacher: VisionTransformer | None = None,
    ratio_weight: float = 2.0,
    kl_weight: float = 0.5,
    distill_weight: float = 0.5,
) -> Tensor:
    """Training loss, Eq. (15): L = L_cls + 0.5 L_KL + 0.5 L_distill + 2 L_ratio.

    Args:
        images: (B, C, H, W); labels: LongTensor (B,).
        base_rate: rho; stage s is asked to keep the fraction rho^s.
        teacher: the unpruned network, for the two distillation terms; without it they are left out.
    The KL term measures how far the student is from the teacher's prediction, KL(teacher || student).
    """
    logits, decisions, tokens = model.soft(images, generator)
    loss = F.cross_entropy(logits, labels)  # Eq. (11)
    # Eq. (14): $\frac{1}{BS}\sum_{b,s}(\rho^{(s)} - \frac{1}{N}\sum_i \hat D_i^{b,s})^2$
    shares = torch.stack([keep.mean(1) for keep in decisions], dim=1)  # (B, S)
    wanted = shares.new_tensor([base_rate**stage for stage in (1, 2, 3)])  # (S,)
    loss = loss + ratio_weight * (shares - wanted).square().mean()
    if teacher is not None:
        with torch.no_grad():
            seen = teacher.forward_features(images)  # (B, P + N, D)
            target = teacher.forward_head(seen).log_softmax(-1)  # (B, classes)
        kl = F.kl_div(logits.log_softmax(-1), target, reduction="batchmean", log_target=True)  # Eq. (13)
        loss = loss + kl_weight * kl
        distance = (tokens - seen[:, -tokens.shape[1] :]).square().mean(-1)  # (B, N)
        # Eq. (12): over the tokens that survive the last stage
        loss = loss + distill_weight * (decisions[-1] * distance).sum() / decisions[-1].sum().clamp_min(1.0)
    return loss
