"""Fixtures that several test files share."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cop import paths


@pytest.fixture(autouse=True)
def network():
    """Fails the test that tried to reach another machine, also where it survived that (see `tests/offline`)."""
    tried = Path(os.environ["COP_TRIED"])
    yield tried
    if found := tried.read_text():
        tried.write_text("")
        pytest.fail(f"tests have no network, and were asked for: {found}", pytrace=False)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """An artefact cache of the module's own, and no RETRAIN: what it computes is computed once and thrown away."""
    with pytest.MonkeyPatch.context() as m:
        m.setenv("COP_CACHE", str(tmp_path_factory.mktemp("cache")))
        m.delenv("COP_RETRAIN_SINCE", raising=False)
        yield


@pytest.fixture
def nothing_stored(tmp_path, monkeypatch):
    """An empty cache of the test's own, no released artefacts, and no RETRAIN."""
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COP_RETRAIN_SINCE", raising=False)
    monkeypatch.setattr(paths, "released", tmp_path / "released")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the book, from the command that `make book` calls; skipped without Sphinx."""
    for needed in ("sphinx", "myst_nb", "sphinx_book_theme"):
        pytest.importorskip(needed, reason="the book needs `pip install -e '.[book]'`; `make test` does it")
    out = tmp_path_factory.mktemp("site") / "book"
    command = [sys.executable, "-m", "cop", "book", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "index.html")
    return out


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, of the system; skipped without it and without playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[browser]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()
