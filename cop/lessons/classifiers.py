"""The classifiers of sections 3.4 and 4.4: Table 5's five systems, and controls beyond the paper, trained or loaded.

Every system is the same ViT, trained by the same loop for the same steps on the same batches; what differs is which
patches it sees. A control is trained exactly as CViT, along another order.
"""

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from cop.configs import Profile, as_dict, scale_config
from cop.data.loading import load_data
from cop.lessons import base, pipeline
from cop.orders import Order, as_order, mirrored, random_order
from cop.paper.cvit import CViT, masked_loss
from cop.paper.dynamicvit import DynamicViT, dynamicvit_loss
from cop.profiles import get_profile, replace
from cop.train.artefacts import Artefact, load_or_compute, versioned
from cop.train.loop import fit, restored, seeded_build
from cop.weights import table

BASE_RATE = 0.7  # DynamicViT is trained to keep 0.7, 0.49 and 0.34 of the patches, its published setting
FINE_TUNING = 3  # it starts from the trained ViT, which also teaches it, and takes a third of the ViT's steps
TRAINED_ON = {"ViT": None, "RViT": "random", "CViT": "collapse", "coarser": None, "DynamicViT": None}


def build(profile: Profile, system: str | Order = "CViT") -> CViT | DynamicViT:
    """The untrained network of a system at the profile's size, weights drawn from the global generator."""
    kind = DynamicViT if system == "DynamicViT" else CViT
    return base.network(profile, profile.data.classes, coarseness(system), kind)


def coarseness(system: str | Order) -> int:
    """The side of a system's patches in patches of the profile."""
    return 2 if system == "coarser" else 1


def untrained(build: Callable[[], nn.Module], seed: int, pretrained: str | None) -> nn.Module:
    """A classifier before its training: weights drawn from the seed or, if `pretrained` names an entry of `cop.weights`,
    those, whose position embedding timm resamples to the image size and whose head is drawn anew for its classes."""
    model = seeded_build(build, seed, 30)
    if pretrained:
        file = str(table.fetch(pretrained))
        _, size, tag = pretrained.split("_", 2)  # vit_base_orig_in21k
        name = f"cvit_{size}_patch16_256.{tag}"
        source = seeded_build(lambda: timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file},
                                                        num_classes=model.num_classes), seed, 30)  # fmt: skip
        model.load_state_dict(source.state_dict())
    return model


def start_from(model: nn.Module, base: nn.Module) -> None:
    """Give a network the weights of the base: all that it has, and the head only where both know as many classes."""
    weights = {k: v.cpu() for k, v in base.state_dict().items() if model.num_classes == base.num_classes or not k.startswith("head.")}
    _, unknown = model.load_state_dict(weights, strict=False)
    if unknown:
        raise ValueError(f"the base has weights {unknown[:3]}, which the network of {type(model).__name__} has not")


def order_trained_on(system: str | Order) -> Order | None:
    """The order a system is trained along: a control is named after its order; None sees whole images. Raises ValueError
    for an unknown name."""
    order = TRAINED_ON.get(system, system) if isinstance(system, str) else system
    return None if order is None else as_order(order)


def name_of(system: str | Order) -> str:
    return system if isinstance(system, str) else system.name


def start_config(profile: Profile, system: str | Order) -> dict:
    """What determines the base that a system is fine-tuned from, if there is one."""
    return {"start": base.base_config(profile, coarseness(system))} if profile.base.steps else {}


def system_config(profile: Profile, system: str | Order, seed: int) -> dict:
    """What determines a trained system and what is tested with it, for hashes."""
    order = order_trained_on(system)
    config = pipeline.images_config(profile) | {"classifier": as_dict(profile.classifier), "seed": seed}
    config |= scale_config(profile)
    config |= start_config(profile, system)
    config |= {"base_rate": BASE_RATE, "fine_tuning": FINE_TUNING} if system == "DynamicViT" else {}
    config |= {"system": name_of(system), "trained": pipeline.order_config(profile, order, seed)}
    return versioned("classifier", 2 if system == "DynamicViT" else 1, config)


def classifier_config(profile: Profile, system: str | Order, seed: int) -> dict:
    """What determines the artefact of a trained system. RViT's, which knows no order, is older than the others."""
    if system != "RViT":
        return system_config(profile, system, seed)
    config = pipeline.images_config(profile) | {"classifier": as_dict(profile.classifier), "seed": seed, "order": "random"}
    config |= start_config(profile, system)
    return versioned("classifier", 1, config | scale_config(profile))


def uniform(generator: torch.Generator) -> float:
    """One number for all images of a step: it sets the mask rate, so that all sequences have one length."""
    return torch.rand((), generator=generator).item()


def trained(profile: str | Profile, system: str | Order, seed: int = 0, device: str = "auto",
            rankings: Callable[[bool], Tensor] | None = None) -> tuple[CViT | DynamicViT, Artefact]:  # fmt: skip
    """A trained system. rankings: of a system that is trained along an order, rankings(flipped) -> (n, N), the order of every
    training image, or of every mirrored one; only called if there is something to train.

    All start from the same weights and see the same batches, but DynamicViT, which is fine-tuned from the trained ViT, as
    it was published. RViT draws random orders anew in every step.
    """
    profile, device = get_profile(profile), pipeline.resolve_device(device)

    def compute(directory: Path):
        train, order, ranking, mirror = load_data(profile, "train"), order_trained_on(system), None, None
        if rankings and order.mirror == "own" and profile.data.hflip:
            mirror = rankings(True)
        if rankings:
            ranking = rankings(False)
        teacher = trained(profile, "ViT", seed, device)[0] if system == "DynamicViT" else None

        def loss(model, idx, generator, step, u):
            flip = pipeline.draw_flip(profile, len(idx), generator)
            images, labels = (x.to(device) for x in train.batch(idx, flip))
            if system == "DynamicViT":
                return {"loss": dynamicvit_loss(model, images, labels, BASE_RATE, generator, teacher)}
            seen = None if ranking is None else ranking[idx].long()
            if system == "RViT":
                seen = random_order(len(idx), profile.num_tokens, generator)
            elif mirror is not None:
                seen = torch.where(flip[:, None], mirror[idx].long(), seen)
            elif seen is not None and flip is not None and order.mirror != "stays":
                seen = mirrored(seen, profile.grid, flip)
            return {"loss": masked_loss(model, images, labels, seen, u, rate=profile.classifier.rate)}

        # DynamicViT starts from the trained ViT, and no pretrained weights fit coarser patches.
        named = None if system in ("DynamicViT", "coarser") else profile.classifier.pretrained
        model, settings = untrained(lambda: build(profile, system), seed, named), profile.classifier
        warmup = settings.ema_warmup and not named and teacher is None
        if profile.base.steps:
            start_from(model, base.base(profile, coarseness(system), device)[0])
        elif teacher is not None:  # everything but the predictors, which the ViT does not have
            model.load_state_dict(teacher.state_dict(), strict=False)
            settings = replace(settings, steps=max(1, settings.steps // FINE_TUNING))
        model, history = fit(model, loss, settings,
                             size=len(train), seed=seed, directory=directory, device=device, desc=name_of(system),
                             ema=settings.ema, ema_warmup=warmup, checkpoint_every=profile.checkpoint_every,
                             scale=profile.scale, per_step=uniform, ahead=train.ahead)  # fmt: skip
        return model.state_dict(), pipeline.thin(history)

    artefact = load_or_compute("classifier", classifier_config(profile, system, seed), compute)
    return restored(lambda: build(profile, system), artefact.tensors).to(device).eval(), artefact
