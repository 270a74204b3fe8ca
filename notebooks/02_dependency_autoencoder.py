# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · The dependency autoencoder
#
# > *Which patches does a patch rely on? Let a network choose what it needs to reconstruct it, under noise.*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/cop/blob/main/notebooks/02_dependency_autoencoder.ipynb)
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/YOUR_ACCOUNT/cop/main?labpath=notebooks/02_dependency_autoencoder.ipynb)
#
# | | |
# |---|---|
# | **Paper** | Sections 3.1, 4.1 and 8, Eqs. 2–7, Figs. 6 and 10, Table 1 of [*The Collapse of Patches*](https://arxiv.org/abs/2511.22281) |
# | **Time** | to read: 45 minutes; to run: about a minute with the released artefacts, an hour and a half when the models are trained |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | [1 · Patch entropy](01_patch_entropy.ipynb) |
# | **Next** | [3 · The collapse order](03_collapse_order.ipynb) |
#
# **You will see** the CoMAE encoder pick patches for a target, its decoder reconstruct the target from the noised
# picks, the masks while they train, and whether the contrastive term does what Table 1 says. Text in quotation marks is the
# paper's; the rest is ours.
#
# **After this you can** compute the mask, the noise, the reconstruction and the loss of one target by yourself, Eqs. 2 to 7; test whether
# a mask informs by the patches that it picks or by itself; and say what a reconstruction loss is worth, beside reconstructions that need
# no network.
#
# **You need to know** masked autoencoders ([the paper](https://arxiv.org/abs/2111.06377),
# [the library's pages](https://huggingface.co/docs/transformers/model_doc/vit_mae)), attention
# ([in pictures](https://jalammar.github.io/illustrated-transformer/), [line by line](https://nlp.seas.harvard.edu/annotated-transformer/))
# and ridge regression ([a chapter](https://d2l.ai/chapter_linear-regression/weight-decay.html),
# [the library's pages](https://scikit-learn.org/stable/modules/linear_model.html#ridge-regression-and-classification)). Entropy and nats
# are those of [notebook 1](01_patch_entropy.ipynb). Terms are explained where they first occur, and in the
# [glossary](../book/glossary.md).

# %% tags=["colab"]
import sys

if "google.colab" in sys.modules:  # a clean runtime: fetch and install
    url = "https://github.com/YOUR_ACCOUNT/cop.git"
    run = get_ipython().system
    run(f"git clone -q --depth 1 {url} /content/cop")
    run(f"{sys.executable} -m pip install -q -e /content/cop")
    sys.path.insert(0, "/content/cop")

# %% tags=["parameters"]
profile: str = "demo"  # smoke | demo | natural | paper
seed: int = 0  # seed of weights, batches, targets and noise
images: int = 200  # validation images for the statistics
device: str = "auto"  # auto | cpu | cuda

# %%
import math

import pandas as pd
import torch

from cop.lessons import dependency_autoencoder as lesson
from cop.lessons import exercises, pipeline
from cop.paper import comae, reconstruction

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(profile, seed, images=images, device=device)
sample = pipeline.sample(config, "val", images, device)
model, artefact = pipeline.comae(config, seed, device)
history, c = artefact.history, config.comae
N, G = config.num_tokens, config.grid
each = f"{c.targets_per_image} targets"
f"{c.steps} steps of {c.batch_size} images with {each} each"

# %% [markdown] tags=["slide"]
# ## The result first
#
# From the records of all seeds, with the mean over seeds and its 95 % interval. The loss is the absolute error of a patch, summed over
# its values:

# %% tags=["slide"]
lesson.in_short(out)

# %% [markdown]
# ## The model
#
# A [masked autoencoder](../book/glossary.md#masked-autoencoder) learns by reconstructing patches that it does not see. This one has to
# choose, for each patch that it is to reconstruct (the *target*), which of the others it wants to see. For a target patch $n$ the
# encoder $f$ sees every patch **but** the target:
#
# > $$w_n=f\left(\{e_i\}_{i\ne n};q_n\right)\in[0,1]^N\qquad(2)$$
#
# The call is `model.weights`. $e_i$ is the [token](../book/glossary.md#token) of patch $i$, and the vector $w_n$ is called the *mask* of
# target $n$: $w_n^i$ says how much of patch $i$ it wants. Both halves of the network are transformers with
# [attention](../book/glossary.md#attention). They read their answer at one extra token, the [class token](../book/glossary.md#class-token)
# of other networks, and know the places of the patches by [RoPE](../book/glossary.md#rope). The target is dropped from the sequence, so
# no gradient can reach its content. Its place is known through the learned $q_n$ on the read-out token. The paper's tanh does not stay
# in $[0,1]$; we use $(1+\tanh)/2$.

# %%
lesson.fig10(out, config, model)

# %% [markdown]
# If the target could be seen, copying it would be the best answer. That it cannot is tested by the gradient of $w_n$ and of the
# reconstruction with respect to the target.
#
# <details><summary>Predict before you run: what has the gradient to be at the target, and why is "very small" not enough?</summary>
#
# Exactly 0: the target is not in the sequence, so the output is no function of it. A small gradient would be a leak that training
# could widen.
#
# </details>

# %%
x = sample.tokens[:1].clone().requires_grad_()
target = torch.tensor([[N // 2 + G // 2]])
w = model.weights(x, target)
draws = pipeline.seeded(seed, 1)
noise = torch.randn(1, 1, *x.shape[1:], generator=draws)
guess = model.reconstruct(x, target, w, noise)
(w.sum() + guess.sum()).backward()
to_target = x.grad[0, target.item()].abs().sum()
to_others = "some" if x.grad.abs().sum() > 0 else "none"
print(f"gradient that reaches the target: {to_target:.1f}; ", end="")
print(f"that reaches the other patches: {to_others}")

# %% [markdown]
# ## The noise
#
# Patches with a small weight drown in noise before the decoder $g$ reconstructs the target from what is left:
#
# > $$e^m_i=\alpha_i e_i+(1-\alpha_i)\,\mathcal N(0,I)\quad(3)\qquad
# > \alpha_i=\exp\left(-\frac{(1-w_n^i)^2}{2\sigma^2}\right)\quad(4)\qquad
# > e^*_n=g\left(\{e^m_i\}_{i\ne n};q_n\right)\quad(5)$$
#
# The calls are `model.noised` for Eq. 3, `model.alpha` for Eq. 4 and `model.reconstruct` for Eq. 5. $\sigma$ is not given. What a weight
# keeps of the signal with ours:

# %%
weight = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
", ".join(f"alpha({v:.2f}) = {model.alpha(v):.3f}" for v in weight)

# %% [markdown] tags=["slide"]
# ## By hand, once
#
# One target in the middle of a real image. **Its mask, Eq. 2:** the encoder's trunk returns the read-out token, a linear map makes $N$
# numbers of it, and $(1+\tanh)/2$ puts them between 0 and 1. A target has no weight on itself.

# %% tags=["slide"]
small, _ = pipeline.comae(config, seed, "cpu")  # the same weights
small.requires_grad_(False)
e, n = sample.tokens[:1].cpu(), target[0]  # (1, N, C), (1,)
readout = small.encoder["trunk"](e, n)  # (1, D): n is dropped in here
w = (1 + torch.tanh(small.encoder["to_weights"](readout))) / 2  # Eq. 2
w[0, n] = 0
assert w.allclose(small.weights(e, n[None])[0], atol=1e-5)

# %% [markdown] tags=["slide"]
# **Noise, reconstruction and loss, Eqs. 3 to 5:** of a patch with weight $w$ the share $\alpha$ is left, the rest is noise. The decoder
# reads all of them but the target, and $L_r$ is the sum of the absolute errors of the target's values. The table has the target's
# neighbourhood, nine patches with the target in the middle.

# %% tags=["slide"]
draws = pipeline.seeded(seed, 5)
noise = torch.randn(1, 1, *e.shape[1:], generator=draws)  # (1, 1, N, C)
alpha = torch.exp(-((1 - w) ** 2) / (2 * c.sigma**2))  # Eq. 4, (1, N)
kept = alpha[..., None]
mixed = kept * e + (1 - kept) * noise[0]  # Eq. 3, (1, N, C)
guess = small.decoder["head"](small.decoder["trunk"](mixed, n))  # Eq. 5
L_r = (e[:, n] - guess).abs().sum()
found = small(e, n[None], noise)
assert mixed.allclose(small.noised(e, w[None], noise)[0])
assert torch.isclose(L_r, found["reconstruction"], rtol=1e-4)

# %% tags=["slide"]
step = torch.tensor([-1, 0, 1])
nine = (n + G * step[:, None] + step).flatten()
table = {"patch": nine, "w": w[0, nine], "alpha": alpha[0, nine]}
table |= {"mean of its token": e[0, nine].mean(-1)}
table |= {"after the noise": mixed[0, nine].mean(-1)}
where = ["above left", "above", "above right", "left", "target", "right"]
where += ["below left", "below", "below right"]
print(f"L_r = {L_r:.2f}; of {N - 1} patches {alpha.sum():.1f} are kept")
pd.DataFrame(table, where).round(2)

# %% [markdown] tags=["slide"]
# The row of the target shows what the decoder would get in its place; it is dropped and never read. One
# target says little about a loss; the mean over many stands in Table 1 below.

# %% [markdown] tags=["slide"]
# > **In short.** The encoder chooses without seeing the target, noise hides what it did not choose, and the decoder reconstructs the
# > target from what is left.

# %% [markdown]
# ## What the masks look like
#
# Three targets for each of four validation images (the first four of the sample). Bright patches are the ones that
# the encoder lets through; the target is framed and stands beside its reconstruction.

# %% tags=["slide"]
four = sample.tokens[:4]
rows = torch.tensor([G // 4, G // 2, 3 * G // 4])
columns = torch.tensor([G // 2, G // 3, 2 * G // 3])
targets = (G * rows + columns).expand(len(four), -1)
shape = *targets.shape, *four.shape[1:]
noise = torch.randn(shape, generator=pipeline.seeded(seed, 2))
with torch.no_grad():
    w = model.weights(four, targets)
    guess = model.reconstruct(four, targets, w, noise)
tokens = pipeline.tokenizer(config, device)
patches = pipeline.target_patches(tokens, four, targets, guess)
lesson.masks(out, sample.images[:4], targets, w, patches)

# %% [markdown]
# **Move over targets.** In JupyterLab, Colab or Binder run the cell and click on a small square: it becomes the target, and the squares
# take the colours of its mask. The menu changes the image. Elsewhere the mask of the middle patch of the first image stands here.
#
# <details><summary>Predict before you run: how much changes in the mask when the target moves by one patch, and how much when the image
# changes and the target stays?</summary>
#
# If masks followed the picture, the image would matter most. Try both. The table below says it in numbers: it swaps masks between
# images.
#
# </details>

# %%
lesson.mask_map(config, model, sample, seed, device)

# %% [markdown]
# Do the *picks* inform the decoder, or does the encoder send a message through the pattern of the noise? Keep the noise
# and swap the masks or the patches under them. Sixteen targets in each validation image; differences are
# [paired](../book/glossary.md#paired-difference) over the images, with 95 % intervals, and p is corrected by
# [Holm's method](../book/glossary.md#holms-correction) for the rows of this table.
#
# <details><summary>Predict before you run: can it cost anything to show the decoder everything, w = 1?</summary>
#
# A decoder that makes the best of what it sees would only gain. Ours has never seen a whole image in training: its inputs were always
# noised by a mask of its own encoder. Whether the gain or the surprise is larger is in the table's second row.
#
# </details>

# %%
draws = pipeline.seeded(seed, 4)
swaps = reconstruction.mask_swaps(model, sample.tokens, draws)
lesson.swap_table(out, swaps)

# %% [markdown]
# A **message** in the pattern of the noise would show over the *mean image*, where there is nothing of this image to pick:
# its own mask would then cost less than the mean mask. The interval says how large a message could still be; that no difference
# is found does not prove that there is none. Where *another image's* mask costs little more than its own, picks depend on
# the target's place more than on the picture. And where everything shown costs *more* than the mask, the decoder is used
# to masks, and the loss is not a measure of what the patches hold.

# %% [markdown] tags=["slide"]
# > **In short.** A mask is read together with what it is laid over. Swapping either tells which of the two carries the information.

# %% [markdown]
# ## Training
#
# > "The patch reconstruction loss is simply $L_r=\lVert e_n-e^*_n\rVert_1$. We alternatively optimize $f$ and $g$ with
# > $L_r$ in a batch-wise manner."
#
# The contrastive term tells the targets of an image apart; its temperature is learned but clamped, because the
# positive pair is constant and $\tau\to0$ would switch the term off for free:
#
# > $$L_c=\frac1N\sum_i-\log\frac{\exp(\mathrm{sim}(w_i,w_i)/\tau)}{\sum_j\exp(\mathrm{sim}(w_i,w_j)/\tau)}\quad(6)\qquad
# > H_{mask}=-\frac1M\sum_m\sum_j w_j\log w_j\quad(7)$$
#
# The calls are `model.contrastive_loss` for Eq. 6 and `comae.mask_statistics` for Eq. 7, which is watched and not trained. What is
# minimised is $L=L_r+\lambda L_c$ with $\lambda=0.01$ (`model(...)["loss"]`).
#
# **By hand**, with three targets, one below the other. The similarity of two masks is the cosine of the angle between them; its
# diagonal is 1. Eq. 6 asks each mask to be more like itself than like the others. An entropy of weights that do not sum to 1, as in
# Eq. 7, is 0 where every weight is 0 or 1:

# %%
three = n + G * step[None]  # (1, 3)
w = small.weights(e, three)[0]  # (3, N)
unit = w / w.norm(dim=1, keepdim=True)
similar = unit @ unit.T  # (3, 3)
tau = small.encoder.log_tau.exp().clamp(min=c.tau_min)
L_c = -(similar / tau).log_softmax(1).diagonal().mean()  # Eq. 6
H_mask = -torch.xlogy(w, w).sum(1).mean()  # Eq. 7
draws = pipeline.seeded(seed, 6)
fresh = torch.randn(1, 3, *e.shape[1:], generator=draws)
found = small(e, three, fresh)
loss = found["reconstruction"] + c.contrastive_weight * L_c
assert torch.isclose(L_c, found["contrastive"], rtol=1e-3)
assert torch.isclose(H_mask, found["mask_entropy_raw"], rtol=1e-4)
assert torch.isclose(loss, found["loss"], rtol=1e-4)

# %%
print(f"tau = {tau:.3f}, L_c = {L_c:.3f}, H_mask = {H_mask:.2f}")
print(f"L = {found['reconstruction']:.3f} + {c.contrastive_weight} L_c")
patches = three[0].tolist()
pd.DataFrame(similar.numpy(), patches, patches).round(3)

# %% [markdown]
# What is a good $L_r$? Four reconstructions need no network: the mean token, the median of each position over the training
# images, the mean of the target's neighbours, and **[ridge regression](../book/glossary.md#ridge-regression)** of each patch on all others. The last one is what linear
# algebra makes of the other *clean* patches; CoMAE is not linear, but sees them under the noise of its masks. All of
# them are fitted on training images and reconstruct the same targets of the same validation images as CoMAE in Table 1.
#
# <details><summary>Predict before you run: can a linear method reconstruct better than a network that is trained for it?</summary>
#
# It can. Ridge regression sees the other patches clean and has its optimum in closed form; CoMAE sees them through noise and may not
# be trained to the end. The lines in the figure say which of the two is ahead here.
#
# </details>

# %% tags=["slide"]
train = pipeline.sample_tokens(config, "train", 20_000, device)
fitted = reconstruction.baselines(c, G, train)


def measured(model):
    """Losses on the same targets of the same validation images."""
    draws = pipeline.seeded(seed, 3)
    return reconstruction.evaluate(model, sample.tokens, draws)


trivial = {k: measured(b)["reconstruction"] for k, b in fitted.items()}
lesson.fig6(out, history, trivial)

# %% [markdown]
# The paper shows the last 140 of 512 epochs, where both curves move in the fourth digit. Ours is the whole of a
# run. Do the masks **polarise**, as "w polarizes to 0 and 1" says?

# %%
A = model.dependencies(sample.tokens)
lesson.polarisation(out, history, A)

# %% [markdown]
# ## Table 1: is the contrastive term what makes it work?
#
# Same seed, same batches, same number of steps; only the weight of $L_c$ differs. Of clothes both are trainings as short as those
# that are compared further below, and *trained* is the CoMAE above. Both are measured on validation images. Eq. 7 as printed is low for $w\equiv1$ too, so the headline is the entropy of $w/\sum w$. The reconstructions
# without a network give the scale of $L_r$.

# %% tags=["slide"]
pair = {"without": "no contrastive term", "with": "as printed"}
pair = {k: lesson.of_table_1(config, v) for k, v in pair.items()}
rows = {
    k: measured(pipeline.comae(p, seed, device)[0]) for k, p in pair.items()
} | {"trained": measured(model)}
lesson.tab1(out, rows, trivial)

# %% [markdown] tags=["slide"]
# > **In short.** A loss means something beside what needs no network. A difference between two trainings means something where all
# > seeds share it.

# %% [markdown]
# ## Is the order arbitrary because we trained too little?
#
# Notebook 3 asks whether CoMAEs of two seeds order the same image alike. Where they do not, was the
# training too short? Here is the objective as printed, trained until it reconstructs **better than ridge regression**, with three
# seeds and a look at the same validation images on the way. *Agreement* is the correlation between what two seeds make of one image. Most of a raw
# correlation comes from the mean graph (or the mean order) of all images; what counts is the agreement that is left when
# the mean is taken out.

# %% tags=["slide"]
lesson.on_the_way(out, config, trivial["ridge regression"], device)

# %% [markdown]
# Is that the end of the training? A longer schedule is a training of its own, with its own decay of the learning rate:

# %%
lesson.doubling(out, config, device)

# %% [markdown]
# The title of the figure says how the loss ends and what two seeds then share of the *same image*. Where the loss has passed ridge
# regression and their own part is still near 0, more steps are not what is missing: the objective leaves the order open, for two
# reasons. Eqs. 3 and 4 are the information bottleneck for attribution (Schulz et
# al., *Restricting the Flow*, ICLR 2020) **without its information term**: nothing charges for $w=1$, so which patches are
# selected is not asked for. And the decoder only ever sees the masks of its own encoder: the pair may settle on **any code**
# that works. Both can be changed, one at a time, with the same number of steps and three seeds each. So can what the paper leaves
# open: $\sigma$ of Eq. 4, the range of tanh, weight and scope of the contrastive term.

# %%
changes = lesson.changes_of(config, device)
lesson.objectives(out, changes)

# %%
both = lesson.seeds_of_the_measured_graph(config, device)
lesson.own_part(out, changes, both)

# %% [markdown]
# Every row is a different answer to the question which patches a patch relies on. Compare the columns: how much of a graph is
# the image's own, and how far two seeds agree on that part. Were one of the changes the remedy, its point would stand at the upper
# right. If chance is what divides the seeds, their mean should know more of a seed than one of them does:

# %%
lesson.mean_of_seeds(out, changes)

# %% [markdown]
# One reason for the difference can be seen directly. Ask the decoder of any mask for the best small
# set of patches to reconstruct a target from; then for the best one among the patches that are left, and so on:

# %%
lesson.redundancy(out, config, device)

# %% [markdown]
# The search knows the target, so its sets may beat everything shown. As far as sets that have **no patch in common** give away much
# the same, a *selection* among them is a matter of chance; the *influence* of one patch on another is not. Notebook 3 measures that
# influence.

# %% [markdown] tags=["slide"]
# > **In short.** A low loss does not pin down the masks. Where two trainings agree in loss and not in what they rely on, an order made
# > of one of them describes that training.

# %% [markdown]
# ## Paper vs ours
#
# The absolute numbers cannot be compared: other tokens, other N, another training length. The *direction* can. Read a row as
# a finding only where the seeds on record agree.
#
# - **C1** is *yes* only where nearly all weights end near 0 or 1; where many lie between, masks polarise *partly*. A mask
#   entropy near its maximum, or one that rises again after its lowest point, is no choice of a few patches either.
# - **C2** holds where the contrastive term lowers both losses with every seed, by more than seeds differ. $L_c$ is worth a look
#   in the row without it, too: where it falls without being optimised, targets tell their masks apart because it helps to
#   reconstruct them, and a gap as large as the paper's must have another source.
# - **How good is $L_r$?** To be below the neighbours' mean is easy. As long as ridge regression is below CoMAE, this training
#   has not learned what is linear in the other patches, and what its masks rely on may have more to do with the training
#   than with the image.

# %%
lesson.verdicts(out, history, rows, trivial, N)

# %% [markdown]
# **What would change our mind.** On C2: a contrastive term that lowers both losses with every one of five seeds or more, by more than
# seeds differ. On the order being arbitrary: two seeds of the printed objective, trained past ridge regression, whose orders of the same
# image still agree when the mean order is taken out.
#
# **Recap.** Answer before you unfold.
#
# <details><summary>1. Why does the target have to be dropped, and not only hidden by noise?</summary>
#
# Noise hides most of a patch and not all of it. Whatever is left would be the best hint there is, and the mask would learn to keep it.
#
# </details>
# <details><summary>2. What in the printed objective asks for a mask of few patches?</summary>
#
# Nothing: showing more costs nothing in Eqs. 2 to 6. The contrastive term asks that masks of different targets differ.
#
# </details>
# <details><summary>3. Two trainings have the same loss and different masks. Which of them is right?</summary>
#
# Neither: many sets of patches reconstruct a target equally well, and the loss does not choose among them.
#
# </details>
#
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. (Five minutes.) Tokens have variance 1, and so has the noise. What variance has a value after Eq. 3 where $w=0.75$?

# %% tags=["exercise"]
answer = ...
alpha = model.alpha(torch.tensor(0.75)).item()
truth = alpha**2 + (1 - alpha) ** 2
usual = {
    "the factors of independent parts are squared": 1.0,
    "the noise has a variance, too": alpha**2,
    "that is the standard deviation": truth**0.5,
    "the factor of the patch is alpha, not w": 0.75**2 + 0.25**2,
}
exercises.check(answer, truth, 1e-4, hints=usual)

# %% tags=["solution"]
kept = math.exp(-((1 - 0.75) ** 2) / (2 * c.sigma**2))
answer = kept**2 + (1 - kept) ** 2
exercises.check(answer, truth, 1e-4, hints=usual)

# %% [markdown]
# 2. (Ten minutes.) Eq. 4 at $w=0$ should leave almost nothing of a patch. For which $\sigma$ does one per cent survive? Two digits will
#    do.

# %% tags=["exercise"]
answer = ...


def truth(sigma):
    return abs(math.exp(-1 / (2 * float(sigma) ** 2)) - 0.01) < 1e-3


usual = {
    "that is its square": 1 / (2 * math.log(100)),
    "the logarithm is the natural one": 0.5,
    "the 2 of the denominator is missing": math.log(100) ** -0.5,
    "99 % survive": (-1 / (2 * math.log(0.99))) ** 0.5,
}
exercises.check(answer, truth, 5e-3, hints=usual)

# %% tags=["solution"]
answer = (1 / (2 * torch.tensor(100.0).log())) ** 0.5
exercises.check(answer, truth, 5e-3, hints=usual)

# %% [markdown]
# 3. (A quarter of an hour.) What is the largest mask entropy there can be, that of a mask that lets all patches but the target through
#    alike?

# %% tags=["exercise"]
answer = ...
# one such mask for every target
alike = 1 - torch.eye(N)[None], torch.arange(N)[None]
truth = comae.mask_statistics(*alike)["mask_entropy"]
usual = {
    "the target itself is not among them": math.log(N),
    "Eq. 7 as printed; first divide w by its sum": 0.0,
    "nats have the natural logarithm": math.log2(N - 1),
    "that is the number of patches": N - 1,
}
exercises.check(answer, truth, 1e-4, hints=usual)

# %% tags=["solution"]
answer = torch.tensor(N - 1.0).log()
exercises.check(answer, truth, 1e-4, hints=usual)

# %% [markdown]
# 4. (An hour, without a check.) Train with `contrastive_scope="batch"` (`pipeline.replace` as above). Do targets of different images
#    separate? The row *contrastive over the batch* of the table of changed objectives has what to expect of the loss, the image's share
#    and the agreement of two seeds.
#
# ## References
#
# The paper: Guo et al., *The Collapse of Patches*, arXiv 2511.22281. Further reading:
#
# - He et al., [*Masked Autoencoders Are Scalable Vision Learners*](https://arxiv.org/abs/2111.06377), CVPR 2022: reconstruction from
#   random masks, which CoMAE replaces by chosen ones.
# - Schulz et al., [*Restricting the Flow*](https://arxiv.org/abs/2001.00396), ICLR 2020: noise as a price on information, with the term
#   that Eqs. 3 and 4 leave out.
# - Su et al., [*RoFormer*](https://arxiv.org/abs/2104.09864), Neurocomputing 2024: the positions that both halves of the network use.
# - van den Oord, Li and Vinyals, [*Representation Learning with Contrastive Predictive Coding*](https://arxiv.org/abs/1807.03748), 2018:
#   the loss that Eq. 6 is a case of.
# - [*TNT*](https://arxiv.org/abs/2411.18092), 2024: the nearest earlier use of a token's relevance as additive noise.
