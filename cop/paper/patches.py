"""Patches: images cut into them row by row and put together again, and what every model asks of its tokens."""

import torch
from torch import Tensor


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, p p C): patches row by row; in a patch rows, then columns, then channels.

    Raises ValueError for images that are not divisible into patches.
    """
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (B, C, H, W)")
    (B, C, H, W), p = images.shape, patch_size
    if p < 1 or H % p or W % p:
        problem = f"images of {H} x {W} px are not divisible into patches of {p} px"
        raise ValueError(f"{problem}; resize them to a multiple of the patch size, or choose another patch size")
    x = images.reshape(B, C, H // p, p, W // p, p)  # (B, C, rows, py, columns, px)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, (H // p) * (W // p), p * p * C)


def unpatchify(patches: Tensor, patch_size: int, channels: int) -> Tensor:
    """The inverse of `patchify` for square images: (B, N, p p C) -> (B, C, H, H). Else raises ValueError."""
    p, C = patch_size, channels
    grid = round(patches.shape[1] ** 0.5) if patches.ndim == 3 else 0
    if patches.ndim != 3 or grid**2 != patches.shape[1] or patches.shape[2] != p * p * C:
        expected = f"(B, N, {p * p * C}) for {C} channels and {p} px, with N a square number"
        raise ValueError(f"patches have shape {tuple(patches.shape)}; expected {expected}")
    x = patches.reshape(-1, grid, grid, p, p, C)  # (B, rows, columns, py, px, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, C, grid * p, grid * p)


def edge_strength(images: Tensor, patch_size: int) -> Tensor:
    """The mean length of the gradient of the grey pixels in every patch: (B, C, H, W) -> (B, N), per pixel."""
    dy, dx = torch.gradient(images.mean(1), dim=(1, 2))  # (B, H, W) each, central differences
    return patchify(torch.hypot(dy, dx)[:, None], patch_size).mean(-1)


def check_tokens(tokens: Tensor, grid: int, dim: int) -> None:
    """Raises ValueError unless tokens are floating-point (B, grid^2, dim) and finite."""
    if not torch.is_tensor(tokens) or not tokens.is_floating_point():
        found = tokens.dtype if torch.is_tensor(tokens) else type(tokens).__name__
        raise ValueError(f"tokens are {found}; expected a float tensor (B, N, C), as Tokens.encode makes it")
    if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (grid**2, dim):
        expected = f"(B, {grid**2}, {dim}): {grid} x {grid} patches of {dim} values"
        raise ValueError(f"tokens have shape {tuple(tokens.shape)}; expected {expected}, by the model's own profile")
    finite = torch.isfinite(tokens)
    if not finite.all():
        b, n, c = (~finite).nonzero()[0].tolist()
        found, count = tokens[b, n, c].item(), int((~finite).sum())
        raise ValueError(
            f"tokens[{b}, {n}, {c}] is {found}; expected finite values ({count} are not). Check the images"
        )
