"""Shared by the unit tests and `pytest --nbval notebooks`."""

import os
import runpy
import tempfile
from pathlib import Path

import torch

os.environ["COP_PROGRESS"] = "0"
os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"  # tests import `datasets` themselves, which would report to a server
torch.set_num_threads(min(2, torch.get_num_threads()))

# No network, here and in the processes that tests and notebooks start.
OFFLINE = Path(__file__).parent / "tests" / "offline"
os.environ["COP_TRIED"] = tempfile.mkstemp(prefix="cop-tried-")[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(OFFLINE), os.environ.get("PYTHONPATH"))))
runpy.run_path(str(OFFLINE / "sitecustomize.py"))


def pytest_unconfigure():
    Path(os.environ["COP_TRIED"]).unlink(missing_ok=True)


def pytest_collectstart(collector):
    """nbval: where an artefact was found goes to stderr and may differ from machine to machine."""
    if getattr(collector, "skip_compare", None) is not None:
        collector.skip_compare += ("stderr",)
