"""The one rule for devices, the precision of everything but training, and how many images are on a device at once.

A model lives on one device. What its methods are given may lie on any: they move it to their own, and return their
results to the device of the first tensor that they were given, gradients included. So a loop that keeps its tensors on
the GPU copies nothing, and a notebook, whose tensors are on the CPU, gets tensors of the CPU.

The stages (`cop.lessons.pipeline` and what is built on it) take `device`, "auto" by default, compute there, and return
tensors on the CPU. Two say so themselves: the source that `pipeline.token_source` returns feeds training, and its
tokens are on the device; the models that stages return are on it too. Random numbers come from generators on the CPU,
so that they are the same on every device; but for CoMAE's noise in training on a GPU (see `comae.draw_noise`).
"""

import contextlib
import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from cop.configs import Profile

Method = TypeVar("Method", bound=Callable)
_most: int | None = None  # images at a time, where that is limited


def own_device(method: Method) -> Method:
    """A method of a module that follows the rule: arguments to the module's device, results to that of the first tensor."""

    @functools.wraps(method)
    def moved(self, *args, **kwargs):
        home, given = next(self.parameters()).device, [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if all(x.device == home for x in given):
            return method(self, *args, **kwargs)
        args, kwargs = to(args, home), to(kwargs, home)
        return to(method(self, *args, **kwargs), given[0].device)

    return moved


def to(value, device: torch.device):
    """A tensor, or the tensors of a tuple or dict, on that device; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(to(x, device) for x in value)
    if isinstance(value, dict):
        return {k: to(x, device) for k, x in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


@contextlib.contextmanager
def inference(profile: Profile, device: str | torch.device):
    """The precision of ranking, sampling and evaluation: inside, networks run as `profile.scale.mixed_precision` says.

    "no": float32, as anywhere else. "bf16": autocast to bfloat16, as in training, and on a GPU TF32 for the products that
    leave autocast (MAR's diffusion). Not for what makes or reads pixels: tokenizers and Inception run in float32.
    """
    kind = torch.device(device).type
    if profile.scale.mixed_precision != "bf16":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if kind == "cuda" else before)
    try:
        with torch.autocast(kind, torch.bfloat16):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def at_a_time(images: int) -> int:
    """How many images a stage takes at a time: so many, or fewer inside `limited`."""
    return images if _most is None else min(images, _most)


@contextlib.contextmanager
def limited(most: int):
    """Inside, stages take at most so many images at a time: to measure their memory, for results may depend on it (those of
    `held_out.held_out_loss` do)."""
    global _most
    before, _most = _most, most
    try:
        yield
    finally:
        _most = before
