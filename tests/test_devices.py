"""One rule for devices: notebooks and stages give on another device what they give on the CPU; and their precision."""

import math
import shutil
from dataclasses import replace

import jupytext
import matplotlib.pyplot as plt
import pytest
import torch
from elsewhere import META, elsewhere
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cop import devices, paths
from cop.configs import ScaleConfig
from cop.lessons import classification, classifiers, evaluation, generation, held_out, ordering, pipeline, ranks
from cop.orders import looking
from cop.paper import comae, entropy, reconstruction
from cop.paper.cvit import CViT, attention_rollout
from cop.paper.dynamicvit import DynamicViT
from cop.paper.kl16 import KL16
from cop.paper.mar import MAR
from cop.profiles import smoke
from cop.show import report
from cop.train.loop import seeded, seeded_build

pytestmark = pytest.mark.usefixtures("own_cache")
PROFILE = replace(smoke, data=replace(smoke.data, limit=20), generation=replace(smoke.generation, rankings=20, val_rankings=20, count=20))
MODELS = ("tokens-", "comae-", "predictor-", "classifier-", "mar-")


def train(profile) -> None:
    """The models of a profile, on the CPU: only their training is left out of what follows."""
    pipeline.comae(profile, device="cpu")
    pipeline.comae(replace(profile, comae=replace(profile.comae, contrastive_weight=0.0)), device="cpu")  # of notebook 2
    pipeline.predictor(profile, device="cpu")
    classifiers.trained(profile, "RViT", device="cpu")


def forget() -> None:
    """Remove from the cache all but the models."""
    for folder in paths.cache().iterdir():
        if not folder.name.startswith(MODELS) or folder.name.startswith("mar-loss"):
            shutil.rmtree(folder)


@pytest.mark.parametrize("notebook", ["01", "02", "03"])
def test_a_notebook_runs_with_its_models_on_another_device(notebook, tmp_path, monkeypatch):
    train(smoke)
    forget()
    monkeypatch.setenv("COP_FIGURES", str(tmp_path))
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda self: None)  # drawing takes most of the time
    monkeypatch.setattr(report.Report, "figure", lambda self, fig, *args: plt.close(fig))
    (source,) = paths.notebooks.glob(f"{notebook}_*.py")
    names, recorded = {}, {}
    monkeypatch.setattr(report.Report, "record", lambda self, **values: recorded.update(values))
    with elsewhere():
        for cell in jupytext.read(source).cells:
            tags = cell.metadata.get("tags", [])
            if cell.cell_type == "code" and "colab" not in tags:
                exec(cell.source, names)
            if "parameters" in tags:
                names |= {"profile": "smoke", "device": "meta", "images": 6, "gaussian_images": 2, "prefixes": 5}
    models = [x for name, x in names.items() if isinstance(x, torch.nn.Module) and name != "small"]  # which is asked for on the CPU
    assert models and all(p.device == META for m in models for p in m.parameters())
    assert all(x.device.type == "cpu" for x in names.values() if isinstance(x, torch.Tensor))
    assert recorded and any(math.isfinite(v) for v in recorded.values())


def calls() -> dict:
    """Name -> (module, call of it with float tensors x and the integer tensor y, float arguments, y)."""
    rand, picked = torch.rand(2, 64, 16, generator=seeded(1)), torch.tensor([[1, 5], [9, 0]])
    images, order = torch.rand(2, 1, 32, 32, generator=seeded(2)), torch.arange(64).expand(2, -1)
    w, noise = torch.rand(2, 2, 64, generator=seeded(3)), torch.rand(2, 2, 64, 16, generator=seeded(4))
    coder, small = KL16(32, 32).eval(), torch.rand(2, 3, 32, 32, generator=seeded(5))
    c = seeded_build(lambda: comae.CoMAE(smoke.comae, 8, 16), 0)
    vit = {"img_size": 32, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 16, "depth": 4, "num_heads": 2}
    mar, settings = MAR(generation.mar_sizes(smoke), seeded(0)).eval(), {"num_iter": 3, "num_sampling_steps": 2, "clip": (-1, 1)}
    return {
        "CoMAE.weights": (c, c.weights, (rand, picked)),
        "CoMAE.reconstruct": (c, c.reconstruct, (rand, picked, w, noise)),
        "CoMAE.forward": (c, lambda *a: c(*a)["prediction"], (rand, picked, noise)),
        "CoMAE.dependencies": (c, c.dependencies, (rand,)),
        "reconstruction.evaluate": (c, lambda x: torch.tensor(list(reconstruction.evaluate(c, x, seeded(0)).values())), (rand,)),
        "reconstruction.mask_swaps": (c, lambda x: torch.stack(list(reconstruction.mask_swaps(c, x, seeded(0)).values())), (rand,)),
        "TokenPredictor": (p := entropy.TokenPredictor(64, 16, smoke.predictor), lambda *a: p(*a)[1], (rand, order < 9)),
        "looking_order": (p, lambda x: looking.looking_order(p, devices.to(x, next(p.parameters()).device), "active", 0.7, 9).to(x.device), (rand,)),
        "CViT": (v := CViT(**vit).eval(), v, (images, order[:, :7])),
        "attention_rollout": (v, lambda x: attention_rollout(v, x), (images,)),
        "DynamicViT": (d := DynamicViT(**vit).eval(), lambda x: d(x, 0.7), (images,)),
        "MAR.forward": (mar, lambda x, y: mar(x, y, seeded(0), order), (rand, torch.tensor([1, 2]))),
        "MAR.sample": (mar, lambda y: mar.sample(y, [3, 4], order, cfg_scale=2.0, **settings), (torch.tensor([1, 2]),)),
        "KL16.encode": (coder, lambda x: coder.encode(x, seeded(0)), (small,)),
        "KL16.decode": (coder, coder.decode, (rand[:, :4],)),
    }  # fmt: skip


@pytest.mark.parametrize("name", calls())
def test_results_come_back_to_where_the_tensors_lay(name):
    module, call, given = calls()[name]
    want = call(*given)
    with elsewhere():
        module.to("meta")
        found, there = call(*given), call(*(x.to("meta") for x in given))
        assert found.device.type == "cpu" and next(module.parameters()).device == META
        if name not in ("reconstruction.evaluate", "reconstruction.mask_swaps"):  # these return numbers
            assert there.device == META
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(there.cpu(), want, rtol=1e-4, atol=1e-4)


def test_gradients_cross_the_devices():
    module, call, (x, picked) = calls()["CoMAE.weights"]
    here = torch.autograd.grad(call(y := x.clone().requires_grad_(), picked).sum(), y)[0]
    with elsewhere():
        module.to("meta")
        y = x.clone().requires_grad_()
        call(y, picked).sum().backward()
    torch.testing.assert_close(y.grad, here)


def stages(profile, device: str) -> dict[str, torch.Tensor]:
    """What every kind of stage after training computes on a device."""
    images = pipeline.load_data(profile, "test").batch(torch.arange(4))[0]
    found = {"sample": pipeline.sample(profile, "test", 5, device).tokens, "many": pipeline.sample_tokens(profile, "val", 5, device),
             "rank": ranks.rank(images, profile, device=device)}  # fmt: skip
    found |= {f"orders {n}": r for n, r in ordering.sample_orders(profile, "test", 5, device=device).items()}
    found |= {f"generated {n}": t for n, t in generation.generate(profile, 0, "base", "two_pass", 2.0, 20, device).tensors.items()}
    found["attention"] = ordering.ranking_of(profile, "test", "attention", device=device)
    found["hits"] = torch.from_numpy(classification.hits(profile, "CViT", device=device).top5)
    found["pruned"] = torch.from_numpy(classification.hits(profile, "DynamicViT", device=device).top5)
    found |= {str(k): v for k, v in held_out.losses_by_order(profile, 0, 10, device).items()}
    found["values"], found["parts"] = evaluation.evaluate(profile, 0, "base", device=device)
    new = generation.to_float(found["generated images"][:3])
    found["certainty"] = evaluation.class_certainty(profile, new, torch.arange(3), found["generated rankings"][:3].long(), [1, 9], device)
    return found


def stage_models(profile) -> None:
    train(profile)
    for system in ("ViT", "CViT", "DynamicViT"):
        classification.classifier(profile, system, device="cpu")
    generation.all_fine_tuned(profile, 0, "cpu")


def test_stages_compute_on_another_device_what_they_compute_on_the_cpu():
    stage_models(PROFILE)
    forget()
    with elsewhere():
        there = stages(PROFILE, "meta")
    forget()
    here = stages(PROFILE, "cpu")
    for name, want in here.items():
        assert there[name].device.type == "cpu"
        if name == "generated images":
            assert (there[name].int() - want.int()).abs().max() <= 1
        elif not want.is_floating_point():  # rankings and hits: two patches that are all but equal may change places
            assert (there[name] != want).float().mean() < 0.01, name
        else:
            torch.testing.assert_close(there[name], want, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


# -------------------------------------------------------------------------------------------------- precision

BF16 = replace(PROFILE, scale=ScaleConfig(mixed_precision="bf16"))


def test_tf32_belongs_to_a_gpu_and_autocast_to_bf16():
    before = torch.get_float32_matmul_precision()
    with devices.inference(PROFILE, "cuda"):
        assert torch.get_float32_matmul_precision() == before and not torch.is_autocast_enabled("cpu")
    with devices.inference(BF16, "cpu"):
        assert torch.get_float32_matmul_precision() == before and torch.is_autocast_enabled("cpu")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with pytest.warns(UserWarning, match="CUDA is not available") if not torch.cuda.is_available() else devices.inference(BF16, "cpu"):
        with devices.inference(BF16, "cuda"):
            assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("profile", [PROFILE, BF16], ids=["no", "bf16"])
def test_every_network_runs_in_the_precision_of_the_profile(profile, monkeypatch):
    """... in ranking, sampling and evaluation; pixels are made and read in float32."""
    stage_models(profile)
    forget()
    seen = {}

    def spy(owner, name):
        real = getattr(owner, name)

        def called(*args, **kwargs):
            seen.setdefault(f"{owner.__name__}.{name}", set()).add(torch.is_autocast_enabled("cpu"))
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, called)

    for owner, name in ((comae.CoMAE, "weights"), (MAR, "predict"), (MAR, "forward"), (CViT, "forward_features"),
                        (DynamicViT, "forward"), (pipeline.Tokens, "encode"), (pipeline.Tokens, "decode")):  # fmt: skip
        spy(owner, name)
    stages(profile, "cpu")
    bf16 = profile.scale.mixed_precision == "bf16"
    assert seen.pop("Tokens.encode") == seen.pop("Tokens.decode") == {False}
    assert len(seen) == 5 and all(on == {bf16} for on in seen.values()), seen


def test_noise_is_the_generators_on_the_cpu_and_drawn_on_a_gpu_by_a_seed_of_it(monkeypatch):
    assert torch.equal(comae.draw_noise((2, 3), seeded(4), torch.device("cpu")), torch.randn(2, 3, generator=seeded(4)))
    made = []

    class Drawn(torch.Generator):
        def __new__(cls, *device):
            made.extend(device)
            return super().__new__(cls)

    randn = torch.randn
    monkeypatch.setattr(comae.torch, "Generator", Drawn)
    monkeypatch.setattr(comae.torch, "randn", lambda shape, generator, device: (made.append(device), randn(shape, generator=generator))[1])
    gpu = torch.device("cuda", 1)
    first, again, other = (comae.draw_noise((2, 3), generator, gpu) for generator in (seeded(4), seeded(4), seeded(5)))
    assert made == [gpu] * 6 and torch.equal(first, again) and not torch.equal(first, other)
