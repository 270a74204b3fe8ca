"""What a reader is told: right, not yet and why, or nothing filled in; never an exception."""

import math
import types

import jupytext
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cop import get_profile, paths
from cop.lessons.exercises import check, verdict
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


def entropies() -> dict:
    """The names that the exercises of notebook 1 meet, for four patches."""
    gauss = entropy.GaussianTokens.fit(torch.randn(60, 4, 2, generator=torch.Generator().manual_seed(0)))
    greedy, joint = gauss.greedy_order()[None], math.log(1.5 * 2 - 0.9**2) / 2
    names = dict(v_a=1.5, v_b=2.0, v_a_given_b=1.5 - 0.9**2 / 2, v_b_given_a=2 - 0.9**2 / 1.5, H=lambda v: math.log(v) / 2)
    a_first, b_first = (tuple(names["H"](names[v]) for v in of) for of in (("v_a", "v_b_given_a"), ("v_b", "v_a_given_b")))
    names |= dict(gauss=gauss, N=4, curves={"greedy": gauss.sum_curve(greedy)}, first={"random": gauss.chain_terms(greedy).sum().item()})
    return names | dict(joint=joint, a_first=a_first, b_first=b_first)
