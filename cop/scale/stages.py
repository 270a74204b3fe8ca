"""The stages of the paper from the command line, by one process or many, with the functions that the notebooks use:

    python -m cop.train comae                                                       # this machine
    accelerate launch --multi_gpu --num_processes 8 -m cop.train comae --profile paper   # one process per GPU
    torchrun --nproc_per_node 2 -m cop.train comae --set scale.micro_batches=2      # processes on a CPU

A stage computes every stage before it that is not stored yet. Interrupted, it goes on where it was when started again.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from cop.lessons import classification, generation, pipeline
from cop.profiles import PROFILES, changed, for_classifiers, get_profile
from cop.train.processes import processes

STAGES = {
    "comae": "the dependency autoencoder",
    "ranking": "the collapse order of every image of --split",
    "mar": "the base of generation (official weights where the profile names them)",
    "cmar": "the base trained on along an order: --kind",
    "cvit": "a classifier of the first patches: --system",
    "samples": "new images: --weights, --source, --cfg-scale, --count",
}


def main(argv: Sequence[str] | None = None) -> int:
    """One stage of the paper and everything before it that is not stored yet, by the functions the notebooks use."""
    parser = argparse.ArgumentParser(prog="python -m cop.train", description=main.__doc__)
    parser.add_argument("stage", choices=STAGES, help="; ".join(f"{k}: {v}" for k, v in STAGES.items()))
    parser.add_argument("--profile", default="demo", help=f"one of {', '.join(PROFILES)}, or a TOML file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="FIELD=VALUE", help="e.g. scale.micro_batches=16")
    parser.add_argument("--split", default="train", help="of ranking: train, val or test")
    parser.add_argument("--kind", default="descending", help=f"of cmar: {', '.join(generation.KINDS)}")
    parser.add_argument("--system", default="CViT", help="of cvit: ViT, RViT, CViT, DynamicViT or a control")
    parser.add_argument("--weights", default="descending", help="of samples: base or a kind of cmar")
    parser.add_argument("--source", default="train", help="of samples: where the orders come from")
    parser.add_argument("--cfg-scale", type=float, default=None, help="of samples; the profile's, 1 is no guidance")
    parser.add_argument("--count", type=int, default=None, help="of samples; the profile's")
    a = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        profile = changed(get_profile(a.profile), a.set)
        processes()  # before anything touches a GPU: each process has its own
        device = pipeline.resolve_device()
        if a.stage == "comae":
            pipeline.comae(profile, a.seed, device)
        elif a.stage == "ranking":
            pipeline.rankings(profile, a.split, a.seed, device=device)
        elif a.stage == "mar":
            generation.mar(profile, device)
        elif a.stage == "cmar":
            generation.fine_tuned(profile, a.seed, a.kind, device)
        elif a.stage == "cvit":
            classification.classifier(for_classifiers(profile), a.system, a.seed, device)
        else:
            scale = profile.generation.cfg_scale if a.cfg_scale is None else a.cfg_scale
            generation.generate(profile, a.seed, a.weights, a.source, scale, a.count, device)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"cop.train: {error}", file=sys.stderr)
        return 2
    return 0
