"""`python -m cop`: run the notebooks, plan what they cost, release artefacts, fetch weights, build gallery and book."""

import argparse
import sys
from pathlib import Path

from cop import paths
from cop.profiles import PROFILES, get_profile
from cop.settings import value

CLONE = ("figures", "gallery", "readme", "scorecard", "book", "student", "slides", "handout", "address", "release", "cards")  # commands that need the project's files


def takes_profile(parser: argparse.ArgumentParser, default: str, whose: str = "") -> None:
    """The options that `get_profile` understands together."""
    names = ", ".join(PROFILES)
    parser.add_argument("--profile", default=default, help=f"{whose}one of {names}, or a TOML file: base = \"demo\", and tables of fields")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="e.g. comae.steps=200; may be repeated")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cop", description="A companion to The Collapse of Patches")
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("figures", help="run the notebooks, compare with paper_figures/<profile>, replace what differs")
    takes_profile(p, "demo")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="0 draws the figures; others leave a record")
    p.add_argument("--retrain", action="store_true", help="ignore artefacts stored before this run; interrupted, the same command goes on")
    p.add_argument("--keep", action="store_true", help="write the executed notebooks back to notebooks/, with --timings")
    p.add_argument("--timings", action="store_true", help="write the seconds to paper_figures/<profile>/timings.json too")
    p.add_argument("--check", action="store_true", help="a difference is an error, and paper_figures stays as it is")
    p.add_argument("--only", help="part of a notebook's name")
    p.add_argument("--dry-run", action="store_true", help="one step of every stage on synthetic images; stamped figures")
    p.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    p = commands.add_parser("plan", help="multiply-adds, memory, disk and hours of every stage of a profile")
    takes_profile(p, "paper")
    p.add_argument("--devices", nargs="+", help="names of cop.scale.plan.DEVICES; all, if left out")
    p.add_argument("--utilisation", type=float, default=0.35, help="of the data sheet's rate")
    p = commands.add_parser("rank", help="draw the collapse order over photographs",
                            epilog="exit status: 0 all drawn, 1 some left out and named, 2 none drawn")  # fmt: skip
    p.add_argument("photos", nargs="+", help="image files, or folders of them, with all folders below")
    takes_profile(p, "natural", "whose encoder: ")
    p.add_argument("--order", default="collapse", help="name of a registered order")
    p.add_argument("--graph", choices=("comae", "measured"), help="of the order: the paper's, or the one a predictor measures")
    p.add_argument("--exact", action="store_true", help="N passes per photograph, also where one would do")
    p.add_argument("--strip", action="store_true", help="beside each drawing, what had been seen before each choice: NAME.strip.png")
    p.add_argument("--no-crop", action="store_true", help="rank whole photographs, by the measured graph in one pass")
    p.add_argument("--out", help="folder for the drawings, or NAME.png for one; beside each photograph, if left out")
    p = commands.add_parser("app", help="rank photographs in the browser by networks of this machine (needs gradio)")
    takes_profile(p, "natural", "whose networks: ")
    p.add_argument("--weights", help="a CoMAE, predictor or one-pass ranker of your own: a folder of save_pretrained, or OWNER/NAME on the Hugging Face hub")
    p.add_argument("--port", type=int, default=7860)
    p = commands.add_parser("leaderboard", help="test the orders that the Python files of a folder register; the files are executed",
                            epilog="exit status: 0 all placed, 1 some left out and named, 2 none placed")  # fmt: skip
    p.add_argument("folder", type=Path, help="files as CONTRIBUTING.md describes them, one or more orders each, also in folders below")
    takes_profile(p, "demo", "whose classifier: ")
    p.add_argument("--out", type=Path, help="folder of leaderboard.png and leaderboard.csv; the same folder, if left out")
    commands.add_parser("gallery", help="rebuild paper_figures/README.md")
    commands.add_parser("readme", help="fill in the findings in README.md and in the book's page from the records")
    commands.add_parser("scorecard", help="rebuild paper_figures/SCORECARD.md and its sheet from the records")
    p = commands.add_parser("book", help="a static site of README, notebooks, gallery and modules; runs no notebook")
    p.add_argument("--out", type=Path, help="folder of the site; build/book, if left out")
    p = commands.add_parser("student", help="copies of the notebooks with exercises and without solutions or outputs")
    p.add_argument("--out", type=Path, help="folder of the copies; build/student, if left out")
    p = commands.add_parser("slides", help="slides of the notebooks, from the cells that are tagged `slide`")
    p.add_argument("--out", type=Path, help="folder of the slides; build/slides, if left out")
    p = commands.add_parser("handout", help="one page (PDF) for a class: pipeline, equations, findings from the records")
    p.add_argument("--out", type=Path, help="the file; build/handout.pdf, if left out")
    commands.add_parser("address", help="let all badges lead to the Repository of pyproject.toml")
    p = commands.add_parser("release", help="ship the artefacts of the cache with the package")
    p.add_argument("names", nargs="+", help="folders of the cache, such as comae-0123456789ab")
    commands.add_parser("cards", help="rebuild the model cards of what is released, as release does")
    p = commands.add_parser("weights", help="list the weights of the paper profile, or fetch and convert one of them")
    p.add_argument("name", nargs="?", help="left out: the list")
    p.add_argument("--path", help="a file that you have already")
    args = parser.parse_args(argv)
    try:
        if "profile" in args:
            args.profile = " ".join([args.profile, *args.set])
            get_profile(args.profile)  # what is wrong with it is said before torch is imported
        if args.command in CLONE:
            paths.sources()
        if args.command == "figures":
            from cop.runner import run

            for seed in args.seeds:
                run(args.profile, seed, args.retrain, args.keep, resume=seed > 0, only=args.only,
                    parameters={k: value(v) for k, v in args.parameter}, dry_run=args.dry_run, check=args.check,
                    timings=args.timings)  # fmt: skip
        elif args.command == "rank":
            from cop.lessons.photographs import draw  # names wrong paths before it imports torch

            written, left_out = draw(args.photos, args.profile, out=args.out, order=args.order, graph=args.graph,
                                     exact=args.exact, crop=not args.no_crop, strip=args.strip)  # fmt: skip
            print(*written, sep="\n", end="\n" if written else "")
            if left_out:
                print(f"cop: {len(written)} drawn, {len(left_out)} left out", file=sys.stderr)
            return 2 if not written else 1 if left_out else 0
        elif args.command == "app":
            from cop.lessons import app

            app.main(args.profile, args.weights, args.port)
        elif args.command == "plan":
            from cop.scale import plan

            plan.main(args.profile, args.devices, args.utilisation)
        elif args.command == "leaderboard":
            from cop.lessons import leaderboard

            written, left_out = leaderboard.main(args.folder, args.profile, out=args.out)
            print(*written, sep="\n", end="\n" if written else "")
            print(*[f"cop: {line}" for line in left_out], sep="\n", end="\n" if left_out else "", file=sys.stderr)
            return 2 if not written else 1 if left_out else 0
        elif args.command == "gallery":
            from cop.lessons.gallery import gallery

            gallery()
        elif args.command == "readme":
            from cop.lessons import findings

            findings.main()
        elif args.command == "scorecard":
            from cop.lessons import scorecard

            scorecard.main()
        elif args.command == "book":
            from cop.lessons import page
            from cop.show import book

            first = book.build(args.out)
            page.write_weights(first.parent / "_static" / "rank" / "weights.js")
            print(first)
        elif args.command == "student":
            from cop.show import book

            print(*book.student(args.out), sep="\n")
        elif args.command == "slides":
            from cop.show import book

            print(*book.slides(args.out), sep="\n")
        elif args.command == "handout":
            from cop.lessons import handout

            print(handout.main(args.out))
        elif args.command == "address":
            from cop.show import book

            print(*book.set_address() or ["nothing to change"], sep="\n")
        elif args.command == "weights":
            from cop.weights import command

            command.main(args.name, args.path)
        else:
            from cop.lessons import cards
            from cop.train import artefacts

            if args.command == "release":
                size = artefacts.release([artefacts.load(paths.cache() / name) for name in args.names])
                print(f"released artefacts: {size / 1e6:.2f} MB in all (30 MB at most)")
            print(cards.main())
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        if isinstance(error, OSError) and error.strerror:  # of the system, which names no path but in `filename`
            error = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"cop: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
