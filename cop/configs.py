"""The numbers of a profile: dataclasses whose fields say why they exist and what the paper uses.

What the paper leaves open is marked *open* with our reason. A field marked `optional` stands in hashes only where it differs from
its default.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field

FOLDS = 5  # parts that all images of a few classes are cross-validated in: each is the test split once


@dataclass(frozen=True)
class DataConfig:
    """Which images. Paper: ImageNet-1k, centre crop to 256 x 256, horizontal flip in training."""

    name: str = "fashion-subset"  # embedded, no download; paper: imagenet
    root: str | None = None  # folder or zip for data that is not embedded; paper: the ImageNet folder
    image_size: int = 32  # 28 px padded to 32 = 8 x 8 patches of 4 px; paper: 256
    channels: int = 1  # Fashion-MNIST is grey; paper: 3
    num_classes: int = 10  # paper: 1000
    limit: int | None = None  # images per split, for smoke tests; paper: all
    hflip: bool = False  # every embedded shoe points the same way, so a flip leaves the data; paper: True
    class_step: int | None = field(default=None, metadata={"optional": True})  # every so-manyth class only; paper: all
    without_step: int | None = field(default=None, metadata={"optional": True})  # all but every so-manyth class, where class_step is None; paper: all
    per_class: int | None = field(default=None, metadata={"optional": True})  # first training images of each class, before the split; paper: all
    fold: int | None = field(default=None, metadata={"optional": True})  # of FOLDS parts of all images the one that is the test split; paper: none

    @property
    def classes(self) -> int:
        """How many classes are in use."""
        if self.without_step and not self.class_step:
            return self.num_classes - len(range(0, self.num_classes, self.without_step))
        return len(range(0, self.num_classes, self.class_step or 1))


@dataclass(frozen=True)
class TokenConfig:
    """What a patch is. Paper: KL-16 latents, 16 x 16 positions of 16 channels, scaled by 0.2325 to unit std."""

    kind: str = "raw"  # raw | pca | components | kl16; paper: kl16 (needs the autoencoder's weights)
    patch_size: int = 4  # 4 px on 32 px gives 64 tokens; paper: 16 px of a 256 px image per latent
    dim: int = 16  # values per token: 4 x 4 x 1 raw; paper: 16 channels


@dataclass(frozen=True)
class CoMAEConfig:
    """The collapse masked autoencoder, Eqs. 2-7. What the paper leaves open is in the table of book/decisions.md."""

    enc_dim: int = 64  # paper: 64 in section 4, 256 in section 8; we follow section 8 at paper scale
    enc_depth: int = 2  # paper: 12 blocks; ranking needs N encoder passes per image
    enc_heads: int = 4  # *open*: head dimension must divide by 4 for 2-D RoPE
    dec_dim: int = 64  # paper: 256 in section 4, 64 in section 8
    dec_depth: int = 2  # paper: 12 blocks
    dec_heads: int = 4  # *open*
    mlp_ratio: float = 4.0  # *open*: ViT's own ratio
    head_depth: int = 4  # residual MLP layers after the decoder; paper: 4
    weight_act: str = "shifted_tanh"  # (1 + tanh) / 2; *open*: the paper's bare tanh does not stay in [0, 1]
    sigma: float = 0.3  # Eq. 4 steepness; *open*: .3 makes alpha(0) = .004, alpha(.5) = .25
    noise: str = "literal"  # Eq. 3 as printed; "variance_preserving" keeps unit variance
    targets_per_image: int = 4  # *open*: all N targets of a batch are N encoder passes, so some are drawn
    contrastive_weight: float = 0.01  # paper: 0.01
    contrastive_scope: str = "image"  # negatives within the image (Eq. 6) or across the "batch"; *open*
    tau_init: float = 0.1  # learnable temperature; *open*
    tau_min: float = 0.05  # clamp: with a constant positive pair, tau -> 0 would switch Eq. 6 off for free
    sparsity_weight: float = 0.0  # nothing in the paper stops w = 1 everywhere; an optional L1 budget on w
    steps: int = 1400  # paper: 512 epochs of ImageNet-1k; about three minutes on two cores
    batch_size: int = 16  # *open*; lower validation loss than 32 images for half as many steps
    lr: float = 1.5e-3  # paper: 1e-4 for a far longer run
    warmup: float = 0.05  # *open*: share of the steps with linear warm-up
    weight_decay: float = 0.05  # *open*: AdamW
    betas: tuple[float, float] = (0.9, 0.95)  # *open*: as MAE
    grad_clip: float = 1.0  # *open*
    objective: str = field(default="printed", metadata={"optional": True})  # of cop.paper.comae.OBJECTIVES; paper: L_r + lambda L_c
    budget: float | None = field(default=None, metadata={"optional": True})  # share of the others that a target may rely on; paper: none
    optimizer: str = field(default="adamw", metadata={"optional": True})  # "muon": half the seconds to the same L_r; paper: AdamW
    watched: tuple[int, ...] = field(default=(), metadata={"optional": True})  # steps at which L_r, graphs and orders are kept
    any_mask: float | None = field(default=None, metadata={"optional": True})  # share of the decoder's steps with random masks; paper: 0


@dataclass(frozen=True)
class RankingConfig:
    """PageRank on the dependency graph, Eq. 15."""

    damping: float = 0.85  # *open*: PageRank's usual value
    orientation: str = "relied_upon"  # row-normalise, then transpose (prose, Fig. 2); "literal" = section 6
    chunk_bytes: int = 64 << 20  # memory bound of one chunk of encoder passes
    graph: str = field(default="comae", metadata={"optional": True})  # whose: "comae", as in the paper | "measured", ours


@dataclass(frozen=True)
class PredictorConfig:
    """Ours: masked tokens -> mean and scale, the learned side of Eq. 1."""

    dim: int = 64  # small: it is an instrument, not a contribution; the paper has no such model
    depth: int = 3
    heads: int = 4
    steps: int = 800  # about two minutes on two cores
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    grad_clip: float = 1.0
    floor: float = 0.05  # observation noise in units of a token's std: what one cares to know of a patch, no finer


@dataclass(frozen=True)
class ClassifierConfig:
    """The ViT of section 3.4. Paper: ViT-B/16, ImageNet-21k weights, 3 epochs."""

    dim: int = 96  # paper: 768
    depth: int = 4  # paper: 12
    heads: int = 4  # paper: 12
    steps: int = 800  # paper: 3 epochs of ImageNet-1k
    batch_size: int = 64  # *open* in the paper; notebook 5 trains seven of these
    lr: float = 1e-3  # paper: 1e-4 from pretrained weights; ours start from scratch
    weight_decay: float = 0.05
    warmup: float = 0.05
    grad_clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    ema: float = 0.995  # paper: 0.9999 over a far longer run
    ema_warmup: bool = True  # from scratch the decay rises to `ema`; never when training starts from given weights, as in the paper
    pretrained: str | None = field(default=None, metadata={"optional": True})  # of cop.weights; paper: ImageNet-21k
    class_step: int | None = field(default=None, metadata={"optional": True})  # classify and rank every so-manyth class; paper: all
    folds: bool = field(default=False, metadata={"optional": True})  # cross-validated, in FOLDS parts; paper: no
    rate: float | None = field(default=None, metadata={"optional": True})  # the only mask rate of the training; paper: a schedule of rates
    optimizer: str = field(default="adamw", metadata={"optional": True})  # "muon": fewer seconds to the same loss; paper: *open*


@dataclass(frozen=True)
class BaseConfig:
    """The ViT that all systems are fine-tuned from, trained on whole images. Paper: ViT-B/16, ImageNet-21k weights."""

    steps: int = 0  # 0: none, every system starts from random or from `classifier.pretrained` weights
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    grad_clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    ema: float = 0.999  # paper: *open*
    optimizer: str = "muon"
    crop: float = 0.35  # least share of the area of a random crop, which is scaled to the image size; 1: no crops
    mixup: float = 0.2  # of Beta(mixup, mixup), the share of a second image; 0: none
    smoothing: float = 0.1  # of labels
    masked: float = 0.5  # share of steps with a random 40 of 64 patches: cheaper, and it has met missing patches; paper: *open*, likely 0
    masked_rate: float = 0.375  # of these steps
    pool: bool = True  # learns from the test images too, where they are not of the classes that are judged


@dataclass(frozen=True)
class GenerationConfig:
    """MAR, what it is fine-tuned on, and how images are drawn (sections 3.3, 4.2, 4.3). Paper: MAR-B."""

    dim: int = 80  # width of encoder and decoder; four models of .6 M weights fit the release; paper: 768
    depth: int = 2  # blocks of the encoder, and of the decoder; paper: 12 each
    heads: int = 5  # paper: 12
    buffer_size: int = 4  # copies of the class embedding before the tokens; paper: 64
    diffloss_depth: int = 2  # layers of the diffusion MLP; paper: 6
    diffloss_width: int = 128  # paper: 1024
    diffusion_batch_mul: int = 2  # timesteps drawn per hidden token and step; paper: 4
    dropout: float = 0.0  # a run this short cannot overfit; paper: .1
    label_drop: float = 0.1  # share of images trained without class, for guidance; paper: .1
    checkpoint: str | None = None  # official weights instead of base training; paper: those released with MAR
    checkpoint_classes: tuple[int, ...] | None = field(default=None, metadata={"optional": True})  # the data's classes among those of the weights; paper: all
    steps: int = 3000  # base training, random orders; 0: no generator here; paper: 800 epochs, done by MAR's authors
    batch_size: int = 32  # paper: 32 in fine-tuning
    lr: float = 2e-3  # paper: 8e-4 in MAR's own training
    fine_tune_steps: int = 500  # a sixth of the base; paper: 24,000, less than one epoch after MAR's 800
    fine_tune_batch_size: int | None = field(default=None, metadata={"optional": True})  # None: as the base; paper: 32
    fine_tune_lr: float = 5e-4  # paper: 1e-7, which in a short run would change nothing at all
    random_share: float = 0.1  # fine-tuning images that get a random order; paper: .1
    rankings: int | None = 2000  # training images that have an order: fine-tuning and the bank use these; paper: all
    val_rankings: int | None = 500  # the same for the bank of validation images; paper: no such bank
    weight_decay: float = 0.02  # *open* in the paper; MAR: .02
    warmup: float = 0.1  # share of the steps with linear warm-up, then cosine to 0; paper: .1
    grad_clip: float = 3.0  # *open* in the paper; MAR: 3
    betas: tuple[float, float] = (0.9, 0.95)  # as MAR
    ema: float = 0.995  # decay; paper: .99999 over a far longer run
    ema_warmup: bool = True  # of base training; fine-tuning starts from given weights and has the decay from its first step
    num_iter: int = 16  # steps of a generation, so 4 tokens a step; paper: *open*, 256 fits its numbers
    num_sampling_steps: int = 25  # of the diffusion of one token; paper: *open*, 100 in MAR
    clip: tuple[float, float] | None = (-0.67, 2.35)  # range of the tokens' values, black to white; paper: none
    temperature: float = 0.95  # without guidance; paper: *open*, as MAR
    cfg_temperature: float = field(default=1.0, metadata={"optional": True})  # with guidance; paper: *open*, 1 as MAR
    cfg_scale: float = 2.0  # guidance in the comparison; paper: 3.0, and 2.9 for MAR
    cfg_sweep: tuple[float, ...] = (1.5, 2.0, 3.0)  # Table 3; paper: 2.9, 3.0, 3.1
    count: int = 500  # images per system for the metrics; paper: 50,000
    features: str | None = field(default=None, metadata={"optional": True})  # of the metrics; None: RViT's; paper: "inception"
    optimizer: str = field(default="adamw", metadata={"optional": True})  # of base training; fine-tuning has AdamW as the paper


@dataclass(frozen=True)
class ScaleConfig:
    """How a training is spread over memory and processes. Only what `scale_config` names can change a result."""

    micro_batches: int = 1  # equal parts of every batch, divided over processes; more than 1 draws other random numbers
    mixed_precision: str = "no"  # "bf16": autocast over float32 weights
    gradient_checkpointing: bool = False  # blocks are recomputed in the backward pass: less memory, a third more time
    compile: bool = False  # torch.compile of every block
    threads: int | None = 1  # of a training on a CPU: another number rounds sums differently and ends at another model; paper: GPUs


@dataclass(frozen=True)
class MeasuredConfig:
    """Ours: the graph that a predictor of masked tokens measures. `predictor` of the profile says which predictor."""

    unit: str = "scale"  # of uncertainty: predicted scale | nats of it | nats of the actual value
    alone: str = "seen"  # what j tells when it alone is seen | what is lost when it alone is hidden, N / 2 times as dear
    images: int = 3000  # training images with exact graphs, from which the one-pass ranker learns
    chunk_bytes: int = 16 << 20  # memory bound of the passes that run at once; 64 MiB are slower on a CPU


@dataclass(frozen=True)
class DistilledConfig:
    """How the networks that know a graph in one pass are trained."""

    steps: int = 3000
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    grad_clip: float = 1.0


@dataclass(frozen=True)
class OnePassConfig(DistilledConfig):
    """Ours: a network from one patch to what it tells all others, in the place of N passes of the predictor."""

    kind: str = "offsets_placed"  # places | offsets (any grid) | offsets_placed
    learn: str = "distil"  # from exact graphs | "likelihood" of every patch given one other
    loss: str = "l1"  # of the distillation: l1 | mse
    width: int = 128
    depth: int = 3  # hidden layers
    floor: float = 0.05  # of the likelihood, as the predictor's


@dataclass(frozen=True)
class GraphNetConfig(DistilledConfig):
    """Ours: attention over the patches predicts all edges of CoMAE's graph in one pass, with PageRank on top."""

    dim: int = 64
    depth: int = 1  # one round of messages: two blocks gain .004 of the order's agreement and halve the speed
    heads: int = 4
    order_weight: float = 0.1  # of the loss of PageRank's scores, beside that of the edges
    images: int = 3000  # training images with exact graphs


@dataclass(frozen=True)
class LookingConfig:
    """Ours: orders that are conditional on what has been seen (`cop.orders.looking`). Widths are in patches."""

    near: float = 1.0  # of the kernels of coverage: a patch tells of its neighbours and little of those behind them
    alike: float = 0.35  # of mean colours in [-1, 1]: .6 of their standard deviation in photographs, between .5 and .7 all is alike
    gamma: float = 0.5  # weights variance^gamma: 1 wins on clothes and 1/4 on photographs, 1/2 loses little on both
    width: float = 0.7  # of the kernel that sums doubt: nearly the patch alone, but an edge beside it counts
    per_step: int = 2  # patches chosen from one look: half the passes of one by one


@dataclass(frozen=True)
class Profile:
    """A named set of numbers. `replace(profile, ...)` from dataclasses makes a variant."""

    name: str
    data: DataConfig = field(default_factory=DataConfig)
    tokens: TokenConfig = field(default_factory=TokenConfig)
    comae: CoMAEConfig = field(default_factory=CoMAEConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    checkpoint_every: int = 200  # steps between atomic checkpoints of a training run
    measured: MeasuredConfig = field(default_factory=MeasuredConfig, metadata={"optional": True})
    onepass: OnePassConfig = field(default_factory=OnePassConfig, metadata={"optional": True})
    graphnet: GraphNetConfig = field(default_factory=GraphNetConfig, metadata={"optional": True})
    looking: LookingConfig = field(default_factory=LookingConfig, metadata={"optional": True})
    base: BaseConfig = field(default_factory=BaseConfig, metadata={"optional": True})

    @property
    def grid(self) -> int:
        """Patches per side of the image."""
        return self.data.image_size // self.tokens.patch_size

    @property
    def num_tokens(self) -> int:
        """N, the number of patches of an image. Paper: 256."""
        return self.grid**2


def scale_config(profile: Profile) -> dict:
    """The part of `profile.scale` that changes what a training computes, for hashes: settings other than the default, and threads."""
    changed = {k: getattr(profile.scale, k) for k in ("micro_batches", "mixed_precision")}
    changed = {k: v for k, v in changed.items() if v != getattr(ScaleConfig, k)}
    return {"scale": changed | {"threads": profile.scale.threads}}


def as_dict(config) -> dict:
    """A config as plain JSON-able data, for hashes and provenance. A field marked `optional` stands in it only when it
    differs from its default, so that adding one does not rename what is stored."""
    fields = dataclasses.fields(config)
    values = {f.name: getattr(config, f.name) for f in fields}
    default = {f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory() for f in fields}
    left_out = {f.name for f in fields if f.metadata.get("optional") and values[f.name] == default[f.name]}
    return {k: as_dict(v) if dataclasses.is_dataclass(v) else v for k, v in values.items() if k not in left_out}


def key(config: dict) -> str:
    """The first 12 hex digits of the SHA-256 of the configuration as canonical JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
