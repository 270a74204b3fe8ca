"""SIGKILL at random moments: `python scripts/torture.py --kills 100 --minutes 20` (`make torture`).

Four jobs take turns, each in a folder of its own: a smoke training with its checkpoints, a ranking in shards, figures and their
way to the committed ones, and a release of artefacts over an older one. A job is killed at a random moment and begun again until
it ends. After each kill every file that bears its final name must be whole; in the end the folder must hold what a run that
nobody disturbed leaves. Needs `os.fork`, so that a kill finds the job at work and not at its imports.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import accelerate  # noqa: F401 (here and below: what the jobs would import, for which no kill should wait)
import pandas as pd
import timm.utils  # noqa: F401
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file

from cop import paths
from cop.files import TEMPORARY, clear_leftovers
from cop.lessons import cards, pipeline
from cop.profiles import smoke
from cop.show import report, reproduction
from cop.train import artefacts
from cop.train.loop import load_checkpoint

PROFILE = replace(smoke, checkpoint_every=2, comae=replace(smoke.comae, steps=40))
NOTEBOOK = "03_collapse_order"
OF_THE_RUN = ("seconds", "created", "commit", "uses")  # entries of a provenance or manifest that differ from run to run
RELEASED = sorted(d for d in paths.released.iterdir() if d.name.startswith(("masks-", "tokens-")))[:12]


def training() -> None:
    """CoMAE of the smoke profile, a checkpoint every second step, and the tokens it needs."""
    pipeline.comae(PROFILE, device="cpu")


def ranking() -> None:
    """Orders of 64 images by untrained weights, four to a shard."""
    pipeline.RANKED = 4
    pipeline.rankings(replace(PROFILE, comae=replace(PROFILE.comae, steps=1)), "train", device="cpu")


def figures() -> None:
    """Three figures and a table with their cards, a record, and all of it copied to the committed ones."""
    out = report.Report(NOTEBOOK, "smoke", 0)
    for k in range(4):
        name, numbers = f"torture_{k}", pd.DataFrame({"x": range(50), "y": [(k + 2) * x**0.5 for x in range(50)]})
        report.SHOWN[name] = report.Shown(NOTEBOOK, "A square root")
        if k == 3:
            out.table(numbers, name, "A table of square roots")
        else:
            fig = Figure()
            fig.subplots().plot(numbers["x"], numbers["y"])
            out.figure(fig, name, "A curve that rises", numbers)
        out.record(**{f"largest_{k}": numbers["y"].max()})
    committed = paths.figures / "smoke"
    reproduction.replace(reproduction.compare(out.folder, committed, [NOTEBOOK]), out.folder, committed)


def release() -> None:
    """Released artefacts among those of another package, over what an older version of them left, and their cards."""
    for _ in range(2):
        artefacts.release([artefacts.load(d) for d in RELEASED])
    cards.main()


JOBS: tuple[Callable[[], None], ...] = (training, ranking, figures, release)


def work(job: Callable[[], None], folder: Path) -> None:
    """Do a job in a process of its own with everything it writes below `folder`; what goes wrong is left in error.txt."""
    os.environ |= {"COP_CACHE": str(folder / "cache"), "COP_FIGURES": str(folder / "drawn"), "COP_PROGRESS": "0"}
    os.environ.pop("COP_RETRAIN_SINCE", None)
    paths.released, paths.figures = folder / "released", folder / "figures"
    clear_leftovers.cache_clear()
    sys.stderr = Path(os.devnull).open("w")
    try:
        job()
    except BaseException:
        (folder / "error.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)  # at once: nothing of the parent's is tidied up here


def start(job: Callable[[], None], folder: Path) -> multiprocessing.Process:
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(target=work, args=(job, folder))
    process.start()
    return process


def final(folder: Path) -> list[Path]:
    """The files below a folder that a reader may take for whole: those without a temporary name, locks aside."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix != ".lock")
    return [f for f in files if not any(TEMPORARY.fullmatch(part) for part in f.relative_to(folder).parts)]


def check(folder: Path) -> int:
    """Read every file that bears its final name, and every artefact; raise what its reader raises. Returns how many files."""
    readers = {".json": lambda f: json.loads(f.read_text()), ".csv": pd.read_csv, ".pt": load_checkpoint,
               ".svg": ElementTree.parse, ".png": lambda f: Image.open(f).load(), ".md": lambda f: f.read_text().index("\n", -1),
               ".safetensors": load_file}  # fmt: skip
    files = final(folder)
    for file in files:
        try:
            readers[file.suffix](file)
        except Exception as error:
            raise RuntimeError(f"{file} is half-written: {type(error).__name__}: {error}") from error
    for directory in {f.parent for f in files if f.name in ("provenance.json", "tensors.safetensors")}:
        artefacts.load(directory)
    return len(files)


def digest(folder: Path) -> dict[str, str]:
    """What a finished folder holds, by relative path: checksums, without times and commits."""
    found = {}
    for file in final(folder):
        content = file.read_bytes()
        if file.suffix == ".json" and isinstance(made := json.loads(content), dict):
            content = json.dumps({k: v for k, v in made.items() if k not in OF_THE_RUN}).encode()
        found[file.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def ended(process: multiprocessing.Process, job: Callable[[], None], folder: Path) -> None:
    """Raises RuntimeError with what the job said if it failed by itself."""
    process.join()
    if process.exitcode:
        error = folder / "error.txt"
        said = error.read_text() if error.exists() else f"exit code {process.exitcode}"
        raise RuntimeError(f"{job.__name__} failed: {said}")


def torture(kills: int, minutes: float, seed: int, folder: Path) -> dict[str, Counter]:
    """Counts by job: kills, runs that ended and were compared, files read after a kill, temporary files that kills left."""
    chance, deadline = random.Random(seed), time.time() + 60 * minutes
    counts, alone, seconds = {job.__name__: Counter() for job in JOBS}, {}, {}
    for job in JOBS:
        begun = time.time()
        ended(start(job, folder / f"{job.__name__}-alone"), job, folder / f"{job.__name__}-alone")
        seconds[job], alone[job] = time.time() - begun, digest(folder / f"{job.__name__}-alone")

    def finish(job: Callable[[], None], place: Path) -> None:
        found = digest(place)
        differ = sorted(k for k in found.keys() | alone[job].keys() if found.get(k) != alone[job].get(k))
        if differ:
            raise RuntimeError(f"{job.__name__}: after the kills {', '.join(differ)} in {place} are not as without them")
        counts[job.__name__]["compared"] += 1
        shutil.rmtree(place)

    for k in range(kills):
        job = JOBS[k % len(JOBS)]
        place, own = folder / job.__name__, counts[job.__name__]
        while own["kills"] < k // len(JOBS) + 1 and time.time() < deadline:
            process = start(job, place)
            process.join(chance.uniform(0, seconds[job]))
            if process.is_alive():
                process.kill()
                process.join()
                own["kills"] += 1
                own["files read"] += check(place)
                own["temporary"] += sum(TEMPORARY.fullmatch(f.name) is not None for f in place.rglob(".*.tmp"))
            else:
                ended(process, job, place)
                finish(job, place)
    for job in JOBS:
        place = folder / job.__name__
        ended(start(job, place), job, place)
        finish(job, place)
    return counts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=20, help="no more kills after these")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="cop-torture-"))
    try:
        counts = torture(args.kills, args.minutes, args.seed, folder)
    except (RuntimeError, ValueError) as error:
        print(f"torture: {error}\nThe folders are kept in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    table = pd.DataFrame(counts).T.fillna(0).astype(int)
    print(table.to_string())
    print(f"{table['kills'].sum()} kills, {table['compared'].sum()} runs ended as without them, nothing half-written among "
          f"{table['files read'].sum()} files read")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
