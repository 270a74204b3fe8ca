"""The page that ranks a photograph in the browser: its JavaScript computes what the package computes.

Runs in Chromium (`make browser`) and is skipped without. The page is opened as a file: it needs no server.
"""

import base64
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kendalltau
from sklearn.datasets import load_sample_image

import cop
from cop import paths
from cop.data.inputs import read_images, read_whole
from cop.data.pictures import center_crop
from cop.lessons import measured, page, pipeline
from cop.orders import low_discrepancy_order, ranks_of
from cop.orders.looking import bilateral_graph, mean_colours, predictor_doubt
from cop.paper.patches import patchify
from cop.paper.ranking import pagerank
from cop.profiles import natural

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[browser]'")
SCRIPTS = paths.root / "book" / "static" / "rank"


@pytest.fixture(scope="module")
def js(browser, tmp_path_factory):
    """A function that evaluates an expression in a page with orders.js and the weights; `given` is its argument."""
    weights = tmp_path_factory.mktemp("page") / "weights.js"
    page.write_weights(weights)
    blank = browser.new_page()
    for script in (weights, SCRIPTS / "orders.js"):
        blank.add_script_tag(path=script)
    blank.evaluate("""globalThis.model = cop.load(COP_WEIGHTS);
        globalThis.input = ({rgba, width, height, times}) => {
            const bytes = Uint8Array.from(atob(rgba), c => c.charCodeAt(0));
            const x = cop.patchify(cop.pixels(bytes, width, height, times), model.patch_size);
            return {...x, model, tokens: cop.encode(model, x.patches)};
        };
        null""")
    yield lambda expression, given=None: blank.evaluate(f"given => {{ const out = {expression}; return "
                                                        "ArrayBuffer.isView(out) ? [...out] : out; }", given)  # fmt: skip
    blank.close()


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A sky, a horizon, discs of several colours and texture: smooth, sharp and busy places, no two patches alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / min(width, height)
    picture = np.stack([0.3 + 0.3 * y, 0.5 + 0.2 * y, 0.9 - 0.5 * y], -1)
    picture[y > 0.6] = [0.35, 0.3, 0.2]
    for _ in range(6):
        cx, cy, r = rng.uniform(0, width / min(width, height)), rng.uniform(0, 1), rng.uniform(0.05, 0.2)
        picture[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 1, 3)
    picture += np.where(y > 0.6, 0.15, 0.02)[..., None] * rng.standard_normal((height, width, 1))
    return Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))


def given(image: Image.Image, times: int) -> dict:
    """The image as a canvas would hand it to `input`."""
    rgba = base64.b64encode(image.convert("RGBA").tobytes()).decode()
    return {"rgba": rgba, "width": image.width, "height": image.height, "times": times}


PHOTOS = [(scene(64, 64), 0), (scene(512, 512, 1), 3), (scene(256, 256, 2), 2), (Image.new("RGB", (64, 64), "grey"), 0)]


@pytest.mark.parametrize("image, times", PHOTOS, ids=["64 px", "512 px", "256 px", "constant"])
def test_networks_and_graphs_agree_with_python(js, image, times):
    x = read_images(image, natural)
    tokens = pipeline.tokenizer(natural, "cpu").encode(x)

    def close(expression: str, want: torch.Tensor) -> None:
        found = torch.tensor(js(expression, given(image, times)), dtype=torch.float64)
        torch.testing.assert_close(found, want.double().flatten(), atol=1e-4, rtol=0)

    close("input(given).patches", patchify(x, 8))
    close("input(given).tokens", tokens)
    placed = measured.onepass(natural, 0, device="cpu")[0].graph(tokens)
    close("cop.measured(model, input(given).tokens, 8, 8, 'placed')", placed)
    close("cop.pagerank(cop.measured(model, input(given).tokens, 8, 8, 'placed'), 64, model.damping)", pagerank(placed))
    with torch.no_grad():
        close("cop.comae(model, input(given).tokens)", measured.graphnet(natural, 0, "cpu")[0](tokens))
    close("cop.bilateral(cop.statistics(input(given).patches, 64).colours, 8, model.looking)",
          bilateral_graph(mean_colours(x, (8, 8)), (8, 8), 1.0, 0.35))  # fmt: skip
    close("cop.statistics(input(given).patches, 64).variance", patchify(x.mean(1, keepdim=True), 8).var(-1, correction=0))
    predictor = pipeline.predictor(natural, 0, "cpu")[0]
    for count in (0, 1, 20, 63):
        seen = torch.randperm(64, generator=torch.Generator().manual_seed(count))[None, :count]
        close(f"cop.doubt(model, input(given).tokens, [...Array(64).keys()].map(n => {seen[0].tolist()}.includes(n)))",
              predictor_doubt(predictor, tokens, "active", seen))  # fmt: skip


ORDERS = {"measured": {"graph": "measured"}, "collapse": {}, "coverage": {"order": "coverage"}, "variance": {"order": "variance"},
          "active": {"order": "active"}, "low-discrepancy": {"order": "low-discrepancy"}}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_orders_are_those_of_cop_rank(js, name):
    of = f"cop.ORDERS['{name}'].of(input(given))"
    of = f"[...{of}].pop()" if name == "active" else of
    for image, times in PHOTOS[:3]:
        assert js(of, given(image, times)) == cop.rank(image, natural, **ORDERS[name])[0].tolist()


@pytest.mark.parametrize("name", ["measured", "coverage", "variance"])
@pytest.mark.parametrize("size", [(96, 64), (64, 104)], ids=["wide", "tall"])
def test_whole_photographs_are_ranked_as_by_cop_rank(js, name, size):
    image = scene(*size, seed=3)
    want = cop.rank(image, natural, crop=False, **ORDERS[name])[0].tolist()
    assert read_whole(image, natural)[0].shape[1:] == size[::-1]
    assert js(f"cop.ORDERS['{name}'].of(input(given))", given(image, 0)) == want


def test_orders_that_look_at_no_image_are_permutations(js):
    for rows, columns in ((8, 8), (8, 13), (8, 128)):
        for order in (f"cop.lowDiscrepancy({rows}, {columns})", f"cop.random({rows * columns}, 1)"):
            assert sorted(js(order)) == list(range(rows * columns))
    assert js("cop.lowDiscrepancy(8, 8)") == low_discrepancy_order(8).tolist()
    assert js("cop.random(64, 1)") != js("cop.random(64, 2)")


# ------------------------------------------------------------------------------------------- the page as a reader uses it


@pytest.fixture(scope="module")
def china(tmp_path_factory):
    """A real photograph, of scikit-learn, enlarged to 12 megapixels: its JPEG file, and its centre of 512 px as PNG."""
    folder = tmp_path_factory.mktemp("photo")
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((4245, 2832), Image.Resampling.BICUBIC)
    photo.save(folder / "china.jpg", quality=90)
    center_crop(photo, 512).save(folder / "square.png")
    return folder / "china.jpg", folder / "square.png"


def opened(browser, site, photo, **context):
    """The page, opened as a file, with a photograph; its requests are noted in `asked`, its errors in `failed`."""
    tab = browser.new_page(**context)
    tab.asked, tab.failed = [], []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("pageerror", lambda error: tab.failed.append(str(error)))
    tab.goto((site / "rank.html").as_uri())
    tab.set_input_files("#rank-file", photo)
    tab.locator("#rank.rank-open").wait_for()
    return tab


def orders(tab) -> list[list[int]]:
    return json.loads(tab.locator("#rank").get_attribute("data-orders"))


def choose(tab, menu: str, name: str) -> list[int]:
    """The order that a menu shows once it has been chosen."""
    tab.evaluate("delete document.getElementById('rank').dataset.orders")
    tab.select_option(f"#rank-{menu}", name)
    tab.locator("#rank[data-orders]").wait_for()
    return orders(tab)[menu == "second"]


def test_the_page_ranks_a_photograph_as_python_does_and_asks_nobody(browser, site, china, tmp_path):
    tab = opened(browser, site, china[1])
    for name, how in ORDERS.items():
        assert choose(tab, "first", name) == cop.rank(china[1], natural, **how)[0].tolist(), name
    tab.locator("#rank-slider").fill("50")
    assert "50 %, 32 of 64 patches" in tab.locator("#rank-percent").inner_text()
    first, second = (set(order[:32]) for order in orders(tab))
    assert f"share {len(first & second)} of their first 32" in tab.locator("#rank-said").inner_text()
    with tab.expect_download() as download:
        tab.click("#rank-save")
    assert download.value.suggested_filename == "square.low-discrepancy-coverage.50.png"
    download.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as saved, Image.open(china[1]) as photo:
        picture, photo = np.asarray(saved.convert("RGB")), np.asarray(photo)
    for n in range(64):  # by its middle: the photograph where the patch is seen, grey where it is not
        y, x = 64 * (n // 8) + 32, 64 * (n % 8) + 32
        assert np.abs(picture[y, x].astype(int) - (photo[y, x] if n in first else (70, 70, 78))).max() <= 2
    tab.locator("#rank-slider").fill("98")
    tab.click("#rank-play")
    playwright.expect(tab.locator("#rank-percent")).to_contain_text("100 %, 64")
    playwright.expect(tab.locator("#rank-play")).to_have_text("Play")
    assert all(url.startswith("file:") or url.startswith("blob:") for url in tab.asked) and not tab.failed
    tab.close()


def test_a_photograph_of_12_megapixels_on_a_phone_in_the_dark_whole_and_something_else(browser, site, china, tmp_path):
    tab = opened(browser, site, china[0], viewport={"width": 360, "height": 740}, color_scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    want = cop.rank(china[0], natural, graph="measured")[0]
    assert kendalltau(ranks_of(torch.tensor(orders(tab)[0])), ranks_of(want)).statistic > 0.9  # a canvas scales otherwise
    tab.screenshot(path=paths.build / "browser" / "rank-phone.png")
    choose(tab, "second", "active")
    tab.check("#rank-whole")
    playwright.expect(tab.locator("#rank-percent")).to_contain_text("21 of 96 patches")
    assert sorted(orders(tab)[0]) == list(range(96)) and len(orders(tab)) == 1, "the predictor knows no such grid"
    assert tab.locator("#rank-second option[value=active]").is_disabled()
    (tmp_path / "notes.txt").write_text("no picture")
    tab.set_input_files("#rank-file", tmp_path / "notes.txt")
    playwright.expect(tab.locator("#rank-said")).to_contain_text("notes.txt is no image that this browser can read")
    assert not tab.failed
    tab.close()


def test_a_photograph_can_be_dropped(browser, site, china):
    tab = browser.new_page()
    tab.goto((site / "rank.html").as_uri())
    tab.evaluate("""base64 => {
        const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0)), dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
        document.querySelector(".rank-drop").dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
    }""", base64.b64encode(china[1].read_bytes()).decode())  # fmt: skip
    tab.locator("#rank.rank-open").wait_for()
    assert orders(tab)[0] == cop.rank(china[1], natural, graph="measured")[0].tolist()
    tab.close()
