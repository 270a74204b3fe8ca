"""What README and the book say was found comes from the records, and is current."""

import pandas as pd
import pytest

from cop import paths
from cop.__main__ import main
from cop.lessons import findings, handout


@pytest.mark.parametrize("page", findings.PAGES)
def test_a_page_says_what_the_records_say(page):
    text = (paths.root / page).read_text(encoding="utf-8")
    assert findings.filled(text, page) == text, f"{page} is not current; run python -m cop readme"


def test_readme_is_short_and_says_early_what_was_found():
    lines = (paths.root / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120 and lines.index("<!-- /findings -->") < 30
    assert len([line for line in findings.short().splitlines() if line.startswith("- **")]) == 5


@pytest.mark.parametrize("page", findings.PAGES)
def test_without_records_there_are_dashes_and_no_error(page, tmp_path, monkeypatch):
    text = (paths.root / page).read_text(encoding="utf-8")
    monkeypatch.setattr(paths, "figures", tmp_path)
    empty = findings.filled(text, page)
    assert empty != text and "not measured" in empty and "–" in empty and "nan" not in empty


def test_a_changed_record_changes_the_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "figures", tmp_path)
    (tmp_path / "demo" / "records").mkdir(parents=True)
    for seed, (cvit, rvit) in enumerate([(0.5, 0.4), (0.45, 0.6)]):
        rows = [["05_first_patches", f"top1_{n}_78%", v] for n, v in (("CViT", cvit), ("RViT", rvit))]
        pd.DataFrame(rows, columns=["notebook", "name", "value"]).to_csv(tmp_path / f"demo/records/seed{seed}.csv", index=False)
    n, pair = findings.Numbers("demo"), ("top1_CViT_78%", "top1_RViT_78%")
    assert n.wins(pair) == n.wins(pair, -1) == "with 1 of 2 seeds"
    assert n.each("top1_CViT_78%", 100, 1) == "50.0 / 45.0" and n.each(pair, 100, 0) == "+10 / -15"
    frame = pd.read_csv(tmp_path / "demo/records/seed1.csv").assign(value=[0.7, 0.6])
    frame.to_csv(tmp_path / "demo/records/seed1.csv", index=False)
    assert findings.Numbers("demo").wins(pair) == "with 2 of 2 seeds"
    assert n.each("knee_CViT") == "–" and n.wins("knee_CViT") == "not measured"


def test_a_readme_without_a_place_is_refused():
    with pytest.raises(ValueError, match="no place or several for the findings 'short'"):
        findings.filled("# cop\n")


def test_the_handout_is_one_page_of_numbers_on_record(tmp_path):
    assert main(["handout", "--out", str(tmp_path / "a.pdf")]) == 0
    page = (tmp_path / "a.pdf").read_bytes()
    assert page.startswith(b"%PDF") and page.count(b"/Type /Page\n") + page.count(b"/Type /Page ") == 1
    assert page == handout.main(tmp_path / "b.pdf").read_bytes()
    n = findings.Numbers("demo")
    gap = n.of("top1_own_collapse_78%") - n.of("top1_own_random_78%")
    (answer,) = [text for question, text in handout.findings() if "classifier" in question]
    assert f"{100 * gap.mean():+.1f}" in answer and f"{(gap > 0).sum()} of {len(gap)} seeds" in answer
