"""The figures as a table; run in a mount namespace of its own, by `python -m tests.powercut`."""

from __future__ import annotations

from tests.kill.figures import aligned, as_json
from tests.powercut.harness import Cuts, torture
from tests.powercut.options import parser


def table(figures: Cuts) -> str:
    rows: list[tuple[str, object]] = [
        ("power cuts at random moments", f"{figures.kills} over {figures.runs} runs"),
        ("steps told as done before a cut", figures.acknowledged),
        ("- of these not on disk after it", figures.gone),
        ("journals damaged", figures.damaged),
        ("requests sent without a record", figures.unrecorded),
        ("steps lost by the end, other outputs", f"{figures.lost}, {figures.wrong_outputs}"),
        ("effects doubled without a yes", figures.doubled),
        ("answers kept in the inbox, whole / torn", f"{figures.whole} / {figures.torn}"),
        ("model answers paid again", figures.answered_again),
        ("paid twice, not listed", figures.unlisted),
        ("possibly paid twice, listed", figures.listed),
        ("time", f"{figures.seconds:.0f} s"),
    ]
    return aligned(rows)


def main() -> None:
    options = parser().parse_args()
    figures = torture(
        cuts=options.cuts,
        seed=options.seed,
        kind=options.fs,
        seconds=options.seconds,
        caller=options.caller,
        synchronous=options.synchronous,
    )
    if options.json:
        print(as_json(figures))
        return
    print(table(figures))
    for problem in figures.problems[:20]:
        print(problem)


if __name__ == "__main__":
    main()
