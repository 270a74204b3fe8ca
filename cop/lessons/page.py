"""The weights of the book's page that ranks a photograph in the browser (book/rank.md, book/static/rank)."""

import base64
import json
from pathlib import Path

import torch

from cop.files import write
from cop.lessons import measured, pipeline
from cop.profiles import get_profile


def weights(profile: str = "natural", seed: int = 0) -> dict:
    """What `cop.load` of book/static/rank/orders.js reads: settings, the shape and first value of every tensor, all values.

    The networks are the predictor, both one-pass rankers of the measured graph (`placed`: of the profile's grid; `offsets`: of any
    grid) and the graph network that knows CoMAE's graph; tokens become one linear layer of pixels. Values are float32, base64."""
    p = get_profile(profile)
    tokenizer = pipeline.tokenizer(p, "cpu")
    encode = (tokenizer.basis / tokenizer.scale).T  # (C, D)
    tensors = {"tokens.weight": encode, "tokens.bias": -encode @ tokenizer.mean}
    models = {
        "predictor": pipeline.predictor(p, seed, "cpu")[0],
        "placed": measured.onepass(p, seed, "offsets_placed", "cpu")[0],
        "offsets": measured.onepass(p, seed, "offsets", "cpu")[0],
        "graphnet": measured.graphnet(p, seed, "cpu")[0],
    }
    tensors |= {f"{name}.{k}": t for name, model in models.items() for k, t in model.named_parameters()}
    starts, at = {}, 0
    for name, tensor in tensors.items():
        starts[name] = {"at": at, "shape": list(tensor.shape)}
        at += tensor.numel()
    values = torch.cat([t.detach().flatten().float() for t in tensors.values()]).numpy().astype("<f4")
    sizes = {name: {"depth": cfg.depth, "heads": cfg.heads} for name, cfg in (("predictor", p.predictor), ("graphnet", p.graphnet))}
    return sizes | {
        "profile": p.name, "grid": p.grid, "patch_size": p.tokens.patch_size, "floor": p.predictor.floor,
        "damping": p.ranking.damping, "looking": vars(p.looking), "onepass": {"depth": p.onepass.depth},
        "tensors": starts, "base64": base64.b64encode(values.tobytes()).decode(),
    }  # fmt: skip


def write_weights(path: Path) -> None:
    """Write the weights as a script: a page that is opened from a folder may run scripts beside it, but not fetch files."""
    write(path, f"globalThis.COP_WEIGHTS = {json.dumps(weights())};\n".encode())
