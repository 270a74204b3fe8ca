"""Files are whole or not there: everything that this project leaves behind is written by `write`."""

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file beside its place under a name of its own, then rename it: whoever reads sees the old file or the new.

    content: the bytes, or a function that writes the file whose path it is given. Any number of processes, of several
    machines too, may write the same file: the last one stays. The bytes are on the disk before the name is. If anything
    fails, nothing is left behind and an older file stays. Raises OSError naming the file when the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            content(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"no space left for {path}; what was written before it is kept: free some space and "
                          "start again") from error  # fmt: skip
        raise
    finally:
        part.unlink(missing_ok=True)
