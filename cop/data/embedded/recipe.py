"""How the embedded Fashion-MNIST subset was made, byte for byte.

    python -m cop.data.embedded.recipe [--source DIR] [--check]

Rule: walk the official training file in its own order; of every class the first 1,000 images are train, the
next 200 val. The official test file is test, whole. Images keep the order of their file. One row per image, its
label then its 28 x 28 pixels as bytes; all rows of a split in one .xz file.

`checksums.json` records SHA-256 of the official pixels and labels (unpacked, without headers: the gzip files
that circulate differ), of the rows, and of the .xz files. The rows prove the data; the .xz bytes may differ
under a liblzma that compresses otherwise, and --check says which of the two it found.
"""

import argparse
import hashlib
import json
import lzma
import sys
from pathlib import Path

import numpy as np

from cop import paths
from cop.data.images import SPLITS, rank_in_class
from cop.data.sets.fashion import fashion_files, read_fashion
from cop.files import write

DIFFERENT = "DIFFERENT: missing, damaged or of other images"
CHECKSUMS = paths.embedded / "checksums.json"
RANKS = {"train": ("train", 0, 1000), "val": ("train", 1000, 1200), "test": ("t10k", 0, 1000)}  # file, ranks
# Grey bytes have no 4-byte rhythm (pb = 0) and the byte before says much about the next (lc = 4).
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 4, "lp": 0, "pb": 0, "dict_size": 1 << 23}]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def build(source: Path) -> dict[str, tuple[bytes, bytes]]:
    """Per split, the rows and their .xz file as bytes, from the official files in `source`."""
    built = {}
    for split in SPLITS:
        part, low, high = RANKS[split]
        images, labels = read_fashion(source, part)
        ranks = rank_in_class(labels)
        keep = (ranks >= low) & (ranks < high)
        rows = np.concatenate([labels[keep, None], images[keep].reshape(-1, 28 * 28)], axis=1).tobytes()
        built[split] = rows, lzma.compress(rows, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=XZ)
    return built


def checksums(source: Path, built: dict[str, tuple[bytes, bytes]]) -> dict[str, dict[str, str]]:
    """SHA-256 of the sources' pixels and labels, of the rows, and of the .xz files."""
    sums = {"sources": {}, "rows": {}, "files": {}}
    for part in ("train", "t10k"):
        images, labels = read_fashion(source, part)
        sums["sources"][f"{part}-images"] = sha256(images.tobytes())
        sums["sources"][f"{part}-labels"] = sha256(labels.tobytes())
    for split, (rows, packed) in built.items():
        sums["rows"][split], sums["files"][f"fashion_{split}.xz"] = sha256(rows), sha256(packed)
    return sums


def compare(path: Path, packed: bytes, rows_sum: str) -> str:
    """How a stored file relates to a rebuilt one."""
    try:
        stored = path.read_bytes()
        if stored == packed:
            return "identical"
        return "same rows, other compressor" if sha256(lzma.decompress(stored)) == rows_sum else DIFFERENT
    except (OSError, lzma.LZMAError, EOFError):
        return DIFFERENT


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rebuild the embedded subset from the official files.")
    parser.add_argument("--source", type=Path, help="folder of the idx files, or torchvision's root")
    parser.add_argument("--check", action="store_true", help="compare with what is stored, write nothing")
    args = parser.parse_args(argv)
    try:
        source = fashion_files(args.source)
        built = build(source)
        sums = checksums(source, built)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    recorded = json.loads(CHECKSUMS.read_text()) if CHECKSUMS.exists() else sums
    bad = [f"{kind} {name}" for kind in ("sources", "rows") for name in sums[kind]
           if recorded[kind][name] != sums[kind][name]]  # fmt: skip
    if bad:  # never overwrite recorded data with others
        print(f"{source}: SHA-256 differs from checksums.json for {', '.join(bad)}; expected the official "
              "files", file=sys.stderr)  # fmt: skip
        return 1
    for split, (_, packed) in built.items():
        path = paths.embedded / f"fashion_{split}.xz"
        if args.check:
            verdict = compare(path, packed, sums["rows"][split])
            print(f"{path.name}: {verdict}")
            if verdict == DIFFERENT:
                return 1
        else:
            write(path, packed)
            print(f"{path.name}: {len(packed):,} bytes")
    if not args.check:
        write(CHECKSUMS, (json.dumps(sums, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
