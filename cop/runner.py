"""Run the notebooks headlessly: refuse unknown parameters, execute with papermill, keep what was made.

The source of a notebook is `notebooks/NN_name.py`. It is executed in build/<profile>/seed<k>/, never in place;
`keep` writes the executed copy, stripped of timings, back as the committed `notebooks/NN_name.ipynb`.
"""

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from cop import paths, report
from cop.profiles import get_profile


def sources() -> list[Path]:
    """The notebooks' sources in their order."""
    return sorted(paths.notebooks.glob("[0-9][0-9]_*.py"))


def check_parameters(notebook: Path, parameters: dict) -> None:
    """Raise ValueError for a parameter the notebook does not have (papermill would only warn and run on)."""
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise ValueError(f"unknown parameter {name!r} for {notebook.name}; expected one of {', '.join(known)}")


def run(profile: str = "demo", seed: int = 0, retrain: bool = False, keep: bool = False, resume: bool = False,
        only: str | None = None, parameters: dict | None = None) -> list[Path]:  # fmt: skip
    """Execute every notebook (or those whose name contains `only`) and return the executed copies.

    retrain: ignore stored artefacts older than this run. resume: skip notebooks already executed for this seed from
    the same source. parameters: further values for the parameters cell. Raises ValueError for an unknown profile,
    notebook or parameter before anything runs, and RuntimeError naming the cell when a notebook fails; the executed
    copy up to there stays in build/.
    """
    get_profile(profile)
    chosen = [s for s in sources() if only is None or only in s.stem]
    if not chosen:
        raise ValueError(f"no notebook matches {only!r}; expected part of one of {', '.join(s.stem for s in sources())}")
    folder = paths.build / profile / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    prepared = []
    given = (parameters or {}) | ({"profile": profile} if profile != "demo" else {}) | ({"seed": seed} if seed else {})
    for source in chosen:
        notebook = folder / f"{source.stem}.input.ipynb"
        jupytext.write(jupytext.read(source), notebook)
        check_parameters(notebook, given)
        prepared.append((source, notebook, folder / f"{source.stem}.ipynb"))
    done = []
    with environment(COP_PROGRESS="0", **({"COP_RETRAIN_SINCE": str(time.time())} if retrain else {})):
        for source, notebook, output in prepared:
            if not (resume and output.exists() and same_source(output, notebook)):
                execute(source, notebook, output, given, profile, seed, retrain)
            done.append(output)
            notebook.unlink()
    if seed == 0:
        report.gallery()
        if keep:
            for output in done:
                commit(output, paths.notebooks / output.name)
    return done


def execute(source: Path, notebook: Path, output: Path, given: dict, profile: str, seed: int, retrain: bool) -> None:
    """One notebook through papermill, from a temporary name to `output` when it succeeded."""
    print(f"{source.stem} (profile {profile}, seed {seed}) ...", flush=True)
    start, partial = time.time(), output.with_suffix(".failed.ipynb")
    try:
        papermill.execute_notebook(str(notebook), str(partial), parameters=given, kernel_name="python3",
                                   progress_bar=False, cwd=str(paths.notebooks))  # fmt: skip
    except PapermillExecutionError as error:
        raise RuntimeError(f"{source.stem} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                           f"The executed notebook up to there is {partial}") from error  # fmt: skip
    os.replace(partial, output)
    seconds = time.time() - start
    print(f"{source.stem}: {seconds:.0f} s", flush=True)
    if seed == 0:
        times = paths.figures / profile / "timings.json"
        old = json.loads(times.read_text()) if times.exists() else {}
        old.setdefault(source.stem, {})["retrain" if retrain else "released"] = round(seconds)
        report.write(times, (json.dumps(old, indent=1, sort_keys=True) + "\n").encode())


def same_source(executed: Path, notebook: Path) -> bool:
    """Whether an executed copy came from these very cells (an injected parameter cell aside)."""
    a, b = (
        [c.source for c in nbformat.read(n, 4).cells if "injected-parameters" not in c.metadata.get("tags", [])]
        for n in (executed, notebook)
    )
    return a == b


def commit(executed: Path, target: Path) -> None:
    """The executed notebook as it is committed: outputs kept, timings and papermill's metadata dropped."""
    notebook = nbformat.read(executed, 4)
    source = jupytext.read(target.with_suffix(".py"))
    notebook.metadata = source.metadata
    notebook.metadata["language_info"] = {"name": "python"}
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                output.text = "".join(line for line in output.text.splitlines(True) if "Warning" not in line)
    report.write(target, (nbformat.writes(notebook, 4) + "\n").encode())


@contextmanager
def environment(**values: str):
    """Environment variables for the kernels started inside the block."""
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k, None) if v is None else os.environ.update({k: v})
