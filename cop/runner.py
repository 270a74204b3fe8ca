"""Run the notebooks headlessly: refuse unknown parameters, execute with papermill, keep what was made.

The source of a notebook is `notebooks/NN_name.py`. It is executed in build/<profile>/seed<k>/, never in place;
`keep` writes the executed copy, stripped of timings, back as the committed `notebooks/NN_name.ipynb`.
"""

import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jupytext
import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from safetensors.torch import save_file

from cop import classification, generation, paths, pipeline, report, weights
from cop.files import write
from cop.kl16 import KL16
from cop.profiles import DRY, Profile, for_classifiers, get_profile, replace
from cop.together import Job, together
from cop.train import seeded_build

# Counts of the parameter cells that are no part of a profile, for dry runs.
DRY_COUNTS = {"images": 2, "gaussian_images": 1, "prefixes": 5, "shown": 2, "example": 0, "rounds": 1, "brief": True}


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
        only: str | None = None, parameters: dict | None = None, dry_run: bool = False) -> list[Path]:  # fmt: skip
    """Execute every notebook (or those whose name contains `only`) and return the executed copies.

    retrain: ignore stored artefacts older than this run. resume: skip notebooks already executed for this seed from
    the same source. parameters: further values for the parameters cell; seeds other than 0 are `brief` unless they say
    otherwise. dry_run: `profiles.dry_run` of the profile and `DRY_COUNTS`, with a cache of its own in build/ that is
    emptied first (not under `only`), and then `memory.check`; the gallery stays as it is. Raises ValueError for an unknown profile,
    notebook or parameter before anything runs, and RuntimeError naming the cell when a notebook fails; the executed
    copy up to there stays in build/.
    """
    dry_run = dry_run or profile.endswith(DRY)
    config = get_profile(profile := profile.removesuffix(DRY) + (DRY if dry_run else ""))
    if dry_run and keep:
        raise ValueError("a dry run's outputs mean nothing and cannot be kept in notebooks/: leave out keep or dry_run")
    chosen = [s for s in sources() if only is None or only in s.stem]
    if not chosen:
        raise ValueError(f"no notebook matches {only!r}; expected part of one of {', '.join(s.stem for s in sources())}")
    if not config.generation.steps:
        chosen = [s for s in chosen if "generation" not in s.stem]
        print(f"profile {profile} trains no generator (generation.steps is 0): notebook 4 is left out", flush=True)
    folder = paths.build / profile / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    prepared = []
    given = (parameters or {}) | ({"profile": profile} if profile != "demo" else {}) | ({"seed": seed} if seed else {})
    for source in chosen:
        notebook = folder / f"{source.stem}.input.ipynb"
        jupytext.write(jupytext.read(source), notebook)
        check_parameters(notebook, given)
        small = DRY_COUNTS if dry_run else {"brief": True} if seed else {}
        small = {k: v for k, v in small.items() if k in papermill.inspect_notebook(str(notebook))}
        prepared.append((source, notebook, folder / f"{source.stem}.ipynb", small | given))
    done = []
    own = {"COP_RETRAIN_SINCE": str(time.time())} if retrain else {}
    own |= place_of_dry_run(config, fresh=only is None) if dry_run else {}
    with environment(COP_PROGRESS="0", **own):
        if only is None and not dry_run:
            start = time.time()
            if train_shared(config, seed):
                took("shared_training", time.time() - start, profile, seed, retrain)
        for source, notebook, output, values in prepared:
            if not (resume and output.exists() and same_source(output, notebook)):
                execute(source, notebook, output, values, profile, seed, retrain)
            done.append(output)
            notebook.unlink()
        if dry_run and only is None:
            from cop import memory  # which imports this module

            print(memory.table(memory.check(get_profile(profile.removesuffix(DRY)))).to_string(index=False), flush=True)
    if seed == 0 and not dry_run:
        report.gallery()
        if keep:
            for output in done:
                commit(output, paths.notebooks / output.name)
    return done


def place_of_dry_run(profile: Profile, fresh: bool) -> dict[str, str]:
    """Environment of a dry run: a cache of its own, and random weights where KL-16's are needed and not there."""
    cache = paths.build / profile.name / "cache"
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    own, given = {"COP_CACHE": str(cache)}, os.environ.get("COP_KL16")
    if profile.tokens.kind == "kl16" and not given:
        found = [f for place in (weights.folder(), paths.cache()) for f in place.glob("kl16.*") if f.suffix in (".safetensors", ".ckpt")]
        if not found:
            found = [cache / "kl16.safetensors"]
            print(f"no weights of KL-16: random ones are drawn for the dry run ({found[0]})", file=sys.stderr, flush=True)
            cache.mkdir(parents=True, exist_ok=True)
            save_file(seeded_build(lambda: KL16(image_side=profile.data.image_size), 0).state_dict(), found[0])
        own["COP_KL16"] = str(found[0])
    return own


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
    took(source.stem, time.time() - start, profile, seed, retrain)


def took(name: str, seconds: float, profile: str, seed: int, retrain: bool) -> None:
    """Say how long something took and, for seed 0, write it to the profile's timings.json."""
    print(f"{name}: {seconds:.0f} s", flush=True)
    if seed == 0:
        times = paths.figures / profile / "timings.json"
        old = json.loads(times.read_text()) if times.exists() else {}
        old.setdefault(name, {})["retrain" if retrain else "released"] = round(seconds)
        write(times, (json.dumps(old, indent=1, sort_keys=True) + "\n").encode())


def train_shared(profile: Profile, seed: int) -> int:
    """Train side by side, on a CPU, what the notebooks would train one after the other although neither needs the other:
    MAR's base, ViT, both CoMAEs, the predictor and RViT. Returns how many were missing; the notebooks load them."""
    judged, device = for_classifiers(profile), pipeline.resolve_device()
    without = replace(profile, comae=replace(profile.comae, contrastive_weight=0.0))  # of notebook 2
    jobs = []
    if profile.generation.steps and not profile.generation.checkpoint:
        jobs += [Job("mar", generation.mar_config(profile, seed), generation.mar, (profile, seed, device))]
    jobs += [Job("classifier", classification.system_config(judged, "ViT", seed), classification.classifier, (judged, "ViT", seed, device))]
    jobs += [Job("comae", pipeline.comae_config(p, seed), pipeline.comae, (p, seed, device)) for p in (profile, without)]
    jobs += [Job("predictor", pipeline.predictor_config(profile, seed), pipeline.predictor, (profile, seed, device)),
             Job("classifier", pipeline.classifier_config(judged, seed), pipeline.classifier, (judged, seed, device))]  # fmt: skip
    pipeline.tokenizer(profile)  # all of them need it
    return together(jobs, device)


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
    write(target, (nbformat.writes(notebook, 4) + "\n").encode())


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
