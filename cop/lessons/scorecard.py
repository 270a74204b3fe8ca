"""The scorecard, `paper_figures/SCORECARD.md`: twelve claims of the paper against the records. `python -m cop scorecard`.

What is typed is the table in `cop.lessons.claims`. Verdicts follow by one rule (`verdict`).
"""

import pandas as pd

from cop import paths
from cop.files import write
from cop.lessons.claims import CLAIMS, Claim, Ways
from cop.measure.cost import attention_saving
from cop.show.figures_scorecard import Panel, sheet
from cop.show.records import DATA, Seeds, read
from cop.show.report import markdown, written

PAGE = "SCORECARD.md"
HOLDS, FAILS, DEPENDS, IMAGENET, UNMEASURED = VERDICTS = (
    "holds",
    "fails",
    "depends on the run",
    "cannot be tested without ImageNet",
    "not measured",
)


class Scores(Seeds):
    """The committed records of a profile by name, and what follows from them; a number whose records are missing has no values."""

    def __init__(self, profile: str):
        super().__init__(profile, figures=paths.figures)
        of, trained = self.of, "trained" if len(self.of("share_low_trained")) else "with"
        edges = of("edges_of_first_variance") - 1
        found = {
            "polarised": of(f"share_low_{trained}") + of(f"share_high_{trained}"),
            "polarised_without": of("share_low_without") + of("share_high_without"),
            "mean_weight": of(f"mean_weight_{trained}"),
            "L_r": of(f"reconstruction_{trained}"),
            "outline": (of("edges_of_first_collapse") - 1) / edges,
            "outline_measured": (of("measured_edges") - 1) / edges,
        } | costs(profile)
        more = {name: x for name, x in found.items() if len(x.dropna())}
        if more:
            self.values = pd.concat([self.values, pd.DataFrame(more).T])


def costs(profile: str) -> dict[str, pd.Series]:
    """What the first 22 % of the patches save, by the profile's tables of costs, which are of seed 0."""
    folder, found = paths.figures / profile, {}
    if (table := read(folder / "cost.csv", ("share", "gain", "ideal"))) is not None:
        row = table.loc[(table["share"] - 0.22).abs().idxmin()]
        found = {"saved_time": 1 - 1 / row["gain"], "saved_counted": 1 - 1 / row["ideal"]}
    if (table := read(folder / "looking_cost.csv", ("order", "with the classifier"))) is not None:
        units = table.set_index("order")["with the classifier"].str.rstrip("×").astype(float)
        rows = {
            "saved_with_ranking": "collapse, exact",
            "saved_with_measured": "measured, one pass",
            "saved_counted": "one order for all",
        }
        found = {name: 1 - units[order] for name, order in rows.items() if order in units} | found
    if found:
        found["saved_attention"] = attention_saving(22, 100)
    return {name: pd.Series({0: value}) for name, value in found.items()}


def verdict(ways: Ways, scores: Seeds, generator: bool = False) -> tuple[str, int, int]:
    """The rule, and how many of how many say what the paper says. Each way of testing a claim answers once for each seed that has all of
    its numbers: yes if all lie within their bounds. All yes: holds; none: fails; some: depends on the run; no answer: not measured, or
    not without ImageNet where a generator is needed."""
    answers = []
    for way in ways:
        values = pd.DataFrame({i: scores.of(number.name) for i, number in enumerate(way)}).dropna()
        answers += [all(n.says_so(row[i]) for i, n in enumerate(way)) for _, row in values.iterrows()]
    if not answers:
        return IMAGENET if generator else UNMEASURED, 0, 0
    yes = sum(answers)
    return HOLDS if yes == len(answers) else FAILS if not yes else DEPENDS, yes, len(answers)


def said(found: tuple[str, int, int]) -> str:
    """`fails (0 of 3)`."""
    return found[0] + (f" ({found[1]} of {found[2]})" if found[2] else "")


def verdicts(claim: Claim, scores: dict[str, Seeds]) -> dict[str, tuple[str, int, int]]:
    """As printed, by profile; a generator of clothes needs no ImageNet."""
    return {p: verdict(claim.ways, s, claim.generator and p != "demo") for p, s in scores.items()}


def summary(scores: dict[str, Seeds]) -> pd.DataFrame:
    """One row per claim."""
    rows = []
    for claim in CLAIMS:
        graph = {p: verdict(claim.measured, s) for p, s in scores.items()}
        by_graph = "; ".join(f"{DATA[p]}: {said(v)}" for p, v in graph.items() if v[2])
        rows.append(
            {"claim": f"[{claim.key}](#{claim.key.lower()}) · {claim.words}", "the paper": claim.paper}
            | {DATA[p]: said(v) for p, v in verdicts(claim, scores).items()}
            | {
                "with the measured graph": by_graph or (UNMEASURED if claim.measured else "–"),
                "shown in": claim.where(),
            }
        )
    return pd.DataFrame(rows)


def numbers(claim: Claim, scores: dict[str, Seeds]) -> pd.DataFrame:
    """All numbers of a claim: those that decide with their bounds, controls, and those of the measured graph."""
    roles = [(f"as printed: {n.bounds()}", n) for way in claim.ways for n in way]
    roles += [("beside", n) for n in claim.controls]
    roles += [(f"measured graph: {n.bounds()}", n) for way in claim.measured for n in way]
    return pd.DataFrame(
        [
            {"number": n.label, "holds where": role, "the paper": n.of_paper()}
            | {DATA[p]: n.cell(s) for p, s in scores.items()}
            for role, n in roles
        ]
    )


def panels(scores: dict[str, Seeds]) -> list[Panel]:
    """The sheet: the first number of each claim by data, or of its second way of testing where the first has no records."""
    made = []
    for claim in CLAIMS:
        first, found, rows = claim.ways[0][0], verdicts(claim, scores), []
        for profile, s in scores.items():
            number = next((way[0] for way in claim.ways if len(s.of(way[0].name))), first)
            rows.append((DATA[profile], [number.scale * x for x in s.of(number.name)], said(found[profile])))
        made.append(Panel(f"{claim.key} · {claim.words}", first.label, first.above, first.below, first.paper, rows))
    return made


def page(scores: dict[str, Seeds]) -> str:
    """The text of the scorecard."""
    lines = ["# Scorecard: twelve claims of the paper", "", "Generated by `python -m cop scorecard` from the records; do not edit.", "",
             "The rule: a claim is tested by numbers with bounds, which stand in the table of each claim below. Every seed on record answers "
             "yes if all of them lie within their bounds (where two notebooks test a claim, once for each). "
             f"All yes: **{HOLDS}**. None: **{FAILS}**, which means that these runs do not show it. Some: **{DEPENDS}**. No records: "
             f"**{UNMEASURED}**; **{IMAGENET}** where a generator of photographs would have to be trained. In brackets how many say yes. "
             "One yes of one is one training, and no interval.", "",
             markdown(summary(scores)), "",
             *[f"- {DATA[p]}: profile `{p}`, {s.names() if s.values.size else 'no records'}" for p, s in scores.items()], ""]  # fmt: skip
    for profile, column in DATA.items():
        if (note := paths.figures / profile / "NOTE.md").exists():
            lines += [f"Of {column}:", "", note.read_text(encoding="utf-8").strip(), ""]
    alt = "Twelve small plots, one per claim: the deciding number on clothes and photographs with the range in which the claim holds."
    lines += [f"![{alt}](scorecard.png)", "", "*Shaded: where the claim holds. Small dots are seeds, bars 95 % over them; a diamond is the paper's number.*", ""]  # fmt: skip
    for claim in CLAIMS:
        found = [f"{DATA[p]}: {said(v)}" for p, v in verdicts(claim, scores).items()]
        lines += [f"## {claim.key}", "", f"**{claim.words}.** {claim.paper}.", "", f"{'; '.join(found)}.", "",
                  markdown(numbers(claim, scores)), "",
                  f"Shown in {claim.where()}. What would change our mind: {claim.change}", ""]  # fmt: skip
    return "\n".join(lines)


def counts(scores: Seeds, profile: str) -> str:
    """`2 hold (1 in a single training), 5 fail`: how many claims got which verdict on a profile's data."""
    found = [verdicts(claim, {profile: scores})[profile] for claim in CLAIMS]
    words, several = [], {HOLDS: "hold", FAILS: "fail", DEPENDS: "depend on the run"}
    for name in VERDICTS:
        trainings = [n for v, _, n in found if v == name]
        single = f" ({trainings.count(1)} in a single training)" if name == HOLDS and 1 in trainings else ""
        if trainings:
            words.append(f"{len(trainings)} {name if len(trainings) == 1 else several.get(name, name)}{single}")
    return ", ".join(words)


def load() -> dict[str, Seeds]:
    return {profile: Scores(profile) for profile in DATA}


def main() -> None:
    """Write the page and the sheet into paper_figures."""
    scores = load()
    write(paths.figures / PAGE, page(scores).encode())
    for kind, content in written(sheet(panels(scores))).items():
        write(paths.figures / f"scorecard.{kind}", content)
