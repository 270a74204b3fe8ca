"""A notebook and its .py, as JupyterLab opens and saves them: whatever the folder it was started in and whichever of
the two is newer, it opens, and saving changes what was edited in the .py and nothing else."""

import os
import shutil

import jupytext
import pytest
from jupytext.cli import jupytext as command

from cop import paths, runner


@pytest.mark.parametrize("newer", [".py", ".ipynb"])
@pytest.mark.parametrize("root", ["", "notebooks"])
@pytest.mark.parametrize("name", [n.stem for n in sorted(paths.notebooks.glob("*.ipynb"))])
def test_opening_and_saving_keeps_the_pair_together(tmp_path, name, root, newer):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(paths.notebooks.parent / "pyproject.toml", tmp_path)  # jupytext would read its settings there
    source, notebook = folder / f"{name}.py", folder / f"{name}.ipynb"
    shutil.copy(paths.notebooks / source.name, source)
    jupytext.write(jupytext.read(source), notebook)
    text = source.read_text()
    os.utime(folder / f"{name}{'.py' if newer == '.ipynb' else '.ipynb'}", (1e9, 1e9))

    manager = jupytext.TextFileContentsManager(root_dir=str(tmp_path / root))
    path = os.path.relpath(notebook, manager.root_dir)
    opened = manager.get(path)["content"]
    opened.cells[0].source += "\n\nAn edit."
    opened.metadata["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    opened.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    for cell in opened.cells:
        cell.metadata["trusted"] = True
    manager.save({"type": "notebook", "format": "json", "content": opened}, path)

    first = jupytext.read(notebook).cells[0].source.splitlines()
    assert first[-1] == "An edit."
    last = f"# {first[-3]}\n"
    assert source.read_text() == text.replace(last, f"{last}#\n# An edit.\n", 1)


@pytest.mark.parametrize("newer", [".py", ".ipynb"])
@pytest.mark.parametrize("written_by", ["the repository", "runner.commit"])
@pytest.mark.parametrize("name", [n.stem for n in sorted(paths.notebooks.glob("*.ipynb"))])
def test_the_first_sync_in_a_clone_changes_nothing(tmp_path, name, written_by, newer):
    shutil.copy(paths.notebooks.parent / "pyproject.toml", tmp_path)
    source, notebook = tmp_path / f"{name}.py", tmp_path / f"{name}.ipynb"
    shutil.copy(paths.notebooks / source.name, source)
    if written_by == "the repository":
        shutil.copy(paths.notebooks / notebook.name, notebook)
    else:
        jupytext.write(jupytext.read(source), tmp_path / "executed.ipynb")
        runner.commit(tmp_path / "executed.ipynb", notebook)
    before = source.read_bytes(), notebook.read_bytes()
    os.utime(source if newer == ".ipynb" else notebook, (1e9, 1e9))
    command(["--sync", str(source)])
    assert (source.read_bytes(), notebook.read_bytes()) == before
