"""cop as a library: what README and the book print run as printed, and the wheel works where there is no clone."""

import argparse
import functools
import os
import pkgutil
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

import cop
from cop import __main__, paths
from cop.scale import stages


def blocks(language: str, file: str = "README.md") -> list[str]:
    fenced = [block.partition("\n") for block in (paths.root / file).read_text().split("```")[1::2]]
    return [text for head, _, text in fenced if head == language]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def test_the_python_of_readme_and_book_runs_as_printed(photo, tmp_path, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("photo.jpg", "folder/b.jpg", "folder/a.jpg"):
        shutil.copy(photo, name)
    namespace = {}
    for file in ("README.md", "book/house.md"):
        for block in blocks("python", file):
            exec(compile(block, file, "exec"), namespace)
    assert namespace["ranking"].files == ["folder/a.jpg", "folder/b.jpg"] and namespace["ranking"].shape == (2, 256)
    assert torch.equal(namespace["order"], namespace["ranking"]), "step by step it is what cop.rank gives"
    assert namespace["logits"].shape == (100, 10) and namespace["accuracy"] > 0.3
    assert len(namespace["run"].history)


def test_torch_hub_loads_from_a_clone(photo):
    load = functools.partial(torch.hub.load, str(paths.root), source="local")
    ranking = load("rank", photo, "natural", graph="measured")
    tokens = load("tokenizer").encode(cop.read_images(photo, "natural"))
    assert torch.equal(cop.collapse_order(cop.pagerank(load("onepass").graph(tokens))), ranking)
    assert isinstance(load("predictor"), cop.TokenPredictor)
    model = load("comae", "demo", device="cpu")
    assert isinstance(model, cop.CoMAE) and model.grid == 8
    assert isinstance(load("classifier"), cop.CViT)


def test_neither_tests_nor_imports_have_a_network(network):
    """Blocked here and in processes of their own; all modules are imported in one of these."""
    for reach in (lambda: socket.create_connection(("192.0.2.1", 80), 1), lambda: urllib.request.urlopen("http://example.org"),
                  lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 53))):  # fmt: skip
        with pytest.raises(OSError, match="tests have no network, and (192.0.2.1|example.org) was asked for"):
            reach()
    code = "import socket; socket.create_connection(('example.org', 80))"
    assert "tests have no network" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert network.read_text().count("test_neither_tests_nor_imports_have_a_network") == 4
    network.write_text("")
    names = [m.name for m in pkgutil.walk_packages(cop.__path__, "cop.") if not m.name.endswith("__main__")]
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and len(names) > 90, done.stderr


def test_versions_and_public_names_agree():
    """Those that type checkers and citations are told are those of the package."""
    project = tomllib.loads((paths.root / "pyproject.toml").read_text())["project"]
    citation = (paths.root / "CITATION.cff").read_text()
    assert f"\nversion: {cop.__version__}\n" in citation and project["version"] == cop.__version__
    assert f"## {cop.__version__}" in (paths.root / "CHANGELOG.md").read_text()
    used = set(re.findall(r"\bcop\.(\w+)", (paths.root / "tests" / "signatures.py").read_text()))
    assert used >= set(cop.__all__) and all(callable(getattr(cop, name)) for name in cop.__all__)


def test_the_examples_of_contributing_run_as_printed(tmp_path):
    """One after the other in a process of its own: an order, a data set, an objective."""
    checks = """
assert ranking.shape == (2, 256) and ranking[0].tolist() == list(range(256))
assert train.images.shape == (20, 1, 32, 32) and len(train.class_names) == 2
assert run.provenance["config"]["comae"]["objective"] == "reconstruction" and len(run.history)
"""
    code = "\n".join([*blocks("python", "CONTRIBUTING.md"), checks])
    env = os.environ | {"COP_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Parsed(Exception):
    pass


def test_the_commands_of_readme_and_book_parse(monkeypatch):
    parse, seen = argparse.ArgumentParser.parse_args, []

    def only_parse(self, args=None, namespace=None):
        seen.append(parse(self, args, namespace))
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    pages = ("README.md", "book/running.md", "book/scale.md")
    for line in "".join(block for page in pages for block in blocks("", page)).splitlines():
        words = shlex.split(line, comments=True)
        if "-m" in words:
            command = {"cop": __main__.main, "cop.train": stages.main}[words[words.index("-m") + 1]]
            with pytest.raises(Parsed):
                command(words[words.index("-m") + 2 :])
        elif words[:1] == ["make"]:
            subprocess.run([*words, "--dry-run"], cwd=paths.root, check=True, capture_output=True)
        else:
            assert not words or words[0] == "export", line
    assert len(seen) >= 5


def test_the_wheel_works_without_a_clone(photo, tmp_path):
    source, target, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    shutil.copytree(paths.package, source / "cop", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(paths.root / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    empty.mkdir()
    shutil.copy(photo, empty)

    def run(*command: str) -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith("COP_")}
        env |= {"PYTHONPATH": str(target), "COP_CACHE": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, *command], cwd=empty, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files():
        return {p: p.stat().st_mtime_ns for p in target.rglob("*")}

    before = files()
    assert (target / "cop" / "py.typed").exists()
    assert run("-c", "import cop; print(cop.__file__)").strip() == str(target / "cop" / "__init__.py")
    assert run("-m", "cop", "rank", "photo.jpg").strip() == "photo.jpg.order.png"
    assert Image.open(empty / "photo.jpg.order.png").size[0] >= 120
    assert "CoMAE" in run("-m", "cop", "plan") and "kl16" in run("-m", "cop", "weights")
    assert files() == before and sorted(p.name for p in empty.iterdir()) == ["photo.jpg", "photo.jpg.order.png"]
