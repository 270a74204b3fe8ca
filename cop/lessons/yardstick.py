"""How much is there to win by choosing patches: a classifier that may try every patch before it sees one more.

It knows the whole image, and by two of the rules the class as well, so none of them saves anything. They say between which bounds the
choice of patches moves one network, which is never trained along any of them.

Letters: B images, N patches, K of them kept, M sets of patches of one image.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cop.configs import Profile
from cop.data.loading import load_data
from cop.devices import inference
from cop.lessons import classification, ordering, pipeline
from cop.orders import get
from cop.orders.looking import one_step_ahead
from cop.paper.cvit import CViT, keep_count
from cop.profiles import get_profile
from cop.train.artefacts import load_or_compute, versioned
from cop.train.loop import seeded

TOGETHER = 8  # images whose candidates run in one batch


def entropy(logits: Tensor, whole: Tensor, labels: Tensor) -> Tensor:
    """How uncertain of the class, in nats: logits (..., classes) -> (...)."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


def unlike_whole(logits: Tensor, whole: Tensor, labels: Tensor) -> Tensor:
    """How far from what the whole image says, KL(p(whole image) || p), in nats."""
    return (whole.softmax(-1) * (whole.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)


def wrong(logits: Tensor, whole: Tensor, labels: Tensor) -> Tensor:
    """How wrong, -log p(true class), in nats."""
    return -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]


def right(logits: Tensor, whole: Tensor, labels: Tensor) -> Tensor:
    """How right, log p(true class), in nats."""
    return -wrong(logits, whole, labels)


RULES = {
    "most certain": entropy,
    "as the whole image": unlike_whole,
    "knows the class": wrong,
    "hides the class": right,
}  # what is to be as small as can be after each choice, from logits, those of the whole image (..., classes) and labels (...)


@torch.no_grad()
def chosen_by(model: CViT, images: Tensor, labels: Tensor, rule: Callable[..., Tensor], patches: int) -> Tensor:
    """The patches of each image that leave the classifier's logits best by a rule, one after the other: (B, patches) long.

    images (B, C, H, W), labels (B,) long; rule: one of RULES."""

    def orders(x: Tensor, y: Tensor) -> Tensor:
        whole = model(x)[:, None]  # (B, 1, classes)

        def loss(tried: Tensor) -> Tensor:
            M = tried.shape[1]
            logits = model(x.repeat_interleave(M, 0), tried.flatten(0, 1))  # (B M, classes)
            return rule(logits.unflatten(0, (len(x), M)), whole.expand(-1, M, -1), y[:, None].expand(-1, M))

        return one_step_ahead(loss, len(x), model.patch_embed.num_patches, patches)

    return torch.cat([orders(x, y) for x, y in zip(images.split(TOGETHER), labels.split(TOGETHER), strict=True)])


def bounds(profile: str | Profile, orders: Sequence[str], rate: float, images: int, seed: int = 0,
           device: str = "auto") -> dict[str, np.ndarray]:  # fmt: skip
    """RViT along these orders and along those of RULES on some test images: name -> which it gets right from one patch, from two
    and so on to those that the mask rate leaves, bool (K, images). Loaded or computed."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    K = keep_count(profile.num_tokens, rate)
    counts = list(range(1, K + 1))
    along = {o: classification.hits_config(profile, "RViT", o, seed, counts, False) for o in orders}
    config = versioned("yardstick", 1, {"along": along, "rules": list(RULES), "images": images})

    def compute(_):
        data, split = load_data(profile, "test"), ordering.of_split(profile, "test", seed, device, seeded(seed, 43))
        some = pipeline.selection(data, images)
        x, y = data.batch(some)
        found = {name: split.ranked(get(name), some).long() for name in orders}
        model, _ = classification.classifier(profile, "RViT", seed, device)
        with inference(profile, device):
            for name, rule in RULES.items():
                first = chosen_by(model, x.to(device), y.to(device), rule, K)
                found[name] = completed(first, profile.num_tokens)
            hits = {n: classification.evaluate(model, x, y, r, counts, device=device) for n, r in found.items()}
        return {name: torch.from_numpy(h.top1) for name, h in hits.items()}, None

    return {name: found.numpy() for name, found in load_or_compute("yardstick", config, compute).tensors.items()}


def completed(first: Tensor, num_tokens: int) -> Tensor:
    """Rankings (B, N) that begin with these patches (B, K); the others follow by number."""
    rest = torch.ones(len(first), num_tokens, dtype=torch.bool).scatter_(1, first, False)
    return torch.cat([first, rest.nonzero()[:, 1].view(len(first), -1)], 1)
