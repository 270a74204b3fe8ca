"""How much faster `MAR.sample` is than the same thing written straightforwardly, in one run and with equal
outputs.

`pytest tests/benchmarks/bench_sampling.py -s` prints both ratios. The straightforward sampler below follows
the MAR paper line by line: softmax attention over explicit scores, boolean masks, one pass per branch of
guidance, and the diffusion MLP called afresh at every step. It is also the oracle of `tests/paper/test_mar.py`.
"""

import pytest
import torch
import torch.nn.functional as F

from cop.paper.diffusion import cosine_diffusion
from cop.paper.mar import MAR, MARConfig, draw_for_sampling, mask_lengths


def plain_block(block, x):
    """A transformer block: (B, L, D) -> (B, L, D)."""
    heads = block.attn.num_heads
    q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    x = x + block.attn.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))


def plain_conditions(model, tokens, mask, condition):
    """z (B, N, D) of all positions; mask (B, N) is True where a token is hidden from the encoder."""
    batch, buffer = len(tokens), model.config.buffer_size
    x = torch.cat([condition.unsqueeze(1).repeat(1, buffer, 1), model.z_proj(tokens)], dim=1)
    x = model.z_proj_ln(x + model.encoder_pos_embed_learned)
    seen = torch.cat([torch.ones(batch, buffer, dtype=torch.bool), ~mask], dim=1)
    x = x[seen].reshape(batch, -1, x.shape[-1])
    for block in model.encoder_blocks:
        x = plain_block(block, x)
    x = model.decoder_embed(model.encoder_norm(x))
    full = model.mask_token.repeat(batch, seen.shape[1], 1)
    full[seen] = x.flatten(0, 1)
    x = full + model.decoder_pos_embed_learned
    for block in model.decoder_blocks:
        x = plain_block(block, x)
    return model.decoder_norm(x)[:, buffer:] + model.diffusion_pos_embed_learned


def plain_mlp(net, x, t, z):
    """Predicted noise and variance, (R, C) each, of noisy tokens x (R, C) at timesteps t (R,)."""
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
    angles = t.float().unsqueeze(1) * frequencies
    y = net.time_embed.mlp(torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype)) + net.cond_embed(z)
    x = net.input_proj(x)
    for block in net.res_blocks:
        shift, scale, gate = block.adaLN_modulation(y).chunk(3, dim=1)
        x = x + gate * block.mlp(block.in_ln(x) * (1 + scale) + shift)
    shift, scale = net.final_layer.adaLN_modulation(y).chunk(2, dim=1)
    x = F.layer_norm(x, x.shape[1:], eps=1e-6) * (1 + scale) + shift
    return net.final_layer.linear(x).chunk(2, dim=1)


@torch.no_grad()
def plain_sample(
    model,
    labels,
    seeds,
    ranking=None,
    *,
    num_iter=64,
    cfg_scale=1.0,
    temperature=1.0,
    num_sampling_steps=100,
    everything=True,
):
    """As `MAR.sample`, linear schedule. `everything`: all tokens through the MLP, not the wanted alone."""
    config, batch = model.config, len(labels)
    noise, random = draw_for_sampling(seeds, config.num_tokens, num_sampling_steps, config.channels)
    ranking, noise = random if ranking is None else ranking, noise.to(model.fake_latent.dtype)
    diffusion, net = cosine_diffusion(num_sampling_steps), model.diffloss.net
    tokens = torch.zeros(batch, config.num_tokens, config.channels, dtype=noise.dtype)
    position = ranking.argsort(dim=1)  # of each token in the order
    known = 0
    for length in mask_lengths(config.num_tokens, num_iter):
        mask = position >= known
        wanted = mask & (position < config.num_tokens - length)
        cond = plain_conditions(model, tokens, mask, model.class_emb(labels))
        uncond = plain_conditions(model, tokens, mask, model.fake_latent.repeat(batch, 1))
        rows = torch.ones_like(mask) if everything else wanted
        scale = 1 + (cfg_scale - 1) * (config.num_tokens - max(1, length)) / config.num_tokens
        x = noise[rows][:, 0]
        for i in reversed(range(num_sampling_steps)):
            t = diffusion.timesteps[i].repeat(len(x))
            eps, v = plain_mlp(net, x, t, cond[rows])
            if cfg_scale != 1:
                eps_uncond, _ = plain_mlp(net, x, t, uncond[rows])
                eps = eps_uncond + scale * (eps - eps_uncond)
            fresh = noise[rows][:, num_sampling_steps - i] if i else None
            x = diffusion.step(eps, v, x, i, fresh, temperature)
        tokens[wanted] = x[wanted[rows]]
        known = config.num_tokens - length
    return tokens


def busy_model(config, seed=0, dtype=torch.float32):
    """A model whose every weight matters: the official initial ones make the diffusion MLP return 0."""
    generator = torch.Generator().manual_seed(seed)
    model = MAR(config, generator).eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            parameter += noise * (0.1 / parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 0.02)
    return model


@pytest.fixture(autouse=True)
def one_thread():
    """Small operations on several threads measure the scheduler of a busy machine, not the samplers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SAMPLERS = {
    "ours": MAR.sample,
    "plain, wanted tokens through the MLP": lambda *a, **k: plain_sample(*a, **k, everything=False),
    "plain, all tokens through the MLP": plain_sample,
}
RESULTS = {}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling(benchmark, name):
    """8 images of 64 tokens in 16 steps of 25 diffusion steps, guided."""
    sizes = {"dim": 128, "depth": 3, "heads": 4, "buffer_size": 8, "diffloss_depth": 3, "diffloss_width": 192}
    model = busy_model(MARConfig(grid=8, num_classes=10, **sizes))
    labels, seeds = torch.arange(8), list(range(8))
    sample = SAMPLERS[name]
    tokens = benchmark.pedantic(
        lambda: sample(model, labels, seeds, num_iter=16, cfg_scale=3.0, num_sampling_steps=25),
        rounds=1 if name.endswith("all tokens through the MLP") else 5,
        warmup_rounds=1,
    )
    seconds = benchmark.stats.stats.median if benchmark.stats else None
    ours = RESULTS.setdefault("ours", (tokens, seconds))
    torch.testing.assert_close(tokens, ours[0], rtol=1e-3, atol=1e-3)
    if seconds and name != "ours":
        print(f"\n{name}: {seconds:.2f} s; ours: {ours[1]:.2f} s; ratio {seconds / ours[1]:.1f}")
