"""Atomic writing: the old file or the new one, whatever fails, and no trace of the attempt."""

import errno
import multiprocessing
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cop import files
from cop.files import DAY, HOST, clear_leftovers, write, write_folder


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


def test_a_folder_is_the_old_one_or_the_new_one_and_others_may_read_it(tmp_path, monkeypatch):
    path = tmp_path / "a" / "folder"
    for k in (1, 2):
        write_folder(path, lambda part, k=k: (part / f"{k}").write_text(f"{k}"))
        assert [p.name for p in path.iterdir()] == [f"{k}"] and [p.name for p in path.parent.iterdir()] == ["folder"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask

    rename, seen = os.rename, []
    monkeypatch.setattr(os, "rename", lambda a, b: seen.append((Path(a).exists(), path.exists())) or rename(a, b))
    write_folder(path, lambda part: (part / "3").touch())
    assert seen == [(True, True), (True, False)]  # the old one aside, the new one in its place

    def refuse(a, b):
        if b == path and not (a / "3").exists():
            raise PermissionError(errno.EACCES, "no")
        rename(a, b)

    monkeypatch.setattr(os, "rename", refuse)
    for new, error in (("4", PermissionError), (None, FileNotFoundError)):
        with pytest.raises(error):
            write_folder(path, lambda part, new=new: (part / new).touch() if new else part.rmdir())
        assert [p.name for p in path.iterdir()] == ["3"] and [p.name for p in path.parent.iterdir()] == ["folder"]


def test_bytes_and_names_are_on_the_disk_before_anything_depends_on_them(tmp_path, monkeypatch):
    synced, done = [], []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    for name in ("replace", "rename"):
        do = getattr(os, name)
        monkeypatch.setattr(os, name, lambda a, b, do=do: done.append(list(synced)) or do(a, b))
    write(tmp_path / "file", b"x")
    assert done == [[(tmp_path / "file").stat().st_ino]] and synced[1:] == [tmp_path.stat().st_ino]
    synced.clear(), done.clear()
    write_folder(tmp_path / "folder", lambda part: [(part / n).touch() for n in "ab"])
    inside = {(tmp_path / "folder" / n).stat().st_ino for n in "ab"} | {(tmp_path / "folder").stat().st_ino}
    assert set(done[0]) == inside and synced[3:] == [tmp_path.stat().st_ino]


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old = time.time() - DAY - 60
    gone = [f".a.{HOST}.{ended.pid}.0123abcd.tmp", f".dir.{HOST}.{ended.pid}.0123abcd.tmp", f".old.{HOST}.{os.getpid()}.0123abcd.tmp",
            f".old.00000000.{ended.pid}.0123abcd.tmp", f".ahead.00000000.{ended.pid}.0123abcd.tmp"]  # fmt: skip
    stay = [f".mine.{HOST}.{os.getpid()}.0123abcd.tmp", f".elsewhere.00000000.{ended.pid}.0123abcd.tmp", "users.tmp", ".users.tmp", "file"]
    for name in gone + stay:
        (tmp_path / name).mkdir() if "dir" in name else (tmp_path / name).touch()
        if "old" in name or "users" in name:
            os.utime(tmp_path / name, (old, old))
        elif "ahead" in name:  # written while the clock was
            os.utime(tmp_path / name, (time.time() + DAY + 60,) * 2)
    (tmp_path / gone[1] / "inside").touch()
    clear_leftovers.cache_clear()
    write(tmp_path / "file", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(stay)
    assert files.TEMPORARY.fullmatch(gone[0])


@pytest.mark.parametrize("call", ["write(p, lambda part: (part.touch(), stop()))",
                                  "write_folder(p, lambda part: ((part / 'x').touch(), stop()))"])  # fmt: skip
def test_what_a_killed_writer_leaves_is_removed_by_the_next_one(tmp_path, call):
    code = ("import os, signal, sys; from pathlib import Path; from cop.files import write, write_folder; p = Path(sys.argv[1])\n"
            f"def stop(): os.kill(os.getpid(), signal.SIGKILL)\n{call}")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "thing")])
    assert len(list(tmp_path.glob(".thing.*.tmp"))) == 1
    clear_leftovers.cache_clear()
    write(tmp_path / "thing", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["thing"]
