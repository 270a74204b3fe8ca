"""The stage of the predictor that keeps what it has encoded, from which the order `active cached` comes."""

from pathlib import Path

from cop.configs import Profile
from cop.data.loading import load_data
from cop.lessons import pipeline
from cop.paper.cached import CachedPredictor, cached_loss
from cop.profiles import all_classes, get_profile
from cop.train.artefacts import Artefact, load_or_compute
from cop.train.loop import fit, restored, seeded_build


def predictor(profile: str | Profile, seed: int = 0, device: str = "auto") -> tuple[CachedPredictor, Artefact]:
    """The trained `CachedPredictor`, on the same images, for the same steps and with the same numbers as `pipeline.predictor`."""
    profile, device = all_classes(get_profile(profile)), pipeline.resolve_device(device)

    def build() -> CachedPredictor:
        return CachedPredictor(profile.num_tokens, profile.tokens.dim, profile.predictor)

    def compute(directory: Path):
        tokens = pipeline.token_source(profile, "train", device)

        def loss(model, idx, generator, step):
            return {"loss": cached_loss(model, tokens(idx, generator=generator), generator)}

        model, history = fit(seeded_build(build, seed, 24), loss, profile.predictor, size=len(load_data(profile, "train")), seed=seed,
                             directory=directory, device=device, desc="cached predictor",
                             checkpoint_every=profile.checkpoint_every, scale=profile.scale)  # fmt: skip
        return model.state_dict(), pipeline.thin(history)

    artefact = load_or_compute("cached-predictor", pipeline.predictor_config(profile, seed), compute)
    return restored(build, artefact.tensors).to(device).eval(), artefact
