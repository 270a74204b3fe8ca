"""The book, built once from the committed outputs, as a browser would read it: alt texts, links, search, modules.

`make test` installs Sphinx before it runs these; a plain `pytest` skips them where it is missing.
"""

import ast
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from cop import paths
from cop.show import book

for needed in ("sphinx", "myst_nb", "sphinx_book_theme"):
    pytest.importorskip(needed, reason="the book needs `pip install -e '.[book]'`; `make test` does it")
NOTEBOOKS = sorted(paths.notebooks.glob("*.ipynb"))


class Page(HTMLParser):
    """What a page shows, links to and can be linked at."""

    def __init__(self, html: str):
        super().__init__()
        self.html, self.images, self.links, self.ids, self.classes = html, [], [], set(), []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.ids |= {a.get("id"), a.get("name")} - {None}
        self.classes.append(set((a.get("class") or "").split()))
        if tag == "img":
            self.images.append((a.get("src"), a.get("alt")))
        if tag in ("a", "link") and a.get("href"):
            self.links.append(a["href"])
        if tag in ("img", "script") and a.get("src"):
            self.links.append(a["src"])


@pytest.fixture(scope="module")
def pages(site):
    return {p: Page(p.read_text()) for p in site.rglob("*.html") if "_static" not in p.parts}


def test_every_page_is_there(site, pages):
    wanted = {"index", "search", "rank", "paper_figures/README", "api", *(f"notebooks/{n.stem}" for n in NOTEBOOKS)}
    assert wanted <= {str(p.relative_to(site))[:-5] for p in pages}


def test_every_image_has_an_alt_text(pages):
    shown = [(p.name, src, alt) for p, page in pages.items() for src, alt in page.images]
    assert len(shown) > 40
    assert not [x for x in shown if not (x[2] or "").strip()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[n.stem for n in NOTEBOOKS])
def test_a_notebooks_figures_keep_their_alt_texts_and_are_those_committed(path, site, pages):
    page = pages[site / "notebooks" / f"{path.stem}.html"]
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    wanted = [o.metadata["image/png"]["alt"] for c in cells for o in c.outputs if "image/png" in o.get("data", {})]
    shown = [alt for src, alt in page.images if "_images/" in src]
    assert shown == wanted and wanted


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[n.stem for n in NOTEBOOKS])
def test_solutions_are_folded_and_the_installation_is_left_out(path, site, pages):
    page = pages[site / "notebooks" / f"{path.stem}.html"]
    solutions = [c for c in nbformat.read(path, 4).cells if "solution" in c.metadata.get("tags", [])]
    assert sum({"cell", "tag_solution", "tag_hide-cell"} <= c for c in page.classes) == len(solutions)
    assert sum({"hide", "above-input"} <= c for c in page.classes) == len(solutions)
    assert "google.colab" not in page.html


def test_no_internal_link_is_broken(site, pages):
    broken, seen = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            seen += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].ids if target in pages else set()
            if not target.is_file() or (target in pages and parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken and seen > 500


def test_pages_link_to_each_other_and_to_the_files_of_the_project(site, pages):
    front = pages[site / "index.html"].links
    for name in (*(f"notebooks/{n.stem}.html" for n in NOTEBOOKS), "paper_figures/README.html", "api.html"):
        assert name in front
    for name in ("CITATION.cff", "LICENSE"):
        assert [x for x in front if x.startswith("_downloads/") and x.endswith(f"/{name}")], name
    for here, there in zip(NOTEBOOKS, NOTEBOOKS[1:], strict=False):
        assert f"{here.stem}.html" in pages[site / "notebooks" / f"{there.stem}.html"].links
    gallery = pages[site / "paper_figures" / "README.html"].links
    assert [x for x in gallery if x.endswith("/fig4.svg")] and "../notebooks/03_collapse_order.html" in gallery


def test_search_needs_no_server_and_finds_pagerank_in_notebook_3(site, pages):
    text = (site / "searchindex.js").read_text()
    index = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\);?\s*", text, re.S)[1])
    found = [index[where].get("pagerank", []) for where in ("terms", "titleterms")]  # a number, or a list of them
    names = {index["docnames"][i] for f in found for i in (f if isinstance(f, list) else [f])}
    assert "notebooks/03_collapse_order" in names and "api/cop.paper.ranking" in names
    scripts = [urlsplit(x).path for x in pages[site / "search.html"].links if ".js" in x]
    assert {"searchindex.js", "_static/searchtools.js", "_static/language_data.js"} <= set(scripts)


@pytest.mark.parametrize("module", [m.removeprefix("cop.") for m in book.modules()])
def test_modules_list_their_public_functions_and_classes(module, site, pages):
    tree = ast.parse((paths.package / f"{module.replace('.', '/')}.py").read_text())
    defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    page = pages[site / "api" / f"cop.{module}.html"]
    missing = [name for name in defined if f"cop.{module}.{name}" not in page.ids]
    assert not missing and f"api/cop.{module}.html" in pages[site / "api.html"].links


def test_nothing_but_badges_is_fetched_from_elsewhere(pages):
    for path, page in pages.items():
        assert not re.findall(r"<script[^>]+src=\"(?:https?:)?//[^>]*>|<link[^>]+stylesheet[^>]+href=\"(?:https?:)?//[^>]*>", page.html), path
    badges = set() if "YOUR_ACCOUNT" in book.address() else {"colab.research.google.com", "mybinder.org"}
    assert {urlsplit(src).netloc for page in pages.values() for src, _ in page.images} == {""} | badges
    assert sum(page.html.count("<math") for page in pages.values()) > 30


def test_dark_mode_has_a_switch_on_every_page_and_a_style(site, pages):
    for path, page in pages.items():
        assert any("theme-switch-button" in c for c in page.classes), path
    styles = "".join(s.read_text() for s in (site / "_static" / "styles").glob("*.css"))
    assert re.search(r"html\[data-theme=\"?dark\"?\]", styles)


def test_a_picture_without_alt_text_is_refused():
    picture = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("draw()", outputs=[picture])])
    with pytest.raises(RuntimeError, match=r"n\.ipynb: a picture without alt text in the cell that begins 'draw\(\)'"):
        book.as_page(notebook, "n.ipynb")


def test_on_slides_a_picture_that_finds_no_room_beside_its_code_stands_on_the_next_one():
    def code(lines: int):
        said = {"name": "stderr", "text": "where it was found"}
        shown = {"data": {"image/png": "AA=="}, "metadata": {"image/png": {"alt": "a picture"}}}
        outputs = [nbformat.v4.new_output("stream", **said), nbformat.v4.new_output("display_data", **shown)]
        return nbformat.v4.new_code_cell("x = 1\n" * lines, outputs=outputs, metadata={"tags": ["slide"]})

    text = nbformat.v4.new_markdown_cell("## A section\n\nA sentence.", metadata={"tags": ["slide"]})
    for lines, kinds in ((1, ["slide", "slide", "-"]), (12, ["slide", "slide", "-", "subslide"])):
        cells = [nbformat.v4.new_markdown_cell("# Title"), text, code(lines)]
        made = book.as_slides(nbformat.v4.new_notebook(cells=cells), "x").cells
        assert [c.metadata["slideshow"]["slide_type"] for c in made] == kinds
        (output,) = made[-1].outputs
        assert 'alt="a picture"' in output.data["text/html"] and (made[-1].source == "") == (lines == 12)
        assert not [o for c in made[2:] for o in c.outputs if o.output_type == "stream"]
