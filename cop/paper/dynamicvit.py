"""DynamicViT (Rao et al. 2021, arXiv 2106.02034), the rival of Table 5 that chooses its patches itself.

Small predictors inside the network score the tokens and prune them in three stages. Equation numbers are that
paper's. Letters: B batch, C image channels, N patches, n tokens left, T = P + n, D width, P prefix tokens, S stages.
"""

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from cop.devices import own_device
from cop.paper.hub import PretrainedViT


def stage_counts(num_patches: int, base_rate: float) -> tuple[int, int, int]:
    """Patches left after the three pruning stages: int(N rho), int(N rho^2), int(N rho^3), rho = base_rate.

    The CoP paper's "mask rate r" of DynamicViT is base_rate = 1 - r (decision 35): at r = 0.78 and N = 196 there are 43,
    9 and 2 patches. A count can be 0 (N = 196: rho < 0.172), and the class token is then alone: there the paper's
    DynamicViT curve drops to 0. Raises ValueError for a rate outside 0..1.
    """
    if not 0 <= base_rate <= 1:
        raise ValueError(f"base_rate is {base_rate}, expected the share one stage keeps, 0 to 1 (1 - mask rate)")
    return tuple(int(num_patches * base_rate**stage) for stage in (1, 2, 3))


def _stages(depth: int) -> tuple[int, int, int]:
    """Block numbers before which tokens are pruned: a quarter, a half and three quarters of the depth."""
    if depth < 4:
        raise ValueError(f"depth is {depth}, DynamicViT's three stages need at least 4 blocks")
    return depth // 4, depth // 2, 3 * depth // 4


def mean_tokens(num_patches: int, base_rate: float, depth: int = 12) -> float:
    """Patch tokens per block, averaged over the blocks: DynamicViT and CViT can be matched by it."""
    edges = (0, *_stages(depth), depth)
    counts = (num_patches, *stage_counts(num_patches, base_rate))
    return sum((end - start) * n for start, end, n in zip(edges, edges[1:], counts, strict=False)) / depth


def matched_base_rate(num_patches: int, tokens: float, depth: int = 12) -> float:
    """The largest base rate at which DynamicViT has, averaged over its blocks, at most `tokens` patch tokens.

    Raises ValueError for more than N, or fewer than the unpruned first quarter alone costs: N/4 at depth 12, so that
    DynamicViT cannot have 22 % of the patches and a matched curve ends at 25 %.
    """
    least = mean_tokens(num_patches, 0.0, depth)
    if not least <= tokens <= num_patches:
        raise ValueError(f"tokens is {tokens}, DynamicViT averages between {least:g} and {num_patches} at this depth")
    low, high = 0.0, 1.0
    if mean_tokens(num_patches, high, depth) <= tokens:
        return high
    for _ in range(50):  # bisection on a non-decreasing step function
        middle = (low + high) / 2
        low, high = (middle, high) if mean_tokens(num_patches, middle, depth) <= tokens else (low, middle)
    return low


class KeepPredictor(nn.Module):
    """Log-probabilities to keep and to drop each token, Eqs. (1)-(5).

    Parts, their names and the order of the two outputs are those of the published code, so that its checkpoints load.
    One linear layer makes the local and the global half of the features.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        first, second = nn.Linear(dim, dim // 2), nn.Linear(dim // 2, dim // 4)
        self.out_conv = nn.Sequential(first, nn.GELU(), second, nn.GELU(), nn.Linear(dim // 4, 2))

    def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
        """tokens (B, n, D), decisions so far keep (B, n) -> log pi (B, n, 2); 0 is keep, 1 is drop."""
        local, context = self.in_conv(tokens).chunk(2, dim=-1)  # Eqs. (1), (2) (B, n, D/2) each
        weight = keep[..., None]  # (B, n, 1)
        total = weight.sum(1, keepdim=True).clamp_min(1e-6)  # (B, 1, 1)
        context = (context * weight).sum(1, keepdim=True) / total  # Eq. (3) (B, 1, D/2)
        z = torch.cat([local, context.expand_as(local)], dim=-1)  # Eq. (4) (B, n, D)
        return self.out_conv(z).log_softmax(-1)  # Eq. (5) (B, n, 2)


def draw_decisions(log_pi: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
    """Keep decisions 0 or 1 by the Gumbel-softmax trick, Eq. (7): (B, n, 2) -> (B, n).

    Hard going forward, the gradient of the soft sample going backward. The noise is drawn on the CPU.
    """
    uniform = torch.rand(log_pi.shape, generator=generator)  # float32, because 1 - 1e-7 is 1 in bf16
    uniform = uniform.clamp(1e-10, 1 - 1e-7).to(log_pi.device)
    gumbel = -torch.log(-torch.log(uniform))
    soft = ((log_pi + gumbel) / temperature).softmax(-1)[..., 0]  # (B, n)
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


class DynamicViT(VisionTransformer, PretrainedViT):
    """A ViT that prunes its own tokens before blocks L/4, L/2 and 3L/4: timm's ViT plus `score_predictor`.

    `soft` draws decisions and masks attention (training, differentiable); `forward` removes tokens for good (testing,
    fast, deterministic). The class token is read out, because pooled patches would include the dropped ones.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.global_pool != "token" or self.dynamic_img_size:
            raise ValueError("DynamicViT needs global_pool='token' and dynamic_img_size=False")
        self.stages = _stages(len(self.blocks))
        self.score_predictor = nn.ModuleList(KeepPredictor(self.embed_dim) for _ in self.stages)

    __init__.__wrapped__ = VisionTransformer.__init__  # whose signature it has

    def soft(
        self, images: Tensor, generator: torch.Generator, temperature: float = 1.0
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Training pass: images (B, C, H, W) -> logits, 3 cumulative decisions (B, N), tokens (B, N, D)."""
        x = self.norm_pre(self._pos_embed(self.patch_embed(images)))  # (B, P + N, D)
        P = self.num_prefix_tokens
        keep, decisions = x.new_ones(len(x), x.shape[1] - P), []  # (B, N)
        for i, block in enumerate(self.blocks):
            if i in self.stages:
                log_pi = self.score_predictor[len(decisions)](x[:, P:], keep)  # (B, N, 2)
                keep = keep * draw_decisions(log_pi, generator, temperature)  # Eq. (6) (B, N)
                decisions.append(keep)
            if decisions:
                x = _masked_block(block, x, F.pad(keep, (P, 0), value=1.0))  # the class token is never dropped
            else:
                x = block(x)  # (B, P + N, D)
        x = self.norm(x)
        return self.forward_head(x), decisions, x[:, P:]

    @own_device
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
                score = self.score_predictor[stage](tokens, x.new_ones(tokens.shape[:2]))[..., 0]  # (B, n)
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
        # Eq. (12): over the tokens that survive the last stage, which it takes as given (no gradient to the decisions)
        kept = decisions[-1].detach()
        loss = loss + distill_weight * (kept * distance).sum() / kept.sum().clamp_min(1.0)
    return loss
