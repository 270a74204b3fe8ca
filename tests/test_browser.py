"""What a reader does, in a real browser: run notebooks 2, 3 and 5 in JupyterLab, click, move their sliders, save.

Needs `pip install -e ".[notebooks,browser]"` and Chromium (`apt-get install chromium`), and is skipped without. JupyterLab
gets a copy of the notebooks, and a home of its own, so that nobody's settings are read or changed. Pictures of what was
seen are left in build/browser.
"""

import base64
import contextlib
import difflib
import functools
import http.server
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import nbformat
import numpy as np
import pytest
from PIL import Image

from cop import paths

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[browser]'")
pytest.importorskip("jupyterlab", reason="no JupyterLab: pip install -e '.[notebooks]'")

NOTEBOOK = "03_collapse_order"
TOKEN = "only-for-this-test"
EDIT = "Read in a browser."


def seen(page, name: str) -> None:
    """Leave a picture of the page in build/browser."""
    page.screenshot(path=paths.build / "browser" / f"{name}.png")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ------------------------------------------------------------------------------------------------- JupyterLab


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the notebooks: its address, and the folder of the copy."""
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    shutil.copytree(paths.notebooks, folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for source in folder.glob("*.py"):
        os.utime(source)  # the .py is the newer of the two: its cells, with the outputs of the .ipynb
    quiet = home / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # no question over the page
    port, log = free_port(), tmp_path / "lab.log"
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("JUPYTER", "IPYTHON", "COP_PROGRESS", "COP_RETRAIN", "XDG_"))
    }
    env |= {"HOME": str(home), "COP_CACHE": str(paths.cache()), "COP_FIGURES": str(tmp_path / "figures")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={TOKEN}",
               "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with open(log, "w") as out, subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/api/status?token={TOKEN}").close()
                    break
                assert server.poll() is None, f"JupyterLab did not start:\n{log.read_text()[-2000:]}"
                time.sleep(0.25)
            yield url, folder
        finally:
            server.terminate()


def pixels(image) -> np.ndarray:
    """What an <img> with its data inside shows."""
    data = image.get_attribute("src").partition("base64,")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)


def changed(image, before: np.ndarray, seconds: float = 20) -> np.ndarray:
    """The picture once it is another one than `before`."""
    end = time.time() + seconds
    while time.time() < end:
        now = pixels(image)
        if now.shape != before.shape or not np.array_equal(now, before):
            return now
        time.sleep(0.1)
    raise AssertionError(f"the picture did not change within {seconds} s")


def opened(browser, url: str, notebook: str):
    """A page of JupyterLab with the notebook open, in focus, and its kernel ready."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(f"{url}/lab/tree/{notebook}.ipynb?token={TOKEN}")
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(state="attached")
    return page


def run_all(page, name: str) -> None:
    """Run all cells and wait for the last. Fails if one of them raised an error."""
    page.locator(".lm-MenuBar").get_by_text("Run", exact=True).click()
    page.locator(".lm-Menu").get_by_text("Run All Cells", exact=True).click()
    waiting = page.locator(".jp-InputPrompt").filter(has_text="[*]")
    try:
        waiting.first.wait_for(state="attached")
        playwright.expect(waiting).to_have_count(0, timeout=300_000)
    finally:
        seen(page, f"{name}-all-cells")
    assert page.locator("[data-mime-type='application/vnd.jupyter.error'], .jp-mod-error").count() == 0


def test_jupyterlab_runs_notebook_3_its_player_responds_and_saving_updates_the_py(browser, lab):
    url, folder = lab
    source, notebook = folder / f"{NOTEBOOK}.py", folder / f"{NOTEBOOK}.ipynb"
    text = source.read_text()
    page = opened(browser, url, NOTEBOOK)

    title = page.locator(".jp-MarkdownCell").first
    title.dblclick()
    editor = title.locator(".cm-content")
    editor.press("Control+End")
    editor.press_sequentially(f"\n\n{EDIT}")
    editor.press("Shift+Enter")
    title.locator(".jp-RenderedMarkdown").get_by_text(EDIT).wait_for()

    run_all(page, "notebook-3")
    panel = page.locator(".jp-OutputArea-output .widget-vbox").first
    panel.scroll_into_view_if_needed()
    image = panel.locator("img")
    seen(page, "notebook-3")
    picture = pixels(image)
    assert image.get_attribute("alt").endswith("on the right in the order random.")

    panel.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    picture = changed(image, picture)
    assert "after 15 of 64 patches" in image.get_attribute("alt")

    panel.locator("select").nth(2).select_option("raster")
    after = changed(image, picture)
    half = picture.shape[1] // 2
    assert np.array_equal(after[:, :half], picture[:, :half]), "the menu of the right order changed the left picture"
    assert image.get_attribute("alt").endswith("on the right in the order raster.")

    panel.locator(".jupyter-widget-play button, .widget-play button").first.click()  # Play: on and on by itself
    after = changed(image, after)
    after = changed(image, after)
    panel.locator(".jupyter-widget-play button, .widget-play button").first.click()
    seen(page, "notebook-3-player")

    asked = time.time_ns()  # JupyterLab may have saved by itself before
    page.locator(".lm-MenuBar").get_by_text("File", exact=True).click()
    page.locator(".lm-Menu").get_by_text("Save Notebook", exact=True).click()
    end = time.time() + 60
    while min(file.stat().st_mtime_ns for file in (source, notebook)) < asked and time.time() < end:
        time.sleep(0.2)
    edits = [line for line in difflib.ndiff(text.splitlines(), source.read_text().splitlines()) if line[0] in "+-"]
    assert edits == ["+ #", f"+ # {EDIT}"]

    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]
    page.close()


def test_jupyterlab_runs_notebook_5_and_its_slider_asks_the_classifier(browser, lab):
    page = opened(browser, lab[0], "05_first_patches")
    run_all(page, "notebook-5")
    panel = page.locator(".jp-OutputArea-output .widget-vbox").first
    panel.scroll_into_view_if_needed()
    image = panel.locator("img")
    picture, said = pixels(image), image.get_attribute("alt")
    assert "at its first 14 of 64 patches; the classifier says" in said

    panel.locator(".noUi-handle").focus()
    page.keyboard.press("End")  # the whole image
    picture = changed(image, picture)
    assert said.replace("first 14", "first 64").split(";")[0] == image.get_attribute("alt").split(";")[0]
    seen(page, "notebook-5-slider")

    other = panel.locator("input[type=number]").first
    other.fill("7")
    other.press("Enter")
    changed(image, picture)
    assert image.get_attribute("alt").startswith("Test image 7 ")
    page.close()


def test_jupyterlab_runs_notebook_2_and_a_click_makes_a_patch_the_target(browser, lab):
    page = opened(browser, lab[0], "02_dependency_autoencoder")
    run_all(page, "notebook-2")
    panel = page.locator(".jp-OutputArea-output .widget-vbox").first
    panel.scroll_into_view_if_needed()
    image, patches = panel.locator("img"), panel.locator(".widget-gridbox button")
    picture = pixels(image)
    assert image.get_attribute("alt").startswith("Mask of patch 36 of ")
    patches.nth(3).click()
    picture = changed(image, picture)
    assert image.get_attribute("alt").startswith("Mask of patch 3 of ")
    playwright.expect(patches.filter(has_text="✕")).to_have_count(1)
    page.set_viewport_size({"width": 500, "height": 1000})
    assert image.bounding_box()["width"] < 500
    seen(page, "notebook-2-masks")
    page.close()


# --------------------------------------------------------------------------------------------------- the book


@pytest.fixture
def book(site):
    """The book, served: its address and its folder."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", site
        server.shutdown()


# Of one page: its images with alt text and whether they are drawn in their shape, its width, the targets of its links, where it can
# be linked at.
LOOK = """async () => ({
    images: await Promise.all([...document.images].map(async i => {
        i.loading = "eager";
        i.style.padding = 0;  // the frame of a dark page
        const shape = () => Math.abs(i.width * i.naturalHeight / (i.height * i.naturalWidth) - 1);
        return [i.src, i.alt, await i.decode().then(() => !i.width || shape() < 0.02, () => false)];
    })),
    width: document.documentElement.scrollWidth,
    links: [...document.querySelectorAll("a[href]")].map(a => a.href),
    anchors: [...document.querySelectorAll("[id]")].map(e => e.id),
})"""


def brightness(page) -> float:
    """Of the page's background, from 0 (black) to 1."""
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    return (0.3 * red + 0.6 * green + 0.1 * blue) / 255


def test_the_book_is_searched_its_images_and_links_are_there_and_it_turns_dark(browser, book):
    url, site = book
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, color_scheme="light")
    page.set_default_timeout(60_000)
    page.route(lambda address: not address.startswith(url), lambda route: route.abort())  # badges live elsewhere

    page.goto(f"{url}/index.html")
    seen(page, "book-light")
    page.keyboard.press("Control+k")
    page.keyboard.type("PageRank")
    page.keyboard.press("Enter")
    found = page.locator("#search-results li a")
    found.first.wait_for()
    assert any("03_collapse_order" in a.get_attribute("href") for a in found.all())
    seen(page, "book-search")

    found.filter(has_text="collapse order").first.click()
    page.wait_for_load_state()
    assert "PageRank" in page.locator("main").inner_text()

    light = brightness(page)
    page.locator("button.theme-switch-button:visible").first.click()  # a menu: as the system, light, dark
    page.locator(".theme-change-button[data-mode=dark]:visible").first.click()
    assert light > 0.9 and brightness(page) < 0.2
    page.goto(f"{url}/notebooks/{NOTEBOOK}.html")
    assert brightness(page) < 0.2, "the next page is light again"
    seen(page, "book-dark")

    looks = {}
    page.set_viewport_size({"width": 390, "height": 844})  # a phone's
    for file in sorted(site.rglob("*.html")):
        page.goto(f"{url}/{file.relative_to(site).as_posix()}", wait_until="domcontentloaded")
        looks[page.url] = page.evaluate(LOOK)
    images = {(at, src): (alt, drawn) for at, look in looks.items() for src, alt, drawn in look["images"]}
    assert len(images) > 40
    assert not [image for image, (alt, _) in images.items() if not alt.strip()], "no alt text"
    assert not [image for image, (_, drawn) in images.items() if image[1].startswith(url) and not drawn], "not drawn"
    assert not {at: look["width"] for at, look in looks.items() if look["width"] > 390}, "scrolls sideways on a phone"
    for at, look in looks.items():
        for link in look["links"]:
            target, _, anchor = urllib.parse.unquote(link).partition("#")
            if target.startswith(url):
                target = f"{target}index.html" if target.endswith("/") else target.partition("?")[0]
                assert (site / target.removeprefix(f"{url}/")).is_file(), f"{at} links to {link}, which is not there"
                assert not anchor or target not in looks or anchor in looks[target]["anchors"], (
                    f"{at} links to {link}, no such place"
                )
    page.close()
