"""Absolute paths, so that papermill, nbval, JupyterLab and pytest agree whatever their working directory."""

import os
from pathlib import Path

package = Path(__file__).resolve().parent
root = package.parent
released = package / "released"
embedded = package / "data" / "embedded"
figures = root / "paper_figures"
notebooks = root / "notebooks"
build = (root if (root / "pyproject.toml").exists() else Path.cwd()) / "build"  # never beside an installed package


def cache() -> Path:
    """The user's artefact cache: `$COP_CACHE`, else `$XDG_CACHE_HOME/cop`, else `~/.cache/cop`."""
    if os.environ.get("COP_CACHE"):
        return Path(os.environ["COP_CACHE"]).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "cop"


def sources() -> list[Path]:
    """The notebooks' sources in their order. Raises FileNotFoundError where the package is installed without the project."""
    if found := sorted(notebooks.glob("[0-9][0-9]_*.py")):
        return found
    raise FileNotFoundError(f"no notebooks in {notebooks}: the installed package has none; clone the project and run the command there")
