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
# # 1 · Patch entropy
#
# > *Some patches, once seen, make the others more certain. In which order should one look?*
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/YOUR_ACCOUNT/cop/blob/main/notebooks/01_patch_entropy.ipynb)
# [![Open in Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/YOUR_ACCOUNT/cop/main?labpath=notebooks/01_patch_entropy.ipynb)
#
# | | |
# |---|---|
# | **Paper** | Section 1, Eq. 1, section 6 and the arrow of Fig. 1 of [*The Collapse of Patches*](https://arxiv.org/abs/2511.22281) |
# | **Time** | to read: 40 minutes; to run: about a minute with the released artefacts, some minutes when everything is trained |
# | **Hardware** | a laptop; two cores are enough |
# | **Before** | nothing: start here |
# | **Next** | [2 · The dependency autoencoder](02_dependency_autoencoder.ipynb) |
#
# **You will see** why Eq. 1 as printed cannot prefer any order; what can be measured instead; how fast
# several orders remove uncertainty under a Gaussian model, where everything is exact, and under a learned one; and how
# certain a classifier becomes along the way. Text in quotation marks is the paper's; the rest is ours.
#
# **After this you can** compute the entropy of a patch, alone and given another one, and say what the chain rule does to Eq. 1; draw and
# summarise the curve of what is left after the first patches of an order; and tell an order that *informs* about the rest from one
# that only takes costly patches away.
#
# **You need to know** entropy ([an introduction](https://d2l.ai/chapter_appendix-mathematics-for-deep-learning/information-theory.html),
# [in pictures](https://colah.github.io/posts/2015-09-Visual-Information/)) and the conditional distributions of a Gaussian
# ([in pictures](https://distill.pub/2019/visual-exploration-gaussian-processes/),
# [the formulas](https://en.wikipedia.org/wiki/Multivariate_normal_distribution#Conditional_distributions)). For the learned model it
# helps to have met masked autoencoders ([the paper](https://arxiv.org/abs/2111.06377),
# [the library's pages](https://huggingface.co/docs/transformers/model_doc/vit_mae)) and attention
# ([in pictures](https://jalammar.github.io/illustrated-transformer/), [line by line](https://nlp.seas.harvard.edu/annotated-transformer/)).
# Terms are explained where they first occur, and in the [glossary](../book/glossary.md).

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
seed: int = 0  # seed of training and of the random orders
images: int = 200  # test images whose curves are averaged
gaussian_images: int = 20  # the same for the Gaussian model, which is slow
prefixes: int = 17  # points on the curves of the learned models
device: str = "auto"  # auto | cpu | cuda

# %%
import math

import pandas as pd
import torch

from cop import orders
from cop.lessons import exercises, pipeline
from cop.lessons import patch_entropy as lesson
from cop.paper import entropy

pd.options.display.max_colwidth = None  # whole sentences in tables

# %%
out, config = lesson.start(
    profile,
    seed,
    images=images,
    gaussian_images=gaussian_images,
    prefixes=prefixes,
    device=device,
)
sample = pipeline.sample(config, "test", images, device)
N, G, C = config.num_tokens, config.grid, config.tokens.dim
print(f"{len(sample.images)} test images, {G} × {G} patches each, ", end="")
print(f"{C} values per patch, unit standard deviation")

# %% [markdown] tags=["slide"]
# ## The result first
#
# From the records of all seeds, with the mean over seeds and its 95 % interval:

# %% tags=["slide"]
lesson.in_short(out)

# %% [markdown] tags=["slide"]
# What an area under a curve of uncertainty is, and in which unit a patch can tell something about another one, comes next.

# %% [markdown] tags=["slide"]
# ## By hand, once
#
# **An image as patches.** An image is cut into a grid of [patches](../book/glossary.md#patch), and each patch is a list of numbers, its
# [token](../book/glossary.md#token). To have numbers that one can follow, here is the first test image with one number per patch, the
# mean of its token:

# %% tags=["slide"]
one_number = sample.tokens[0].mean(-1).view(G, G)
print(sample.class_names[int(sample.labels[0])])
pd.DataFrame(one_number.numpy()).round(1)

# %% [markdown] tags=["slide"]
# **Two patches.** Take two neighbours $a$ and $b$ in the middle of the image, again one number each, over the training images. Suppose
# that the pair is Gaussian. How uncertain is $b$ before anything is seen, and what does seeing $a$ change?
#
# The [entropy](../book/glossary.md#entropy) of a Gaussian of variance $v$ is half the logarithm of $v$, plus a constant. The logarithm is
# the natural one, so the unit is the [nat](../book/glossary.md#nat). A patch that never changes has variance 0 and the entropy
# $-\infty$, so we count from a small *observation noise* of standard deviation `floor` upwards, $H=\frac12\ln(v/\text{floor}^2)$: details
# finer than that we do not care to know. Seeing $a$ moves the mean of $b$ and shrinks its variance:
#
# $$\mu_{b\mid a}=\mu_b+\frac{c_{ab}}{v_a}(a-\mu_a),\qquad v_{b\mid a}=v_b-\frac{c_{ab}^2}{v_a}.$$
#
# <details><summary>Predict before you run: is <i>b</i> more certain after a bright <i>a</i>, or after a dark one?</summary>
#
# Equally certain. The variance that is left does not contain the value that was seen; only the expected value of $b$ does. That is
# special to Gaussians, and it is why they make everything in this notebook exact.
#
# </details>

# %% tags=["slide"]
training = lesson.training_tokens(config, device)
a = N // 2 + G // 2
pair = training[:, [a, a + 1]].mean(-1).double()  # (images, 2)
floor = config.predictor.floor
mu = pair.mean(0)
cov = torch.cov(pair.T, correction=0) + floor**2 * torch.eye(2)
(v_a, c_ab), (_, v_b) = cov
v_b_given_a = v_b - c_ab**2 / v_a
rows = [("nothing", mu[1], v_b)]
for name, way in {"a, dark": -1, "a, bright": 1}.items():
    value = mu[0] + way * v_a**0.5  # one standard deviation off
    expected = mu[1] + c_ab / v_a * (value - mu[0])
    rows.append((f"{name} ({value:.2f})", expected, v_b_given_a))
seen, expected, v = zip(*rows, strict=True)

# %% tags=["slide"]
def H(v):
    """Entropy in nats above the observation noise."""
    return math.log(v / floor**2) / 2


print(f"correlation of a and b: {c_ab / (v_a * v_b) ** 0.5:.2f}")
table = {"seen": seen, "b is expected at": torch.stack(expected)}
table |= {"give or take": torch.stack(v).sqrt()}
table |= {"entropy of b, nats": [H(x) for x in v]}
pd.DataFrame(table).round(2)

# %% [markdown] tags=["slide"]
# **The chain rule.** Look at $a$ first, then $b$: the first costs $H(a)$, the second what is left of it, $H(b\mid a)$. The other way
# round it is $H(b)+H(a\mid b)$. Both sums are the entropy of the pair, which knows nothing of an order. `chain_terms` of the package
# has the same four numbers:

# %% tags=["slide"]
v_a_given_b = v_a - c_ab**2 / v_b
a_first = H(v_a), H(v_b_given_a)
b_first = H(v_b), H(v_a_given_b)
joint = torch.logdet(cov).item() / 2 - 2 * math.log(floor)
assert math.isclose(sum(a_first), joint)
assert math.isclose(sum(b_first), joint)
both_orders = torch.tensor([[0, 1], [1, 0]])
two = entropy.GaussianTokens(mu[:, None], cov, floor)
terms = two.chain_terms(both_orders)
assert terms.allclose(torch.tensor([a_first, b_first]).double())
columns = ["first patch", "second, given the first", "sum"]
table = [(*a_first, joint), (*b_first, joint)]
pd.DataFrame(table, ["a, b", "b, a"], columns).round(3)

# %% [markdown] tags=["slide"]
# **What differs.** The sums agree, but the *remaining* uncertainty does not: after $a$ alone $H(b\mid a)$ is left, after $b$ alone
# $H(a\mid b)$. `sum_curve` has what is left after 0, 1 and 2 patches, each unseen patch counted by itself. The mean over the
# prefixes of 0 and 1 patches, as a share of the start, is the curve's *area*:

# %% tags=["slide"]
start = H(v_a) + H(v_b)
left = torch.tensor([[start, a_first[1], 0], [start, b_first[1], 0]])
assert left.double().allclose(two.sum_curve(both_orders), atol=1e-5)
areas = left[:, :2].mean(1) / left[:, 0]
assert areas.double().allclose(entropy.area(two.sum_curve(both_orders)))
table = pd.DataFrame(left.numpy(), ["a, b", "b, a"]).add_prefix("after ")
table.assign(area=areas).round(3)

# %% [markdown] tags=["slide"]
# > **In short.** Entropy is counted in nats above a small noise. Seeing a patch shrinks the variance of those that correlate with
# > it. The sum along an order is the same for every order; how early it falls is not.

# %% [markdown]
# ## Eq. 1, taken literally
#
# The paper asks for the ranking $R$ that minimises
#
# > $$H_c=\sum_{i=1}^{N}H\left[P\left(e_n\mid\{e_i;\,R(e_i)>R(e_n)\}\right)\right]\qquad(1)$$
#
# Every patch is conditioned on all patches seen before it. But that sum is the **chain rule of entropy**: whatever
# the order, it equals the joint entropy $H(e_1,\ldots,e_N)$. That is exact for every order that is fixed before the image is
# seen: Eq. 1 as printed is the same number for all of them. Where the order depends on the image, entropies are averages
# over different conditions, and what stays the same is the log-likelihood of each image. A Gaussian model makes both one:
# its conditional entropies are log-determinants, which do not depend on the values seen. So it shows it without any
# approximation, for orders of either kind. These are compared, here and in all notebooks:
#
# | order | what comes first | looks at the image? |
# |---|---|---|
# | collapse | the patches that others rely on, by PageRank: the paper's order ([notebook 2](02_dependency_autoencoder.ipynb), [notebook 3](03_collapse_order.ipynb)) | yes |
# | [in-strength](../book/glossary.md#in-strength) | the same with plain sums instead of PageRank | yes |
# | reversed | the collapse order from its end | yes |
# | measured | PageRank of a graph of ours, measured with the predictor below ([notebook 3](03_collapse_order.ipynb)) | yes |
# | variance | the patches of highest contrast | yes |
# | [mean order](../book/glossary.md#mean-order) | patches by their mean place in the collapse orders of the training images | no |
# | greedy | at each step the patch that lowers the uncertainty of the rest most, in the Gaussian model | no |
# | random | anything, drawn anew for each image | no |
# | centre-out, raster | the middle; the upper left corner, row by row | no |
# | [low-discrepancy](../book/glossary.md#low-discrepancy-order) | patches spread evenly at every length | no |
#
# <details><summary>Predict before you run: for which of them is Eq. 1 smallest?</summary>
#
# For none of them. It is a sum of the kind that you have seen for two patches.
#
# </details>
#
# The call for Eq. 1 is `chain_terms`, which has one term per patch:

# %%
gauss = entropy.GaussianTokens.fit(training, floor=floor)
zoo = lesson.sample_orders(config, "test", images, seed, device=device)
first = {n: gauss.chain_terms(r[:1]).sum().item() for n, r in zoo.items()}
nats = [f"{v:.3f}" for v in first.values()]
pd.DataFrame({"order": first.keys(), "Eq. 1, nats": nats})

# %% [markdown]
# Equal to the last digit printed. What *does* differ between orders is **how fast** uncertainty falls. Section 6 has the
# quantity (Eq. 8), the entropy that a prefix $S$ leaves:
#
# > $$H_c(S)=\sum_{n=1}^{N}H\left[e_n\mid\{e_j:j\in S\}\right]\qquad(8)$$
#
# The call is `sum_curve`, which has it for all prefixes of an order. We measure it over the patches not seen yet, above the observation
# noise (a patch that was seen costs nothing), and summarise a curve by its **area** (`entropy.area`): the mean over all prefixes, as a
# share of the start. Lower is faster. A curve falls for two reasons, which the area does not tell apart: costly patches are *removed*
# by being seen, and seen patches *inform* about the others. Further down the two are separated.

# %% [markdown] tags=["slide"]
# > **In short.** Eq. 1 as printed is one number, whatever the order. Eq. 8 along an order is a curve, and curves can be compared.

# %% [markdown]
# ## Exact: a Gaussian model
#
# One Cholesky factor per order gives the whole curve. The **greedy** order, which at each step takes the patch
# that lowers the rest most, is the yardstick: section 6 argues that PageRank approximates it.

# %%
few = {n: r[:gaussian_images].unique(dim=0) for n, r in zoo.items()}
curves = {name: gauss.sum_curve(r) for name, r in few.items()}
lesson.entropy_gaussian(out, curves)

# %% [markdown]
# **Click patches yourself.** The map has the terms of Eq. 8, one for each patch, and shrinks as patches are seen: at their own place,
# where entropy is removed, and around it, where it is told. It is the same for every image, for a Gaussian's entropies do not depend on the values
# seen. In JupyterLab, Colab or Binder run the cell and click on the small squares. Elsewhere the first three patches of the greedy
# order stand here.
#
# <details><summary>Predict before you run: which patch tells the others more, one in the middle or one in a corner?</summary>
#
# One in the middle has neighbours on all sides, and images of centred clothes differ there. Click one of each, alone, and compare what
# they *told about the others*.
#
# </details>

# %% tags=["slide"]
lesson.entropy_map(gauss, sample, zoo["greedy"][0, :3])

# %% [markdown]
# Is greedy a fair yardstick? For a few patches all orders can be searched. Dynamic programming over the subsets of
# eight patches gives the optimum; a thousand random orders show how far from it one can be.

# %%
eight = gauss.subset(torch.linspace(0, N - 1, 8).round().long())
best, quick = eight.optimal_order()[None], eight.greedy_order()[None]
chance = orders.random_order(1000, 8, pipeline.seeded(seed, 1))
small = {"optimum": best, "greedy": quick}
small |= {"random (mean of 1000)": chance}
found = [entropy.area(eight.sum_curve(r)).mean() for r in small.values()]
pd.DataFrame({"order": small.keys(), "area": [f"{v:.3f}" for v in found]})

# %% [markdown] tags=["slide"]
# > **In short.** Under a Gaussian model every curve is exact, and the greedy order shows how much faster than random an order can be.

# %% [markdown]
# ## Learned: what natural statistics add
#
# Images are not Gaussian: a sleeve is there or it is not. A small transformer sees any subset of the patches and
# predicts a mean and a scale for every value of the others (`entropy.TokenPredictor`, trained on random subsets).
# What the unseen patches cost under it is an upper bound on their conditional entropy.
#
# One caution: the collapse, in-strength and variance orders were computed from the whole image, so they carry information
# about unseen patches; our curves ignore this and flatter them.

# %%
predictor, artefact = pipeline.predictor(config, seed, device)
ks = torch.linspace(0, N, prefixes).round().long().tolist()
learned = {
    n: entropy.predictor_curve(predictor, sample.tokens, r, ks)["nll"]
    for n, r in zoo.items()
}
lesson.entropy_learned(out, learned, ks)

# %% [markdown]
# The area of each image's curve, averaged, with [Student's 95 % interval](../book/glossary.md#students-interval) over the images, and the
# [difference](../book/glossary.md#paired-difference) of each order from random **on the same images**. The verdicts are corrected by
# [Holm's method](../book/glossary.md#holms-correction) for the number of orders that this table compares with random: they are one
# family.

# %% tags=["slide"]
area = {name: entropy.area(c, ks) for name, c in learned.items()}
lesson.entropy_areas(out, area)

# %%
lesson.area_table(out, area)

# %% [markdown]
# **Removal and information.** What the seen patches would have cost with nothing seen is removal: any order that takes costly
# patches first has it. The rest of the fall is information about the patches that are still unseen.
#
# <details><summary>Predict before you run: which order removes most with its first patches, and must it also tell most?</summary>
#
# One that takes first what costs most by itself, such as variance. It need not tell most: a patch full of detail may say little about
# the others, and patches close to each other say the same. The columns show how far removal and information go together.
#
# </details>

# %%
removed = {
    n: entropy.removed_curve(predictor, sample.tokens, r, ks)[:, 4]
    for n, r in zoo.items()
}
told = lesson.told_table(out, learned, removed, ks)
told

# %% [markdown]
# An order with a small area can owe it to either column; only the last one is what the paper means by informing. Patch
# variance removes by construction, for a patch of high contrast costs much by itself.
#
# The intervals above cover the choice of images. Training has its own luck: below, the same areas from runs that differ in
# the seed of everything (CoMAE, predictor, random orders), as `make seeds` leaves them.

# %%
lesson.entropy_seeds(out, list(area))

# %% [markdown] tags=["slide"]
# > **In short.** A learned predictor turns the curve into a cost on real images. Its fall is removal plus information, and only a
# > difference that all seeds share belongs to the order.

# %% [markdown]
# ## Class certainty
#
# Fig. 1 of the paper shows a second kind of collapse: the *class* becomes certain. A ViT that was trained on random
# subsets of patches, and so never saw an order, judges the first $k$ patches of each order. It is the same network for every
# seed of this notebook. It is used to patches from all over the image: a prefix that lies in one place, such as a border,
# is unlike anything it was trained on, and what it makes of that says little about what the patches tell.

# %% tags=["slide"]
judge = lesson.judge(config, device)
certainty = {
    n: entropy.certainty_curve(judge, sample.images, sample.labels, r, ks)
    for n, r in zoo.items()
}
lesson.certainty(out, certainty, ks)

# %% [markdown]
# One image, in random and in collapse order. It is the first of the sample that the judge gets right when it sees
# everything: chosen by a rule, not by its looks.

# %%
lesson.fig1_reveal(out, judge, sample, zoo, certainty)

# %% [markdown] tags=["slide"]
# > **In short.** Being certain of the patches and being certain of the class are two things. An order is judged by both.

# %% [markdown]
# ## Paper vs ours
#
# | claim | paper | here |
# |---|---|---|
# | Eq. 1 selects an order | "is minimised" | it is the same number for every fixed order (chain rule); the *area* under Eq. 8 can be minimised |
# | PageRank gives the greedy order | Theorem 1 | compare the greedy and the collapse order in the table below |
# | the collapse order informs faster than random (C3) | Fig. 1, one image | the table below, paired over the test images, and over all seeds on record |

# %%
lesson.verdicts(out, area, certainty, told, ks)

# %% [markdown]
# **How to read it.** Claim C3 holds where the row of the collapse order says *faster*, with every seed: one run is not enough,
# for what a CoMAE relies on is up to its seed ([notebook 3](03_collapse_order.ipynb)). Patch variance, which needs no training,
# and the greedy order, the yardstick, show how much faster than random an order can be on these images. But a small area is
# not yet information: an order that wins by area and not by what it *tells* about the rest, or by certainty, wins by
# taking away costly patches. Whether all this is a property of small centred images or of the method is a question for
# photographs.
#
# **What would change our mind.** On C3: a collapse order with a smaller area than random *and* more told about the rest, with every
# one of five seeds or more and on photographs too. On Eq. 1: nothing measured, for the chain rule is a theorem; a reading of Eq. 1 in
# which the sum depends on the order would.
#
# **Recap.** Answer before you unfold.
#
# <details><summary>1. Why can Eq. 1 not prefer an order?</summary>
#
# Its terms are those of the chain rule, and their sum is the joint entropy of all patches, which has no order in it.
#
# </details>
# <details><summary>2. An order has a small area. Which two reasons can it have?</summary>
#
# It takes costly patches away early, or its patches tell much about those that are still unseen. Only the second is informing.
#
# </details>
# <details><summary>3. The curve of an order that was computed from the whole image is flattered. By what?</summary>
#
# By the order itself: which patch comes next was chosen with a look at patches that count as unseen, and the curve does not charge
# for what that choice gives away.
#
# </details>
#
# ## Exercises
#
# Replace the dots and run the cell: it says whether you are right. A cell with a solution follows, but not in the
# copies that `make student` writes.
#
# 1. (Five minutes.) How many nats does patch $a$ tell about patch $b$, in the pair that you have met? `H`, `v_b` and `v_b_given_a` are
#    still there. What does $b$ tell about $a$?

# %% tags=["exercise"]
a_tells_b, b_tells_a = ..., ...
truth = [H(v_a) + H(v_b) - joint] * 2
usual = {
    "that is what is left, not what is told": (a_first[1], b_first[1]),
    "more is known after seeing: the difference is positive": (
        H(v_b_given_a) - H(v_b),
        H(v_a_given_b) - H(v_a),
    ),
    "take differences of entropies, not of variances": (
        float(v_b - v_b_given_a),
        float(v_a - v_a_given_b),
    ),
}
exercises.check((a_tells_b, b_tells_a), truth, hints=usual)

# %% tags=["solution"]
a_tells_b = H(v_b) - H(v_b_given_a)
b_tells_a = H(v_a) - H(v_a_given_b)  # the same: telling is mutual
exercises.check((a_tells_b, b_tells_a), truth, hints=usual)

# %% [markdown]
# 2. (Ten minutes.) `curves["greedy"][0]` holds what is left after 0, 1, … patches of the greedy order. After how many patches is half
#    of the uncertainty gone, or more?

# %% tags=["exercise"]
answer = ...
left = curves["greedy"][0]
truth = int((left > left[0] / 2).sum())
usual = {
    "after so many patches more than half is left": truth - 1,
    "half of the patches is not half of the uncertainty": N // 2,
    "a number of patches is asked for, not a share": truth / N,
}
exercises.check(answer, truth, hints=usual)

# %% tags=["solution"]
answer = next(k for k, x in enumerate(left) if x <= left[0] / 2)
exercises.check(answer, truth, hints=usual)

# %% [markdown]
# 3. (A quarter of an hour.) Eq. 1 is one number for every order. Find it **without any order**, from the covariance `gauss.cov` of all
#    token values. A Gaussian's entropy is half its log-determinant, up to constants that cancel against the noise, of which every
#    patch has `gauss.noise`.

# %% tags=["exercise"]
answer = ...
truth = first["random"]
logdet = torch.linalg.slogdet(gauss.cov).logabsdet
usual = {
    "the entropy of the noise is still in it": logdet / 2,
    "half of the log-determinant": logdet - N * gauss.noise,
    "every one of the patches has the noise": logdet / 2 - gauss.noise,
    "the noise is taken off, not added": logdet / 2 + N * gauss.noise,
}
exercises.check(answer, truth, hints=usual)

# %% tags=["solution"]
answer = torch.linalg.slogdet(gauss.cov).logabsdet / 2 - N * gauss.noise
exercises.check(answer, truth, hints=usual)

# %% [markdown]
# 4. (Half an hour, without a check.) Why is raster order slow and centre-out fast on small centred images? Plot the greedy order with
#    `lesson.figures.mean_rank_maps`, beside the two. Expect to find the first rows, with which raster order begins, late in the greedy
#    order: a border that is alike in all images costs nothing and tells nothing.
#
# ## References
#
# The paper: Guo et al., *The Collapse of Patches*, arXiv 2511.22281. Further reading:
#
# - Cover and Thomas, *Elements of Information Theory*, chapter 2: entropy, conditional entropy and the chain rule, in thirty pages.
# - Krause, Singh and Guestrin, [*Near-Optimal Sensor Placements in Gaussian Processes*](https://jmlr.org/papers/v9/krause08a.html), JMLR
#   2008: which places to look at first, with a proof of how good greedy is.
# - Uria, Murray and Larochelle, [*A Deep and Tractable Density Estimator*](https://arxiv.org/abs/1310.1757), ICML 2014: one network
#   for the conditional distributions of all orders, as our predictor is.
# - Ledoit and Wolf, *A well-conditioned estimator for large-dimensional covariance matrices*, Journal of Multivariate Analysis 2004: what
#   to do where a covariance has as many numbers as there are data.
# - Simoncelli and Olshausen, *Natural Image Statistics and Neural Representation*, Annual Review of Neuroscience 2001: why images are
#   not Gaussian.
