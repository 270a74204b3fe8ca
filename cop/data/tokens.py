"""Tokens: what a patch is to every model of the paper. One interface, four kinds.

`encode(images (B, C, H, W) in [-1, 1]) -> tokens (B, N, dim)`, `decode` back. N = grid^2 patches, row-major.
Tokens have unit standard deviation over the training split: Eq. 3 mixes them with unit Gaussian noise, in
shares that Eq. 4 sets by the weight alone.

    raw   the pixels of a patch, minus one global mean, over one global standard deviation; lossless
    pca   the leading principal components of a patch, each scaled to unit variance; loses the others
    kl16  the latents of the paper's autoencoder, times 0.2325 (global, not centred); needs its weights
    components  as pca, but all over one global standard deviation: each keeps its own share of the variance
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from cop import paths
from cop.configs import Profile
from cop.data.images import ImageSet, first_stratified
from cop.devices import at_a_time
from cop.paper.patches import check_tokens, patchify, unpatchify
from cop.profiles import get_profile
from cop.weights import table as weights

KINDS = ("raw", "pca", "kl16", "components")  # stored tokens hold an index into it: append only
BATCH = 16  # images through the autoencoder at a time: feature maps of .16 GiB each at 256 px


class Tokens:
    """What every kind shares: the geometry, its checks, and the state as float64 tensors (nothing rounded).

    grid: patches per side; num_tokens: N = grid^2; dim: values per token.
    """

    kind: str

    def __init__(self, image_size: int, channels: int, patch_size: int, dim: int):
        if patch_size < 1 or image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not divisible into patches of {patch_size} px; "
                             f"choose a multiple of {patch_size}")  # fmt: skip
        self.image_size, self.channels, self.patch_size, self.dim = image_size, channels, patch_size, dim
        self.grid = image_size // patch_size
        self.num_tokens = self.grid**2

    def encode(self, images: Tensor) -> Tensor:
        """float images (B, C, H, H) in [-1, 1] -> tokens (B, N, dim). Raises ValueError for others."""
        size = (self.channels, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != size or not images.is_floating_point():
            raise ValueError(f"images are {tuple(images.shape)} {images.dtype}; expected a float tensor "
                             f"(B, {size[0]}, "
                             f"{size[1]}, {size[2]}) in [-1, 1]")  # fmt: skip
        return self._encode(images)

    def encode_grid(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """float images (B, C, H, W) of any size that the patches divide -> tokens (B, R Q, dim), row-major, and (R, Q).

        For models that know no places. Raises ValueError for other images, and for kl16, whose latents belong to one size."""
        found, p = tuple(images.shape), self.patch_size
        if self.kind == "kl16" or len(found) != 4 or found[1] != self.channels or found[2] % p or found[3] % p:
            raise ValueError(f"images are {found} and tokens {self.kind}; expected (B, {self.channels}, H, W) in multiples of "
                             f"{p} px, and tokens that are computed patch by patch (raw, pca, components)")  # fmt: skip
        return self._encode(images), (found[2] // p, found[3] // p)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens (B, N, dim) -> images (B, C, H, H), not clipped. Raises ValueError as `check_tokens`."""
        check_tokens(tokens, self.grid, self.dim)
        return self._decode(tokens)

    def to(self, device: str | torch.device) -> "Tokens":
        """Itself, computing on that device what needs an autoencoder; the other kinds compute where they are given images."""
        return self

    def state(self) -> dict[str, Tensor]:
        """Everything `tokens_from_state` needs, as tensors for safetensors."""
        geometry = [KINDS.index(self.kind), self.image_size, self.channels, self.patch_size, self.dim]
        return {"geometry": torch.tensor(geometry)} | self._state()


class RawPatches(Tokens):
    """The pixels of a patch, with one global mean and standard deviation (of all training pixels)."""

    kind = "raw"

    def __init__(self, image_size: int, channels: int, patch_size: int, mean: float, std: float):
        super().__init__(image_size, channels, patch_size, patch_size**2 * channels)
        if not std > 1e-5:
            raise ValueError(f"the standard deviation of the pixels is {std}; expected images that vary")
        self.mean, self.std = float(mean), float(std)

    def _encode(self, images):
        return (patchify(images, self.patch_size) - self.mean) / self.std

    def _decode(self, tokens):
        return unpatchify(tokens * self.std + self.mean, self.patch_size, self.channels)

    def _state(self):
        return {"mean": torch.tensor(self.mean).double(), "std": torch.tensor(self.std).double()}


class PCAPatches(Tokens):
    """The leading principal components of patches x (D values), whitened: z = (x - mean) V / sqrt(variance).

    One basis for all positions. decode is the exact inverse for dim = D, else the nearest patch in the span.

    mean: (D,); basis: V (D, dim), orthonormal columns; variance: (dim,), of the components in training.
    total_variance: of all D components. explained_variance: (dim,) the share of it in each, descending;
    1 - explained_variance.sum() is what decode loses: its squared error over the variance of the patches.
    """

    kind = "pca"

    def __init__(self, image_size: int, channels: int, patch_size: int, mean: Tensor, basis: Tensor,
                 variance: Tensor, total_variance: float):  # fmt: skip
        super().__init__(image_size, channels, patch_size, basis.shape[1])
        self.mean, self.variance = mean.double(), variance.double()
        self.basis = basis.double().contiguous()  # a product's last bits depend on the layout: one for fitted and restored
        self.total_variance = float(total_variance)

    @property
    def explained_variance(self) -> Tensor:
        return self.variance / self.total_variance

    @property
    def scale(self) -> Tensor:
        """(dim,) what each component is divided by: its standard deviation in training."""
        return self.variance.sqrt()

    def _encode(self, images):
        whiten = self.basis / self.scale  # (D, dim)
        return (patchify(images, self.patch_size) - self.mean.to(images)) @ whiten.to(images)

    def _decode(self, tokens):
        colour = (self.basis * self.scale).T  # (dim, D)
        return unpatchify(tokens @ colour.to(tokens) + self.mean.to(tokens), self.patch_size, self.channels)

    def _state(self):
        return {"mean": self.mean, "basis": self.basis, "variance": self.variance,
                "total_variance": torch.tensor(self.total_variance).double()}  # fmt: skip


class Components(PCAPatches):
    """The leading principal components over one number, the standard deviation of all their values: what hardly varies
    in the patches hardly varies in the tokens either, so that no loss counts an unpredictable detail like the colour."""

    kind = "components"

    @property
    def scale(self) -> Tensor:
        return self.variance.mean().sqrt().expand(self.dim)


class KL16Tokens(Tokens):
    """The paper's tokens: the mode of KL-16's latents, scaled. The weights stay in the user's file."""

    kind = "kl16"

    def __init__(self, autoencoder: torch.nn.Module):
        super().__init__(autoencoder.image_side, 3, 16, 16)
        self.autoencoder = autoencoder.eval()

    @classmethod
    def load(cls, image_size: int = 256, path: str | os.PathLike | None = None) -> "KL16Tokens":
        """From `path`, else `$COP_KL16`, else kl16.safetensors or kl16.ckpt in the folder of weights or of the cache.

        Raises FileNotFoundError if there is none, ValueError if it is not KL-16.
        """
        given = path or os.environ.get("COP_KL16")
        kept = [folder / f"kl16.{suffix}" for folder in (weights.folder(), paths.cache()) for suffix in ("safetensors", "ckpt")]
        places = [Path(given).expanduser()] if given else kept
        found = [p for p in places if p.is_file()]
        if not found:
            raise FileNotFoundError(
                f"kl16 tokens need the autoencoder's weights; none at {' or '.join(map(str, places))}. Run python -m cop "
                "weights kl16, or set COP_KL16 to the path. Download kl16.ckpt as https://github.com/LTH14/mar says and "
                "put it there if this machine has no internet")
        from cop.paper.kl16 import load_kl16  # only this kind needs it

        return cls(load_kl16(found[0], image_side=image_size))

    def to(self, device):
        self.autoencoder.to(device)
        return self

    @torch.no_grad()
    def _encode(self, images):
        return torch.cat([self.autoencoder.encode(part) for part in images.split(at_a_time(BATCH))])

    @torch.no_grad()
    def _decode(self, tokens):
        return torch.cat([self.autoencoder.decode(part) for part in tokens.split(at_a_time(BATCH))])

    def _state(self):
        return {}


def fit_tokens(profile: str | Profile, train: ImageSet, limit: int = 5000) -> Tokens:
    """The tokens of a profile, fitted on at most `limit` images of its training split. Deterministic.

    Raises ValueError for val or test images, a dim that the patches cannot have, or images that do not vary.
    """
    profile = get_profile(profile)
    data, cfg = profile.data, profile.tokens
    if cfg.kind not in KINDS:
        raise ValueError(f"unknown kind of tokens {cfg.kind!r}; expected one of {', '.join(KINDS)}")
    if cfg.kind == "kl16":
        if (data.channels, cfg.patch_size, cfg.dim) != (3, 16, 16):
            raise ValueError("kl16 tokens have channels=3, patch_size=16, dim=16; got "
                             f"channels={data.channels}, "
                             f"patch_size={cfg.patch_size}, dim={cfg.dim}")  # fmt: skip
        return KL16Tokens.load(data.image_size)
    if train.split in ("val", "test"):
        raise ValueError(f"tokens are fitted on the training split; got {train.split} images of {train.name}")
    if limit < 1 or not len(train):
        raise ValueError(f"cannot fit tokens on {min(limit, len(train))} images; expected at least one")
    values = cfg.patch_size**2 * data.channels  # D, of one patch
    if cfg.kind == "raw" and cfg.dim != values or not 1 <= cfg.dim <= values:
        expected = f"{values}" if cfg.kind == "raw" else f"1 to {values}"
        raise ValueError(f"dim is {cfg.dim}; expected {expected} for {cfg.kind} tokens of {cfg.patch_size} x "
                         f"{cfg.patch_size} x {data.channels} values")  # fmt: skip

    found = tuple(train[0][0].shape)
    if found != (data.channels, data.image_size, data.image_size):
        raise ValueError(f"training images are {found}; expected {data.channels} x {data.image_size} x "
                         f"{data.image_size}, as profile {profile.name!r} says")  # fmt: skip
    mean, covariance = patch_statistics(train, cfg.patch_size, limit)
    if cfg.kind == "raw":
        centre = mean.mean()
        std = (covariance.diagonal() + (mean - centre) ** 2).mean().sqrt()  # about the global mean
        return RawPatches(data.image_size, data.channels, cfg.patch_size, centre.item(), std.item())

    variance, basis = torch.linalg.eigh(covariance)  # ascending
    variance, basis = variance.flip(0), basis.flip(1)
    # One part in 1e9 is above the rounding errors of sums in any order, and far below the variance of rounding to 8 bits (5e-6).
    rank = int((variance > 1e-9 * (variance[0] + mean.square().max())).sum())
    if cfg.dim > rank:
        raise ValueError(f"dim is {cfg.dim} but the training patches vary in {rank} directions; choose at "
                         f"most {rank}")  # fmt: skip
    largest = basis.abs().argmax(dim=0)
    basis = basis * basis[largest, torch.arange(values)].sign()  # an eigenvector's sign is free: fix it
    kind = Components if cfg.kind == "components" else PCAPatches
    size = (data.image_size, data.channels, cfg.patch_size)
    return kind(*size, mean, basis[:, : cfg.dim], variance[: cfg.dim], variance.sum().item())


def patch_statistics(images: ImageSet, patch_size: int, limit: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D), float64, of the patches of the first `limit` images."""
    count, total, product = 0, 0.0, 0.0
    for batch, _ in images.batches(256, first_stratified(images.labels, limit)):
        x = patchify(batch, patch_size).flatten(0, 1).double()  # (M, D)
        count, total, product = count + len(x), total + x.sum(0), product + x.T @ x
    mean = total / count
    return mean, product / count - torch.outer(mean, mean)


def tokens_from_state(profile: str | Profile, state: dict[str, Tensor]) -> Tokens:
    """The tokens that `state()` described. Raises ValueError for a foreign state or another profile's."""
    profile = get_profile(profile)
    data, cfg = profile.data, profile.tokens
    pca = {"mean", "basis", "variance", "total_variance"}
    needed = {"raw": {"mean", "std"}, "pca": pca, "kl16": set(), "components": pca}
    if cfg.kind not in KINDS:
        raise ValueError(f"unknown kind of tokens {cfg.kind!r}; expected one of {', '.join(KINDS)}")
    expected = [KINDS.index(cfg.kind), data.image_size, data.channels, cfg.patch_size, cfg.dim]
    found = state["geometry"].tolist() if "geometry" in state else None
    if found != expected or set(state) != needed[cfg.kind] | {"geometry"}:
        raise ValueError(f"stored tokens have entries {sorted(state)} and geometry {found}; expected "
                         f"{cfg.kind} tokens of geometry {expected} (kind, image_size, channels, patch_size, "
                         "dim). Fit them again")  # fmt: skip
    size = (data.image_size, data.channels, cfg.patch_size)
    if cfg.kind == "raw":
        return RawPatches(*size, state["mean"].item(), state["std"].item())
    if cfg.kind in ("pca", "components"):
        kind = Components if cfg.kind == "components" else PCAPatches
        return kind(*size, state["mean"], state["basis"], state["variance"], state["total_variance"].item())
    return KL16Tokens.load(data.image_size)


def target_patches(tokens: Tokens, context: Tensor, targets: Tensor, values: Tensor) -> Tensor:
    """Reconstructed targets as pixels: context (B, N, C), targets (B, K), values (B, K, C) -> (B, K, channels, P, P)."""
    B, K = targets.shape
    x = context[:, None].repeat(1, K, 1, 1).flatten(0, 1)  # (B K, N, C)
    x[torch.arange(B * K), targets.flatten()] = values.flatten(0, 1)
    patches = patchify(tokens.decode(x), tokens.patch_size)  # (B K, N, channels P P)
    chosen = patches[torch.arange(B * K), targets.flatten()]
    return chosen.unflatten(-1, (tokens.patch_size, tokens.patch_size, -1)).unflatten(0, (B, K)).movedim(-1, 2)
