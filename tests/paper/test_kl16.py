"""KL-16: LDM's names and shapes, the layout of tokens, and diffusers' autoencoder with the same weights."""

import pytest
import torch

from cop.paper.kl16 import KL16, TOKEN_SCALE, load_kl16


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def small(seed=0, side=64):
    """A quarter of the width, for 64 x 64 images: 16 tokens. Weights are random but not the initial ones."""
    model, generator = KL16(width=32, image_side=side).eval(), gen(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter == 1))
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return model


def images(count=2, side=64, seed=1):
    return torch.rand(count, 3, side, side, generator=gen(seed)) * 2 - 1


def official_shapes():
    """Names and shapes of LDM's autoencoder with MAR's sizes, written down by hand."""
    shapes = {}

    def conv(name, out, inp, kernel):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inp, kernel, kernel), (out,)

    def norm(name, width):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    def resnet(name, inp, out):
        norm(f"{name}.norm1", inp), conv(f"{name}.conv1", out, inp, 3)
        norm(f"{name}.norm2", out), conv(f"{name}.conv2", out, out, 3)
        if inp != out:
            conv(f"{name}.nin_shortcut", out, inp, 1)

    def attention(name, width):
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    conv("encoder.conv_in", 128, 3, 3), conv("decoder.conv_in", 512, 16, 3)
    for level, (inp, out) in enumerate([(128, 128), (128, 128), (128, 256), (256, 256), (256, 512)]):
        resnet(f"encoder.down.{level}.block.0", inp, out), resnet(f"encoder.down.{level}.block.1", out, out)
        if level < 4:
            conv(f"encoder.down.{level}.downsample.conv", out, out, 3)
    attention("encoder.down.4.attn.0", 512), attention("encoder.down.4.attn.1", 512)
    for level, (inp, out) in enumerate([(128, 128), (256, 128), (256, 256), (512, 256), (512, 512)]):
        resnet(f"decoder.up.{level}.block.0", inp, out)
        resnet(f"decoder.up.{level}.block.1", out, out), resnet(f"decoder.up.{level}.block.2", out, out)
        if level > 0:
            conv(f"decoder.up.{level}.upsample.conv", out, out, 3)
    for half in ("encoder", "decoder"):
        resnet(f"{half}.mid.block_1", 512, 512), resnet(f"{half}.mid.block_2", 512, 512)
        attention(f"{half}.mid.attn_1", 512)
    norm("encoder.norm_out", 512), conv("encoder.conv_out", 32, 512, 3)
    norm("decoder.norm_out", 128), conv("decoder.conv_out", 3, 128, 3)
    conv("quant_conv", 32, 32, 1), conv("post_quant_conv", 16, 16, 1)
    return shapes


def test_official_names_shapes_and_size():
    with torch.device("meta"):
        model = KL16()
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == official_shapes()
    mebibytes = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    assert round(mebibytes) == 254  # the size of the published kl16.ckpt


@pytest.mark.slow
def test_full_size_loads_a_file_of_the_official_names_and_runs(tmp_path):
    state = {key: torch.randn(shape, generator=gen()) * 0.02 for key, shape in official_shapes().items()}
    torch.save({"model": state | {"loss.logvar": torch.zeros(())}}, tmp_path / "kl16.ckpt")
    model = load_kl16(tmp_path / "kl16.ckpt")
    with torch.no_grad():
        tokens = model.encode(images(1, 256))
        assert tokens.shape == (1, 256, 16) and model.decode(tokens).shape == (1, 3, 256, 256)


@torch.no_grad()
def test_round_trip_shapes_and_scale():
    model = small()
    mean, logvar = model.posterior(images())
    tokens = model.encode(images())
    assert mean.shape == logvar.shape == tokens.shape == (2, 16, 16)
    torch.testing.assert_close(tokens, mean * 0.2325)
    assert model.decode(tokens).shape == (2, 3, 64, 64)
    unscaled = model.decoder(model.post_quant_conv(mean.mT.reshape(2, 16, 4, 4)))
    torch.testing.assert_close(model.decode(tokens), unscaled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tokens_are_row_major():
    """Changing a patch of the image moves the tokens around its own most, and the reverse."""
    model, picture = small(side=128), images(1, 128)
    for name, parameter in model.named_parameters():
        if "proj_out" in name:
            parameter.zero_()  # attention looks everywhere: leave the convolutions alone
    tokens = model.encode(picture)
    for row, column in [(1, 6), (6, 2)]:
        changed = picture.clone()
        changed[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] *= -1
        moved = int((model.encode(changed) - tokens).norm(dim=-1).argmax())
        assert abs(moved // 8 - row) <= 1 and abs(moved % 8 - column) <= 1

        token = tokens.clone()
        token[0, 8 * row + column] += 3
        change = (model.decode(token) - model.decode(tokens)).square().mean(1)[0]
        moved = int(change.unfold(0, 16, 16).unfold(1, 16, 16).mean(dim=(2, 3)).argmax())
        assert abs(moved // 8 - row) <= 1 and abs(moved % 8 - column) <= 1


@torch.no_grad()
def test_a_sample_follows_the_posterior_and_its_generator():
    model = small()
    mean, logvar = model.posterior(images(1))
    draws = model.encode(images(1).expand(64, -1, -1, -1), gen()) / TOKEN_SCALE
    z = (draws - mean) / (logvar / 2).exp()
    assert abs(float(z.mean())) < 0.03 and float(z.std()) == pytest.approx(1, abs=0.03)
    assert torch.equal(model.encode(images(1), gen(3)), model.encode(images(1), gen(3)))


@torch.no_grad()
def test_logvar_is_clamped():
    model = small()
    model.quant_conv.bias[16:] = torch.tensor([100.0, -100.0] * 8)
    assert model.posterior(images(1))[1].unique().tolist() == [-30, 20]


DIFFUSERS = "down_blocks. resnets. conv_shortcut downsamplers.0 upsamplers.0 conv_norm_out mid_block.block.0"
DIFFUSERS += " mid_block.block.1 mid_block.attentions.0 attentions. group_norm to_q to_k to_v to_out.0"
LDM = "down. block. nin_shortcut downsample upsample norm_out mid.block_1 mid.block_2 mid.attn_1 attn. norm q k v proj_out"


@torch.no_grad()
def test_same_weights_same_result_as_diffusers():
    diffusers = pytest.importorskip("diffusers")
    down = ("DownEncoderBlock2D",) * 4 + ("AttnDownEncoderBlock2D",)
    blocks = {"down_block_types": down, "up_block_types": ("UpDecoderBlock2D",) * 5, "layers_per_block": 2}
    sizes = {"block_out_channels": (32, 32, 64, 64, 128), "latent_channels": 16, "norm_num_groups": 32}
    oracle = diffusers.AutoencoderKL(**blocks, **sizes, sample_size=64).eval()
    model = small()
    ours, theirs = model.state_dict(), {}
    for key, value in oracle.state_dict().items():
        name = key
        for old, new in zip(DIFFUSERS.split(), LDM.split(), strict=True):
            name = name.replace(old, new)
        for level in range(5):
            name = name.replace(f"up_blocks.{4 - level}.", f"up.{level}.")
        theirs[key] = ours.pop(name).reshape(value.shape)
    assert not ours  # every weight of ours has its place in theirs
    oracle.load_state_dict(theirs)

    posterior = oracle.encode(images()).latent_dist
    mean, logvar = model.posterior(images())
    torch.testing.assert_close(mean.mT.reshape(2, 16, 4, 4), posterior.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logvar.mT.reshape(2, 16, 4, 4), posterior.logvar, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        model.decode(mean * TOKEN_SCALE), oracle.decode(posterior.mean).sample, rtol=1e-4, atol=1e-4
    )


def test_checkpoints(tmp_path):
    weights = small().state_dict()
    torch.save({"model": weights | {"loss.discriminator": torch.zeros(2)}}, tmp_path / "kl16.ckpt")
    loaded = load_kl16(tmp_path / "kl16.ckpt", width=32, image_side=64)
    assert not loaded.training
    assert all(torch.equal(value, weights[key]) for key, value in loaded.state_dict().items())

    with pytest.raises(ValueError, match="of another shape.*conv_in.weight is"):
        load_kl16(tmp_path / "kl16.ckpt")
    kept = {key: value for key, value in weights.items() if not key.startswith("decoder.up.0")}
    with pytest.raises(ValueError, match=r"24 missing \(decoder.up.0.block.0.norm1.weight.*\.\.\.\)"):
        load_kl16(kept, width=32)
    with pytest.raises(ValueError, match=r"1 unexpected \(decoder.up.4.attn.0.q.weight\)"):
        load_kl16(weights | {"decoder.up.4.attn.0.q.weight": torch.zeros(1)}, width=32)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_kl16(tmp_path / "none.ckpt")


@pytest.mark.parametrize("shape", [(2, 3, 128, 128), (3, 64, 64), (2, 1, 64, 64), (2, 64, 64, 3)])
def test_wrong_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"takes \(B, 3, 64, 64\)"):
        small().encode(torch.zeros(shape))


def test_images_of_0_to_255_are_refused():
    with pytest.raises(ValueError, match=r"values in \[-1, 1\]"):
        small().encode(torch.full((1, 3, 64, 64), 200.0))


@pytest.mark.parametrize("shape", [(2, 17, 16), (2, 16, 8), (16, 16), (2, 16, 4, 4)])
def test_wrong_tokens_are_refused(shape):
    with pytest.raises(ValueError, match=r"takes \(B, 16, 16\)"):
        small().decode(torch.zeros(shape))


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        KL16(image_side=100)
