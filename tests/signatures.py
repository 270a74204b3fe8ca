"""The public names as a user's program calls them, for a type checker only: `mypy` checks this file, nothing runs it."""

from typing import assert_type

import timm
from torch import Tensor

import cop
from cop.configs import Profile
from cop.data.images import ImageSet
from cop.data.tokens import Tokens
from cop.lessons.look import Looked
from cop.paper.dynamicvit import DynamicViT
from cop.train.artefacts import Artefact

demo = assert_type(cop.get_profile("demo comae.steps=200"), Profile)
images = assert_type(cop.read_images("folder/", "demo"), Tensor)
data = assert_type(cop.load_data(demo, "test")[:100], ImageSet)
pixels, labels = data.batch(slice(None))
ranking = assert_type(cop.rank(images, demo, 0, "cpu", order="collapse", graph="measured", exact=True), Tensor)
whole = assert_type(cop.rank(["a.jpg", "b.jpg"], crop=False), list[Tensor])
assert_type(cop.look(lambda which: images[which], patches=14, per_step=2, order="active"), Looked)
model, run = cop.comae(demo, seed=1)
assert_type(model, cop.CoMAE)
assert_type(run, Artefact)
tokens = assert_type(cop.tokenizer(demo, device="cpu"), Tokens)
A = assert_type(model.dependencies(tokens.encode(images), chunk_bytes=1 << 20), Tensor)
order = assert_type(cop.collapse_order(cop.pagerank(A, damping=0.85)), Tensor)
network, _ = cop.classifier(demo, "RViT")
assert_type(network, cop.CViT | DynamicViT)
assert_type(cop.CoMAE.from_pretrained("folder", device="cpu"), cop.CoMAE)
assert_type(cop.TokenPredictor.from_pretrained("OWNER/NAME", revision="v1"), cop.TokenPredictor)
assert_type(cop.OnePass.from_pretrained("folder").graph(tokens.encode(images)), Tensor)
assert_type(cop.CViT.from_pretrained("folder"), cop.CViT)
assert_type(cop.__version__, str)
timm.create_model("cvit_base_patch16_256", num_classes=10)

cop.rank(images, seed="0")  # type: ignore[call-overload]  # a mistake is told
cop.get_profile(3)  # type: ignore[arg-type]
cop.ranks  # type: ignore[attr-defined]  # noqa: B018
