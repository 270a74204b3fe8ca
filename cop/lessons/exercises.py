"""Exercises that check themselves: the notebooks ask, `check` answers in one plain line."""

import math
from collections.abc import Callable, Mapping

import numpy as np


def check(answer, expected, tolerance: float = 1e-6, hints: Mapping[str, object] | None = None) -> None:
    """Print whether an answer is right, and if not, what is wrong with it. A wrong answer never raises.

    answer: what the reader wrote; `...` is "nothing yet". expected: a number, a list, an array or a tensor, which the
    answer has to meet in shape and value, or a function that says of an answer whether it is right. tolerance: of every
    number, as a share of the largest expected one where that is above 1. hints: what to say of the usual wrong answers,
    hint -> wrong answer (whatever `expected` may be).
    """
    print(verdict(answer, expected, tolerance, hints))


def verdict(answer, expected, tolerance: float = 1e-6, hints: Mapping[str, object] | None = None) -> str:
    """The line that `check` prints."""
    said = compared(answer, expected, tolerance)
    if said != "Right.":
        for hint, wrong in (hints or {}).items():
            if compared(answer, wrong, tolerance) == "Right.":
                return f"Not yet: {hint}"
    return said


def compared(answer, expected, tolerance: float) -> str:
    """What is to be said of an answer without any hint."""
    if answer is ... or (isinstance(answer, tuple | list) and any(x is ... for x in answer)):
        return "Nothing filled in yet: replace the dots."
    if isinstance(expected, Callable):
        try:
            return "Right." if bool(expected(answer)) else "Not yet: the check does not hold for this answer."
        except Exception as error:  # whatever a reader may write
            return f"Not yet: the check fails on this answer ({type(error).__name__}: {error})."
    truth = numbers(expected)
    try:
        mine = numbers(answer)
    except (TypeError, ValueError):
        return f"Not yet: expected {shape(truth)}, this is a {type(answer).__name__}."
    mine = mine.reshape(()) if mine.size == 1 and truth.ndim == 0 else mine
    if mine.shape != truth.shape:
        return f"Not yet: expected {shape(truth)}, this is {shape(mine)}."
    gap = float(np.abs(mine - truth).max(initial=0))
    largest = float(np.abs(truth).max(initial=1))
    if gap <= tolerance * largest:
        return "Right."
    return "Not yet: not a number." if math.isnan(gap) else f"Not yet: off by {gap:.2g}{' at most' if mine.size > 1 else ''}."


def numbers(x) -> np.ndarray:
    """A number, list, array or tensor (with or without gradient, on any device) as float64."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=float)


def shape(x: np.ndarray) -> str:
    """`one number`, `64 numbers`, `8 × 8 numbers`."""
    return "one number" if x.ndim == 0 else f"{' × '.join(map(str, x.shape))} numbers"
