"""Atomic writing: the old file or the new one, whatever fails, and no trace of the attempt."""

import errno
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from cop.files import write


def test_bytes_and_functions_are_written_to_new_folders_and_over_old_files(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write(path, b"old")
    write(path, lambda part: part.write_text("new"))
    assert path.read_bytes() == b"new" and [p.name for p in path.parent.iterdir()] == ["file.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask  # as any other file: others may read it


def fail(part: Path):
    part.write_bytes(b"half")
    raise RuntimeError("the writer gave up")


def interrupt(part: Path):
    part.write_bytes(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", [fail, interrupt, lambda part: None])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, content):
    path = tmp_path / "file.bin"
    for before in (None, b"old"):
        if before:
            path.write_bytes(before)
        with pytest.raises((RuntimeError, KeyboardInterrupt, FileNotFoundError)):
            write(path, content)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({"file.bin": b"old"} if before else {})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_named(tmp_path):
    def full(part: Path):
        part.symlink_to("/dev/full")
        part.write_bytes(b"x")

    with pytest.raises(OSError, match=f"no space left for {re.escape(str(tmp_path))}/file.bin; .*free some space") as caught:
        write(tmp_path / "file.bin", full)
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def test_other_errors_of_the_disk_keep_their_words(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    with pytest.raises(OSError, match="(?i)is a directory|not empty|exists"):
        write(tmp_path / "folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path / "file.bin", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def rewrite(path: Path, byte: int) -> None:
    for _ in range(30):
        write(path, bytes([byte]) * 100_000)


def test_processes_may_write_the_same_file(tmp_path):
    path = tmp_path / "file.bin"
    write(path, bytes(100_000))
    writers = [multiprocessing.get_context("spawn").Process(target=rewrite, args=(path, k)) for k in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        content = path.read_bytes()
        assert len(content) == 100_000 and len(set(content)) == 1  # whole, and of one writer
        seen.add(content[0])
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert path.read_bytes()[0] in (1, 2) and [p.name for p in tmp_path.iterdir()] == ["file.bin"]
