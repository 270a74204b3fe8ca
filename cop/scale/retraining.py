"""`make figures RETRAIN=1`: a plan before it, a line for every artefact that is finished, and going on after an interruption.

The plan is what the provenance of the released artefacts of a profile records: what they took, and what they asked for. Its
minutes are scaled by a reference step that is timed on this machine.
"""

import json
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import torch

from cop import paths
from cop.configs import Profile, as_dict
from cop.files import write
from cop.lessons.cards import TRAINED, provenances
from cop.lessons.classifiers import build
from cop.paper.cvit import masked_loss
from cop.profiles import demo
from cop.train.artefacts import old, visible
from cop.train.loop import seeded, seeded_build, threads

REFERENCE = 0.18  # seconds of `reference_step` on an idle core of the machine that the artefacts were made on


def since(begun: Path) -> float:
    """The time after which the artefacts of a retraining were made, kept in a file until it is through, so that the same
    call goes on after an interruption."""
    if begun.exists():
        made = float(begun.read_text())
        print(
            f"going on with the retraining of {time.strftime('%d %B, %H:%M', time.localtime(made))}; to begin anew, "
            f"remove {begun}",
            flush=True,
        )
        return made
    write(begun, str(time.time()).encode())
    return float(begun.read_text())


def recorded(profile: Profile) -> tuple[dict[str, float], int]:
    """Names of the artefacts that a retraining of the profile makes -> the seconds they took, from what is released; and how
    many of these are from before artefacts recorded what they asked for."""
    own = {name: p for name, p in provenances().items() if profile_of(p["config"]) == key_of(profile)}
    if own:
        own |= {name: p for name, p in provenances().items() if profile_of(p["config"]) is None}
    parts = {name: s for p in own.values() for name, s in p.get("uses", {}).items()}
    return parts | {name: p["seconds"] for name, p in own.items()}, sum("uses" not in p for p in own.values())


def key_of(profile: Profile) -> tuple:
    """The images and tokens of a profile, by which its artefacts are told from others'."""
    return profile.data.name, profile.data.image_size, profile.data.limit, as_dict(profile.tokens)


def profile_of(config: dict) -> tuple | None:
    """`key_of` the profile that an artefact is of; None for one that needs no images."""
    of = (c for c in within(config) if "data" in c and "tokens" in c)
    return next(((c["data"]["name"], c["data"]["image_size"], c["data"]["limit"], c["tokens"]) for c in of), None)


def within(config: object) -> Iterator[dict]:
    """All dictionaries of a configuration."""
    if isinstance(config, dict | list):
        if isinstance(config, dict):
            yield config
        for part in config.values() if isinstance(config, dict) else config:
            yield from within(part)


def reference_step(device: str, seconds: float = 10.0) -> float:
    """Seconds of one step of the demo's ViT on 64 images, on one thread: the median of those that fit in the given time."""
    model, generator = seeded_build(lambda: build(demo, "ViT"), 0).to(device), seeded(0)
    images = torch.rand(64, 1, demo.data.image_size, demo.data.image_size, generator=generator).to(device)
    labels, took, end = torch.arange(64, device=device) % demo.data.classes, [], time.monotonic() + seconds
    with threads(1):
        while time.monotonic() < end or len(took) < 3:
            start = time.monotonic()
            loss = masked_loss(model, images, labels, None, 0.0)
            loss.backward()
            loss.item()  # waits for a GPU
            took.append(time.monotonic() - start)
    return statistics.median(took)


def minutes(seconds: Mapping[str, float], workers: int, scale: float = 1.0) -> float:
    """Of artefacts, if as many trainings run at a time as there are workers; everything else runs alone."""
    side = [s for name, s in seconds.items() if stage(name) in TRAINED]
    alone = sum(seconds.values()) - sum(side)
    return scale / 60 * (alone + max([sum(side) / workers, *side]))


def stage(name: str) -> str:
    """Of an artefact's name, `comae-0123456789ab`."""
    return name.rpartition("-")[0]


def missing(seconds: Mapping[str, float]) -> dict[str, float]:
    """Those of the artefacts that this retraining has not made yet."""
    return {name: s for name, s in seconds.items() if not visible(paths.cache() / name)}


def plan(profile: Profile, scale: float) -> str:
    """What a retraining makes, by stage: how many artefacts, how many are there, and how many minutes the others take here."""
    seconds, older = recorded(profile)
    if not seconds:
        return f"No released artefact is of profile {profile.name}, so no plan; python -m cop plan counts its multiply-adds.\n"
    left, rows = missing(seconds), []
    for name in dict.fromkeys(map(stage, seconds)):
        own = {n: s for n, s in seconds.items() if stage(n) == name}
        work = [folder for n in own if n in left and (folder := paths.cache() / f"{n}.work").exists()]
        begun, to_do = sum(not old(folder) for folder in work), {n: s for n, s in own.items() if n in left}
        rows.append([name, len(own), len(own) - len(to_do), begun, minutes(own, 1, scale), minutes(to_do, 1, scale)])
    table = pd.DataFrame(rows, columns=["stage", "artefacts", "there", "begun", "minutes", "left"])
    table = table.to_string(index=False, float_format="{:.1f}".format)
    times = paths.figures / profile.name / "timings.json"
    notebooks = [t.get("released", 0) for t in json.loads(times.read_text()).values()] if times.exists() else []
    one, two = (minutes(left, workers, scale) + scale * sum(notebooks) / 60 for workers in (1, 2))
    on = {"1": "one thread", "None": "all threads"}.get(str(profile.scale.threads), f"{profile.scale.threads} threads")
    text = (
        f"Plan of the retraining of {profile.name}: minutes of the released artefacts of seed 0, times {scale:.2f} for this "
        f"machine.\n{table}\nLeft, with {scale * sum(notebooks) / 60:.0f} of the notebooks themselves: {one:.0f} minutes with "
        f"one process, {two:.0f} with two (trainings side by side). Every training runs on {on}: scale.threads, part of its "
        "configuration.\n"
    )
    return text + (f"Not counted: what {older} older artefact(s) asked for without recording it.\n" if older else "")


@contextmanager
def told(profile: Profile, seed: int, device: str, poll: float = 2.0) -> Iterator[None]:
    """Print the plan, and while the block runs a line for every artefact that is finished, with the minutes used and left.

    The artefacts are seen in the cache, whatever process makes them. The released ones have seed 0: of another seed the
    plan says how long, and not what is there.
    """
    seconds, _ = recorded(profile)
    scale = reference_step(device) / REFERENCE if seconds else 1.0
    workers = min(2, torch.get_num_threads()) if device == "cpu" else 1
    print(plan(profile, scale), flush=True)
    start, through = time.monotonic(), threading.Event()
    seen = {f: f.stat().st_mtime for f in paths.cache().glob("*/provenance.json")}

    def look() -> None:
        for file in sorted(paths.cache().glob("*/provenance.json")):
            if seen.get(file) != (written := file.stat().st_mtime):
                seen[file] = written
                took = json.loads(file.read_text())["seconds"]
                left = f", about {minutes(missing(seconds), workers, scale):.0f} left" if seconds and seed == 0 else ""
                used = (time.monotonic() - start) / 60
                print(f"  {file.parent.name}: {took:.0f} s; {used:.0f} minutes used{left}", flush=True)

    def watch() -> None:
        while not through.wait(poll):
            with suppress(OSError, ValueError):  # an artefact that is being replaced: seen the next time
                look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        through.set()
        watcher.join()
        look()
