"""What a reader is told: right, not yet and why, or nothing filled in; never an exception."""

import math
import types

import jupytext
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cop
from cop import get_profile, paths
from cop.lessons import looking
from cop.lessons.exercises import check, verdict
from cop.orders import registry
from cop.paper import comae, entropy, ranking

NUMBER = st.floats(-1e6, 1e6)


@given(st.lists(NUMBER, min_size=1, max_size=5), NUMBER)
def test_right_if_and_only_if_equal(truth, change):
    assert verdict(list(truth), np.array(truth)) == "Right."
    wrong = [truth[0] + change, *truth[1:]]
    gap, largest = abs(wrong[0] - truth[0]), max(1, *map(abs, truth))
    assert (verdict(wrong, truth) == "Right.") == (gap <= 1e-6 * largest)


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        (..., 3, "Nothing filled in yet: replace the dots."),
        ((..., ...), (1, 2), "Nothing filled in yet: replace the dots."),
        ((1, ...), (1, 2), "Nothing filled in yet: replace the dots."),
        (..., lambda n: True, "Nothing filled in yet: replace the dots."),
        (3, 3, "Right."),
        (torch.ones(4, requires_grad=True), np.ones(4), "Right."),
        ((4, 11), [4, 11], "Right."),
        (torch.tensor([3]), 3, "Right."),
        (2.5, 2, "Not yet: off by 0.5."),
        ([1.0, 2.0], torch.tensor([1.0, 4.0]), "Not yet: off by 2 at most."),
        (float("nan"), 1, "Not yet: not a number."),
        ([1, 2], 3, "Not yet: expected one number, this is 2 numbers."),
        (torch.zeros(2, 3), torch.zeros(3), "Not yet: expected 3 numbers, this is 2 × 3 numbers."),
        ("three", 3, "Not yet: expected one number, this is a str."),
        (None, 3, "Not yet: not a number."),
        ([[1], [2, 3]], 3, "Not yet: expected one number, this is a list."),
        (4, lambda n: n % 2 == 0, "Right."),
        (3, lambda n: n % 2 == 0, "Not yet: the check does not hold for this answer."),
    ],
)
def test_what_a_reader_is_told(answer, expected, said):
    assert verdict(answer, expected) == said


def test_a_check_that_fails_on_an_answer_is_an_answer_too(capsys):
    check("four", lambda n: n / 2 == 2)
    assert capsys.readouterr().out.startswith("Not yet: the check fails on this answer (TypeError: unsupported operand")


@pytest.mark.parametrize(
    ("answer", "said"),
    [((1, 2), "Right."), ((2, 1), "Not yet: swapped"), ([0, 0], "Not yet: nothing is counted"), ((5, 5), "Not yet: off by 4 at most."),
     (..., "Nothing filled in yet: replace the dots."), (3, "Not yet: expected 2 numbers, this is one number.")],
)  # fmt: skip
def test_a_usual_mistake_gets_its_hint_and_any_other_what_is_wrong(answer, said):
    hints = {"swapped": (2, 1), "nothing is counted": lambda x: sum(x) == 0, "never said of a right answer": (1, 2)}
    assert verdict(answer, (1, 2), hints=hints) == said


def names_of_notebook(number: int) -> dict:
    """What the exercises of notebooks 1, 2, 3 and 6 find there, of nine random patches; of notebook 6 in the smoke profile."""
    draws, N = torch.Generator().manual_seed(0), 9
    if number == 1:
        common, own = (torch.randn(90, n, 2, generator=draws) for n in (1, N))
        gauss = entropy.GaussianTokens.fit(common + own / 3)  # the first patches tell much
        order, v = gauss.greedy_order()[None], dict(v_a=1.5, v_b=2.0, v_a_given_b=1.1, v_b_given_a=2.0 * 1.1 / 1.5)
        H = {name: math.log(x) / 2 for name, x in v.items()}
        a_first, b_first = (H["v_a"], H["v_b_given_a"]), (H["v_b"], H["v_a_given_b"])
        v |= dict(a_first=a_first, b_first=b_first, joint=sum(a_first), H=lambda x: math.log(x) / 2)
        return v | dict(
            N=N,
            gauss=gauss,
            curves={"greedy": gauss.sum_curve(order)},
            first={"random": gauss.chain_terms(order).sum()},
        )
    if number == 2:
        config = get_profile("smoke").comae
        return dict(N=N, c=config, model=comae.CoMAE(config, 3, 2), comae=comae)
    if number == 6:
        graphs, config = torch.rand(1, N, N, generator=draws), get_profile("smoke")
        batch = looking.batch_of(config, 3, 0, "cpu")
        wrong = {
            "these are scores: sort them": batch.patches.mean(-1),
            "average over the last dimension": cop.collapse_order(batch.patches.mean(1)),
            "all scores are equal": cop.collapse_order(torch.ones(3, batch.num_tokens)),
        }
        setting = dict(config=config, images=3, seed=0, device="cpu", N=batch.num_tokens, wrong=wrong)
        return setting | dict(orders=cop.orders, lesson=looking, graphs=graphs, weights=torch.ones(1, N))
    A, varied = (torch.rand(shape, generator=draws) for shape in ((1, N, N), (N,)))
    return dict(
        N=N, A=A, varied=varied, scores=ranking.pagerank(A), config=get_profile("smoke"), ranking=ranking, cop=cop
    )


@pytest.mark.parametrize("number", [1, 2, 3, 6])
def test_usual_wrong_answers_of_an_exercise_are_told_apart_and_its_solution_is_right(number, monkeypatch):
    monkeypatch.setattr(registry, "_orders", dict(registry._orders))  # notebook 6 registers one
    asked = []
    names = names_of_notebook(number) | {"math": math, "torch": torch}
    names["exercises"] = types.SimpleNamespace(check=lambda *given, **hints: asked.append((given, hints)))
    for cell in jupytext.read(paths.sources()[number - 1]).cells:
        if {"exercise", "solution"} & set(cell.metadata.get("tags", [])):
            exec(cell.source, names)
    assert len(asked) == 6  # three exercises and their solutions
    for ((_, *expected), hints), ((solution, *_), _) in zip(asked[::2], asked[1::2], strict=True):
        assert verdict(solution, *expected, **hints) == "Right." and len(hints["hints"]) >= 3
        for hint, wrong in hints["hints"].items():
            wrong = names["wrong"][hint] if callable(wrong) else wrong
            assert verdict(wrong, *expected, **hints) == f"Not yet: {hint}"
