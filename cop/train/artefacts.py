"""Load or compute: trained weights, rankings and curves, found again by the hash of what determines them.

Looked up in the user's cache, then among the artefacts released with the package, else computed. What is computed is
logged as a warning, since it takes time, and what is loaded as information. An artefact is a folder `<stage>-<key>/` of
tensors.safetensors, history.csv (if it was trained) and provenance.json: configuration, commit, versions, the seconds it
took (interrupted runs included, other artefacts not) and `uses`, the artefacts that it asked for with their seconds.
`COP_RETRAIN_SINCE=<unix time>` hides everything older, released artefacts included; `make figures RETRAIN=1` sets it. What is
made under it is marked with it, so that a clock that is set back hides none of that. Of many processes (`cop.train.processes`) the first one
looks and writes; they must share the cache folder. Of several runs that need the same artefact one computes it, and the
others wait and load it (`alone`).
"""

import errno
import functools
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save
from torch import Tensor

from cop import paths
from cop.configs import key
from cop.files import write, write_folder
from cop.train.processes import agreed, processes, wait

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Artefact:
    """tensors: what was computed; provenance: where it comes from; history: one row per logged
    step, or empty."""

    tensors: dict[str, Tensor]
    provenance: dict
    directory: Path

    @functools.cached_property
    def history(self) -> "pd.DataFrame":
        import pandas as pd  # only what shows a history needs it

        csv = self.directory / "history.csv"
        try:
            return pd.read_csv(csv) if csv.exists() else pd.DataFrame()
        except ValueError as error:  # pandas' errors of damaged files are
            reason = str(error).splitlines()[0]
            raise ValueError(f"{csv} is no history ({reason}); move its folder away to compute it anew") from error


@dataclass
class Running:
    """A computation of this process. uses: the artefacts that it asked for, with their seconds; apart: the seconds in which it
    waited for them."""

    uses: dict[str, float] = field(default_factory=dict)
    apart: float = 0.0


_running: list[Running] = []  # innermost last
MARK = "retraining.json"  # in a folder of checkpoints or shards: the COP_RETRAIN_SINCE that it was begun under


@contextmanager
def apart() -> Iterator[None]:
    """The time inside belongs to other artefacts, and not to the one that is computed around it."""
    start = time.monotonic()
    try:
        yield
    finally:
        if _running:
            _running[-1].apart += time.monotonic() - start


def versioned(stage: str, number: int, config: dict) -> dict:
    """The configuration with the version of the code of a stage, beside those of the stages it builds on.

    The number stands where the stage is; it is raised when the same configuration would give another result.
    """
    return config | {"versions": config.get("versions", {}) | {stage: number}}


def load_or_compute(
    stage: str, config: dict, compute: Callable[[Path], tuple[dict[str, Tensor], "pd.DataFrame | None"]]
) -> Artefact:
    """The artefact of `stage` under `config`, computed only if neither the cache nor the release has it.

    compute(directory) returns tensors and an optional history; `directory` survives an interruption, so that a training
    run can keep its checkpoints there and resume. Tensors are stored and returned as they are computed, so that a fresh
    computation and a stored one give the same numbers. All processes call compute, which may share the work among them,
    and all get what the first one returned.
    Raises ValueError for a stored artefact that is truncated or foreign; it is left untouched.
    """
    name = f"{stage}-{key(config)}"
    with apart():
        found = _look_up(stage, name)
        if found is None:
            with alone(paths.cache() / name):
                found = _look_up(stage, name) or _compute(stage, name, config, compute)
    if _running:
        _running[-1].uses |= found.provenance.get("uses", {}) | {name: found.provenance["seconds"]}
    return found


def _look_up(stage: str, name: str) -> Artefact | None:
    where = agreed(_found(name))
    if where is None:
        return None
    _say(f"{stage}: loaded from {where} ({name})", logging.INFO)
    return load(_places(name)[where])


def _compute(stage: str, name: str, config: dict, compute: Callable) -> Artefact:
    work = paths.cache() / f"{name}.work"
    if processes()[0] == 0:
        clear_if_old(work)
        work.mkdir(parents=True, exist_ok=True)
    wait()
    _say(f"{stage}: nothing stored under {name}, so it is computed now")
    before, start = _spent(work) if processes()[0] == 0 else 0.0, time.monotonic()
    _running.append(own := Running())
    try:
        tensors, history = compute(work)
    finally:
        _running.pop()
    wait()  # another process may still read what lies in `work`
    if processes()[0] == 0:
        tensors = {k: v.contiguous().cpu() for k, v in tensors.items()}
        versions = {p: _version(p) for p in ("cop", "torch", "numpy", "timm", "accelerate")}
        provenance = {"stage": stage, "config": config, "commit": _commit(), "versions": versions}
        provenance |= {"seconds": round(before + time.monotonic() - start - own.apart, 1)}
        provenance |= {"created": round(time.time(), 1), "threads": torch.get_num_threads(), "uses": own.uses}
        if since := os.environ.get("COP_RETRAIN_SINCE"):
            provenance["retraining"] = since
        _write(paths.cache() / name, tensors, history, provenance)
        shutil.rmtree(work, ignore_errors=True)
        _say(f"{stage}: done in {provenance['seconds']:.0f} s, stored as {name}")
    wait()
    return load(paths.cache() / name)


def _spent(work: Path) -> float:
    """The seconds that interrupted runs put into what lies in `work`, each from its begin to the last file it left there;
    and note that one begins now."""
    note, spent = work / "begun.json", 0.0
    if note.exists():
        spent, start = json.loads(note.read_text())
        spent += max(0.0, max(f.stat().st_mtime for f in work.rglob("*") if f.is_file()) - start)
    write(note, json.dumps([round(spent, 1), time.time()]).encode())
    return spent


def stored(stage: str, config: dict) -> bool:
    """Whether `load_or_compute` would find the artefact."""
    return _found(f"{stage}-{key(config)}") is not None


def unless_missing(stage: str, config: dict, compute: Callable, train: bool) -> Artefact | None:
    """`load_or_compute`; without `train` only what is stored, else None."""
    return load_or_compute(stage, config, compute) if train or stored(stage, config) else None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Inside, this run is the only one that computes what will stand at `path`.

    Others wait here, in any process and on any machine that shares the folder. The lock is held by process 0 of a run
    and ends with it, also when it is killed. All processes of a run must call this, and go on together. What a run waited
    for is there, if the other one did not fail: look again inside.
    """
    with locked(path) if processes()[0] == 0 else nullcontext():
        wait()
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """`alone` for one process."""
    folder, lock = path.parent, FileLock(path.with_name(f"{path.name}.lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except FileExistsError:
        expected = "is a file; expected the folder of the cache (COP_CACHE)"
        raise NotADirectoryError(errno.ENOTDIR, expected, str(folder)) from None
    except Timeout:
        _say(f"another process computes {path.name}: waiting for it")
        lock.acquire(poll_interval=0.2)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        problem = f"{folder} cannot be written, and {path.name} is not stored there"
        raise OSError(error.errno, f"{problem}: let COP_CACHE name a folder that can") from error
    try:
        yield
        with suppress(OSError):  # done, so that whoever comes later finds it; Windows keeps a file that is open
            Path(lock.lock_file).unlink()
    finally:
        lock.release()


def _places(name: str) -> dict[str, Path]:
    return {"your cache": paths.cache() / name, "the released artefacts": paths.released / name}


def _found(name: str) -> str | None:
    """The first of `_places` that has the artefact, in words."""
    return next((where for where, directory in _places(name).items() if visible(directory)), None)


def load(directory: Path) -> Artefact:
    """Read one artefact. Raises ValueError naming the folder if a part is missing, truncated or foreign."""
    directory = Path(directory)
    try:
        provenance = json.loads((directory / "provenance.json").read_text())
        tensors = load_file(directory / "tensors.safetensors")
        stage, _, _ = provenance["stage"], float(provenance["seconds"]), float(provenance["created"])
        if directory.name != f"{stage}-{key(provenance['config'])}":
            raise ValueError("the recorded configuration does not hash to the folder's name")
    except Exception as error:
        problem = f"{directory} is not a complete artefact ({type(error).__name__}: {str(error)[:160]})"
        expected = "tensors.safetensors and provenance.json as this project writes them"
        raise ValueError(f"{problem}; expected {expected}. Move the folder away to compute it anew.") from error
    tensors = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
    return Artefact(tensors, provenance, directory)


def release(artefacts: list[Artefact]) -> int:
    """Copy artefacts among those shipped with the package and return the size of all of them in bytes."""
    for a in artefacts:
        target = paths.released / a.directory.name
        if a.directory != target:
            write_folder(target, lambda part, a=a: [shutil.copyfile(f, part / f.name) for f in a.directory.iterdir()])
    return sum(f.stat().st_size for f in paths.released.rglob("*") if f.is_file())


def visible(directory: Path) -> bool:
    """Whether an artefact lies there that is not hidden by `COP_RETRAIN_SINCE`."""
    if not directory.is_dir():
        return False
    if not os.environ.get("COP_RETRAIN_SINCE"):
        return True
    if directory.parent == paths.released:
        return False
    made = load(directory).provenance
    return _of_this_run(made.get("retraining"), made["created"])


def _of_this_run(mark: str | None, *written: float) -> bool:
    """Whether something bears the mark of this RETRAIN, or was all written (Unix times) after it began and not in the
    future: then the clock was wrong, and it may be older."""
    since = os.environ["COP_RETRAIN_SINCE"]
    return mark == since or all(float(since) <= t <= time.time() for t in written)


def old(directory: Path) -> bool:
    """Whether a folder of checkpoints or shards is, under RETRAIN, from before this run."""
    if not os.environ.get("COP_RETRAIN_SINCE"):
        return False
    mark = (directory / MARK).read_text() if (directory / MARK).exists() else None
    return not _of_this_run(mark, *(f.stat().st_mtime for f in directory.rglob("*") if f.is_file()))


def clear_if_old(directory: Path) -> None:
    """Under RETRAIN remove a folder of checkpoints or shards that is `old`, as a stored artefact is hidden, and mark the new
    one as this run's."""
    if since := os.environ.get("COP_RETRAIN_SINCE"):
        with locked(directory):
            if old(directory):
                shutil.rmtree(directory)
            write(directory / MARK, since.encode())


def _write(directory: Path, tensors: dict, history: "pd.DataFrame | None", provenance: dict) -> None:
    def fill(part: Path) -> None:
        (part / "tensors.safetensors").write_bytes(save(tensors))  # save_file would let only its owner read it
        if history is not None:
            history.to_csv(part / "history.csv", index=False, float_format="%.6g")
        (part / "provenance.json").write_text(json.dumps(provenance, indent=1, sort_keys=True) + "\n")

    write_folder(directory, fill)  # over an older one under RETRAIN


@functools.cache  # a stage that is used ten times says once where it came from
def _say(message: str, level: int = logging.WARNING) -> None:
    if processes()[0] == 0:
        logging.getLogger(__name__).log(level, message)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"


def _commit() -> str:
    try:
        command = ["git", "-C", str(paths.root), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip() or "unknown"
    except (OSError, subprocess.SubprocessError):
        return "unknown"
