"""`make torture`: ten kills here; and what it is for, half-written files and lost work, is found."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cop import paths

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills need os.fork")
SCRIPT = paths.root / "scripts" / "torture.py"


def test_ten_kills_leave_nothing_half_written_and_no_other_result():
    done = subprocess.run([sys.executable, str(SCRIPT), "--kills", "10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "10 kills" in done.stdout.splitlines()[-1]


def half(folder: Path) -> None:
    for name in ("a.json", "b.json"):
        text = json.dumps(list(range(100)))
        (folder / name).write_text(text[:50])
        time.sleep(0.1)
        (folder / name).write_text(text)


def longer(folder: Path) -> None:
    with (folder / "a.md").open("a") as file:
        file.write("begun\n")
        file.flush()
        time.sleep(0.2)


@pytest.mark.parametrize("job, message", [(half, "is half-written"), (longer, "a.md in .* are not as without them")])
def test_a_job_that_writes_in_place_is_found_out(job, message, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("torture", SCRIPT)
    spec.loader.exec_module(torture := importlib.util.module_from_spec(spec))

    def in_place() -> None:
        job(paths.released.parent)

    monkeypatch.setattr(torture, "JOBS", (in_place,))
    with pytest.raises(RuntimeError, match=message):
        torture.torture(20, 1, 0, tmp_path)
