"""The registry of orders: one file of a user is enough for an order to stand everywhere, and bad orders are named."""

import jupytext
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import cop
from cop import orders, paths
from cop.__main__ import main
from cop.data.pictures import DRAWN
from cop.lessons import classification, classifiers, generation, ordering, pipeline
from cop.orders import registry
from cop.profiles import smoke
from cop.show import figures, report
from cop.train.loop import seeded, threads

pytestmark = pytest.mark.usefixtures("own_cache")
N = 64
TOY = '''
"""The patches that the fewest others rely on first, and dark ones before bright ones where nothing else decides."""

from cop.orders import collapse_order, order


@order("darkest first", needs="pixels", trained="every seed", colour="#554433", dash="--")
def darkest(batch):
    return collapse_order(-batch.patches.mean(-1))


@order("hub", needs="comae", mirror="own", trained="never", stored=True)
def hub(batch):
    return collapse_order(batch.A.sum(-1)).cpu()
'''


@pytest.fixture
def own_orders(tmp_path, monkeypatch):
    """Whatever a test registers is forgotten after it; the function registers what stands in a file."""
    monkeypatch.setattr(registry, "_orders", dict(registry._orders))
    monkeypatch.setattr(registry, "_files", set())

    def write(text: str) -> None:
        file = tmp_path / "orders.py"
        file.write_text(text)
        monkeypatch.setenv("COP_ORDERS", str(file))

    return write


def run(notebook: str, **parameters) -> dict:
    """The names that the code cells of a notebook leave, with these parameters."""
    (source,) = paths.notebooks.glob(f"{notebook}_*.py")
    names = {}
    for cell in jupytext.read(source).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "colab" not in tags:
            exec(cell.source, names)
        if "parameters" in tags:
            names |= parameters
    return names


def test_an_order_in_one_file_appears_in_notebooks_3_and_5(own_orders, tmp_path, monkeypatch):
    own_orders(TOY)
    assert len(TOY.splitlines()) < 40
    monkeypatch.setenv("COP_FIGURES", str(tmp_path))
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda self: None)  # drawing takes most of the time
    drawn, recorded, toy = {}, {}, "darkest first"
    monkeypatch.setattr(report.Report, "figure", lambda self, fig, name, *_: drawn.update({name: fig}) or plt.close(fig))
    monkeypatch.setattr(report.Report, "record", lambda self, **values: recorded.update(values))
    with threads(1):
        third = run("03", profile="smoke", images=20, device="cpu")
        fifth = run("05", profile="smoke", rounds=1, device="cpu")
    assert list(third["ranks"])[-2:] == list(orders.added()) == [toy, "hub"]
    player = third["lesson"].order_player(third["sample"], third["ranks"])
    assert toy in player.choices()["left"].options and toy in third["pairs"]
    assert {toy, "hub"} <= set(third["agreement"]) and toy in fifth["own"] and toy in fifth["one"] and "hub" not in fifth["own"]
    assert {f"share_image_{toy.replace(' ', '_')}", f"top1_own_{toy}_78%", f"top1_one_{toy}_78%"} <= recorded.keys()
    (line,) = [x for x in drawn["controls"].axes[0].lines if x.get_label() == toy]
    assert line.get_color() == "#554433" == figures.line_of(toy)[0] and line.get_linestyle() == "--"
    costs = fifth["lesson"].order_costs(fifth["bills"]["smoke"]).set_index("order")
    assert costs.loc[toy, "cost / whole image"] == "0.0×" and costs.loc["hub", "computed from"] == "comae"
    assert third["out"].folder.name.startswith("smoke-orders-darkest_first+hub"), "drawn beside, not over, the profile's own figures"
    assert any(f.name.startswith("order-") for f in paths.cache().iterdir()), "what takes long is stored"


def test_an_order_is_chosen_on_the_command_line(own_orders, tmp_path, capsys):
    own_orders(TOY)
    photo = tmp_path / "photo.png"
    plt.imsave(photo, torch.rand(64, 64, 3, generator=seeded(0)).numpy())
    assert main(["rank", str(photo), "--profile", "smoke", "--order", "darkest first"]) == 0
    first = (tmp_path / f"photo.png{DRAWN}").read_bytes()
    assert main(["rank", str(photo), "--profile", "smoke", "--order", "raster"]) == 0
    assert (tmp_path / f"photo.png{DRAWN}").read_bytes() != first
    capsys.readouterr()
    assert main(["rank", str(photo), "--profile", "smoke", "--order", "spiral"]) == 2
    assert capsys.readouterr().err.startswith("cop: unknown order 'spiral'; expected one of collapse, in-strength, random")


def test_what_an_order_needs_is_what_it_gets(own_orders):
    """Of a split, of mirrored images and of images alone, in whatever portions."""
    own_orders(TOY)
    images = pipeline.load_data(smoke, "test").batch(slice(None))[0]
    whole = ordering.ranking_of(smoke, "test", "hub", device="cpu")
    assert torch.equal(whole, cop.rank(images, smoke, device="cpu", order="hub", exact=True))
    mirrored = ordering.ranking_of(smoke, "test", "hub", device="cpu", flipped=True)
    assert torch.equal(mirrored, cop.rank(images.flip(-1), smoke, device="cpu", order="hub", exact=True))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(ordering, "AT_A_TIME", 10)
        for name in ("random", "variance", "in-strength", "mean order", "darkest first"):
            in_portions = ordering.ranking_of(smoke, "test", name, device="cpu")
            m.setattr(ordering, "AT_A_TIME", 250)
            assert torch.equal(ordering.ranking_of(smoke, "test", name, device="cpu"), in_portions), name
            m.setattr(ordering, "AT_A_TIME", 10)


def test_a_ranking_and_a_function_stand_where_an_order_does():
    images, raster = pipeline.load_data(smoke, "test").batch(slice(None))[0], torch.arange(N)
    for given in (raster, raster.expand(64, -1), lambda batch: raster, orders.get("raster"), orders.entries.raster):
        assert torch.equal(cop.rank(images, "smoke", order=given), raster.expand(64, -1))
        found = classification.hits("smoke", "RViT", given, device="cpu")
        assert (found.top1 == classification.hits("smoke", "RViT", "raster", device="cpu").top1).all()
    variance = ordering.ranking_of("smoke", "train", "variance")
    a, b = (classification.classifier("smoke", x, device="cpu")[0].state_dict() for x in (variance, "variance"))
    assert all(torch.equal(a[k], b[k]) for k in a), "trained along the same order"
    stored = len(list(paths.cache().glob("classifier-*")))
    found = classification.all_hits("smoke", {"by name": ("variance", None), "given": (variance, "variance")}, device="cpu")
    assert (found["by name"].top1 == found["given"].top1).all()
    assert len(list(paths.cache().glob("classifier-*"))) == stored, "nothing is trained twice"
    made = generation.generate("smoke", 0, "base", "centre-out", count=3, device="cpu").tensors["rankings"]
    assert torch.equal(made.long(), orders.centre_out_order(8).expand(3, -1))


@pytest.mark.parametrize("bad, message", [
    ("spiral", "unknown order 'spiral'; expected one of collapse, in-strength, random"),
    (3, "an order is given as int; expected a ranking tensor, a function of a batch, or one of collapse"),
    (torch.arange(63), r"order 'given ranking': bad ranking of shape \(63,\)"),
    (torch.arange(N).expand(4, -1), "4 rankings for 3 images; expected one per image"),
    (lambda batch: batch.patches.mean(-1), r"order '<lambda>': bad ranking of shape \(3, 64\), torch.float32"),
    (lambda batch: torch.zeros(3, N).long(), r"order '<lambda>': ranking\[0\] repeats or misses a patch"),
    (lambda batch: torch.arange(N).expand(2, -1), r"order '<lambda>' returns \(2, 64\) for 3 images; expected \(3, 64\)"),
    (lambda batch: [1, 2], "order '<lambda>' returns a list; expected a LongTensor"),
])  # fmt: skip
def test_bad_orders_are_named(bad, message):
    with pytest.raises(ValueError, match=message) as error:
        cop.rank(torch.zeros(3, 1, 32, 32), "smoke", order=bad)
    assert "\n" not in str(error.value)


def test_bad_registrations_are_refused(own_orders, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="an order named 'raster' is registered already; choose another name"):
        orders.order("raster")(lambda batch: None)
    with pytest.raises(ValueError, match="order 'x': needs is 'magic'; expected one of nothing, comae, pixels"):
        orders.order("x", needs="magic")(lambda batch: None)
    own_orders(TOY + '\norder("raster")(darkest)\n')
    for _ in range(2):  # a file that fails leaves nothing behind
        with pytest.raises(ValueError, match=r"orders\.py fails with ValueError: an order named 'raster' is registered already"):
            orders.get("darkest first")
    monkeypatch.setenv("COP_ORDERS", str(tmp_path / "none.py"))
    with pytest.raises(FileNotFoundError, match=r"COP_ORDERS names .*none\.py, which is no file"):
        orders.registered()


def test_an_order_that_changes_is_not_found_under_its_old_key(own_orders):
    keys = []
    for text in (TOY, TOY.replace("-batch.patches", "batch.patches")):
        own_orders(text)
        keys.append(classifiers.system_config(smoke, "darkest first", 0))
        registry._files.clear()
        registry._orders = {k: v for k, v in registry._orders.items() if k not in ("darkest first", "hub")}
    assert keys[0] != keys[1]
