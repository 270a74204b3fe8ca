"""What readers get beside the notebooks: the book (a static site), students' copies, slides, and badges that lead to the project.

The book is built by Sphinx from the *committed* outputs; nothing is executed. Its sources are the README, the notebooks,
the gallery and the docstrings; `book/` holds Sphinx's settings and pages of its own.
"""

import html
import re
import shutil
import tomllib
from pathlib import Path

import jupytext
import nbformat

from cop import paths
from cop.files import write

LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")  # the target of a Markdown link or image, without its #fragment
FULL, PICTURE = 20, 15  # lines of text and code that a slide holds, and those that a picture takes
TALLEST = {False: 380, True: 600}  # pixels of a picture beside code, and alone; a slide has 700
BADGES = (r"(colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(/)", r"(mybinder\.org/v2/gh/)[\w.-]+/[\w.-]+(/)",
          r"(url = \\?\"https://github\.com/)[\w.-]+/[\w-]+(\.git)")  # fmt: skip


def build(out: Path | None = None) -> Path:
    """Build the book into `out` (build/book) and return its first page. Raises RuntimeError if Sphinx is not installed or
    warns of anything: a link to nowhere, a figure without alt text, a docstring that does not parse."""
    try:
        from sphinx.cmd.build import build_main
    except ImportError as error:
        raise RuntimeError("the book needs Sphinx: run `make book`, or pip install -e '.[book]'") from error
    out = out or paths.build / "book"
    pages = out.with_name(f"{out.name}-pages")
    lay_out(pages)
    shutil.rmtree(out, ignore_errors=True)
    settings = ["-c", str(paths.root / "book"), "-d", str(pages / ".doctrees")]
    if build_main(["-q", "-W", "--keep-going", "--fresh-env", *settings, str(pages), str(out)]):
        raise RuntimeError(f"the book has the faults listed above; its pages, as Sphinx read them, are in {pages}")
    return out / "index.html"


def lay_out(folder: Path) -> None:
    """The book's pages in a folder as Sphinx wants them, with every file of the project that a page links to."""
    shutil.rmtree(folder, ignore_errors=True)
    top = [paths.root / "book" / f"{name}.md" for name in ("index", "api", "rank")]  # the others link to the project, so they stay in their folder
    linking = sorted({*(paths.root / "book").glob("*.md")} - {*top})
    pages = [*(paths.root / name for name in ("README.md", "CONTRIBUTING.md")), *(paths.figures / name for name in ("README.md", "SCORECARD.md"))]
    pages += [paths.released / "MODEL_CARDS.md", *linking]
    pages += sorted(paths.notebooks.glob("*.ipynb"))
    for page in pages:
        name = page.relative_to(paths.root)
        if page.suffix == ".ipynb":
            notebook = as_page(nbformat.read(page, 4), str(name))
            write(folder / name, nbformat.writes(notebook).encode())
            text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
        else:
            text = page.read_text().replace("](book/rank.md)", "](rank.md)")  # which is one of the pages above
            write(folder / name, text.encode())
        for target in LINK.findall(text):
            file = (page.parent / target).resolve()
            if file.is_file() and file not in pages:
                write(folder / file.relative_to(paths.root), file.read_bytes())
    for page in top:
        write(folder / page.name, page.read_text().replace("   MODULES", "\n".join(f"   {m}" for m in modules())).encode())
    for module in modules():
        write(folder / "api" / f"{module}.rst", f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n".encode())


def modules() -> list[str]:
    """The modules that have a page: all but packages and commands."""
    files = sorted(paths.package.rglob("[a-z]*.py"))
    return [".".join(f.relative_to(paths.package.parent).with_suffix("").parts) for f in files]


def as_page(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """A notebook for the book: alt texts where Sphinx looks for them, solutions folded, no installation, and no badges before the
    project has an address. Raises RuntimeError for a picture without alt text."""
    notebook.cells = [c for c in notebook.cells if "colab" not in c.metadata.get("tags", [])]
    if address().startswith("YOUR_ACCOUNT/"):
        notebook.cells[0].source = re.sub(r"^\[!\[Open in .*\n", "", notebook.cells[0].source, flags=re.M)
    for cell in notebook.cells:
        if "solution" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = [*cell.metadata["tags"], "hide-cell"]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt")
                if not alt:
                    raise RuntimeError(f"{name}: a picture without alt text in the cell that begins {cell.source[:60]!r}")
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
    return notebook


def slides(folder: Path | None = None) -> list[Path]:
    """Slides of the committed notebooks in `folder` (build/slides), one HTML file each, from the cells that are tagged `slide`. The
    files hold their pictures; reveal.js, which turns the pages, is fetched by the browser. Raises RuntimeError without nbconvert."""
    try:
        from nbconvert import SlidesExporter
        from traitlets.config import Config
    except ImportError as error:
        raise RuntimeError("the slides need nbconvert: run `make slides`, or pip install -e '.[notebooks]'") from error
    hide = {"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"output-only"}}}
    exporter = SlidesExporter(
        config=Config(hide), reveal_scroll=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    made = []
    for source in sorted(paths.notebooks.glob("*.ipynb")):
        page, _ = exporter.from_notebook_node(as_slides(nbformat.read(source, 4), source.name))
        made.append((folder or paths.build / "slides") / f"{source.stem}.html")
        write(made[-1], page.encode())
    return made


def as_slides(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """The tagged cells of a notebook as slides after its title, each under the heading of its section: a text begins a slide, the
    code after it stands on the same one where it fits, and further code goes down from there. So does what much code draws."""
    title = "\n".join(notebook.cells[0].source.splitlines()[:3])
    notebook.metadata["title"] = title.splitlines()[0].removeprefix("# ")
    cells, section, headed = [nbformat.v4.new_markdown_cell(title)], "", ""
    for cell in as_page(notebook, name).cells[1:]:
        headings = re.findall(r"^## .+", cell.source, re.M) if cell.cell_type == "markdown" else []
        section = headings[-1] if headings else section
        if "slide" not in cell.metadata.get("tags", []):
            continue
        if headed != section and not headings:
            cells.append(nbformat.v4.new_markdown_cell(section))
        headed = section
        if cell.cell_type == "markdown" and cells[-1].source == section:  # a heading of its own would stand alone on its slide
            cells[-1].source += f"\n\n{cell.source}"
        else:
            cells.append(cell)
    notebook.cells, filled, kind = [], 0, None
    for cell in cells:
        begins = cell.cell_type == "markdown"
        filled = lines(cell) + (0 if begins or kind != "slide" else filled)
        kind = "slide" if begins else "-" if kind == "slide" and filled <= FULL else "subslide"
        results = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]  # where an artefact was found, say
        big = [o for o in results if {"image/png", "text/html"} & o.get("data", {}).keys()]
        apart = bool(big) and filled + sum(height(o) for o in big) > FULL
        for output in big:
            if "image/png" in output.data:  # nbconvert's own template leaves out the alt text
                alt, data = cell.metadata["mystnb"]["image"]["alt"], output.data["image/png"].replace("\n", "")
                style = f"max-height: {TALLEST[apart]}px; width: auto"
                tag = f'<img alt="{html.escape(alt)}" style="{style}" src="data:image/png;base64,{data}">'
                output["data"] = {"text/html": tag}
        if not begins:
            cell["outputs"] = [o for o in results if not (apart and o in big)]
        cell.metadata["slideshow"] = {"slide_type": kind}
        notebook.cells.append(cell)
        if apart:
            shows = {"slideshow": {"slide_type": "subslide"}, "tags": ["output-only"]}
            notebook.cells.append(nbformat.v4.new_code_cell(outputs=big, metadata=shows))
            kind = "subslide"
    return notebook


def lines(cell: nbformat.NotebookNode) -> int:
    """About how many lines of a slide a cell's source takes, with answers folded."""
    source = re.sub(r"</summary>.*?</details>", "", cell.source, flags=re.S)
    return sum(-(-len(line) // 85) + line.startswith(("#", ">")) for line in source.splitlines())


def height(output: nbformat.NotebookNode) -> int:
    """About how many lines of a slide a picture or a table takes."""
    return PICTURE if "image/png" in output.data else 3 * output.data["text/html"].count("<tr") // 2


def student(folder: Path | None = None) -> list[Path]:
    """Copies of the notebooks for a class, in `folder` (build/student): exercises, but neither solutions nor outputs."""
    copies = []
    for source in paths.sources():
        notebook = jupytext.read(source)
        notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", [])]
        for i, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{i:02d}"
        copies.append((folder or paths.build / "student") / f"{source.stem}.ipynb")
        write(copies[-1], (nbformat.writes(notebook, 4) + "\n").encode())
    return copies


def address() -> str:
    """OWNER/NAME of the project on GitHub. It stands in one place, pyproject.toml's `project.urls.Repository`."""
    url = tomllib.loads((paths.root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w-]+)", url)
    if not found:
        raise ValueError(f"project.urls.Repository of pyproject.toml is {url!r}; expected https://github.com/OWNER/NAME")
    return found[1]


def set_address() -> list[Path]:
    """Let every badge, and the first cell of every notebook, lead to `address()`; returns the files that changed."""
    changed = []
    for file in (paths.root / "README.md", *sorted(paths.notebooks.glob("[0-9]*.py")), *sorted(paths.notebooks.glob("*.ipynb"))):
        text = new = file.read_text()
        for badge in BADGES:
            new = re.sub(badge, rf"\g<1>{address()}\g<2>", new)
        if new != text:
            write(file, new.encode())
            changed.append(file)
    return changed
