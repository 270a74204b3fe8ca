"""The optimisers of a training, and which weights they decay."""

import torch
from torch import nn


def optimizer(part: nn.Module, config) -> torch.optim.Optimizer:
    """AdamW; or timm's Muon (Jordan et al. 2024) for the matrices of residual layers if `config.optimizer` is "muon".

    Everything else then has AdamW with the same learning rate. Raises ValueError for another name.
    """
    name, betas = getattr(config, "optimizer", "adamw"), getattr(config, "betas", (0.9, 0.95))
    if name == "adamw":
        return torch.optim.AdamW(decay_groups(part, config.weight_decay), lr=config.lr, betas=betas)
    if name != "muon":
        raise ValueError(f"unknown optimizer {name!r}; expected adamw or muon")
    from timm.optim import Muon

    named = dict(part.named_parameters())
    inner = {n: p for n, p in named.items() if p.ndim == 2 and ("blocks." in n or "layers." in n)}
    matrices = {"params": list(inner.values()), "weight_decay": config.weight_decay, "use_fallback": False}
    others = {"params": [p for n, p in named.items() if n not in inner], "weight_decay": 0.0, "use_fallback": True}
    return Muon([matrices, others], lr=config.lr, betas=betas)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW groups: no weight decay on vectors (biases, norms, read-out tokens), as usual for ViTs.

    Nor is there any on the submodules that `module.undecayed` names.
    """
    undecayed, decayed, others = tuple(getattr(module, "undecayed", ())), [], []
    for name, p in module.named_parameters():
        (decayed if p.ndim >= 2 and not name.startswith(undecayed) else others).append(p)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
