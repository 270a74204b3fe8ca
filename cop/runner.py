"""Run the notebooks headlessly: refuse unknown parameters, execute with papermill, keep what was made.

The source of a notebook is `notebooks/NN_name.py`. It is executed in build/<profile>/seed<k>/, never in place; what it
draws is compared with paper_figures (`cop.show.reproduction`). `keep` writes the executed copy, stripped of timings,
back as the committed `notebooks/NN_name.ipynb`.
"""

import json
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import jupytext
import nbformat
import papermill
from filelock import FileLock, Timeout
from papermill.exceptions import PapermillExecutionError

from cop import paths
from cop.configs import Profile, key
from cop.files import write
from cop.lessons import classification, classifiers, gallery, generation, pipeline
from cop.lessons.dependency_autoencoder import of_table_1
from cop.paths import sources
from cop.profiles import DRY, for_classifiers, get_profile, spelled
from cop.scale import memory, retraining
from cop.scale.rehearsal import environment, place_of_dry_run
from cop.show import report, reproduction
from cop.train.artefacts import stored
from cop.train.together import Job, together

# Counts of the parameter cells that are no part of a profile, for dry runs.
DRY_COUNTS = {"images": 2, "gaussian_images": 1, "prefixes": 5, "shown": 2, "example": 0, "rounds": 1, "brief": True}


def run(profile: str = "demo", seed: int = 0, retrain: bool = False, keep: bool = False, resume: bool = False,
        only: str | None = None, parameters: dict | None = None, dry_run: bool = False, check: bool = False,
        timings: bool = False) -> list[Path]:  # fmt: skip
    """Execute every notebook (or those whose name contains `only`) and return the executed copies.

    Figures and records go to build/<profile>/seed<k>/figures (or `$COP_FIGURES`, and stay there), are compared with
    paper_figures/<profile>, and replace what does not agree; the report is printed and saved beside them. Those of
    notebooks whose parameters are not the profile's own, and of profiles that are not the package's, stay in build/.

    retrain: ignore stored artefacts older than this run, print `retraining.plan` first and a line per finished artefact, and
    compare the records with those of all seeds at the end (retrained.csv). Interrupted, the same call goes on, with the notebook
    that it was in if the package is the same. resume: skip notebooks already executed for this seed from the same source (and in this retraining). parameters: further values for
    the parameters cell; seeds other than 0 are `brief` unless they say otherwise. dry_run: `profiles.dry_run` of the profile and `DRY_COUNTS`, with a cache of its own in build/ that is
    emptied first (not under `only`), and then `memory.check`; figures are not compared, and the gallery stays as it is.
    check: a difference is a RuntimeError, and nothing is replaced. keep: also write the executed notebooks to notebooks/.
    timings: also write the seconds of every notebook to the committed timings.json, as keep does. Raises ValueError for an unknown profile,
    notebook or parameter before anything runs, RuntimeError where another process runs the same profile and seed, and RuntimeError
    naming the cell when a notebook fails; the executed copy up to there stays in build/.
    """
    dry_run = dry_run or DRY in profile
    full = get_profile(profile.replace(DRY, ""))
    config = get_profile(profile.replace(DRY, "") + DRY) if dry_run else full
    profile, name = spelled(config), config.name  # what the notebooks are given, and where everything is stored
    if dry_run and keep:
        raise ValueError("a dry run's outputs mean nothing and cannot be kept in notebooks/: leave out keep or dry_run")
    for parameter, option in (("profile", "--profile"), ("seed", "--seeds")):
        if parameter in (parameters or {}):
            raise ValueError(f"parameter {parameter!r} decides where everything is stored: use {option} {parameters[parameter]} instead")
    chosen = [s for s in sources() if only is None or only in s.stem]
    if not chosen:
        raise ValueError(f"no notebook matches {only!r}; expected part of one of {', '.join(s.stem for s in sources())}")
    if not config.generation.steps:
        chosen = [s for s in chosen if "generation" not in s.stem]
        print(f"profile {name} trains no generator (generation.steps is 0): notebook 4 is left out", flush=True)
    folder = paths.build / name / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    mine = FileLock(folder.with_name(f"seed{seed}.lock"))  # held until this call ends
    try:
        mine.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"profile {name}, seed {seed} is being run by another process, and two would overwrite each other's {folder}: "
                           "wait for it to end, or run a copy of the project") from None  # fmt: skip
    prepared = []
    given = (parameters or {}) | ({"profile": profile} if profile != "demo" else {}) | ({"seed": seed} if seed else {})
    for source in chosen:
        report.check(source.stem, given)
        small = DRY_COUNTS if dry_run else {"brief": True} if seed else {}
        prepared.append((source, {k: v for k, v in small.items() if k in report.parameters(source.stem)} | given))
    own = [source.stem for source, values in prepared if profile == name and not report.changed(source.stem, values)]
    if keep and (profile != "demo" or len(own) < len(chosen)):
        raise ValueError("notebooks/ holds the demo with its own parameters, and nothing else can be kept there: leave out --keep")
    fresh = Path(os.environ.get("COP_FIGURES") or (paths.figures if dry_run and profile == name else folder / "figures"))
    unfinished, state = folder / f"{only or 'all'}.unfinished", state_of(fresh)
    resume = resume or (not dry_run and unfinished.exists() and unfinished.read_text() == state)
    begun = folder / f"retraining-{only or 'all'}.begun"
    if not resume or (retrain and (dry_run or not begun.exists())):
        for source, _ in prepared:
            (folder / f"{source.stem}.ipynb").unlink(missing_ok=True)
    if fresh == folder / "figures" and not resume:
        shutil.rmtree(fresh, ignore_errors=True)
    write(unfinished, state.encode())
    done, training = [], nullcontext()
    extra = place_of_dry_run(config, fresh=only is None) if dry_run else {}
    times = [paths.build / name / "timings.json"] + [paths.figures / name / "timings.json"] * (keep or timings)
    if retrain:
        times = [] if begun.exists() else times  # the rest of a retraining says nothing about the whole
        since = time.time() if dry_run else retraining.since(begun)
        extra |= {"COP_RETRAIN_SINCE": str(since)}
        training = nullcontext() if dry_run else retraining.told(config, seed, pipeline.resolve_device())
    with environment(COP_PROGRESS="0", COP_FIGURES=str(fresh), **extra), training:
        if only is None and not dry_run:
            start = time.monotonic()
            if train_shared(config, seed):
                took("shared_training", time.monotonic() - start, retrain, times if seed == 0 else [])
        for source, values in prepared:
            notebook, output = folder / f"{source.stem}.input.ipynb", folder / f"{source.stem}.ipynb"
            jupytext.write(jupytext.read(source), notebook)
            if not (resume and output.exists() and same_source(output, notebook, values)):
                start = time.monotonic()
                execute(source, notebook, output, values, name, seed)
                took(source.stem, time.monotonic() - start, retrain, times if seed == 0 and source.stem in own else [])
            done.append(output)
            notebook.unlink()
        if dry_run and only is None:
            print(memory.table(memory.check(full)).to_string(index=False), flush=True)
    unfinished.unlink(missing_ok=True)
    if dry_run:
        return done
    if retrain:
        begun.unlink(missing_ok=True)
    if len(own) < len(chosen):
        print(f"Some parameters are not the profile's own: what was drawn with them stays in {fresh}", flush=True)
    if own:
        reproduced(name, seed, own, fresh, folder, retrain, check)
    if seed == 0 and keep:
        for output in done:
            commit(output, paths.notebooks / output.name)
    return done


def reproduced(profile: str, seed: int, notebooks: list[str], fresh: Path, folder: Path, retrain: bool, check: bool) -> None:
    """Print and save the reproduction report of the notebooks that ran, and replace in paper_figures what does not agree
    (unless `$COP_FIGURES` names another place). check: raise RuntimeError for a difference instead."""
    fresh, committed = fresh / profile, paths.figures / profile
    found = reproduction.compare(fresh, committed, notebooks, seed)
    text = reproduction.text(found, f"paper_figures/{profile}, seed {seed}")
    if retrain:
        table = reproduction.retrained(fresh, committed, seed)
        write(folder / "retrained.csv", table.to_csv(index=False, float_format="%.6g").encode())
        text += reproduction.retrained_text(table)
    place = folder / "reproduction.txt"
    write(place, text.encode())
    print(f"{text}This report: {place}", flush=True)
    differ = [f.name for f in found if f.status != "agrees"]
    if check and differ:
        raise RuntimeError(f"{len(differ)} of {len(found)} figures, tables and records do not agree: {', '.join(differ)}")
    if not check and not os.environ.get("COP_FIGURES"):
        reproduction.replace(found, fresh, committed)
        gallery.gallery()


def state_of(figures: Path) -> str:
    """What a run has to have in common with one that was interrupted, to go on with it: the package's files, released models
    among them, and where figures go."""
    files = [f for f in sorted(paths.package.rglob("*")) if f.is_file() and f.suffix != ".pyc"]
    return key({"figures": str(figures), "files": [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]})


def execute(source: Path, notebook: Path, output: Path, given: dict, profile: str, seed: int) -> None:
    """One notebook through papermill, from a temporary name to `output` when it succeeded."""
    print(f"{source.stem} (profile {profile}, seed {seed}) ...", flush=True)
    partial = output.with_suffix(".failed.ipynb")
    try:
        papermill.execute_notebook(str(notebook), str(partial), parameters=given, kernel_name="python3",
                                   progress_bar=False, cwd=str(paths.notebooks))  # fmt: skip
    except PapermillExecutionError as error:
        raise RuntimeError(f"{source.stem} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                           f"The executed notebook up to there is {partial}") from error  # fmt: skip
    os.replace(partial, output)


def took(name: str, seconds: float, retrain: bool, files: list[Path]) -> None:
    """Say how long something took, and add it to these files of seconds."""
    print(f"{name}: {seconds:.0f} s", flush=True)
    for file in files:
        old = json.loads(file.read_text()) if file.exists() else {}
        old.setdefault(name, {})["retrain" if retrain else "released"] = round(seconds)
        write(file, (json.dumps(old, indent=1, sort_keys=True) + "\n").encode())


def train_shared(profile: Profile, seed: int) -> int:
    """Train side by side, on a CPU, what the notebooks would train one after the other although neither needs the other:
    MAR's base, ViT, the CoMAEs, the predictor and RViT. Returns how many were missing; the notebooks load them."""
    judged, device = for_classifiers(profile), pipeline.resolve_device()
    tested = classification.hits_config(judged, "ViT", "random", seed, None, False)  # all that the notebooks want of ViT
    systems = ["RViT"] if stored("hits", tested) else ["ViT", "RViT"]
    table_1 = [of_table_1(profile, change) for change in ("as printed", "no contrastive term")]  # of notebook 2
    jobs = []
    if profile.generation.steps and not profile.generation.checkpoint:
        jobs += [Job("mar", generation.mar_config(profile), generation.mar, (profile, device))]
    jobs += [Job("classifier", classifiers.classifier_config(judged, s, seed), classifiers.trained, (judged, s, seed, device))
             for s in systems]  # fmt: skip
    comaes = {key(pipeline.comae_config(p, seed)): p for p in (profile, *table_1)}.values()
    jobs += [Job("comae", pipeline.comae_config(p, seed), pipeline.comae, (p, seed, device)) for p in comaes]
    jobs += [Job("predictor", pipeline.predictor_config(profile, seed), pipeline.predictor, (profile, seed, device))]
    pipeline.tokenizer(profile, device)  # all of them need it
    return together(jobs, device)


def same_source(executed: Path, notebook: Path, given: dict) -> bool:
    """Whether an executed copy came from these very cells (an injected parameter cell aside) with these parameters."""
    a, b = (nbformat.read(n, 4) for n in (executed, notebook))
    cells = [[c.source for c in n.cells if "injected-parameters" not in c.metadata.get("tags", [])] for n in (a, b)]
    return cells[0] == cells[1] and a.metadata.get("papermill", {}).get("parameters") == given


def commit(executed: Path, target: Path) -> None:
    """The executed notebook as it is committed: outputs kept, timings and papermill's metadata dropped, the other metadata
    as `jupytext --sync` leaves it."""
    notebook, source = nbformat.read(executed, 4), jupytext.read(target.with_suffix(".py"))
    notebook.metadata = source.metadata
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["jupytext"].pop("text_representation", None)  # its filter, which sync applies
    for i, (cell, written) in enumerate(zip(notebook.cells, source.cells, strict=True)):
        cell["id"] = f"cell-{i:02d}"
        cell.metadata = written.metadata
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                output.text = "".join(line for line in output.text.splitlines(True) if "Warning" not in line)
    write(target, (nbformat.writes(notebook, 4) + "\n").encode())
