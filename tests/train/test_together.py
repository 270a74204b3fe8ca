"""Stages side by side: the same artefacts as in turn, nothing where nothing is missing, errors not lost."""

from dataclasses import replace

import pytest
import torch

from cop.lessons import classification, classifiers
from cop.profiles import smoke
from cop.train import artefacts
from cop.train.loop import threads
from cop.train.together import Job, together

PROFILE = replace(smoke, classifier=replace(smoke.classifier, steps=2))


def jobs(*systems):
    configs = {s: classifiers.system_config(PROFILE, s, 0) for s in systems}
    return [Job("classifier", c, classification.classifier, (PROFILE, s, 0, "cpu")) for s, c in configs.items()]


def test_processes_leave_what_a_run_in_turn_leaves(tmp_path, monkeypatch):
    weights = {}
    for place in ("in_turn", "together"):
        monkeypatch.setenv("COP_CACHE", str(tmp_path / place))
        with threads(1 if place == "in_turn" else 2):
            ran = together(jobs("ViT", "variance"))
        assert ran == (0 if place == "in_turn" else 2), "with one thread there is nothing to gain"
        with threads(1):
            weights[place] = [classification.classifier(PROFILE, s, 0, "cpu")[1].tensors for s in ("ViT", "variance")]
    for a, b in zip(*weights.values(), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)
    with threads(2):
        assert together(jobs("ViT", "variance")) == 0, "both are stored by now"
        assert together(jobs("ViT", "reversed")) == 0, "one alone needs no process"


def test_an_error_in_a_process_reaches_the_caller(tmp_path, monkeypatch):
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    wrong = [Job("x", {"i": i}, artefacts.load, (tmp_path / f"none{i}",)) for i in range(2)]
    with threads(2), pytest.raises(ValueError, match="none0 is not a complete artefact"):
        together(wrong)
