"""KL-16, the autoencoder of MAR: images (B, 3, 256, 256) in [-1, 1] <-> 256 tokens of 16 channels.

A convolutional autoencoder of latent diffusion models (Rombach et al., 2022) that halves the image four times.
Parameters carry LDM's names, so that MAR's `kl16.ckpt` loads as it is. Attention sits at 16 x 16 in the encoder and in
the middle of both halves; the decoder's up blocks have none (MAR trained it without, so that LDM's own kl-f16 weights do
not fit). Tokens are scaled by 0.2325, one over the standard deviation of ImageNet's latents.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from cop.devices import own_device

TOKEN_SCALE = 0.2325
CHANNEL_MULTIPLES = (1, 1, 2, 2, 4)  # widths of the five levels, from 256 x 256 down to 16 x 16
LATENT_CHANNELS = 16


class KL16(nn.Module):
    """`width` = 128 and `image_side` = 256 are MAR's; smaller ones are for tests (width a multiple of 32)."""

    def __init__(self, width: int = 128, image_side: int = 256):
        super().__init__()
        if image_side % 16:
            raise ValueError(f"image_side is {image_side}; use a multiple of 16: KL-16 halves it four times")
        self.image_side, self.grid = image_side, image_side // 16
        self.encoder = Encoder(width)
        self.decoder = Decoder(width)
        self.quant_conv = nn.Conv2d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.post_quant_conv = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)

    @own_device
    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the latents of images (B, 3, S, S) in [-1, 1]: (B, N, 16) each.

        Raises ValueError for any other shape, and for values that cannot be in [-1, 1].
        """
        side = self.image_side
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(f"images have shape {tuple(images.shape)}; KL-16 takes (B, 3, {side}, {side})")
        if images.abs().amax() > 1.5:
            raise ValueError(f"images reach {images.abs().amax():.1f}; KL-16 takes values in [-1, 1]")
        moments = self.quant_conv(self.encoder(images))  # (B, 32, S/16, S/16)
        mean, logvar = moments.flatten(2).mT.chunk(2, dim=-1)  # (B, N, 16) each: N row-major
        return mean, logvar.clamp(-30, 20)

    def encode(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Scaled tokens (B, N, 16): a posterior sample drawn with `generator` (on the CPU), or the mode."""
        mean, logvar = self.posterior(images)
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator).to(mean)
            mean = mean + (logvar / 2).exp() * noise
        return mean * TOKEN_SCALE

    @own_device
    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, S, S), about [-1, 1] and not clipped, of scaled tokens (B, N, 16), N row-major."""
        num_tokens = self.grid**2
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (num_tokens, LATENT_CHANNELS):
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; KL-16 takes (B, {num_tokens}, 16)")
        latents = (tokens / TOKEN_SCALE).mT.unflatten(2, (self.grid, self.grid))  # (B, 16, S/16, S/16)
        return self.decoder(self.post_quant_conv(latents))


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv(before: int, after: int, **how) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, **({"padding": 1} | how))


class Encoder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        widths = [width * m for m in CHANNEL_MULTIPLES]
        self.conv_in, self.down = conv(3, width), nn.ModuleList()
        for before, after in zip([width, *widths], widths[:-1], strict=False):
            block = nn.ModuleList([ResnetBlock(before, after), ResnetBlock(after, after)])
            self.down.append(nn.ModuleDict({"block": block, "downsample": Downsample(after)}))
        last = widths[-1]
        block = nn.ModuleList([ResnetBlock(widths[-2], last), ResnetBlock(last, last)])
        self.down.append(nn.ModuleDict({"block": block, "attn": nn.ModuleList([AttnBlock(last), AttnBlock(last)])}))
        self.mid, self.norm_out = Middle(last), norm(last)
        self.conv_out = conv(last, 2 * LATENT_CHANNELS)

    def forward(self, images):
        x = self.conv_in(images)  # (B, 128, 256, 256)
        for stage in self.down:
            for i, block in enumerate(stage["block"]):
                x = block(x)
                x = stage["attn"][i](x) if "attn" in stage else x
            x = stage["downsample"](x) if "downsample" in stage else x
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))  # (B, 32, 16, 16)


class Decoder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        widths = [width * m for m in CHANNEL_MULTIPLES]
        self.conv_in, self.mid = conv(LATENT_CHANNELS, widths[-1]), Middle(widths[-1])
        self.up = nn.ModuleList()  # up[0] is the finest level, as in LDM
        for level, (after, before) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            stage = {"block": nn.ModuleList(ResnetBlock(b, after) for b in (before, after, after))}
            self.up.append(nn.ModuleDict(stage | ({"upsample": Upsample(after)} if level else {})))
        self.norm_out, self.conv_out = norm(width), conv(width, 3)

    def forward(self, latents):
        x = self.mid(self.conv_in(latents))
        for stage in reversed(self.up):
            for block in stage["block"]:
                x = block(x)
            x = stage["upsample"](x) if "upsample" in stage else x
        return self.conv_out(F.silu(self.norm_out(x)))


class ResnetBlock(nn.Module):
    def __init__(self, before: int, after: int):
        super().__init__()
        self.norm1, self.conv1 = norm(before), conv(before, after)
        self.norm2, self.conv2 = norm(after), conv(after, after)
        if before != after:
            self.nin_shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Self-attention of one head over all positions."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).mT for f in (self.q, self.k, self.v))  # (B, H W, C)
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj_out(h.mT.unflatten(2, x.shape[2:]))


class Middle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1, self.attn_1 = ResnetBlock(channels, channels), AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv(channels, channels, stride=2, padding=0)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only: LDM's asymmetric padding


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def load_kl16(source: str | Path | Mapping, width: int = 128, image_side: int = 256) -> KL16:
    """KL-16 in evaluation mode, from MAR's `kl16.ckpt`, a safetensors file or a state dict.

    Raises FileNotFoundError or ValueError (see `read_state_dict` and `load_strictly`). Weights of the training losses,
    `loss.*`, are ignored.
    """
    state = {k: v for k, v in read_state_dict(source).items() if not k.startswith("loss.")}
    with torch.device("meta"):
        model = KL16(width, image_side)
    return load_strictly(model, state, "KL-16").eval()


def read_state_dict(source: str | Path | Mapping) -> dict[str, torch.Tensor]:
    """Names and tensors of a checkpoint: a `.safetensors` file, a torch file or a dict already read.

    Where the checkpoint holds several sets of weights, `model_ema` is preferred to `model`. Only tensors and plain
    values are unpickled, and of classes only `argparse.Namespace`, where MAR's trainer keeps its arguments. Raises
    FileNotFoundError, and ValueError for what is no checkpoint.
    """
    if not isinstance(source, Mapping):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}: check the path, or download it first")
        try:
            if path.suffix == ".safetensors":
                source = load_file(path)
            else:
                with torch.serialization.safe_globals([argparse.Namespace]):
                    source = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can fail anywhere within the readers
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            problem = f"{path} cannot be read as a checkpoint of tensors: {reason}"
            raise ValueError(f"{problem}. If it was cut short, get it again") from error
    if isinstance(source, Mapping):
        sets = (source.get(key) for key in ("model_ema", "model"))
        source = next((weights for weights in sets if isinstance(weights, Mapping)), source)
    if not isinstance(source, Mapping) or not all(map(torch.is_tensor, source.values())):
        raise ValueError("the checkpoint holds neither a state dict nor one under 'model_ema' or 'model'")
    return dict(source)


def load_strictly(model: nn.Module, state: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    """Give `model` (it may be on the meta device) float32 copies of exactly the tensors of `state`.

    Raises ValueError as `check_state`.
    """
    check_state(model, state, name)
    model.load_state_dict({k: v.to(torch.float32, copy=True) for k, v in state.items()}, assign=True)
    return model


def check_state(model: nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Raises ValueError naming the first few parameters that are missing, unexpected or of another shape."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    differ = [k for k in expected if k in found and found[k] != expected[k]]
    problems = {
        "missing": [k for k in expected if k not in found],
        "unexpected": [k for k in found if k not in expected],
        "of another shape": [f"{k} is {found[k]}, expected {expected[k]}" for k in differ],
    }
    lines = []
    for kind, keys in problems.items():
        if keys:
            lines.append(f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
    if lines:
        raise ValueError(f"the checkpoint does not fit {name}: {'; '.join(lines)}. Is it of another size?")
