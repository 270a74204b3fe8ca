"""Everything that the paper profile fetches, in one table: where it comes from, under which licence, what loads it.

`fetch(name)` gives the local file: the `path` you give, else `$COP_WEIGHTS` or the cache's folder `weights`, else it is
downloaded. `python -m cop weights` prints the table, `python -m cop weights NAME` fetches one and converts it: a
checkpoint of several gigabytes with two sets of weights becomes the one set that is used, as NAME.safetensors
(`cop.weights.convert`). A machine without internet needs only the files, copied to that folder.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cop import paths
from cop.files import write
from cop.weights.download import download, file_sha256

MIB = 1 << 20
DROPBOX = "https://www.dropbox.com/scl/fi"
ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256"


@dataclass(frozen=True)
class Weights:
    """One file. source: its URL, or `hub:OWNER/NAME` on the Hugging Face hub. size: about how many bytes.

    file: its name here (on the hub: there). sha256: the digest, or its first digits; None where nobody published one:
    then it is recorded beside the file when it is downloaded. loads: what reads it (timm's own loading for the ViTs,
    which finds them in the hub's cache, or takes the path as pretrained_cfg_overlay={"file": path}).
    """

    name: str
    source: str
    licence: str
    size: int
    file: str
    loads: str
    sha256: str | None = None


TABLE = (
    Weights("kl16", f"{DROPBOX}/hhmuvaiacrarfg28qxhwz/kl16.ckpt?rlkey=l44xipsezc8atcffdp4q7mwmh&dl=1", "MIT",
            254 * MIB, "kl16.ckpt", "cop.paper.kl16.load_kl16"),
    Weights("mar_base", f"{DROPBOX}/f6dpuyjb7fudzxcyhvrhk/checkpoint-last.pth?rlkey=a6i4bo71vhfo4anp33n9ukujb&dl=1", "MIT",
            1587 * MIB, "mar_base.pth", "cop.paper.mar.load_mar"),
    Weights("mar_large", f"{DROPBOX}/pxacc5b2mrt3ifw4cah6k/checkpoint-last.pth?rlkey=m48ovo6g7ivcbosrbdaz0ehqt&dl=1", "MIT",
            3650 * MIB, "mar_large.pth", "cop.paper.mar.load_mar"),
    Weights("mar_huge", f"{DROPBOX}/1qmfx6fpy3k7j9vcjjs3s/checkpoint-last.pth?rlkey=4lae281yzxb406atp32vzc83o&dl=1", "MIT",
            7191 * MIB, "mar_huge.pth", "cop.paper.mar.load_mar"),
    *(Weights(f"vit_base_{tag}", f"hub:timm/vit_base_patch16_224.{tag}", licence, size, "model.safetensors",
              "cop.paper.cvit.cvit_base_patch16_256")
      for tag, licence, size in (("orig_in21k", "Apache-2.0", 343_194_624), ("augreg_in21k", "Apache-2.0", 410_383_692),
                                 ("orig_in21k_ft_in1k", "Apache-2.0", 346_270_624),
                                 ("augreg_in21k_ft_in1k", "Apache-2.0", 346_270_624),
                                 ("augreg_in1k", "Apache-2.0", 346_270_624), ("mae", "CC-BY-NC-4.0", 343_194_624))),
    Weights("deit_base", "https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth", "Apache-2.0",
            346_270_624, "deit_base_patch16_224-b5f2ef4d.pth", "cop.weights.convert.load_dynamicvit", "b5f2ef4d"),
    Weights("dynamicvit_deit_base", "https://cloud.tsinghua.edu.cn/f/660f27ddb6b945a797a8/?dl=1", "MIT",
            357_811_056, "dynamicvit_deit_base_0.7.pth", "cop.weights.convert.load_dynamicvit"),
    Weights("inception", "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth", "Apache-2.0", 95_628_359,
            "weights-inception-2015-12-05-6726825d.pth", "cop.measure.metrics.inception_extractor",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"),
    Weights("adm_reference", f"{ADM}/VIRTUAL_imagenet256_labeled.npz", "MIT; images: ImageNet's terms", 2_030_000_000,
            "VIRTUAL_imagenet256_labeled.npz", "cop.measure.metrics.load_statistics"),
)  # fmt: skip


def find(name: str) -> Weights:
    """The entry of that name. Raises ValueError for another."""
    for entry in TABLE:
        if entry.name == name:
            return entry
    raise ValueError(f"unknown weights {name!r}; expected one of {', '.join(e.name for e in TABLE)}")


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

    A converted file goes before the published one. Raises FileNotFoundError that says how to get it.
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
    """The local file of an entry of the table, downloaded if need be. `path`: yours, which goes before everything.

    check: compare the checksum of a file that is already here. options: of `download`.
    Raises FileNotFoundError for a path without file, or what cannot be downloaded; ValueError for an unknown name, an
    empty file, or another checksum.
    """
    entry = find(name)
    if path is not None:
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path} for {name}; check the path, or leave it out to download {entry.file}"
            )
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
        raise FileNotFoundError(f"{entry.name} is not at {places(entry)[0]} or {target}, and {error}. Or download it elsewhere "
                                "and put it there") from error  # fmt: skip
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
        raise FileNotFoundError(f"{entry.name} is not at {places(entry)[0]} nor in Hugging Face's cache, and cannot be had from "
                                f"https://huggingface.co/{repo}: {reason}. Or download {entry.file} elsewhere and put it "
                                f"there as {places(entry)[0].name}") from error  # fmt: skip


def _on_hub(entry: Weights) -> str:
    return entry.source.removeprefix("hub:") if entry.source.startswith("hub:") else ""


def _recorded(entry: Weights, path: Path) -> str | None:
    """The checksum that `path` is to have: published, or recorded when it was downloaded."""
    if path.name == entry.file and entry.sha256:
        return entry.sha256
    return _sidecar(path).read_text().split()[0] if _sidecar(path).is_file() else None


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")  # as sha256sum -c reads it


# ------------------------------------------------------------------------------------------------------ the listing


def in_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def listing() -> str:
    """The table as text, with what is here already."""
    lines = [f"weights are kept in {folder()} (COP_WEIGHTS); python -m cop weights NAME fetches one", ""]
    for e in TABLE:
        where = local(e)
        checksum = "checked by the hub" if _on_hub(e) else f"sha256 {e.sha256 or 'recorded on first download'}"
        lines += [f"{e.name:32} {in_words(e.size):>8}  {e.licence}", f"    {e.source}",
                  f"    {e.file}, {checksum}; read by {e.loads}", f"    {f'here: {where}' if where else 'not here'}"]  # fmt: skip
    return "\n".join(lines)
