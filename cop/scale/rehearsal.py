"""The surroundings of a dry run: environment variables, a cache of its own, random weights for a missing KL-16."""

import os
import shutil
import sys
from contextlib import contextmanager

from safetensors.torch import save_file

from cop import paths
from cop.configs import Profile
from cop.paper.kl16 import KL16
from cop.train.loop import seeded_build
from cop.weights import table as weights


def place_of_dry_run(profile: Profile, fresh: bool) -> dict[str, str]:
    """Environment of a dry run: a cache of its own, and random weights where KL-16's are needed and not there."""
    cache = paths.build / profile.name / "cache"
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    own = {"COP_CACHE": str(cache)}
    if profile.tokens.kind == "kl16" and not os.environ.get("COP_KL16"):
        stored = [f for place in (weights.folder(), paths.cache()) for f in place.glob("kl16.*")]
        file = next((f for f in stored if f.suffix in (".safetensors", ".ckpt")), None)
        if file is None:
            file = cache / "kl16.safetensors"
            print(f"no weights of KL-16: random ones are drawn for the dry run ({file})", file=sys.stderr, flush=True)
            cache.mkdir(parents=True, exist_ok=True)
            save_file(seeded_build(lambda: KL16(image_side=profile.data.image_size), 0).state_dict(), file)
        own["COP_KL16"] = str(file)
    return own


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
