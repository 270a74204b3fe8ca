"""The committed notebooks and figures: paired, executed from top to bottom, with every picture there and not blank.

`pytest --nbval notebooks` compares the printed outputs with a fresh run; it does not look at pictures, nor at cells
that were never run. These tests do.
"""

import ast
import base64
import csv
import io
import json
import re
import shutil
import sys
import types

import jupytext
import nbformat
import numpy as np
import pytest
from nbconvert import SlidesExporter
from PIL import Image, ImageFilter, ImageOps

from cop import paths, runner
from cop.lessons import gallery
from cop.show import book, report

NOTEBOOKS = sorted(paths.notebooks.glob("*.ipynb"))
IDS = [n.stem for n in NOTEBOOKS]
DEMO = paths.figures / "demo"


def picture(data: bytes) -> np.ndarray:
    """A PNG as grey values in [0, 1] without its white margin (a notebook crops it), blurred, for panels may sit a few
    pixels elsewhere in the other one, and shrunk to 48 x 48."""
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L")
    flat = flat.crop(ImageOps.invert(flat).point(lambda v: 255 * (v > 8)).getbbox())
    flat = flat.resize((480, 480), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(10))
    return np.asarray(flat.resize((48, 48), Image.Resampling.BOX), float) / 255


def is_blank(data: bytes) -> bool:
    return picture(data).std() < 0.02


def code_cells(path):
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.source.strip()]


def test_every_notebook_is_in_the_manifest_and_paired():
    assert [s.stem for s in paths.sources()] == [lesson.NOTEBOOK for lesson in gallery.LESSONS] == IDS
    assert {of.notebook for of in report.SHOWN.values()} == set(IDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_source_and_notebook_hold_the_same_cells(path):
    def cells(notebook):
        return [(c.cell_type, c.source.strip(), c.metadata.get("tags", [])) for c in notebook.cells]

    assert cells(jupytext.read(path.with_suffix(".py"))) == cells(nbformat.read(path, 4))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_executed_from_top_to_bottom_without_error(path):
    cells = code_cells(path)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_cells_that_end_in_a_value_show_it(path):
    """A removed output: a cell whose last line is an expression (or a figure) must have one."""
    for cell in code_cells(path):
        last = cell.source.rstrip().splitlines()[-1]
        shows = re.match(r"^(lesson\.|f?\"|pd\.(?!options)|told$|print\(|\{|cop\.|\", )", last)
        if shows or "lesson." in last and " = " not in last:
            visible = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
            assert visible, f"no output left in the cell that ends with {last!r}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_every_figure_of_the_manifest_is_embedded_and_equals_the_saved_one(path):
    embedded = {}
    for cell in code_cells(path):
        name = re.search(r"^lesson\.(\w+)\(out\b", cell.source, re.M)
        if name and (DEMO / f"{name[1]}.png").exists():
            shown = [o for o in cell.outputs if "image/png" in o.get("data", {})]
            assert len(shown) == 1, f"{name[1]} is shown {len(shown)} times, expected once"
            assert len(shown[0].metadata["image/png"]["alt"]) > 20, f"{name[1]} has no alt text"
            embedded[name[1]] = base64.b64decode(shown[0].data["image/png"])
    expected = [n for n, of in report.SHOWN.items() if of.notebook == path.stem and (DEMO / f"{n}.png").exists()]
    assert sorted(embedded) == sorted(expected) and expected
    for name, data in embedded.items():
        saved = (DEMO / f"{name}.png").read_bytes()
        assert not is_blank(data) and not is_blank(saved), f"{name} is blank"
        a, b = picture(data).ravel(), picture(saved).ravel()
        assert np.corrcoef(a, b)[0, 1] > 0.9, f"{name}: the notebook and paper_figures/demo show different pictures"


@pytest.mark.parametrize("name", report.SHOWN)
def test_every_figure_and_table_has_its_files_alt_text_and_place_in_the_gallery(name):
    card = json.loads((DEMO / f"{name}.json").read_text())
    assert len(card["alt"]) > 20 and card["seed"] == 0 and card["notebook"] in IDS
    page = (paths.figures / "README.md").read_text()
    assert card["alt"] in page
    if (DEMO / f"{name}.png").exists():
        assert (DEMO / f"{name}.svg").read_text().lstrip().startswith("<?xml")
        assert f"](demo/{name}.png)" in page
    else:
        with open(DEMO / f"{name}.csv") as f:
            assert len(list(csv.reader(f))) > 1
        assert gallery.narrow((DEMO / f"{name}.md").read_text().strip()) in page


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_house_rules_of_a_notebook(path):
    cells = nbformat.read(path, 4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert cells[0].source.startswith("# ") and "> *" in cells[0].source
    for heading in ("## Paper vs ours", "## Exercises", "## References", "**You will see**", "**Time**", "**Hardware**",
                    "**After this you can**", "**You need to know**", "## The result first", "**Recap.**", "Further reading"):  # fmt: skip
        assert heading in text, f"{heading} is missing"
    (parameters,) = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    for line in parameters.source.splitlines():
        assert re.match(r"^\w+: (str|int|float|bool) = [^()]+  # \w", line), f"not typed, literal and commented: {line}"
    assert re.search(r"^seed: int = 0", parameters.source, re.M)
    assert [c for c in cells if "exercise" in c.metadata.get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_code_of_a_notebook_fits_a_slide_and_the_column_of_the_book(path):
    cells = [c.source.splitlines() for c in jupytext.read(path.with_suffix(".py")).cells if c.cell_type == "code"]
    assert not [lines[0] for lines in cells if len(lines) > 15]
    assert not [line for lines in cells for line in lines if len(line) > 76]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_a_notebook_imports_five_names_at_most(path):
    tree = ast.parse("\n".join(c.source for c in jupytext.read(path.with_suffix(".py")).cells if c.cell_type == "code"))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module.startswith("cop") or isinstance(n, ast.Import)]
    assert len([a for n in found for a in n.names if isinstance(n, ast.ImportFrom) or a.name.startswith("cop")]) <= 5


TYPED = {  # numbers that may stand in prose, for no training changes them
    "95 %": "level of intervals",
    "140": "epochs of the paper's Fig. 6",
    "512": "epochs of the paper's CoMAE",
    "50,000": "images of the paper's metrics",
    ".01": "the paper's least gain in tFID",
    ".09": "and its largest",
    "82.91": "Table 5, ViT at 0 %",
    "82.84": "Table 5, ViT + C at 0 %",
    "78 %": "the paper's knee",
    "22 %": "what it leaves",
    "99 %": "end of the paper's Fig. 8",
    "95.16 %": "section 4.5",
    "0 %": "start of Fig. 8",
    "256": "latents, pixels and width of the paper's CoMAE",
    "64": "its other width; patches and pixels of ours",
    "1,000": "steps of the diffusion",
    "14": "of 64 patches, when one in five goes on: DynamicViT's rule",
    ".4": "matrix of notebook 6's five patches",
    ".6": "the same",
}
LEFT_OUT = (  # of prose: code, formulas, addresses; the head's table; references; the numbers of questions and exercises
    r"(?s)```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)",
    r"(?m)^\| \*\*(Paper|Time|Before|Next)\*\*.*$",
    r"(Eqs?\.|Figs?\.|Tables?|[Ss]ections?|[Nn]otebooks?|ICLR|ViT-B/)\s?\[?\d[\d.]*((, | and |, and | or | to |–)\[?\d[\d.]*)*",
    r"(?m)^(<details><summary>)?\d\. ",
    r"\(C?\d+\)",
)


def typed(prose: str) -> set[str]:
    """The numbers in prose of more than one digit, per cents, and counts of runs."""
    for pattern in LEFT_OUT:
        prose = re.sub(pattern, " ", prose)
    found = re.findall(r"\d+ of \d+ (?:seeds|runs|images)|\d[\d.,]*\d(?: ?%)?|\.\d+(?: ?%)?|\d ?%", prose)
    return {re.sub(r" ?%", " %", number) for number in found}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_no_number_of_a_run_is_typed_in_prose(path):
    cells = [c.source for c in jupytext.read(path.with_suffix(".py")).cells if c.cell_type == "markdown"]
    assert not typed("\n".join(cells).partition("## References")[0]) - set(TYPED)
    said = "RViT has 57.7 % and is better with 3 of 4 seeds, by 12 points or 8 %; see Eq. 15, Tables 2, 3 and 4, `top[16]` and $0.5$."
    assert typed(said) == {"57.7 %", "3 of 4 seeds", "12", "8 %"}


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_skeleton_of_a_notebook(path):
    """Promise, badges, paper, time, hardware, neighbours; then installation, parameters, and at the end three headings."""
    cells = jupytext.read(path.with_suffix(".py")).cells
    front, first, second = cells[:3]
    assert tagged(first, "colab") and tagged(second, "parameters")
    badges = re.findall(r"^\[!\[Open in (\w+)\]\(https://[^)]+\)\]\((https://[^)]+)\)$", front.source, re.M)
    assert badges == [
        ("Colab", f"https://colab.research.google.com/github/{book.address()}/blob/main/notebooks/{path.name}"),
        ("Binder", f"https://mybinder.org/v2/gh/{book.address()}/main?labpath=notebooks/{path.name}"),
    ]
    rows = dict(re.findall(r"^\| \*\*(\w+)\*\* \| (.+) \|$", front.source, re.M))
    assert list(rows) == ["Paper", "Time", "Hardware", "Before", "Next"]
    i = NOTEBOOKS.index(path)
    linked = {k: re.findall(r"\]\((\w+\.ipynb)\)", rows[k]) for k in ("Before", "Next")}
    assert {n for names in linked.values() for n in names} <= {n.name for n in NOTEBOOKS}
    assert bool(linked["Before"]) == (i > 0) and bool(linked["Next"]) == (i < len(NOTEBOOKS) - 1)
    headings = re.findall(r"^## (.+)$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M)
    assert headings[-2:] == ["Exercises", "References"] and "Paper vs ours" in headings[:-2]


def test_the_first_cell_installs_on_colab_and_does_nothing_elsewhere(monkeypatch):
    (source,) = {jupytext.read(p.with_suffix(".py")).cells[1].source for p in NOTEBOOKS}  # the same in all of them
    ran, before = [], list(sys.path)
    shell = types.SimpleNamespace(system=ran.append)
    exec(source, {"get_ipython": lambda: shell})
    assert not ran and sys.path == before
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(source, {"get_ipython": lambda: shell})
    clone, install = ran
    assert clone.startswith("git clone ") and clone.endswith(f" https://github.com/{book.address()}.git /content/cop")
    assert install == f"{sys.executable} -m pip install -q -e /content/cop" and sys.path == ["/content/cop", *before]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_exercises_wait_for_an_answer_and_their_solutions_are_right(path):
    """An exercise: dots to be replaced, and a check. The cell after it is its solution, with the same check."""
    cells = [c for c in jupytext.read(path.with_suffix(".py")).cells if c.cell_type == "code"]
    found = [(a, b) for a, b in zip(cells, cells[1:], strict=False) if tagged(a, "exercise")]
    assert len(found) >= 2 and sum(tagged(c, "solution") for c in cells) == len(found)
    for exercise, solution in found:
        assert tagged(solution, "solution") and re.search(r"= \.\.\.(, \.\.\.)?$", exercise.source, re.M)
        last = exercise.source.splitlines()[-1]
        assert last.startswith("exercises.check(") and solution.source.splitlines()[-1] == last
    said = {tag: [o.text for c in code_cells(path) if tagged(c, tag) for o in c.outputs] for tag in ("exercise", "solution")}
    assert said["exercise"] == ["Nothing filled in yet: replace the dots.\n"] * len(found)
    assert said["solution"] == ["Right.\n"] * len(found)


def test_students_copies_have_exercises_and_neither_solutions_nor_outputs(tmp_path):
    copies = book.student(tmp_path)
    assert [c.name for c in copies] == [n.name for n in NOTEBOOKS]
    for copy in copies:
        notebook = nbformat.read(copy, 4)
        nbformat.validate(notebook)
        whole = jupytext.read(paths.notebooks / f"{copy.stem}.py").cells
        assert [c.source for c in notebook.cells] == [c.source for c in whole if not tagged(c, "solution")]
        assert len(whole) - len(notebook.cells) == sum(tagged(c, "exercise") for c in notebook.cells) > 0
        assert not [c for c in notebook.cells if c.get("outputs") or c.get("execution_count")]


def lines_of(cells) -> list[str]:
    return [line for c in cells for line in c.source.splitlines() if line.strip()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_slides_begin_with_the_title_and_show_what_is_tagged(path):
    cells = jupytext.read(path.with_suffix(".py")).cells
    assert all(tagged(c, "slide") for c in cells if c.source.startswith(("> **In short.**", "## The result first", "## By hand")))
    notebook = nbformat.read(path, 4)
    made = book.as_slides(nbformat.read(path, 4), path.name).cells
    assert made[0].source.startswith("# ") and made[0].source.splitlines()[-1].startswith("> *")
    told = [c for c in notebook.cells if tagged(c, "slide")]  # what is too tall for a slide goes on, on the next
    code, text = (lines_of(c for c in made if c.cell_type == kind) for kind in ("code", "markdown"))
    assert code == lines_of(c for c in told if c.cell_type == "code")
    assert set(lines_of(c for c in told if c.cell_type == "markdown")) <= set(text)
    assert sum("## " in c.source for c in made[1:]) >= 4, "every section that has a slide has its heading"
    assert all(c.metadata.slideshow.slide_type == "slide" for c in made if c.cell_type == "markdown")
    page = SlidesExporter().from_notebook_node(nbformat.v4.new_notebook(cells=made))[0]
    pictures = re.findall(r"<img alt=\"([^\"]*)\"", page)
    assert len(pictures) >= 2 and all(len(alt) > 20 for alt in pictures)


def test_one_edit_and_one_command_change_the_address_of_every_badge(tmp_path, monkeypatch):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(paths.root / name, tmp_path)
    shutil.copytree(paths.notebooks, tmp_path / "notebooks")
    monkeypatch.setattr(paths, "root", tmp_path)
    monkeypatch.setattr(paths, "notebooks", tmp_path / "notebooks")
    assert book.set_address() == [], "badges lead elsewhere than pyproject.toml says: run `make address`"
    old, project = book.address(), tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace(f"github.com/{old}", "github.com/some-one/elsewhere-2"))
    changed = book.set_address()
    assert {f"{i}.py" for i in IDS} <= {f.name for f in changed}
    for file in changed:
        text = file.read_text()
        assert f"/{old}/" not in text and f"/{old}.git" not in text and "/some-one/elsewhere-2/" in text
    assert book.set_address() == []
    project.write_text(project.read_text().replace("https://github.com/some-one/", "https://example.org/"))
    with pytest.raises(ValueError, match="project.urls.Repository of pyproject.toml is 'https://example.org/elsewhere-2'"):
        book.address()


def test_every_term_that_a_notebook_links_stands_in_the_glossary():
    headings = re.findall(r"^## (.+)$", (paths.root / "book" / "glossary.md").read_text(), re.M)
    terms = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
    assert len(terms) == len(headings) and headings == sorted(headings, key=str.lower)
    for source in paths.sources():
        text = "\n".join(c.source for c in jupytext.read(source).cells if c.cell_type == "markdown")
        linked = set(re.findall(r"\]\(\.\./book/glossary\.md#([^)\s]+)\)", text))
        assert linked <= terms, f"{source.name} links {sorted(linked - terms)}, which the glossary lacks"
        assert "glossary.md" not in re.sub(r"\]\(\.\./book/glossary\.md(#[^)\s]+)?\)", "", text)


def test_unknown_parameters_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match="unknown parameter 'sed' for 01_patch_entropy; expected one of profile, seed"):
        runner.run("smoke", only="01", parameters={"sed": 3})
    with pytest.raises(ValueError, match="unknown profile 'huge'"):
        runner.run("huge")
    with pytest.raises(ValueError, match="no notebook matches '99'"):
        runner.run("smoke", only="99")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_the_first_cell_after_the_imports_checks_every_parameter(path):
    own = report.parameters(path.stem)
    call = re.search(r"# %%\nout, config = lesson\.start\(\s*(.*?),?\s*\)\n", path.with_suffix(".py").read_text(), re.S)[1]
    assert re.split(r",\s+", call) == ["profile", "seed", *(f"{k}={k}" for k in own if k not in ("profile", "seed"))]
    report.check(path.stem, own)


def test_a_notebook_of_other_parameters_runs_headlessly_and_stays_in_build(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COP_FIGURES", raising=False)
    monkeypatch.setattr(paths, "build", tmp_path / "build")
    monkeypatch.setattr(paths, "figures", tmp_path / "figures")
    (done,) = runner.run("smoke", only="02", parameters={"images": 8})
    assert code_cells(done)[-1].execution_count
    folder = tmp_path / "build" / "smoke" / "seed0" / "figures"
    assert [f.name for f in folder.iterdir()] == ["smoke-images-8"] and not (tmp_path / "figures").exists()
    assert (folder / "smoke-images-8" / "tab1.csv").exists() and (folder / "smoke-images-8" / "records" / "seed0.csv").exists()
    assert json.loads((folder / "smoke-images-8" / "tab1.json").read_text())["parameters"] == {"images": 8}
    assert not (tmp_path / "build" / "smoke" / "timings.json").exists()
    assert f"not the profile's own: what was drawn with them stays in {folder}" in capsys.readouterr().out
