"""Results that are too large for one process or one file: computed in shards, each by one process, read in place.

A folder holds `00000.safetensors`, `00001.safetensors`, ... of `size` consecutive images each, and `manifest.json`: what
they were made with, how many images, and the SHA-256 of every shard. A shard is written to a temporary neighbour and
renamed, and counts only once its size and checksum are recorded after that. Whatever stops a run, even a full disk,
nothing half-written is ever read, and the next run, with any number of processes, computes what is missing.

The latents of KL-16 (`moments`) and the orders of large data sets stay in shards and are mapped into memory; the parts
of a small artefact are put together and removed again.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from cop import paths
from cop.configs import Profile, as_dict, key
from cop.data.images import ImageSet
from cop.data.loading import data_config
from cop.data.tokens import KL16Tokens
from cop.devices import at_a_time
from cop.files import write
from cop.paper.kl16 import TOKEN_SCALE
from cop.train.artefacts import alone
from cop.train.loop import progress
from cop.train.processes import agreed, processes, wait

SHARD = 10_240  # images
BATCH = 64  # images through the autoencoder at a time

_verified: set[tuple] = set()  # files whose checksum this process has compared


@dataclass(frozen=True)
class Shards:
    """A complete folder of shards, read by rows."""

    directory: Path
    count: int  # images in all
    size: int  # images of a shard; the last may have fewer
    files: dict[str, dict]  # name -> bytes, sha256
    _open: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def rows(self, name: str, idx: Tensor, second: Tensor | None = None) -> Tensor:
        """Rows `idx` (B,) of the tensor `name`, in that order: (B, ...). Only the pages of these rows are read.

        second: (B,), for each row an index of the next axis, which the result then lacks.
        """
        found, shard = None, idx // self.size
        for k in shard.unique().tolist():
            here = (shard == k).nonzero()[:, 0]
            at = (idx[here] - k * self.size,) if second is None else (idx[here] - k * self.size, second[here])
            part = self._shard(k)[name][at]
            found = part.new_empty(len(idx), *part.shape[1:]) if found is None else found
            found[here] = part
        return found

    def all(self, name: str) -> Tensor:
        """The whole tensor, in memory."""
        return torch.cat([self._shard(k)[name] for k in range(len(self.files))])

    def _shard(self, k: int) -> dict[str, Tensor]:
        if k not in self._open:
            path = self.directory / _name(k)
            check_file(path, self.files[path.name])
            with safe_open(path, framework="pt") as file:  # maps the file; nothing is read before a row is used
                self._open[k] = {name: file.get_tensor(name) for name in file.keys()}
        return self._open[k]


def check_file(path: Path, expected: dict) -> None:
    """Raises ValueError unless a shard has its recorded size and, once per process, its recorded checksum."""
    repair = "Remove this file and start again: only missing shards are computed"
    if not path.exists() or path.stat().st_size != expected["bytes"]:
        found = f"has {path.stat().st_size} bytes" if path.exists() else "is missing"
        raise ValueError(f"{path} {found}; expected {expected['bytes']}. {repair}")
    stamp = (str(path), path.stat().st_mtime_ns, expected["sha256"])
    if stamp not in _verified:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected["sha256"]:
            checksums = f"its checksum is {found[:12]}…, recorded is {expected['sha256'][:12]}…"
            raise ValueError(f"{path} is damaged: {checksums}. {repair}")
        _verified.add(stamp)


def open_shards(directory: Path, made_with: dict) -> Shards:
    """A complete folder of shards that were made with `made_with`.

    Raises FileNotFoundError if there is none or it is not complete, ValueError naming what differs, or the file that is
    missing or truncated.
    """
    manifest = _manifest(directory, made_with)
    if manifest is None or "shards" not in manifest:
        state = "not complete" if manifest else "missing"
        raise FileNotFoundError(f"the shards in {directory} are {state}; compute them first (see cop.train)")
    for name, expected in manifest["shards"].items():
        path = Path(directory) / name
        if not path.exists() or path.stat().st_size != expected["bytes"]:
            check_file(path, expected)
    return Shards(Path(directory), manifest["count"], manifest["size"], manifest["shards"])


Compute = Callable[[Tensor], dict[str, Tensor]]  # image numbers (size,) -> tensors with a row per image


def compute_shards(
    directory: Path, made_with: dict, count: int, compute: Compute, *, size: int = SHARD, desc: str = "shards"
) -> Shards:
    """The folder of compute(idx) for every `size` consecutive of `count` images.

    The shards are divided over the processes; those that are there already are not computed again. Every process must
    call this, and gets all. Of several runs that want the same folder one computes, and the others wait. What is
    computed may depend on idx only, never on which process computes it.
    Raises ValueError as `open_shards`, OSError when a shard cannot be written.
    """
    directory, names = Path(directory), [_name(k) for k in range(-(-count // size))]

    def look() -> tuple[dict | None, list[int]]:  # the manifest, and which shards are missing
        manifest = _manifest(directory, made_with)
        if manifest and (manifest["count"], manifest["size"]) != (count, size):
            found = f"{manifest['count']} images in shards of {manifest['size']}"
            expected = f"{count} in shards of {size}"
            raise ValueError(f"{directory} holds {found}; expected {expected}. Move the folder away to compute it anew")
        return agreed((manifest, [k for k, name in enumerate(names) if not _recorded(directory, name, manifest)]))

    manifest, missing = look()
    if manifest and "shards" in manifest and not missing:
        return open_shards(directory, made_with)
    with alone(directory):
        manifest, missing = look()  # another run may have computed them meanwhile
        me, processes_ = processes()
        if me == 0 and manifest is None:
            manifest = {"made_with": made_with, "count": count, "size": size, "created": round(time.time(), 1)}
            write(directory / "manifest.json", json.dumps(manifest, indent=1).encode())
        wait()
        for k in progress(missing[me::processes_], desc):
            idx = torch.arange(k * size, min((k + 1) * size, count))
            data = save({name: t.contiguous().cpu() for name, t in compute(idx).items()})
            write(directory / names[k], data)
            record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            write(directory / f"{names[k]}.json", json.dumps(record).encode())
        wait()
        if me == 0 and (missing or "shards" not in manifest):
            records = {name: _recorded(directory, name, manifest) for name in names}
            write(directory / "manifest.json", json.dumps(manifest | {"shards": records}, indent=1).encode())
            for name in names:
                (directory / f"{name}.json").unlink(missing_ok=True)
        wait()
    return open_shards(directory, made_with)


def _name(k: int) -> str:
    return f"{k:05d}.safetensors"


def _manifest(directory: Path, made_with: dict) -> dict | None:
    """The manifest of a folder, None without one. Raises ValueError where it was made with something else."""
    path = Path(directory) / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        found, names = dict(manifest["made_with"]), [_name(k) for k in range(-(-manifest["count"] // manifest["size"]))]
        records = manifest.get("shards")
        if records is not None and [*records] != names or any(r["bytes"] < 0 or len(r["sha256"]) != 64 for r in (records or {}).values()):
            raise ValueError(f"expected records of {len(names)} shards")
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        problem = f"{path} is not a manifest of shards ({type(error).__name__}: {error})"
        raise ValueError(f"{problem}; move {directory} away") from error
    for name in [*made_with, *found]:
        a, b = found.get(name), json.loads(json.dumps(made_with.get(name)))  # as JSON keeps it: no tuples
        if a != b:
            problem = f"the shards in {directory} were made with {name} = {a!r}; expected {b!r}"
            raise ValueError(f"{problem}. Move the folder away, or use another cache folder (COP_CACHE)")
    return manifest


def _recorded(directory: Path, name: str, manifest: dict | None) -> dict | None:
    """Size and checksum of a shard that is there, from beside it or from the manifest; else None."""
    beside, path = directory / f"{name}.json", directory / name
    try:
        record = json.loads(beside.read_text())
    except FileNotFoundError:
        record = ((manifest or {}).get("shards") or {}).get(name)
    return record if record and path.exists() and path.stat().st_size == record["bytes"] else None


def moments(profile: Profile, split: str, data: ImageSet, tokens: KL16Tokens, device: str = "cpu") -> Shards:
    """Mean and log-variance of the latents of every image and its mirror image, encoded where they are not stored yet.

    They are tensors `mean` and `logvar`, each (n, 2, N, 16) float16, [:, 1] of the mirror image. Float16 costs a
    thousandth of a latent's standard deviation and halves the disk: 33 KB an image, 42 GB for ImageNet's training images.
    What other weights, another crop or other images give stands in a folder of its own.
    """
    autoencoder, images = tokens.autoencoder.to(device), data_config(profile.data)
    weights = hashlib.sha256()
    for name, value in sorted(autoencoder.state_dict().items()):
        weights.update(name.encode() + value.cpu().numpy().tobytes())
    made_with = {
        "content": "moments",
        "tokenizer": profile.tokens.kind,
        "weights": weights.hexdigest()[:16],
        "crop": f"{profile.data.image_size} px, ADM centre crop",
        "data": images["name"],
        "split": split,
        "labels": hashlib.sha256(data.labels.numpy().tobytes()).hexdigest()[:16],
        "profile": key({"data": images, "tokens": as_dict(profile.tokens)}),
    }

    @torch.no_grad()
    def compute(idx: Tensor) -> dict[str, Tensor]:
        found = {"mean": [], "logvar": []}
        for x, _ in data.batches(at_a_time(BATCH), idx):
            x = x.to(device)
            both = [autoencoder.posterior(x), autoencoder.posterior(x.flip(-1))]
            for name, values in zip(found, zip(*both, strict=True), strict=True):
                found[name].append(torch.stack(values, 1).half().cpu())  # (B, 2, N, 16)
        return {name: torch.cat(parts) for name, parts in found.items()}

    directory = paths.cache() / f"moments-{images['name']}-{split}-{key(made_with)}"
    return compute_shards(directory, made_with, len(data), compute, desc=f"encoding {split}")


def latents(stored: Shards, idx: Tensor, flip: Tensor | None, generator: torch.Generator | None) -> Tensor:
    """Scaled tokens (B, N, 16) of images `idx` (B,), mirrored where flip (B,) is true.

    They are a sample of the posterior, drawn with `generator` as `KL16.encode` draws it, or without one the mode.
    """
    flip = torch.zeros_like(idx) if flip is None else flip.long()
    mean = stored.rows("mean", idx, flip).float()  # (B, N, 16)
    if generator is not None:
        noise = torch.randn(mean.shape, generator=generator)
        mean = mean + (stored.rows("logvar", idx, flip).float() / 2).exp() * noise
    return mean * TOKEN_SCALE
