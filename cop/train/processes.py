"""Many processes that work as one, by Accelerate: their numbers, waiting for each other, and sharing values and work.

`accelerate launch` and `notebook_launcher` start P processes that run the same stages in the same order. They share the
work inside a stage (`cop.train.loop.fit`, `cop.train.shards.compute_shards`), and only process 0 writes its artefact.
An ordinary run is process 0 of 1 and starts nothing; nor does it import Accelerate, which takes longer than PyTorch.
"""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch

PATIENCE = timedelta(hours=12)  # one process may write or rank for long while the others wait; the default is minutes


def on_cpu() -> bool:
    """Whether there is no GPU to use, or the launcher was told not to (`ACCELERATE_USE_CPU`)."""
    if "ACCELERATE_USE_CPU" not in os.environ:
        return not torch.cuda.is_available()
    from accelerate.utils import parse_flag_from_env

    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()


def processes() -> tuple[int, int]:
    """The number of this process, and of all."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=on_cpu(), timeout=PATIENCE)  # joins the others on the first call, afterwards only looks
    return state.process_index, state.num_processes


def wait() -> None:
    """Go on when all processes have come here."""
    if processes()[1] > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def agreed(value):
    """Process 0's value of a small picklable object, in every process."""
    if processes()[1] == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def shared_out(parts: Sequence, work: Callable) -> list:
    """[work(part) for part in parts]: the processes take the parts in turn; all get all results, which are picklable."""
    me, count = processes()
    own = [work(part) for part in parts[me::count]]
    if count == 1:
        return own
    from accelerate.utils import gather_object

    everyone = gather_object([own])
    return [everyone[k % count][k // count] for k in range(len(parts))]
