"""The scorecard follows from the records by one rule, and the committed page is current."""

import re

import jupytext
import pandas as pd
import pytest

from cop import paths
from cop.lessons import scorecard
from cop.lessons.claims import CLAIMS
from cop.lessons.scorecard import DEPENDS, FAILS, HOLDS, IMAGENET, UNMEASURED

BY_KEY = {claim.key: claim for claim in CLAIMS}


def test_the_committed_page_says_what_the_records_say():
    committed = (paths.figures / scorecard.PAGE).read_text(encoding="utf-8")
    assert scorecard.page(scorecard.load()) == committed, "not current; run python -m cop scorecard"
    assert list(BY_KEY) == [f"C{i}" for i in range(1, 13)]
    assert all(len(line.split("|")) - 2 <= 7 for line in committed.splitlines() if line.startswith("|"))


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Writes records of a profile, one mapping of numbers per seed, and returns its scores."""
    monkeypatch.setattr(paths, "figures", tmp_path)

    def record(*seeds: dict[str, float], profile: str = "demo") -> scorecard.Scores:
        for seed, numbers in enumerate(seeds):
            table = pd.DataFrame(
                [("09_test", *item) for item in numbers.items()], columns=["notebook", "name", "value"]
            )
            (tmp_path / profile / "records").mkdir(parents=True, exist_ok=True)
            table.to_csv(tmp_path / profile / "records" / f"seed{seed}.csv", index=False)
        return scorecard.Scores(profile)

    return record


def test_a_flipped_record_flips_the_verdict(recorded):
    below, above = {"area_collapse": 0.2, "area_random": 0.3}, {"area_collapse": 0.3, "area_random": 0.2}
    ways = BY_KEY["C3"].ways
    assert scorecard.verdict(ways, recorded(below, below)) == (HOLDS, 2, 2)
    assert scorecard.verdict(ways, recorded(below, above)) == (DEPENDS, 1, 2)
    assert scorecard.verdict(ways, recorded(above, above)) == (FAILS, 0, 2)
    assert f"| {FAILS} (0 of 2) |" in scorecard.page(scorecard.load())


def test_a_missing_record_is_not_measured_and_breaks_nothing(recorded):
    scores = {profile: recorded(profile=profile) for profile in scorecard.DATA}
    for claim in CLAIMS:
        other = IMAGENET if claim.generator else UNMEASURED
        assert [v for v, _, _ in scorecard.verdicts(claim, scores).values()] == [UNMEASURED, other]
    half = recorded({"frechet_MAR+C_train_cfg2": 1.0, "frechet_MAR_random_cfg2": 2.0})  # without CMAR's
    assert scorecard.verdict(BY_KEY["C5"].ways, half)[0] == UNMEASURED
    scorecard.main()
    assert (paths.figures / "scorecard.svg").exists() and "no records" in (paths.figures / scorecard.PAGE).read_text()


def test_all_numbers_of_a_claim_have_to_agree_and_a_band_has_two_ends(recorded):
    moderate = BY_KEY["C4"].ways
    both = {"kendall_within_collapse": 0.5, "kendall_between_collapse": 0.4}
    assert scorecard.verdict(moderate, recorded(both))[0] == HOLDS
    assert scorecard.verdict(moderate, recorded(both | {"kendall_between_collapse": 0.1}))[0] == FAILS
    assert scorecard.verdict(moderate, recorded(both | {"kendall_within_collapse": 0.9}))[0] == FAILS


def test_a_gain_that_holms_correction_takes_away_is_none(recorded):
    ways = BY_KEY["C8"].ways
    assert scorecard.verdict(ways, recorded({"gain_collapse - random": 0.5, "holm_collapse - random": 1.0})) == (
        FAILS,
        0,
        1,
    )
    assert scorecard.verdict(ways, recorded({"gain_collapse - random": 0.5, "holm_collapse - random": 0.01})) == (
        HOLDS,
        1,
        1,
    )


def test_every_number_is_on_record_somewhere_and_every_section_in_its_notebook():
    scores = scorecard.load().values()
    for claim in CLAIMS:
        for number in [n for way in (*claim.ways, claim.controls, *claim.measured) for n in way]:
            assert any(len(s.of(number.name)) for s in scores), f"{claim.key}: no record has {number.name!r}"
        cells = jupytext.read(paths.notebooks / f"{claim.notebook}.py").cells
        assert claim.section in re.findall(r"^##+ (.+)$", "\n".join(c.source for c in cells), re.M), claim.section
