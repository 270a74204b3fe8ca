"""Orders of images: by name, ranking or function, of a split, of a sample, or of any images at all (`cop.rank`).

What an order may ask of the images is here (`Batch`); what it makes of them stands in `cop.orders.entries`.
"""

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from cop.configs import Profile, as_dict
from cop.data.loading import load_data
from cop.data.tokens import Tokens
from cop.devices import at_a_time, inference
from cop.lessons import cached, measured, pipeline
from cop.orders import Order, as_order, get, mean_order, registered, small_type
from cop.paper.cached import CachedPredictor
from cop.paper.comae import CoMAE
from cop.paper.entropy import GaussianTokens, TokenPredictor
from cop.paper.patches import patchify
from cop.profiles import all_classes, for_classifiers, get_profile, in_fold
from cop.train.artefacts import load_or_compute, versioned
from cop.train.loop import seeded

log = logging.getLogger(__name__)
AT_A_TIME = 250  # images that an order is asked for at a time


def mean_ranking(profile: str | Profile, seed: int = 0, device: str = "auto") -> Tensor:
    """The mean collapse order (N,), one for every image: of all training images of the classes that classifiers use, so
    that it knows nothing of the images it is tested on, and whichever notebook asks gets the same."""
    profile = for_classifiers(profile)

    def compute(_: Path):
        return {"order": mean_order(pipeline.rankings(profile, "train", seed, device=device))}, None

    config = versioned("mean-order", 1, pipeline.rankings_config(profile, "train", seed))
    return load_or_compute("mean-order", config, compute).tensors["order"].long()


def mean_of(profile: str | Profile, name: str, seed: int = 0, device: str = "auto") -> Tensor:
    """The mean (N,) of a registered order over the training images of the classes that classifiers use."""
    profile, order = for_classifiers(profile), get(name)

    def compute(_: Path):
        return {"order": mean_order(ranking_of(profile, "train", order, seed, device))}, None

    config = pipeline.order_config(profile, order, seed) | pipeline.images_config(profile) | {"seed": seed}
    return load_or_compute("mean-order", versioned("mean-order", 1, config), compute).tensors["order"].long()


def greedy_order(profile: str | Profile, device: str = "auto") -> Tensor:
    """The greedy order of the Gaussian model of the training tokens, one for all images: (N,)."""
    profile = all_classes(get_profile(profile))
    config = pipeline.images_config(profile) | {"greedy": {"floor": profile.predictor.floor, "images": 10_000}}

    def compute(_: Path):
        train = pipeline.sample_tokens(profile, "train", 10_000, device)
        return {"order": GaussianTokens.fit(train, floor=profile.predictor.floor).greedy_order()}, None

    return load_or_compute("greedy", versioned("greedy", 1, config), compute).tensors["order"].long()


def looked_at(tokens: Tokens, images: Tensor) -> Tensor:
    """What the contrast of a patch is measured on, (B, N, P): raw tokens are its pixels already; components and latents have
    unit variance each, noise included, so for those it is the grey pixels."""
    return tokens.encode_grid(images)[0] if tokens.kind == "raw" else patchify(images.mean(1, keepdim=True), tokens.patch_size)


def vit(profile: Profile, seed: int, device: str) -> nn.Module:
    """The classifier that orders may need: the ViT trained on whole images."""
    from cop.lessons import classifiers  # timm, which most orders do without, takes long to import

    return classifiers.trained(profile, "ViT", seed, device)[0]


class Images:
    """The images in question, and what orders of them need, each loaded once, when it is asked for.

    pixels(rows), tokens(rows): those of some of the `total` images; by(score): their rankings (total, N) where these are
    stored, else None and they are computed. generator: of random orders. load_graph: what `graph` asks for a function from
    tokens to graphs. shape: rows and columns of the grid of patches, if it is not the profile's; then `load_graph` returns
    functions that take it too.
    """

    def __init__(self, profile: Profile, seed: int, device: str, total: int, generator: torch.Generator,
                 pixels: Callable[[Tensor], Tensor], tokens: Callable[[Tensor], Tensor] | None = None,
                 by: Callable[[str], Tensor] | None = None, load_graph: Callable = pipeline.exact_graph):  # fmt: skip
        self.load_graph, self.shape, self._graphs = load_graph, None, {}
        self.profile, self.seed, self.device, self.total, self.generator = profile, seed, device, total, generator
        self.pixels, self.by, self._tokens = pixels, by and functools.cache(by), tokens

    def tokens(self, rows: Tensor) -> Tensor:
        if self._tokens:
            return self._tokens(rows)
        images = self.pixels(rows).to(self.device)
        return self.tokenizer.encode_grid(images)[0] if self.shape else self.tokenizer.encode(images)

    def graph(self, name: str | None = None, one_pass: bool = False) -> Callable[[Tensor], Tensor]:
        """The function from tokens to the graphs of that name of `pipeline.GRAPHS`, the profile's by default; loaded once.
        one_pass: that of the ranker that has learned the measured graph, trained if need be."""
        profile = pipeline.with_graph(self.profile, name)
        key = (profile.ranking.graph, one_pass)
        if key not in self._graphs:
            ranker = one_pass and self.shape is None  # of any other shape only one pass is possible
            self._graphs[key] = (measured.onepass(profile, self.seed, device=self.device)[0].graph if ranker
                                 else self.load_graph(profile, self.seed, self.device))  # fmt: skip
        found = self._graphs[key]
        return functools.partial(found, shape=self.shape) if self.shape else found

    @functools.cached_property
    def tokenizer(self):
        return pipeline.tokenizer(self.profile, self.device)

    @functools.cached_property
    def comae(self) -> CoMAE:
        return pipeline.comae(self.profile, self.seed, self.device)[0]

    @functools.cached_property
    def classifier(self) -> nn.Module:
        return vit(self.profile, self.seed, self.device)

    @functools.cached_property
    def predictor(self) -> TokenPredictor:
        return pipeline.predictor(self.profile, self.seed, self.device)[0]

    @functools.cached_property
    def cached_predictor(self) -> CachedPredictor:
        return cached.predictor(self.profile, self.seed, self.device)[0]

    def ranked(self, order: Order, rows: Tensor) -> Tensor:
        """An order of the images `rows`: (len(rows), N), in as few bytes as hold it. Nothing is computed twice for an
        order that is one for all images."""
        small = small_type(Batch(self, rows).num_tokens)
        if order.shared:
            return order(Batch(self, rows)).to(small)
        return torch.cat([order(Batch(self, part)).to(small) for part in rows.split(at_a_time(AT_A_TIME))])


class Batch:
    """Some images as an order sees them. Letters: B images, N patches, G patches per side (N = G * G, row-major).

    rows: (B,), which of the images in question these are, of which there are `total`. count, num_tokens, grid: B, N and G.
    shape: (G, G), or the rows and columns of photographs that are ranked uncropped, whose number N then is; G is their rows.
    generator: of random orders, on the CPU. Models are on the device.
    """

    def __init__(self, whole: Images, rows: Tensor):
        self._whole, self.rows, self.count, self.total = whole, rows, len(rows), whole.total
        self.profile, self.seed, self.device, self.generator = whole.profile, whole.seed, whole.device, whole.generator
        self.shape = whole.shape or (whole.profile.grid, whole.profile.grid)
        self.num_tokens, self.grid = self.shape[0] * self.shape[1], self.shape[0]

    @property
    def comae(self) -> CoMAE:
        """The trained CoMAE of the profile."""
        return self._whole.comae

    @property
    def classifier(self) -> nn.Module:
        """The ViT trained on whole images."""
        return self._whole.classifier

    @property
    def predictor(self) -> TokenPredictor:
        """The token predictor of notebook 1."""
        return self._whole.predictor

    @property
    def cached_predictor(self) -> CachedPredictor:
        """The predictor that encodes every patch once."""
        return self._whole.cached_predictor

    @functools.cached_property
    def images(self) -> Tensor:
        """(B, C, H, W) in [-1, 1]."""
        return self._whole.pixels(self.rows)

    @functools.cached_property
    def tokens(self) -> Tensor:
        """What CoMAE sees, (B, N, C), on the device."""
        return self._whole.tokens(self.rows)

    @functools.cached_property
    def patches(self) -> Tensor:
        """What the contrast of a patch is measured on, its (grey) pixels: (B, N, P)."""
        return looked_at(self._whole.tokenizer, self.images)

    def graph(self, name: str | None = None, one_pass: bool = False) -> Tensor:
        """The graph of that name of `pipeline.GRAPHS`, the profile's by default: (B, N, N). one_pass: the measured one as the
        ranker of one pass knows it."""
        graph = self._whole.graph(name, one_pass)
        return torch.cat([graph(x) for x in self.tokens.split(at_a_time(pipeline.RANKED))])

    @functools.cached_property
    def A(self) -> Tensor:
        """The dependency graph, (B, N, N): A[b, i, j] says how much target i of image b relies on patch j."""
        return self.graph()

    def by(self, score: str, graph: str | None = None) -> Tensor:
        """The order by a score of the graph, a name of `pipeline.SCORES`: (B, N). graph: as in `graph`. By the profile's graph it is
        stored for the images of a split."""
        own = pipeline.with_graph(self.profile, graph).ranking.graph == self.profile.ranking.graph
        if own and self._whole.by:
            return self._whole.by(score)[self.rows].long()
        return pipeline.ranked(self.A if own else self.graph(graph), self.profile, score)

    def by_pagerank(self, A: Tensor) -> Tensor:
        """The order by PageRank of any graphs (B, N, N)."""
        return pipeline.ranked(A, self.profile)

    @property
    def mean_order(self) -> Tensor:
        """The mean collapse order of the training images, (N,)."""
        return mean_ranking(self.profile, self.seed, self.device)

    def mean_of(self, name: str) -> Tensor:
        """The mean of a registered order over the training images, (N,)."""
        return mean_of(self.profile, name, self.seed, self.device)

    @property
    def greedy_order(self) -> Tensor:
        """The greedy order of the Gaussian model of the training tokens, (N,)."""
        return greedy_order(self.profile, self.device)

    @functools.cached_property
    def rollout(self) -> Tensor:
        """Attention rollout of the classifier, (B, N)."""
        from cop.paper.cvit import attention_rollout

        model = self.classifier  # trained, if it must be, outside of the precision of inference
        with inference(self.profile, self.device):
            return attention_rollout(model, self.images)


def of_split(
    profile: Profile, split: str, seed: int, device: str, generator: torch.Generator, flipped: bool = False
) -> Images:
    """The images of a split, or the mirrored ones."""
    data = load_data(profile, split)
    source = functools.cache(lambda: pipeline.token_source(profile, split, device))

    def flip(rows: Tensor) -> Tensor | None:
        return torch.ones(len(rows), dtype=torch.bool) if flipped else None

    return Images(profile, seed, device, len(data), generator,
                  pixels=lambda rows: data.batch(rows, flip(rows))[0],
                  tokens=lambda rows: source()(rows, flip(rows)),
                  by=lambda score: pipeline.rankings(profile, split, seed, by=score, device=device, flipped=flipped, compact=True))  # fmt: skip


def ranking_of(
    profile: str | Profile, split: str, order: str | Tensor | Callable = "collapse", seed: int = 0, device: str = "auto",
    flipped: bool = False, compact: bool = False,
) -> Tensor:  # fmt: skip
    """An order for every image of a split: LongTensor (n, N), `[i, 0]` the patch of image i seen first.

    order: a registered name, a ranking, or a function of a `Batch`. flipped: of the mirrored images. compact: in as few
    bytes as hold it. Raises ValueError for an unknown name, and for what is no permutation for each image.
    """
    profile, device, order = get_profile(profile), pipeline.resolve_device(device), as_order(order)

    def compute(_: Path | None = None):
        images = of_split(profile, split, seed, device, seeded(seed, 50), flipped)
        return {"order": images.ranked(order, torch.arange(images.total))}, None

    if profile.data.fold is not None and (order.stored or order.looks):  # an image is in another split of every fold
        whole = ranking_of(in_fold(profile, None), "pool", order, seed, device, flipped, compact=True)[pipeline.rows_of(profile, split)]
        return whole if compact else whole.long()
    if order.stored or split == "pool":
        config = pipeline.order_config(profile, order, seed) | pipeline.images_config(profile)
        config |= {"classifier": as_dict(profile.classifier)} if order.needs == "classifier" else {}
        config |= {"seed": seed, "split": split, "flipped": flipped}
        found = load_or_compute("order", versioned("order", order.version, config), compute).tensors["order"]
    else:
        found = compute()[0]["order"]
    return found if compact else found.long()


class Fixed(Order):
    """The ranking of a split by an order that is not registered, named after its hash, under which results are stored."""


def fixed(profile: Profile, split: str, order: str | Tensor | Callable, seed: int, device: str) -> Order:
    """A registered order as it is; any other one as its ranking of a split."""
    order = as_order(order)
    if isinstance(order, Fixed) or registered().get(order.name) is order:
        return order
    found = ranking_of(profile, split, order, seed, device, compact=True)
    name = f"{order.name} {hashlib.sha256(found.contiguous().numpy().tobytes()).hexdigest()[:12]}"
    return Fixed(name, lambda batch: found[batch.rows].long(), needs="nothing", mirror=order.mirror)


def sample_orders(
    profile: str | Profile, split: str, count: int, seed: int = 0, device: str = "auto"
) -> dict[str, Tensor]:
    """Every registered order of `pipeline.sample(profile, split, count)`, by name, each (count, N): but those that need a
    classifier, and those that are conditional on what has been seen, which come later in the course."""
    profile, device = get_profile(profile), pipeline.resolve_device(device)
    images = of_split(profile, split, seed, device, seeded(seed, 40))
    chosen = pipeline.selection(load_data(profile, split), count)
    asked = {name: o for name, o in registered().items() if o.needs != "classifier" and o.settings != "looking"}
    return {name: ranking_of(profile, split, o, seed, device)[chosen] if o.stored else images.ranked(o, chosen).long()
            for name, o in asked.items()}  # fmt: skip


def shared_order(profile: Profile, name: str, seed: int, device: str) -> Tensor:
    """A registered order that is one for all images, (N,)."""
    nothing = Images(profile, seed, device, 1, seeded(seed, 50), lambda rows: torch.empty(0))
    return nothing.ranked(get(name), torch.arange(1))[0].long()


def prepare(profile: Profile, orders: list[Order], seed: int, device: str, splits: tuple[str, ...] = ()) -> None:
    """Train first what these orders need, and rank these splits if they need the orders by the profile's graph."""
    needs = {order.needs for order in orders}
    if "comae" in needs:
        pipeline.exact_graph(profile, seed, device)
        for split in splits:
            for flipped in (False, True)[: 1 + (split == "train" and profile.data.hflip)]:
                pipeline.rankings(profile, split, seed, device=device, flipped=flipped)
    if "classifier" in needs:
        vit(profile, seed, device)
    if needs & {"predictor", "measured"}:
        pipeline.predictor(profile, seed, device)
