"""Independent stages side by side: on a CPU two small models train faster on one thread each than in turn on two.

A job is a stage whose artefact is missing; it runs in a process of its own and leaves the artefact in the cache, where
the notebook's next call finds it. So nothing depends on this but the time. On a GPU, or with one thread, it does nothing.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import torch

from cop.train.artefacts import apart, stored

MOST = 8  # processes; each holds torch and a model


@dataclass(frozen=True)
class Job:
    """One call of a stage, and the stage and configuration under which its artefact will stand."""

    stage: str
    config: dict
    call: Callable
    args: tuple = ()
    kwargs: dict = field(default_factory=dict)


def together(jobs: Sequence[Job], device: str = "cpu") -> int:
    """Run the jobs whose artefacts are missing, as many at a time as there are threads, and return how many ran.

    Call it from a notebook, or from under `if __name__ == "__main__"`: the processes import what calls them. What
    several jobs need (a base model, rankings) should exist before, or all wait while one computes it. An error of a job is
    raised here, after the others are done.
    """
    missing = [job for job in jobs if not stored(job.stage, job.config)]
    threads = torch.get_num_threads()
    if device != "cpu" or threads < 2 or len(missing) < 2:
        return 0
    workers = min(threads, len(missing), MOST)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads // workers,))
    with apart(), pool:
        running = [pool.submit(_run, job) for job in missing]
    for done in running:
        done.result()
    return len(missing)


def _run(job: Job) -> None:
    job.call(*job.args, **job.kwargs)  # what it returns stays there: the artefact is the result
