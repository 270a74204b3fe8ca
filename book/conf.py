"""Settings of the book. `make book` lays out its pages (cop/show/book.py) and calls Sphinx with this file."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

project = "The Collapse of Patches: a companion"
author = "The cop contributors"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["README.md"]  # included by index.md
autosummary_generate = False  # cop/show/book.py writes a page for every module

nb_execution_mode = "off"  # committed outputs only
nb_output_stderr = "remove"  # where an artefact was found
nb_code_prompt_show, nb_code_prompt_hide = "Show a solution", "Hide the solution"  # no other cell is folded
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings write `names` as Markdown does
autodoc_default_options = {"members": True, "undoc-members": True, "ignore-module-all": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # as written, and not as Python prints them
add_module_names = False

html_theme = "sphinx_book_theme"
html_title = project
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["book.css"]
html_math_renderer = "mathml"
html_theme_options = {"use_download_button": False, "use_fullscreen_button": False, "show_toc_level": 2, "navbar_persistent": []}


def as_written(app, what, name, obj, options, lines):
    """Docstrings are plain text: an indented block keeps its columns, a paragraph of unequal indentation its lines."""
    out = []
    for block in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        rows = block.split("\n")
        indented = [row.startswith(" ") for row in rows]
        if all(indented):
            out += ["::", "", *(f"    {row}" for row in rows), ""]
            continue
        parts = [re.sub(r"(`[^`]*`)|([|])", lambda m: m[1] or r"\|", row) for row in rows]  # | outside of `code`
        out += [*(f"| {part}" for part in parts), ""] if any(indented) else [*parts, ""]
    lines[:] = out


def formula(writer, node):
    """Formulae as MathML, which browsers draw by themselves: the book fetches no script from elsewhere."""
    block = isinstance(node, nodes.math_block)
    try:
        drawn = tex2mathml(node.astext(), as_block=block)
        writer.body.append(f'<div class="formula">{drawn}</div>' if block else drawn)
    except MathError as error:
        logging.getLogger(__name__).warning("%s in %r", error, node.astext(), location=node)
    raise nodes.SkipNode


def setup(app):
    app.connect("autodoc-process-docstring", as_written)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
