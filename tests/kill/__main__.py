"""`python -m tests.kill --kills 200`: the full figures as a table."""

from __future__ import annotations

import argparse

from tests.kill.figures import SORTS, Figures, Sort, aligned, as_json
from tests.kill.harness import DELAY, torture


def table(figures: Figures) -> str:
    rows: list[tuple[str, object]] = [
        ("SIGKILLs at random times", f"{figures.kills} over {figures.runs} runs"),
        *_by_sort(figures),
        ("steps lost", str(figures.lost)),
        ("outputs other than undisturbed", str(figures.wrong_outputs)),
        ("effects doubled without a yes", str(figures.doubled)),
        ("effects in doubt, asked about", f"{figures.in_doubt} ({figures.redone} had not happened)"),
        ("model requests asked again, per 100 kills", _rate(figures, sum(figures.asked_again.values()))),
        ("- of these answered whole before: paid again", _rate(figures, figures.answered_again)),
        ("- of these already read by the client", _rate(figures, figures.read_and_paid_again)),
        ("possibly paid twice, listed", str(figures.listed)),
        ("paid twice, not listed", str(figures.unlisted)),
        ("time", f"{figures.seconds:.0f} s, server at {DELAY * 1000:.0f} ms per answer"),
    ]
    return aligned(rows)


def _by_sort(figures: Figures) -> list[tuple[str, str]]:
    if figures.killed["kernel"] == figures.kills:
        return []
    named = {"kernel": "- of the kernel alone", "caller": "- of the caller alone", "both": "- of both at once"}
    rows = [(named[sort], _after(figures, sort)) for sort in SORTS]
    return [*rows, ("- lives that ended in an error with their caller", str(figures.cut))]


def _after(figures: Figures, sort: Sort) -> str:
    asked, paid = figures.asked_again[sort], figures.paid_again[sort]
    return f"{figures.killed[sort]}; after them {asked} requests asked again, {paid} answers paid again"


def _rate(figures: Figures, count: int) -> str:
    return f"{figures.per_100(count):.1f} ({count})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600, help="begin no new run after this time")
    parser.add_argument("--caller", action="store_true", help="calls are made by the caller, which is not killed")
    parser.add_argument("--callers-too", action="store_true", help="kill the kernel, the caller or both, at random")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    if options.callers_too and not options.caller:
        parser.error("--callers-too kills callers: it needs --caller")
    figures = torture(
        kills=options.kills,
        seed=options.seed,
        seconds=options.seconds,
        caller=options.caller,
        callers_too=options.callers_too,
    )
    if options.json:
        print(as_json(figures))
        return
    print(table(figures))
    for problem in figures.problems:
        print(problem)


if __name__ == "__main__":
    main()
