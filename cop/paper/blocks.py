"""The transformer block that CoMAE and the entropy predictor share: pre-norm attention with axial 2-D RoPE.

Letters of the shape comments: B sequences, L tokens of a sequence, D width, H heads, E head dimension.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rope_angles(positions: Tensor, grid: int, head_dim: int, base: float = 100.0) -> Tensor:
    """Axial 2-D rotary angles (RoPE, arXiv 2104.09864, one half of the head per image axis).

    positions: row-major patch indices (..., L) with -1 for a token that has no place ([cls], [tgt]), which is not
    rotated. Returns (..., L, head_dim / 2). The base is 100, not the 10,000 of long texts: a grid has few steps.
    """
    if head_dim % 4:
        raise ValueError(f"head dimension {head_dim} must divide by 4 for 2-D RoPE: change the width or the heads")
    freq = base ** (-torch.arange(0, head_dim // 4, device=positions.device) / (head_dim // 4))  # (E/4,)
    row, col = positions.div(grid, rounding_mode="floor"), positions % grid
    angles = torch.cat([row[..., None] * freq, col[..., None] * freq], -1)  # (..., L, E/2)
    return angles * (positions >= 0)[..., None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs (x_2e, x_2e+1) of x (..., L, E) by `rotation` (..., L, E/2), unit complex numbers exp(i angle)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (..., L, E/2)
    return torch.view_as_real(pairs * rotation).flatten(-2).type_as(x)


class Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x), with RoPE on the queries and keys."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def heads_of(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each (B, H, L, E), of x (B, L, D)."""
        B, L, D = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[:2], rotation)  # (B, H, L, E) each
        return q, k, qkv[2]

    def queries_of(self, x: Tensor, rotation: Tensor) -> Tensor:
        """Rotated queries alone (B, H, L, E) of x (B, L, D): of tokens that are not attended to themselves."""
        D = x.shape[-1]
        q = F.linear(self.norm1(x), self.qkv.weight[:D], self.qkv.bias[:D])
        return rotate(q.unflatten(-1, (self.heads, -1)).transpose(1, 2), rotation)

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """The rest of the block for the tokens x (B, Q, D) whose queries are q (B, H, Q, E). mask: bool, (Q, L) or (B, 1, Q, L), which keys each
        query may use; all by default."""
        y = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)  # (B, Q, D)
        x = x + self.proj(y)
        return x + self.mlp(self.norm2(x))

    def forward(self, x: Tensor, rotation: Tensor, only: Tensor | None = None) -> Tensor:
        """x: (B, L, D); rotation: (B or 1, 1, L, E/2) complex. With `only` (B,), the output of that one token of each
        sequence, (B, 1, D): the last block before a read-out then skips the MLP of all the others."""
        q, k, v = self.heads_of(x, rotation)
        if only is not None:
            x, q = x[torch.arange(len(x)), only][:, None], q[torch.arange(len(x)), :, only][:, :, None]
        return self.attend(x, q, k, v)


def init_weights(module: nn.Module) -> None:
    """ViT's initialisation: truncated normal of std .02 for linear layers, zero biases (use with `apply`)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
