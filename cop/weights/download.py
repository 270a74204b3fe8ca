"""Downloads that can be interrupted: what has arrived stays in FILE.part and the next attempt asks for the rest only.

Ours, since pooch and `torch.hub` begin anew after an interruption, and huggingface_hub resumes files of its hub only.
"""

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock
from tqdm.auto import tqdm

CHUNK = 1 << 20


def download(
    url: str,
    target: Path,
    size: int = 0,
    sha256: str | None = None,
    attempts: int = 5,
    pause: float = 2.0,
    timeout: float = 60,
) -> Path:
    """The file at `url` as `target`, which appears only when it is complete and checked. One process at a time.

    size: about how many bytes it has; less than half of that is refused. sha256: its digest, or the first digits of it.
    attempts: how often in a row the connection may fail without a byte of progress; pause: seconds between them.
    Raises FileNotFoundError where it cannot be had (what has arrived is kept), ValueError where what has arrived is
    not the file, RuntimeError when the disk is full.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with FileLock(target.with_name(target.name + ".lock")):
        failures, before = 0, -1
        while not target.is_file():
            reason, complete = "the connection ended early", False
            try:
                complete = _continue(url, part, timeout)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}"
                if error.code < 500 and error.code not in (408, 429):
                    raise FileNotFoundError(f"{url} answers {reason}") from error
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise RuntimeError(f"the disk is full: {_size(part):,} bytes of {url} are in {part}; make room and run "
                                       "it again to continue") from error  # fmt: skip
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if complete:
                _check(part, url, size, sha256)
                os.replace(part, target)
                _tag(part).unlink(missing_ok=True)
            else:
                failures, before = (1 if _size(part) > before else failures + 1), _size(part)
                if failures >= attempts:
                    raise FileNotFoundError(f"cannot download {url}: {reason}. {before:,} bytes have arrived and are kept; "
                                            "run it again to continue")  # fmt: skip
                time.sleep(pause)
    return target


def _continue(url: str, part: Path, timeout: float) -> bool:
    """Ask for the bytes that are missing and append them; True when the file is complete."""
    have = _size(part)
    headers = {"User-Agent": "cop", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _tag(part).is_file():  # another version of the file is sent as a whole
            headers["If-Range"] = _tag(part).read_text()
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # nothing was missing
            return True
        part.unlink()  # longer than the file: not a part of it
        return False
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise ValueError(f"{url} sends a web page, not a file; download it with a browser and give its path")
        ranged = answer.headers.get("Content-Range", "")
        if answer.status == 206 and not ranged.startswith(f"bytes {have}-"):
            raise ValueError(
                f"{url} sends {ranged or 'an unknown range'}; expected bytes from {have} on. Delete {part} to start anew"
            )
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        tag = answer.headers.get("ETag", "")
        if tag.startswith('"'):  # a strong one
            _tag(part).write_text(tag)
        else:
            _tag(part).unlink(missing_ok=True)
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or _size(part) == total


def _check(part: Path, url: str, size: int, sha256: str | None) -> None:
    """Raises ValueError, and removes the part, unless it is as large as expected and has the checksum."""
    found = _size(part)
    digest = file_sha256(part) if sha256 else ""
    problem = ""
    if found < size / 2:
        problem = f"has {found:,} bytes; expected about {size:,}"
    elif sha256 and not digest.startswith(sha256):
        problem = f"has the sha256 {digest}; expected {sha256}"
    if problem:
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        raise ValueError(f"the file from {url} {problem}. It was removed; download it again or from elsewhere")


def file_sha256(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag(part: Path) -> Path:
    """Where the server's version of a part is kept."""
    return part.with_name(part.name + ".etag")
