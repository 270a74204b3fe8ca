"""Files and folders are whole or not there: everything that this project leaves behind is written by `write` or
`write_folder`."""

import errno
import functools
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})\.(\d{1,9})\.[0-9a-f]{8}\.tmp")  # .NAME.HOST.PROCESS.RANDOM.tmp
DAY = 86_400  # seconds


def write(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file beside its place under a name of its own, then rename it: whoever reads sees the old file or the new.

    content: the bytes, or a function that writes the file whose path it is given. Any number of processes, of several
    machines too, may write the same file: the last one stays. The bytes are on the disk before the name is, and the name
    before this returns. If anything fails, nothing is left behind and an older file stays. Raises OSError naming the file
    when the disk is full.
    """
    path = Path(path)
    with _temporary(path) as part:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            content(part)
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """`write` for a folder of files: fill(part) writes them into a new folder, which gets its name when they are on the
    disk. An older folder is renamed aside before that and removed after it; it comes back if the new one cannot be named."""
    path = Path(path)
    with _temporary(path) as part, _temporary(path) as aside:
        part.mkdir()  # with the permissions of any other folder: others may read it
        fill(part)
        for written in (*part.iterdir(), part):
            _sync(written)
        if path.exists():
            os.rename(path, aside)
        try:
            os.rename(part, path)
        except OSError:
            if aside.exists():
                os.rename(aside, path)
            raise
        _sync(path.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` that no other process uses, of a file or folder that is removed in the end if it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path.parent)
    part = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield part
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"no space left for {path}; what was written before it is kept: free some space and "
                          "start again") from error  # fmt: skip
        raise
    finally:
        _remove(part)


@functools.cache  # once per process and folder
def clear_leftovers(folder: Path) -> None:
    """Remove what killed runs left in a folder: the temporary files and folders of `write` and `write_folder` whose
    process, on this machine, has ended, or that are more than a day from now (a clock may have been ahead)."""
    for path in folder.glob(".*.tmp"):
        found = TEMPORARY.fullmatch(path.name)
        if found and ((found[1] == HOST and _has_ended(int(found[2]))) or abs(time.time() - _written(path)) > DAY):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _written(path: Path) -> float:
    """When a file was written last, as Unix time; now if another process has just removed it."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def _has_ended(process: int) -> bool:
    if os.name != "posix":  # one cannot ask on Windows, where this signal would end it
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return False


def _sync(path: Path) -> None:
    """Return when the bytes of a file, or the names in a folder, are on the disk. Not every system can do that for
    folders, which then is left out."""
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if not (folder and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EACCES)):
            raise


def local(path: str | os.PathLike) -> Path:
    """A path that exists, `~` expanded. Raises FileNotFoundError for one that does not, a URL or a pattern."""
    text = os.fspath(path)
    if os.path.lexists(os.path.expanduser(text)):
        return Path(text).expanduser()
    advice = "check the path"
    if re.match("[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE):
        advice = "it looks like a URL: download the file and give its path"
    elif any(c in text for c in "*?["):
        advice = "patterns are not expanded: give the files, such as Path(folder).glob('*.jpg')"
    raise FileNotFoundError(f"no file or folder {text if len(text) <= 200 else text[:200] + '...'!r}; {advice}")
