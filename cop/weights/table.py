"""Everything that the profiles paper and evening fetch, in one table (table.csv): where it comes from, its licence, what loads it.

`fetch(name)` gives the local file: the `path` that is passed, else `$COP_WEIGHTS` or the cache's folder `weights`, else
it is downloaded. `python -m cop weights` prints the table, `python -m cop weights NAME` fetches one and converts it: a
checkpoint of several gigabytes with two sets of weights becomes the one set that is used, as NAME.safetensors
(`cop.weights.convert`). A machine without internet needs only the files, copied to that folder.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from cop import paths
from cop.files import write
from cop.weights.download import download, file_sha256


@dataclass(frozen=True)
class Weights:
    """One file. source: its URL, or `hub:OWNER/NAME` on the Hugging Face hub. size: about how many bytes.

    file: its name here (on the hub: there). loads: what reads it (timm's own loading for the ViTs, which finds them in
    the hub's cache, or takes the path as pretrained_cfg_overlay={"file": path}). sha256: the digest, or its first
    digits; None where nobody published one: then it is recorded beside the file when it is downloaded.
    """

    name: str
    source: str
    licence: str
    size: int
    file: str
    loads: str
    sha256: str | None = None


def _read_table() -> tuple[Weights, ...]:
    with Path(__file__).with_name("table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(Weights(**row | {"size": int(row["size"]), "sha256": row["sha256"] or None}) for row in rows)


TABLE = _read_table()


def find(name: str) -> Weights:
    """The entry of that name. Raises ValueError for another."""
    table = {entry.name: entry for entry in TABLE}
    if name not in table:
        raise ValueError(f"unknown weights {name!r}; expected one of {', '.join(table)}")
    return table[name]


def folder() -> Path:
    """Where weights are kept: `$COP_WEIGHTS`, else `weights` in the cache."""
    given = os.environ.get("COP_WEIGHTS")
    return Path(given).expanduser() if given else paths.cache() / "weights"


def places(entry: Weights) -> list[Path]:
    """The files that serve as this entry, best first: converted, then as published."""
    return [folder() / f"{entry.name}.safetensors", folder() / (entry.name if _on_hub(entry) else "") / entry.file]


def local(entry: Weights) -> Path | None:
    """The file on this machine, if there is one: nothing is downloaded."""
    found = next((p for p in places(entry) if p.is_file()), None)
    if found is None and _on_hub(entry):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(_on_hub(entry), entry.file)
        found = Path(cached) if isinstance(cached, str) else None
    return found


def locate(source: str | os.PathLike) -> Path:
    """The path of a checkpoint: as given, or, for a mere file name such as "mar_base.pth", that file in `folder()`.

    A converted file is preferred to the published one. Raises FileNotFoundError that says how to get it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    entry = next((e for e in TABLE if path.name in (e.file, f"{e.name}.safetensors")), None)
    looked = [path]
    if path.parent == Path("."):
        looked += [folder() / f"{path.stem}.safetensors", folder() / path.name]
        for candidate in looked:
            if candidate.is_file():
                return candidate
    advice = f"run python -m cop weights {entry.name}, or put {entry.file} there" if entry else "check the path"
    raise FileNotFoundError(f"no checkpoint at {' or '.join(map(str, looked))}; {advice}")


def fetch(name: str, path: str | os.PathLike | None = None, check: bool = False, **options) -> Path:
    """The local file of an entry of the table, downloaded if need be. `path`: an own file, which is taken instead.

    check: compare the checksum of a file that is already here. options: of `download`.
    Raises FileNotFoundError for a path without file, or what cannot be downloaded; ValueError for an unknown name, an
    empty file, or another checksum.
    """
    entry = find(name)
    if path is not None:
        path = Path(path).expanduser()
        if not path.is_file():
            advice = f"check the path, or leave it out to download {entry.file}"
            raise FileNotFoundError(f"no file {path} for {name}; {advice}")
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty; expected {entry.file}, about {in_words(entry.size)}")
        return path
    found = local(entry)
    if found is None:
        found = _from_hub(entry) if _on_hub(entry) else _from_url(entry, **options)
    elif check and (known := _recorded(entry, found)) and not (digest := file_sha256(found)).startswith(known):
        raise ValueError(f"{found} has the sha256 {digest}; expected {known}. Delete it and fetch {name} again")
    return found


def _from_url(entry: Weights, **options) -> Path:
    target = folder() / entry.file
    try:
        download(entry.source, target, size=entry.size, sha256=entry.sha256, **options)
    except FileNotFoundError as error:
        missing = f"{entry.name} is not at {places(entry)[0]} or {target}"
        raise FileNotFoundError(f"{missing}, and {error}. Or download it elsewhere and put it there") from error
    if entry.sha256 is None:
        write(_sidecar(target), f"{file_sha256(target)}  {target.name}\n".encode())
    return target


def _from_hub(entry: Weights) -> Path:
    from huggingface_hub import hf_hub_download

    repo = _on_hub(entry)
    try:
        return Path(hf_hub_download(repo, entry.file))
    except Exception as error:  # the library raises a dozen types, all of them long
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        missing = f"{entry.name} is not at {places(entry)[0]} nor in Hugging Face's cache"
        problem = f"{missing}, and cannot be had from https://huggingface.co/{repo}: {reason}"
        advice = f"Or download {entry.file} elsewhere and put it there as {places(entry)[0].name}"
        raise FileNotFoundError(f"{problem}. {advice}") from error


def _on_hub(entry: Weights) -> str:
    return entry.source.removeprefix("hub:") if entry.source.startswith("hub:") else ""


def _recorded(entry: Weights, path: Path) -> str | None:
    """The checksum that `path` is to have: published, or recorded when it was downloaded."""
    if path.name == entry.file and entry.sha256:
        return entry.sha256
    return _sidecar(path).read_text().split()[0] if _sidecar(path).is_file() else None


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")  # as sha256sum -c reads it


def in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def listing() -> str:
    """The table as text, with what is here already."""
    lines = [f"weights are kept in {folder()} (COP_WEIGHTS); python -m cop weights NAME fetches one", ""]
    for e in TABLE:
        where = local(e)
        checksum = "checked by the hub" if _on_hub(e) else f"sha256 {e.sha256 or 'recorded on first download'}"
        lines.append(f"{e.name:32} {in_words(e.size):>8}  {e.licence}")
        for line in (e.source, f"{e.file}, {checksum}; read by {e.loads}", f"here: {where}" if where else "not here"):
            lines.append(f"    {line}")
    return "\n".join(lines)
