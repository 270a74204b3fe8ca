"""Shared by the unit tests and `pytest --nbval notebooks`."""

import os

import torch

os.environ["COP_PROGRESS"] = "0"
torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_collectstart(collector):
    """nbval: where an artefact was found goes to stderr and may differ from machine to machine."""
    if getattr(collector, "skip_compare", None) is not None:
        collector.skip_compare += ("stderr",)
