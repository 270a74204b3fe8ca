"""ImageNet-1k from parquet files or tar shards: the images of `cop.data.sets.imagenet`, in its order.

`datasets` reads the parquet files. Of tar shards it would make another copy of 150 GB, and webdataset reads them one after
the other only, so an index of our own says where each image lies.
"""

import hashlib
import json
import logging
import os
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from cop import paths
from cop.configs import DataConfig
from cop.data.images import ImageSet, dataset
from cop.data.pictures import SUFFIXES, save_npz
from cop.data.sets.imagenet import HELP, check_root, image_set, imagenet_contents, numbered_classes, refuse_layout

INDEX_VERSION = 1  # raise it when the index of the tar shards changes

log = logging.getLogger(__name__)


# --------------------------------------------------------------------------------------------- Hugging Face parquet


class Rows:
    """Rows of a Hugging Face data set, whose images stay the bytes of their files."""

    def __init__(self, rows):
        self.rows = rows

    def name(self, row: int) -> str:
        return f"{self.rows[row]['image']['path'] or 'image'} (row {row})"

    def read(self, row: int) -> bytes:
        data = self.rows[row]["image"]["bytes"]
        if data is None:
            raise ValueError(f"{self.name(row)} has no bytes; expected the image itself in column 'image'")
        return data


@dataset("imagenet-hf", contents=imagenet_contents, same_as="imagenet")
def imagenet_hf(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    """ImageNet through Hugging Face `datasets`, from local parquet files or, without a root, from the hub.

    The library copies the files once to its own memory-mapped cache (about 150 GB), where any row is read quickly.
    Raises RuntimeError without the library, FileNotFoundError for missing files, ValueError for damaged ones and as
    `image_set`.
    """
    try:
        os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")  # reading local files asks no server
        import datasets
        import pyarrow.compute
    except ImportError:
        raise RuntimeError("data 'imagenet-hf' needs Hugging Face datasets; install it with "
                           "pip install 'cop[paper]', or pip install datasets") from None  # fmt: skip
    part = "validation" if split == "test" else "train"
    if root is None:
        try:
            rows = datasets.load_dataset("ILSVRC/imagenet-1k", split=part)
        except Exception as error:
            raise FileNotFoundError(f"cannot get ILSVRC/imagenet-1k from the hub ({_first_line(error)}): accept its terms "
                                    f"on its page, run `hf auth login`, or download it and give its folder. {HELP}") from error  # fmt: skip
    else:
        files = parquet_files(check_root(root, cfg), part, cfg)
        try:
            rows = datasets.load_dataset("parquet", data_files=[str(f) for f in files], split="train")
        except Exception as error:
            raise ValueError(f"cannot read the parquet files of {files[0].parent}: {_first_line(error)}. "
                             "Check the disk's free space, or download them again") from error  # fmt: skip
    if not {"image", "label"} <= set(rows.column_names):
        raise ValueError(f"the {part} files have columns {rows.column_names}; expected 'image' and 'label', as "
                         "ILSVRC/imagenet-1k")  # fmt: skip
    if isinstance(rows.features["image"], datasets.Image):
        rows = rows.cast_column("image", datasets.Image(decode=False))  # {"bytes", "path"}
    table = rows.data.table  # memory-mapped: the columns below are read without touching the images
    image, label = table.schema.field("image").type, table.column("label")
    stored_as = {image[k].name: str(image[k].type) for k in range(image.num_fields)}
    if stored_as != {"bytes": "binary", "path": "string"} or not str(label.type).startswith("int") or label.null_count:
        raise ValueError(f"the {part} files have columns of types {image} and {label.type} ({label.null_count} without a label); "
                         "expected 'image' and 'label', as ILSVRC/imagenet-1k: struct<bytes: binary, path: string> and int64")  # fmt: skip
    labels = table.column("label").to_numpy()
    stored = pyarrow.compute.struct_field(table.column("image"), "path").to_pylist()
    names = [name or f"{i:09d}" for i, name in enumerate(stored)]
    return image_set(Rows(rows), labels, names, numbered_classes(cfg), cfg, split)


def parquet_files(root: Path, part: str, cfg: DataConfig) -> list[Path]:
    """The files of a part, complete and whole."""
    folder = root / "data" if (root / "data").is_dir() else root
    files = sorted(folder.glob(f"{part}-*.parquet"))
    if not files:
        raise refuse_layout(root, cfg, f"data/{part}-00000-of-*.parquet")
    counts = {int(m[1]) for f in files if (m := re.search(r"-of-(\d+)\.parquet$", f.name))}
    if counts and len(files) != max(counts):
        names = [f"{part}-{i:05d}-of-{max(counts):05d}.parquet" for i in range(max(counts))]
        absent = next(n for n in names if not (folder / n).is_file())
        raise FileNotFoundError(f"{folder} has {len(files)} of {max(counts)} {part} files; {absent} is missing")
    for file in files:
        with file.open("rb") as f:
            size = f.seek(0, os.SEEK_END)
            f.seek(max(0, size - 4))
            if f.read() != b"PAR1":
                raise ValueError(
                    f"{file} is no whole parquet file ({size:,} bytes, and its end is missing); download it again"
                )
    return files


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --------------------------------------------------------------------------------------------------- tar shards


class Members:
    """Images inside uncompressed tar files, by their place: shard (n,), offset (n,) and size (n,) in bytes."""

    def __init__(self, tars: list[Path], shard: np.ndarray, offset: np.ndarray, size: np.ndarray, names: np.ndarray):
        self.tars, self.shard, self.offset, self.size, self.names = tars, shard, offset, size, names

    def name(self, row: int) -> str:
        return f"{os.fsdecode(self.names[row])} in {self.tars[self.shard[row]]}"

    def read(self, row: int) -> bytes:
        with self.tars[self.shard[row]].open("rb") as f:
            f.seek(self.offset[row])
            return f.read(self.size[row])


@dataset("imagenet-wds", contents=imagenet_contents, same_as="imagenet")
def imagenet_wds(cfg: DataConfig, split: str, root: Path | None) -> ImageSet:
    """ImageNet from WebDataset's tar shards, read in any order: where each image lies is found out once, and cached.

    Raises FileNotFoundError for missing shards, ValueError for damaged ones and as `image_set`.
    """
    part = "validation" if split == "test" else "train"
    tars = tar_files(check_root(root, cfg), part, cfg)
    state = [INDEX_VERSION, *((t.name, t.stat().st_size, t.stat().st_mtime_ns) for t in tars)]
    key = hashlib.sha256(repr(state).encode()).hexdigest()[:16]
    cached = paths.cache() / "data" / f"imagenet-wds-{part}-{key}.npz"
    try:
        with np.load(cached, allow_pickle=False) as stored:
            index = {k: stored[k] for k in ("shard", "offset", "size", "label", "name")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged: look again
        log.warning("reading the contents of %d shards in %s, once (minutes for all of ImageNet)", len(tars), root)
        index = tar_index(tars)
        save_npz(cached, **index)
    source = Members(tars, index["shard"], index["offset"], index["size"], index["name"])
    names = [os.fsdecode(n) for n in index["name"].tolist()]
    return image_set(source, index["label"], names, numbered_classes(cfg), cfg, split)


def tar_files(root: Path, part: str, cfg: DataConfig) -> list[Path]:
    """The shards of a part, without a gap in their numbers."""
    tars = sorted(root.glob(f"imagenet1k-{part}-*.tar"))
    if not tars:
        raise refuse_layout(root, cfg, f"imagenet1k-{part}-*.tar")
    numbers = [int(re.sub(r"\D", "", t.stem.rsplit("-", 1)[1]) or 0) for t in tars]
    gaps = sorted(set(range(max(numbers) + 1)) - set(numbers))
    if gaps:
        raise FileNotFoundError(f"{root} has {len(tars)} {part} shards up to number {max(numbers)}; "
                                f"{len(gaps)} are missing, the first number {gaps[0]}")  # fmt: skip
    return tars


def tar_index(tars: list[Path]) -> dict[str, np.ndarray]:
    """shard, offset, size, label and name of the images of all shards, each (n,)."""
    found = [(s, *member) for s, tar in enumerate(tars) for member in tar_members(tar)]
    if not found:
        raise ValueError(f"the {len(tars)} shards from {tars[0]} on hold no images; download them again")
    shard, offset, size, label, name = (np.array(column) for column in zip(*found, strict=True))
    return {"shard": shard, "offset": offset, "size": size, "label": label, "name": name}


def tar_members(tar: Path) -> list[tuple[int, int, int, bytes]]:
    """Offset, size, label and original name of every image of a shard; NAME.jpg, NAME.cls, NAME.json are one sample.

    Raises ValueError for a truncated file, and for a sample without image or label.
    """
    samples: dict[str, dict] = {}
    try:
        with tarfile.open(tar, "r:") as archive:  # uncompressed
            for member in archive:
                folder, _, base = member.name.rpartition("/")
                if not member.isfile() or base.startswith("."):  # hidden: a companion that macOS adds
                    continue
                stem, _, suffix = base.partition(".")
                sample = samples.setdefault(f"{folder}/{stem}", {"name": stem})
                if f".{suffix.lower()}" in SUFFIXES:
                    sample |= {"offset": member.offset_data, "size": member.size}
                elif suffix == "cls":
                    sample["label"] = int(archive.extractfile(member).read())
                elif suffix == "json":
                    about = json.loads(archive.extractfile(member).read())
                    sample["name"] = about.get("filename", sample["name"])
                    sample.setdefault("label", about.get("label"))
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{tar} is no whole tar shard ({_first_line(error)}); download it again") from error
    for name, sample in samples.items():
        missing = {"offset": "image", "label": "label (.cls or .json)"}
        lacks = [what for k, what in missing.items() if sample.get(k) is None]
        if lacks:
            raise ValueError(
                f"sample {name.strip('/')} of {tar} has no {' and no '.join(lacks)}; download the shard again"
            )
    size = tar.stat().st_size
    if any(s["offset"] + s["size"] > size for s in samples.values()):
        raise ValueError(f"{tar} is no whole tar shard (it ends within an image); download it again")
    return [(s["offset"], s["size"], int(s["label"]), os.fsencode(s["name"])) for s in samples.values()]
