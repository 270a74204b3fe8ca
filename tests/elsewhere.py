"""A device that is not the CPU, on a machine that has no other: `with elsewhere(): model.to("meta")` and so on.

Inside the block tensors of the device `meta` hold values (a CPU tensor behind the scenes computes them), and an operation
on tensors of both devices raises RuntimeError, as on a GPU: only tensors without dimensions, indices and copies may mix.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

META = torch.device("meta")
INTEGERS = (torch.long, torch.bool)
COPIES = {torch.ops.aten.copy_, torch.ops.aten._to_copy}
INDEXED = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_}


class Elsewhere(torch.Tensor):
    """A tensor that says it is on `meta`; its values are those of `held`, on the CPU."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=META
        )

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"Elsewhere({self.held!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})


def _run(op, args, kwargs):
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    away = [x for x in tensors if isinstance(x, Elsewhere)]
    here = [x for x in tensors if not isinstance(x, Elsewhere) and x.ndim]
    by_index = op.overloadpacket in INDEXED and isinstance(tensors[0], Elsewhere) and all(x.dtype in INTEGERS for x in here)
    if away and here and not by_index and op.overloadpacket not in COPIES:
        raise RuntimeError(f"{op}: expected all tensors to be on the same device, found meta {tuple(away[0].shape)} and "
                           f"cpu {tuple(here[0].shape)}")  # fmt: skip
    to = kwargs.get("device")
    goes = bool(away) if to is None else torch.device(to) == META
    held = tree_map_only(Elsewhere, lambda x: x.held, (args, kwargs | ({"device": "cpu"} if to is not None and goes else {})))
    op = torch.ops.aten.conj_physical.default if op is torch.ops.aten._conj.default else op  # a lazy one would be lost
    out = op(*held[0], **held[1])
    if not goes:
        return out
    same = {id(x.held): x for x in away}  # an operation in place returns the tensor it was given
    return tree_map_only(torch.Tensor, lambda x: same[id(x)] if id(x) in same else Elsewhere(x), out)


@contextlib.contextmanager
def elsewhere():
    """A mode in which tensors can be put on `meta` and keep their values; it refuses autocast there, and torch too."""
    autocast = torch.autocast
    torch.autocast = lambda kind, *args, **kwargs: contextlib.nullcontext() if kind == "meta" else autocast(kind, *args, **kwargs)
    try:
        with _Mode():
            yield
    finally:
        torch.autocast = autocast
