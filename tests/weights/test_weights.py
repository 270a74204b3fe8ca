"""The table of weights: downloads that break off, files that are not what they should be, and every converter."""

import errno
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import test_kl16
import test_mar
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import cop.__main__ as command
from cop import paths
from cop.data.loading import load_data
from cop.data.tokens import KL16Tokens
from cop.lessons import evaluation
from cop.lessons.generation_along_the_order import systems_table
from cop.lessons.pipeline import selection
from cop.measure import metrics
from cop.paper.dynamicvit import DynamicViT
from cop.paper.kl16 import KL16
from cop.paper.mar import MAR, load_mar
from cop.profiles import paper, replace, smoke
from cop.weights import convert, download
from cop.weights import table as weights


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("COP_WEIGHTS", "COP_KL16"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------------------------------ downloads

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A web server on this machine that can be told to misbehave; it notes the ranges it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            s = self.server
            s.asked.append(self.headers.get("Range"))
            if s.errors:
                return self.send_error(s.errors.pop(0))
            start, unchanged = 0, self.headers.get("If-Range", s.tag) == s.tag
            if self.headers.get("Range") and s.ranges and unchanged:
                start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(s.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(s.content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(s.content) - 1}/{len(s.content)}")
            self.send_header("Content-Length", str(len(s.content) - start))
            self.send_header("Content-Type", s.kind)
            if s.tag:
                self.send_header("ETag", s.tag)
            self.end_headers()
            self.wfile.write(s.content[start : start + s.at_once])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.asked, server.errors, server.ranges = CONTENT, [], [], True
    server.tag, server.kind, server.at_once = '"v1"', "application/octet-stream", 10**9
    server.url = f"http://127.0.0.1:{server.server_address[1]}/file"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def get(server, target, **options):
    return download.download(server.url, target, **dict(dict(size=300_000, pause=0, timeout=5) | options))


def left(folder):
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_download_in_one_go(server, tmp_path):
    assert get(server, tmp_path / "new" / "f.bin", sha256=SHA256).read_bytes() == CONTENT
    assert server.asked == [None] and left(tmp_path / "new") == ["f.bin"]
    assert get(server, tmp_path / "new" / "f.bin") and len(server.asked) == 1  # it is there


def test_an_interrupted_download_continues_where_it_stopped(server, tmp_path):
    server.at_once = 130_000  # the connection closes early, every time
    with pytest.raises(
        FileNotFoundError, match="the connection ended early. 130,000 bytes have arrived and are kept; run it again"
    ):
        get(server, tmp_path / "f.bin", attempts=1)
    assert left(tmp_path) == ["f.bin.part", "f.bin.part.etag"]
    assert get(server, tmp_path / "f.bin", sha256=SHA256[:8]).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=130000-", "bytes=260000-"] and left(tmp_path) == ["f.bin"]


def test_progress_is_not_counted_as_failure(server, tmp_path):
    server.at_once = 1_000  # 300 connections, two attempts
    assert get(server, tmp_path / "f.bin", attempts=2).read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["ranges", "tag"])
def test_a_server_without_ranges_or_with_another_version_sends_everything(server, tmp_path, change):
    (tmp_path / "f.bin.part").write_bytes(b"of another version " * 5)
    (tmp_path / "f.bin.part.etag").write_text('"v0"')
    if change == "ranges":
        server.ranges = False
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    assert server.asked == ["bytes=95-"]


def test_a_part_that_is_complete_or_too_long(server, tmp_path):
    part = tmp_path / "f.bin.part"
    part.write_bytes(CONTENT)
    assert get(server, tmp_path / "f.bin", sha256=SHA256).read_bytes() == CONTENT and server.asked == ["bytes=300000-"]
    (tmp_path / "f.bin").unlink()
    part.write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "f.bin", sha256=SHA256).read_bytes() == CONTENT


def test_wrong_content_is_removed_and_named(server, tmp_path):
    with pytest.raises(ValueError, match=f"has the sha256 {SHA256}; expected 0123. It was removed"):
        get(server, tmp_path / "f.bin", sha256="0123")
    with pytest.raises(ValueError, match="has 300,000 bytes; expected about 254,000,000"):
        get(server, tmp_path / "f.bin", size=254_000_000)
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="sends a web page, not a file; download it with a browser"):
        get(server, tmp_path / "f.bin")
    assert left(tmp_path) == []


def test_servers_that_refuse_or_fail(server, tmp_path):
    server.errors = [404]
    with pytest.raises(FileNotFoundError, match="/file answers 404 Not Found"):
        get(server, tmp_path / "f.bin")
    assert len(server.asked) == 1  # asking again would not help
    server.errors = [503, 500]
    assert get(server, tmp_path / "f.bin").read_bytes() == CONTENT
    server.errors = [503] * 9
    with pytest.raises(FileNotFoundError, match="503 Service Unavailable. 0 bytes have arrived"):
        get(server, tmp_path / "g.bin", attempts=3)
    assert server.errors == [503] * 6
    with pytest.raises(FileNotFoundError, match="cannot download http://127.0.0.1:9/none: .*refused"):
        download.download("http://127.0.0.1:9/none", tmp_path / "g.bin", pause=0)


def test_full_disk(server, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_continue", full)
    with pytest.raises(RuntimeError, match="the disk is full: 0 bytes .* run it again to continue"):
        get(server, tmp_path / "f.bin")


def test_processes_that_want_the_same_file_take_turns(server, tmp_path):
    threads = [threading.Thread(target=get, args=(server, tmp_path / "f.bin")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "f.bin").read_bytes() == CONTENT and server.asked == [None]


# ------------------------------------------------------------------------------------------ the table


def test_the_table_is_complete_and_its_loaders_exist():
    names = [e.name for e in weights.TABLE]
    assert len(set(names)) == len(names)
    published = "kl16 mar_base mar_large mar_huge vit_base_orig_in21k deit_base dynamicvit_deit_base inception"
    assert {*published.split(), "adm_reference"} <= set(names)
    for entry in weights.TABLE:
        module, function = entry.loads.rsplit(".", 1)
        assert callable(getattr(__import__(module, fromlist=[function]), function)), entry.name
        assert entry.licence and entry.size > 50e6 and entry.source.startswith(("https://", "hub:timm/"))
    assert metrics.URL_INCEPTION_V3 == weights.find("inception").source
    with pytest.raises(ValueError, match="unknown weights 'mar'; expected one of kl16, mar_base"):
        weights.fetch("mar")


def test_sizes_are_those_of_the_networks():
    """Parameters at four bytes, MAR's files holding two sets of them."""
    for entry in weights.TABLE:
        if (model := convert.model_of(entry.name)) is not None:
            sets = 2 if entry.name.startswith("mar_") else 1
            assert sets * 4 * sum(p.numel() for p in model.parameters()) == pytest.approx(entry.size, rel=0.004), (
                entry.name
            )
    with torch.device("meta"):
        small = timm.create_model("vit_small_patch16_224.augreg_in21k")
    assert 4 * sum(p.numel() for p in small.parameters()) == weights.find("vit_small_augreg_in21k").size


def test_timm_knows_the_tags():
    from timm.models import get_pretrained_cfg

    for entry in weights.TABLE:
        if entry.source.startswith("hub:"):
            _, size, tag = entry.name.split("_", 2)
            theirs = get_pretrained_cfg(f"vit_{size}_patch16_224.{tag}")
            assert theirs.hf_hub_id == entry.source.removeprefix("hub:") and theirs.license == entry.licence.lower()
            assert get_pretrained_cfg(f"cvit_{size}_patch16_256.{tag}").hf_hub_id == theirs.hf_hub_id
    assert get_pretrained_cfg("deit_base_patch16_224.fb_in1k").url == weights.find("deit_base").source


def redirect(monkeypatch, name, source, **changes):
    table = tuple(
        weights.Weights(**vars(e) | ({"source": source} | changes if e.name == name else {})) for e in weights.TABLE
    )
    monkeypatch.setattr(weights, "TABLE", table)


def test_fetch_downloads_once_records_the_checksum_and_checks_it(server, tmp_path, monkeypatch):
    redirect(monkeypatch, "kl16", server.url, size=300_000)
    monkeypatch.setenv("COP_WEIGHTS", str(tmp_path / "w"))
    file = weights.fetch("kl16", pause=0)
    assert file == tmp_path / "w" / "kl16.ckpt" and file.read_bytes() == CONTENT
    assert (tmp_path / "w" / "kl16.ckpt.sha256").read_text() == f"{SHA256}  kl16.ckpt\n"
    assert weights.fetch("kl16", check=True) == file and len(server.asked) == 1
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(
        ValueError, match=f"kl16.ckpt has the sha256 .*; expected {SHA256}. Delete it and fetch kl16 again"
    ):
        weights.fetch("kl16", check=True)


def test_fetch_prefers_your_path_and_says_what_to_do_without_internet(server, tmp_path, monkeypatch):
    (tmp_path / "mine.pth").write_bytes(b"x")
    assert weights.fetch("mar_base", tmp_path / "mine.pth") == tmp_path / "mine.pth"
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.pth for mar_base; check the path, or leave it out"):
        weights.fetch("mar_base", tmp_path / "absent.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match="empty.pth is empty; expected mar_base.pth, about 1.7 GB"):
        weights.fetch("mar_base", tmp_path / "empty.pth")
    redirect(monkeypatch, "mar_base", server.url)
    server.errors = [404]
    kept = paths.cache() / "weights"
    with pytest.raises(
        FileNotFoundError,
        match=rf"mar_base is not at {kept}/mar_base.safetensors or .*404 Not Found. Or download it elsewhere",
    ):
        weights.fetch("mar_base")


def test_weights_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    name, asked = "vit_base_orig_in21k", []
    with pytest.raises(
        FileNotFoundError,
        match=r"vit_base_orig_in21k is not at .*cannot be had from https://huggingface.co/timm/vit_base_patch16_224.orig_in21k",
    ):
        weights.fetch(name)

    def hub(repo, file):
        asked.append((repo, file))
        (tmp_path / file).write_bytes(b"x")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    assert weights.fetch(name) == tmp_path / "model.safetensors"
    assert asked == [("timm/vit_base_patch16_224.orig_in21k", "model.safetensors")]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: str(tmp_path / file))
    assert weights.fetch(name) == tmp_path / "model.safetensors" and len(asked) == 1  # the hub's cache, without asking
    copied = paths.cache() / "weights" / f"{name}.safetensors"
    copied.parent.mkdir(parents=True)
    copied.write_bytes(b"y")
    assert weights.fetch(name) == copied


def test_command_line(tmp_path, monkeypatch, capsys):
    assert command.main(["weights"]) == 0
    out = capsys.readouterr().out
    assert all(e.name in out and e.source in out and e.licence in out for e in weights.TABLE) and "not here" in out
    monkeypatch.setattr(convert, "model_of", lambda name: nn.Linear(2, 2))
    torch.save({"model": nn.Linear(2, 2).state_dict()}, tmp_path / "k.ckpt")
    assert command.main(["weights", "kl16", "--path", str(tmp_path / "k.ckpt")]) == 0
    converted = paths.cache() / "weights" / "kl16.safetensors"
    assert f"kl16: {converted} (converted; {tmp_path / 'k.ckpt'} is no longer needed)" in capsys.readouterr().out
    assert command.main(["weights", "kl16"]) == 0 and f"kl16: {converted}\n" == capsys.readouterr().out
    assert f"here: {converted}" in weights.listing()
    assert command.main(["weights", "kl61"]) == 2 and "unknown weights 'kl61'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ converters


def hollow(shapes):
    """Tensors of these shapes with one number each in memory and on disk."""
    return {k: torch.zeros(()).expand(shape) for k, shape in shapes.items()}


def deit_shapes():
    """DeiT-B at 224 px: 12 blocks of width 768 on 196 patches and a class token, 1,000 classes."""
    shapes = {"cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "patch_embed.proj.weight": (768, 3, 16, 16)}
    shapes |= {"head.weight": (1000, 768), "head.bias": (1000,)}
    shapes |= dict.fromkeys(("patch_embed.proj.bias", "norm.weight", "norm.bias"), (768,))
    layers = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    for i in range(12):
        shapes |= {f"blocks.{i}.{n}.{k}": (768,) for n in ("norm1", "norm2") for k in ("weight", "bias")}
        shapes |= {f"blocks.{i}.{n}.weight": s for n, s in layers.items()}
        shapes |= {f"blocks.{i}.{n}.bias": s[:1] for n, s in layers.items()}
    return shapes


def dynamicvit_shapes():
    """DynamicViT-DeiT-B as published: DeiT-B and three score predictors."""
    shapes = deit_shapes()
    layers = {"in_conv.0": (768,), "in_conv.1": (768, 768), "out_conv.0": (384, 768)}
    layers |= {"out_conv.2": (192, 384), "out_conv.4": (2, 192)}
    for i in range(3):
        shapes |= {f"score_predictor.{i}.{n}.weight": s for n, s in layers.items()}
        shapes |= {f"score_predictor.{i}.{n}.bias": s[:1] for n, s in layers.items()}
    return shapes


PUBLISHED = {
    "kl16": lambda: test_kl16.official_shapes() | {"loss.logvar": ()},
    **{
        name: (lambda sizes=(depth, d, mlp, w): test_mar.official_shapes(*sizes))
        for name, (depth, d, _, mlp, w, _) in test_mar.OFFICIAL.items()
    },
    "deit_base": deit_shapes,
    "dynamicvit_deit_base": dynamicvit_shapes,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_converters_take_the_published_names_and_shapes(tmp_path, monkeypatch, name):
    """As the files hold them; what is written, and how large, shows in a second."""
    shapes, written = PUBLISHED[name](), {}
    state = hollow(shapes)
    other = {k: v + 1 for k, v in list(state.items())[:1]}
    torch.save(
        {"model": other, "model_ema": state} if name.startswith("mar_") else {"model": state}, tmp_path / "file.pth"
    )

    def save(tensors, path):
        path.touch()
        written.update({k: tuple(v.shape) for k, v in tensors.items()})

    monkeypatch.setattr(convert, "save_file", save)
    monkeypatch.setattr(torch.Tensor, "clone", lambda self: self)  # gigabytes that nobody reads
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda self: self)
    assert convert.convert(name, tmp_path / "file.pth") == paths.cache() / "weights" / f"{name}.safetensors"
    assert written == {k: tuple(v.shape) for k, v in convert.model_of(name).state_dict().items()}
    assert sum(np.prod(s, dtype=int) for s in written.values()) == sum(
        np.prod(s, dtype=int) for k, s in shapes.items() if not k.startswith("loss.")
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_converters_refuse_other_shapes_and_names_by_name(tmp_path, name):
    shapes = PUBLISHED[name]()
    target = tmp_path / "out.safetensors"
    key = {"deit_base": "blocks.3.mlp.fc1.weight", "kl16": "encoder.mid.attn_1.q.bias"}.get(
        name, "decoder_blocks.4.norm1.bias"
    )
    key = "score_predictor.1.in_conv.1.weight" if "dynamic" in name else key
    wrong = (700, *shapes[key][1:])
    for change, message in (
        ({key: wrong}, rf"does not fit {name}: .* of another shape \({key} is \(700[^)]*\), expected"),
        ({"extra.weight": (3,)}, r"1 unexpected \(extra.weight\)"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.convert(name, hollow(shapes | change), target)
    shapes.pop(key)
    with pytest.raises(ValueError, match=rf"missing \({key}"):
        convert.convert(name, hollow(shapes), target)
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_a_converted_file_holds_the_same_numbers_in_float32(tmp_path, monkeypatch):
    state = test_kl16.small().state_dict()
    monkeypatch.setattr(convert, "model_of", lambda name: KL16(32, 64))
    torch.save({"model": {k: v.half() for k, v in state.items()} | {"loss.x": torch.zeros(1)}}, tmp_path / "kl16.ckpt")
    file = convert.convert("kl16", tmp_path / "kl16.ckpt")
    stored = load_file(file)
    assert set(stored) == set(state) and all(torch.equal(v, state[k].half().float()) for k, v in stored.items())
    assert [p.name for p in file.parent.iterdir()] == ["kl16.safetensors"]
    monkeypatch.undo()
    with pytest.raises(ValueError, match="inception is used as published; there is nothing to convert"):
        convert.convert("inception", tmp_path / "kl16.ckpt")


def test_truncated_and_foreign_files_give_one_message(tmp_path):
    state = test_kl16.small().state_dict()
    torch.save({"model": state}, tmp_path / "kl16.ckpt")
    save_file(state, tmp_path / "kl16.safetensors")
    for file in (tmp_path / "kl16.ckpt", tmp_path / "kl16.safetensors"):
        file.write_bytes(file.read_bytes()[:-50_000])
        with pytest.raises(
            ValueError, match=rf"{file.name} cannot be read as a checkpoint of tensors: .*cut short, get it again"
        ):
            convert.convert("kl16", file)
    (tmp_path / "page.ckpt").write_text("<html>Sign in</html>")
    with pytest.raises(ValueError, match="page.ckpt cannot be read"):
        convert.convert("kl16", tmp_path / "page.ckpt")
    torch.save({"epoch": 3}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="neither a state dict nor"):
        convert.convert("kl16", tmp_path / "other.ckpt")


# ------------------------------------------------------------------------------------------ what loads them


def test_mar_is_found_by_its_file_name(tmp_path, monkeypatch):
    """As `GenerationConfig.checkpoint` names it; a converted file goes first, a path as given before both."""
    tiny = test_mar.TINY
    states = [MAR(tiny, test_mar.gen(seed)).state_dict() for seed in range(3)]
    with pytest.raises(
        FileNotFoundError,
        match=r"no checkpoint at mar_base.pth or .*weights/mar_base.safetensors or .*run python -m cop weights mar_base, or put mar_base.pth there",
    ):
        load_mar(weights.locate("mar_base.pth"), tiny)
    folder = tmp_path / "w"
    folder.mkdir()
    monkeypatch.setenv("COP_WEIGHTS", str(folder))
    monkeypatch.chdir(tmp_path)
    torch.save({"model_ema": states[0]}, folder / "mar_base.pth")
    assert torch.equal(load_mar(weights.locate("mar_base.pth"), tiny).mask_token, states[0]["mask_token"])
    save_file(states[1], folder / "mar_base.safetensors")
    assert torch.equal(load_mar(weights.locate("mar_base.pth"), tiny).class_emb.weight, states[1]["class_emb.weight"])
    torch.save({"model": states[2]}, tmp_path / "mar_base.pth")
    assert torch.equal(load_mar(weights.locate("mar_base.pth"), tiny).class_emb.weight, states[2]["class_emb.weight"])
    with pytest.raises(FileNotFoundError, match="no checkpoint at elsewhere/mar_base.pth; run"):
        load_mar(weights.locate("elsewhere/mar_base.pth"), tiny)
    with pytest.raises(FileNotFoundError, match="mine.pth; check the path"):
        load_mar(weights.locate("mine.pth"), tiny)


def test_kl16_is_found_in_the_folder_of_weights(tmp_path, monkeypatch):
    import cop.paper.kl16

    def load(path, image_side):
        assert path == expected
        return KL16(32, image_side).requires_grad_(False).to(torch.float64)

    monkeypatch.setattr(cop.paper.kl16, "load_kl16", load)
    for place in (
        paths.cache() / "kl16.ckpt",
        paths.cache() / "weights" / "kl16.ckpt",
        paths.cache() / "weights" / "kl16.safetensors",
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        expected = place  # each goes before those made earlier
        assert KL16Tokens.load(32).grid == 2
    expected = tmp_path / "mine.ckpt"
    expected.touch()
    monkeypatch.setenv("COP_KL16", str(expected))
    assert KL16Tokens.load(32).grid == 2


class PublishedPredictor(nn.Module):
    """DynamicViT's predictor in the layers that its file has: one layer for both halves, and "keep" before "drop"."""

    def __init__(self, dim):
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        first, second = nn.Linear(dim, dim // 2), nn.Linear(dim // 2, dim // 4)
        self.out_conv = nn.Sequential(first, nn.GELU(), second, nn.GELU(), nn.Linear(dim // 4, 2))

    def forward(self, tokens, keep):
        local, everywhere = self.in_conv(tokens).chunk(2, dim=-1)
        mean = (everywhere * keep[..., None]).sum(1, keepdim=True) / keep.sum(1)[:, None, None]
        return self.out_conv(torch.cat([local, mean.expand_as(local)], dim=-1)).log_softmax(-1)


SMALL = dict(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=5)


def test_dynamicvit_from_deit_takes_our_images():
    """DeiT's input is normalised by ImageNet's statistics, ours is in [-1, 1]: same logits."""
    torch.manual_seed(0)
    deit, model = VisionTransformer(**SMALL).eval(), DynamicViT(**SMALL).eval()
    predictors = {k: v.clone() for k, v in model.state_dict().items() if k.startswith("score_predictor.")}
    convert.load_dynamicvit(model, {"model": deit.state_dict()})
    assert all(torch.equal(model.state_dict()[k], v) for k, v in predictors.items())
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(images * 2 - 1), deit((images - mean) / std), rtol=1e-4, atol=1e-5)
    larger = convert.load_dynamicvit(DynamicViT(**SMALL | {"img_size": 48}), {"model": deit.state_dict()})
    assert larger.pos_embed.shape == (1, 37, 32)
    with pytest.raises(ValueError, match=r"does not fit DynamicViT: .*head.weight is \(5, 32\), expected \(7, 32\)"):
        convert.load_dynamicvit(DynamicViT(**SMALL | {"num_classes": 7}), {"model": deit.state_dict()})


def test_dynamicvit_as_published():
    torch.manual_seed(0)
    deit, predictors = VisionTransformer(**SMALL), [PublishedPredictor(32) for _ in range(3)]
    state = deit.state_dict() | {
        f"score_predictor.{i}.{k}": v for i, p in enumerate(predictors) for k, v in p.state_dict().items()
    }
    model = convert.load_dynamicvit(DynamicViT(**SMALL), {"model": state})
    tokens, keep = torch.randn(3, 16, 32), torch.ones(3, 16)
    keep[:, 5:] = 0
    for ours, theirs in zip(model.score_predictor, predictors, strict=True):
        torch.testing.assert_close(ours(tokens, keep), theirs(tokens, keep))
    kept = []  # what stays for the second block is what the first output of the first predictor scores highest
    images = torch.randn(1, 3, 32, 32)
    model.eval().blocks[1].register_forward_pre_hook(lambda _, args: kept.append(args[0][:, 1:]))
    model.score_predictor[0].register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        model(images, 0.25)
        best = predictors[0](kept[0], torch.ones(1, 16))[0, :, 0].topk(4).indices.sort().values
    torch.testing.assert_close(kept[1][0], kept[0][0, best])


@pytest.mark.slow
def test_timm_reads_a_vit_from_your_path(tmp_path):
    """A file of the true names and shapes, as `fetch` gives it, with the position embedding resampled to 256 px."""
    import timm

    import cop.paper.cvit  # noqa: F401  registers the model

    own = timm.create_model("vit_base_patch16_224", num_classes=0)
    save_file(own.state_dict(), tmp_path / "vit.safetensors")
    file = weights.fetch("vit_base_orig_in21k", tmp_path / "vit.safetensors")
    given = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
    model = timm.create_model("cvit_base_patch16_256.orig_in21k", num_classes=10, **given)
    assert torch.equal(model.blocks[7].mlp.fc2.weight, own.blocks[7].mlp.fc2.weight)
    assert model.pos_embed.shape == (1, 257, 768) and torch.equal(model.pos_embed[:, 0], own.pos_embed[:, 0])


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights under the true names and shapes: what the library's own network has, scaled so that signals pass."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    with pytest.MonkeyPatch.context() as patch:  # the library's network without its download
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = library.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for value in state.values():
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
    state["fc.weight"] *= 30  # sure of itself
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(state, file)
    return file


def test_inception_and_reference_statistics_against_torch_fidelity(inception_file, tmp_path):
    """Our path (extractor, statistics, ADM's file, distance) gives the FID and the IS of the library's own command."""
    import torch_fidelity

    generator = torch.Generator().manual_seed(1)
    colours, grain = ((2, 4, 3, 1, 1), (2, 4, 3, 40, 40))
    sets = (torch.rand(colours, generator=generator) * 200 + torch.rand(grain, generator=generator) * 55).byte()
    for name, images in zip(("real", "fake"), sets, strict=True):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{i}.png")
    extract = metrics.Features(metrics.inception_extractor(weights.fetch("inception", inception_file)))
    (real, _), (fake, probabilities) = (extract(images) for images in sets)

    statistics = metrics.statistics(real)
    spatial = {"mu_s": np.zeros(7, np.float32), "sigma_s": np.eye(7, dtype=np.float32), "arr_0": sets[0].numpy()}
    np.savez(tmp_path / "VIRTUAL_imagenet256_labeled.npz", **statistics, **spatial)  # as ADM's file
    reference = metrics.load_statistics(weights.fetch("adm_reference", tmp_path / "VIRTUAL_imagenet256_labeled.npz"))
    assert set(reference) == {"mu", "sigma"} and all(np.array_equal(reference[k], statistics[k]) for k in reference)

    folders = {"input1": str(tmp_path / "fake"), "input2": str(tmp_path / "real")}
    network = {"feature_extractor": "inception-v3-compat", "feature_extractor_weights_path": str(inception_file)}
    how = dict.fromkeys(("cuda", "samples_shuffle", "verbose", "cache"), False) | {"rng_seed": 0, "batch_size": 8}
    how |= {"fid": True, "isc": True, "isc_splits": 2, "save_cpu_ram": True}
    theirs = torch_fidelity.calculate_metrics(**folders, **network, **how)
    assert metrics.frechet(reference, metrics.statistics(fake)) == pytest.approx(
        theirs["frechet_inception_distance"], rel=1e-3
    )
    assert metrics.inception_score(probabilities, 2) == pytest.approx(theirs["inception_score_mean"], rel=1e-3)
    assert theirs["frechet_inception_distance"] > 0.1 and theirs["inception_score_mean"] > 1.05


def test_the_paper_profile_is_evaluated_with_inception(inception_file, tmp_path, monkeypatch):
    """From images to FID and tFID against ADM's file, through the stage that notebook 4 calls."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (5, 32, 32, 3), generator=generator, dtype=torch.uint8)
    extract = metrics.Features(metrics.inception_extractor(inception_file))
    own, _ = extract(images.permute(0, 3, 1, 2))
    shifted = {k: v + 1 if k == "mu" else v for k, v in metrics.statistics(own).items()}
    np.savez(tmp_path / "reference.npz", arr_0=images.numpy(), **shifted)
    files = {"inception": inception_file, "adm_reference": tmp_path / "reference.npz"}
    monkeypatch.setattr(weights, "fetch", lambda name: files[name])
    assert paper.generation.features == "inception"
    small = replace(smoke, generation=replace(smoke.generation, features="inception", count=5))
    values, parts = evaluation.evaluate(small, 0, "real", "–", 1.0)  # one image per class: the one part is everything
    assert values.shape == (6,) and parts.shape == (1, 6) and parts.isfinite().all()
    val = load_data(small, "val")
    fake, _ = extract(evaluation.as_bytes(val.batch(selection(val, 5))[0]))
    named = dict(zip(evaluation.INCEPTION, values.tolist(), strict=True))
    assert named["fid"] == pytest.approx(metrics.frechet(metrics.statistics(own), metrics.statistics(fake)), rel=1e-3)
    apart = metrics.statistics(fake)["mu"] - metrics.statistics(own)["mu"]  # moving the reference by 1 everywhere
    assert named["frechet"] - named["fid"] == pytest.approx((1 - 2 * apart).sum(), rel=1e-3)
    table = systems_table({evaluation.REAL: (values, parts)})
    assert "tFID (FID-50K)" in table and "FID against 10,000 images" in table
    np.savez(tmp_path / "reference.npz", **shifted)
    with pytest.raises(ValueError, match="expected the reference images, uint8"):
        next(metrics.reference_images(tmp_path / "reference.npz"))


def test_published_checksums():
    """In full, or as the eight digits by which torch.hub names files; all others are recorded on download."""
    known = {e.name: e for e in weights.TABLE if e.sha256}
    whole = {"inception", "imagenette", "imagewoof"}
    assert set(known) == {"deit_base"} | whole and all(len(known[name].sha256) == 64 for name in whole)
    assert all(known[name].file.endswith(f"-{known[name].sha256[:8]}.pth") for name in ("deit_base", "inception"))
