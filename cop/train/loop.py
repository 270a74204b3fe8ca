"""One training loop for every stage: Accelerate, cosine schedule, atomic checkpoints, exact resume, history.

Everything random in step t comes from a generator seeded by (seed, t), and the batches of an epoch from one seeded by
(seed, epoch). So a run that was killed and started again repeats the losses of an uninterrupted one exactly, and no
random state needs to be stored.

A batch can be divided into M micro-batches, each with a generator of its own; P processes take them in turn. So the
result depends on M; P, any divisor of M, changes only the order of a sum. Every stage of the paper runs so:

    accelerate launch --num_processes 8 -m cop.train comae --profile paper
    notebook_launcher(pipeline.comae, ("paper", 0), num_processes=8)  # from accelerate; later calls load the result
"""

import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from cop.configs import ScaleConfig
from cop.files import write
from cop.paper.blocks import Block
from cop.train.optimizers import optimizer
from cop.train.processes import processes

if TYPE_CHECKING:
    import pandas as pd

AHEAD = 2  # steps whose images are read before they are needed: one evens out what another takes longer


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator for a tuple of numbers, e.g. (seed, step). Different tuples give unrelated streams."""
    state = 0x9E3779B97F4A7C15
    for n in numbers:  # splitmix64, so that neighbouring steps do not share low bits
        state = (state + int(n) + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return torch.Generator().manual_seed(state & (2**63 - 1))


def seeded_build(build: Callable[[], nn.Module], *numbers: int) -> nn.Module:
    """Construct a module with weights drawn from the seed, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded(*numbers).initial_seed())
        return build()


class Uninitialised(TorchFunctionMode):
    """Inside, initialisers leave tensors on the meta device alone; torch would import its compiler to do nothing."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        first, name = (*args, *(kwargs or {}).values(), None)[0], getattr(func, "__name__", "")
        nothing = name.endswith("_") and not name.startswith("_") and isinstance(first, Tensor) and first.is_meta
        return first if nothing else func(*args, **(kwargs or {}))


def restored(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module that `build` makes, with these weights, none being drawn: half a minute less for MAR-B on one core.

    The weights become the module's own, not copies, but those that are stored in half precision become float32. Raises
    ValueError for missing, unexpected or ill-shaped ones.
    """
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta
    try:
        with Uninitialised():
            model = build()
    finally:
        nn.Module.register_parameter = register
    weights = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:  # a line per weight
        problem = " ".join(str(error).split())[:300]
        raise ValueError(f"{problem}; expected the weights of this network: move their artefact away") from error
    return model


def progress(iterable, desc: str, total: int | None = None):
    """A progress bar on stderr in a terminal or a live notebook; nothing under papermill, nbval, pytest or a pipe.

    `COP_PROGRESS=1` or `0` forces it. A bar inside an executed notebook would freeze at 0 % and break nbval.
    """
    choice = os.environ.get("COP_PROGRESS", "1" if sys.stderr.isatty() else "0")
    if choice == "0" or processes()[0] > 0:
        return iterable
    from tqdm.auto import tqdm

    return tqdm(iterable, desc=desc, total=total, leave=False)


def cosine(step: int, steps: int, warmup: float) -> float:
    """Learning-rate factor: linear warm-up over a share of the steps, then cosine to 0."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def batch_indices(step: int, batch_size: int, size: int, seed: int) -> Tensor:
    """The images of a step: epochs are seeded permutations, a last short batch is dropped. (batch_size,)"""
    batch_size = min(batch_size, size)
    per_epoch = size // batch_size
    k = step % per_epoch
    return epoch_order(size, seed, step // per_epoch)[k * batch_size : (k + 1) * batch_size].clone()


@functools.lru_cache(maxsize=2)  # a million images take longer to shuffle than some steps to compute
def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """The permutation of an epoch, (size,); not to be written to."""
    return torch.randperm(size, generator=seeded(seed, 1, epoch))


def save_checkpoint(state: dict, path: Path) -> None:
    """Write what `load_checkpoint` reads; the last checkpoint stays until the new one is whole."""

    def fill(part: Path) -> None:
        with part.open("wb") as file:  # given the name, torch.save would not say that the disk is full
            torch.save(state, file)

    write(path, fill)


def load_checkpoint(path: Path) -> dict:
    """A checkpoint of `fit`. Raises ValueError for a truncated or foreign file, which is left in place."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not {"model", "optimizers", "step", "history"} <= set(state):
            raise ValueError(f"keys {sorted(state)[:6]}")
    except FileNotFoundError:
        raise
    except Exception as error:
        problem = f"{path} is not a complete checkpoint of this project ({type(error).__name__}: {str(error)[:120]})"
        advice = "expected one written by cop.train.loop.fit. Move it away to start this run anew."
        raise ValueError(f"{problem}; {advice}") from error
    return state


class MicroBatch(nn.Module):
    """The loss of micro-batch m of a step, as a module, which `DistributedDataParallel` can wrap."""

    def __init__(self, model: nn.Module, loss_fn: Callable, per_step, config, scale: ScaleConfig, size: int, seed: int):
        super().__init__()
        self.model, self.loss_fn, self.per_step = model, loss_fn, per_step
        self.batch_size, self.count, self.size, self.seed = config.batch_size, scale.micro_batches, size, seed
        self.bf16 = scale.mixed_precision == "bf16"

    def images(self, step: int, m: int) -> Tensor:
        """Indices of its images."""
        return batch_indices(step, self.batch_size, self.size, self.seed).chunk(self.count)[m]

    def forward(self, step: int, m: int) -> dict[str, Tensor]:
        """The scalars of `loss_fn`. Micro-batch 0 draws what an undivided batch would."""
        shared = seeded(self.seed, 2, step)
        generator = seeded(self.seed, 2, step, m) if m else shared
        drawn = (self.per_step(shared),) if self.per_step else ()
        with torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16, enabled=self.bf16):
            out = self.loss_fn(self.model, self.images(step, m), generator, step, *drawn)
        return {k: v.float() for k, v in out.items() if torch.is_tensor(v) and v.ndim == 0}


def check_scale(scale: ScaleConfig, batch_size: int, count: int) -> None:
    """Raises ValueError unless `count` processes can share the micro-batches of a batch equally."""
    M = scale.micro_batches
    if scale.mixed_precision not in ("no", "bf16"):
        raise ValueError(f"unknown mixed_precision {scale.mixed_precision!r}; expected no or bf16")
    if M < 1 or batch_size % M:
        problem = f"a batch of {batch_size} images does not divide into {M} micro-batches"
        raise ValueError(f"{problem}; change scale.micro_batches or the batch size")
    if M % count:
        problem = f"{count} processes cannot share {M} micro-batch{'es' * (M > 1)} equally"
        advice = f"start as many processes as divide {M}, or set scale.micro_batches to a multiple of {count}"
        raise ValueError(f"{problem}; {advice}")


@contextlib.contextmanager
def lean(model: nn.Module, scale: ScaleConfig):
    """Inside, the transformer blocks of `model` are recomputed in the backward pass or compiled, if `scale` asks for it."""
    from timm.models.vision_transformer import Block as TimmBlock

    blocks = [b for b in model.modules() if isinstance(b, (Block, TimmBlock))]
    for block in blocks:
        if scale.compile:
            block.forward = torch.compile(block.forward)
        if scale.gradient_checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def fit(
    model: nn.Module,
    loss_fn: Callable[..., dict[str, Tensor]],
    config,
    *,
    size: int,
    seed: int,
    directory: Path,
    alternate: Sequence[str] = (),
    ema: float | None = None,
    ema_warmup: bool = False,
    checkpoint_every: int = 200,
    device: str = "cpu",
    desc: str = "training",
    scale: ScaleConfig = ScaleConfig(),  # noqa: B008 (frozen)
    per_step: Callable[[torch.Generator], object] | None = None,
    ahead: Callable[[Tensor], None] | None = None,
    watch: Callable[[nn.Module, int], None] | None = None,
) -> tuple[nn.Module, "pd.DataFrame"]:
    """Train `model` for `config.steps` steps and return it with the history of every step.

    Args:
        loss_fn: (model, idx, generator, step) -> dict of scalars whose `loss` is minimised; idx (batch,) are image
            indices below `size`.
        config: any of the profile's configs (steps, batch_size, lr, weight_decay, warmup, grad_clip).
        directory: its checkpoint.pt is written every `checkpoint_every` steps and resumed from if present, by any
            number of processes.
        alternate: names of submodules that are optimised in turn, step by step ("f and g are optimised alternately in
            a batch-wise manner", section 3.1); without it, the whole model.
        ema: decay of an exponential moving average, whose weights are returned; with ema_warmup it rises to that decay,
            for weights that start at random.
        scale: micro-batches and how to save memory. Losses and gradients are the means over micro-batches, so a loss
            that compares the images of a batch (`contrastive_scope="batch"`, the shares of DynamicViT) compares those
            of a micro-batch.
        per_step: (generator) -> what all images of a step share; drawn first, and given to loss_fn as a fifth argument.
            Without it every micro-batch draws for itself (as the processes of MAR's own training do).
        ahead: (idx) is told which images this process will need, AHEAD steps before, so that they can be decoded
            meanwhile (`ImageSet.ahead`). It changes no result.
        watch: (model, steps done) is called after every step, may look at the model, and changes no result either.

    Raises ValueError for micro-batches that do not come out even, and FloatingPointError when a loss is not finite: the
    last checkpoint stays, the message says where.
    """
    import pandas as pd  # only a training needs these three, which take longer to import than PyTorch
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs
    from timm.utils import ModelEmaV3

    me, count = processes()
    check_scale(scale, min(config.batch_size, size), count)
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=bool(alternate))]
    # The precision is the profile's (see MicroBatch), not the launcher's.
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=handlers)
    parts = {name: model.get_submodule(name) for name in alternate} or {"": model}
    opts = {name: optimizer(part, config) for name, part in parts.items()}
    names = list(opts)
    micro_batch = MicroBatch(model, loss_fn, per_step, config, scale, size, seed)
    prepared, *wrapped = accelerator.prepare(micro_batch, *opts.values())
    opts = dict(zip(names, wrapped, strict=True))
    average = ModelEmaV3(model, decay=ema, use_warmup=ema_warmup) if ema else None
    path, start, history = Path(directory) / "checkpoint.pt", 0, []
    if path.exists():
        state = load_checkpoint(path)
        try:
            model.load_state_dict(state["model"])
            for name in names:
                opts[name].load_state_dict(state["optimizers"][name])
            if average:
                average.module.load_state_dict(state["ema"])
        except (RuntimeError, ValueError, KeyError) as error:  # a line per weight
            problem = f"{path} is of another network or version ({' '.join(str(error).split())[:160]})"
            raise ValueError(f"{problem}; move it away to start this run anew.") from error
        start, history = state["step"], state["history"]

    own = range(me, scale.micro_batches, count)

    def look_ahead(step: int) -> None:
        for m in own if ahead and step < config.steps else ():
            ahead(micro_batch.images(step, m))

    prepared.train()
    for step in range(start, start + AHEAD):
        look_ahead(step)
    with lean(model, scale), threads(scale.threads if device == "cpu" else None):
        for step in progress(range(start, config.steps), desc, config.steps - start):
            look_ahead(step + AHEAD)
            name = names[step % len(names)]
            for other in names:  # the frozen half still passes gradients through, but computes none for itself
                parts[other].requires_grad_(other == name)
            for group in opts[name].param_groups:
                group["lr"] = config.lr * cosine(step, config.steps, config.warmup)
            opts[name].zero_grad()
            rows = []
            for m in own:  # gradients add up here, and are averaged over the processes with the last
                with contextlib.nullcontext() if m == own[-1] else accelerator.no_sync(prepared):
                    out = prepared(step, m)
                    accelerator.backward(out["loss"] / len(own))
                rows.append([v.item() for v in out.values()])
            rows = torch.tensor(rows, dtype=torch.float64, device=accelerator.device)  # (M / P, scalars)
            scalars = dict(zip(out, accelerator.gather(rows).mean(0).tolist(), strict=True))
            if not math.isfinite(scalars["loss"]):  # known to all processes at once
                problem = f"{desc}: loss is {scalars['loss']} at step {step} of {config.steps} (seed {seed})"
                advice = f"The last checkpoint ({path}) is intact: lower lr={config.lr} or raise the warm-up."
                raise FloatingPointError(f"{problem}; expected a finite number. {advice}")
            accelerator.clip_grad_norm_([p for p in parts[name].parameters() if p.grad is not None], config.grad_clip)
            opts[name].step()
            if average:
                average.update(model, step=step if ema_warmup else None)  # at steps it is told, timm first copies
            history.append({"step": step, **scalars})
            if watch:
                watch(model, step + 1)
            if (step + 1) % checkpoint_every == 0 and step + 1 < config.steps and me == 0:
                state = {"model": model.state_dict(), "step": step + 1, "history": history}
                state["optimizers"] = {n: opt.state_dict() for n, opt in opts.items()}
                save_checkpoint(state | ({"ema": average.module.state_dict()} if average else {}), path)
    model.requires_grad_(True)
    if average:
        model.load_state_dict(average.module.state_dict())
    accelerator.free_memory()
    return model.eval(), pd.DataFrame(history)


@contextlib.contextmanager
def threads(n: int | None):
    """Let torch use n threads inside (None: as many as before), so that sums are rounded alike on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
