"""`agentkit demo`: the first notebook executed twice in a real kernel, and what each time it cost."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from genai_prices import Usage as PricedUsage
from genai_prices import calc_price
from nbclient import NotebookClient

from agentkit.events import Run
from agentkit.journal.store import Store
from agentkit.journal.totals import Totals
from agentkit.trace import format
from agentkit.trace.trace import RunNode, Trace

NOTEBOOK = "01_first_agent.ipynb"
LIST_PRICE_OF = ("openai", "gpt-5")
"""The model at whose published price the demo says what replay is worth: the offline model itself costs nothing."""

_COLUMNS = ("", "agent", "asked", "steps", "live", "replayed", "time", "tokens", "spent", "saved")
_WORDS = 3  # columns that are set left; the rest are figures


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One execution of the notebook: how long the kernel took, and what its runs did and answered."""

    name: str
    seconds: float
    trace: Trace
    answers: tuple[tuple[str, str, bytes | None], ...]

    @property
    def totals(self) -> Totals:
        return self.trace.totals


def notebooks() -> Path:
    """The folder of notebooks: inside an installed package, beside it in a clone."""
    package = Path(__file__).parents[1]
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"


def demo() -> int:
    """Print both executions side by side; the exit status is 0 only if the second was replayed with equal answers."""
    print(f"{NOTEBOOK}: executed twice, each time in a fresh kernel; no key, no network\n")
    with tempfile.TemporaryDirectory(prefix="agentkit-demo-") as scratch:
        folder = Path(scratch) / "notebooks"
        shutil.copytree(notebooks(), folder, ignore=shutil.ignore_patterns(".agentkit", ".ipynb_checkpoints"))
        first = _execute(folder, "first", known=frozenset())
        second = _execute(folder, "second", known=frozenset(node.run.id for node in first.trace.roots))
    print(table([first, second]))
    problems = list(_problems(first, second))
    print(f"\n{_verdict(second, problems)}")
    return 1 if problems else 0


def table(passes: list[Pass]) -> str:
    """Every run of every pass, and below them what the pass adds up to."""
    rows = [_COLUMNS, *(row for each in passes for row in _rows(each))]
    widths = [max(format.width_of(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(_pad(row, widths)).rstrip() for row in rows]
    rule = "─" * max(map(len, lines))
    ends = [0]
    for each in passes:
        ends.append(ends[-1] + len(each.trace.roots) + 1)
    for end in reversed(ends[:-1]):
        lines.insert(end + 1, rule)
    return "\n".join(lines)


def _execute(folder: Path, name: str, *, known: frozenset[str]) -> Pass:
    notebook = nbformat.read(folder / NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        # Its remark about TCP is not about us: the kernel listens on loopback and ends in a moment.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    started = time.perf_counter()
    client.execute(env=_environment())
    seconds = time.perf_counter() - started
    with Store.open(folder / ".agentkit" / "journal.db", read_only=True) as store:
        runs = [run for run in reversed(store.runs(limit=10_000)) if run.parent_run is None and run.id not in known]
        trace = Trace.of(event for run in runs for event in store.trace(run.id))
        return Pass(name=name, seconds=seconds, trace=trace, answers=tuple(_answers(runs, store)))


def _environment() -> dict[str, str]:
    """The person's own settings must not make the demo cost money or write into a real journal."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTKIT_")}
    return {**kept, "AGENTKIT_NOTEBOOK": NOTEBOOK}


def _answers(runs: list[Run], store: Store) -> Iterator[tuple[str, str, bytes | None]]:
    # Runs beside each other may begin in either order, so the answers are compared in an order of their own.
    for run in sorted(runs, key=lambda run: (run.agent, run.prompt, run.output)):
        yield run.agent, run.prompt, store.run_output(run.id)


def _rows(each: Pass) -> Iterator[tuple[str, ...]]:
    for node in each.trace.roots:
        seconds = max(0.0, (node.run.ended or node.run.started) - node.run.started)
        prompt = format.clean(node.run.prompt, 44)
        yield "", format.clean(node.run.agent, 16), prompt, *_figures(node.totals, seconds)
    yield (
        each.name,
        "",
        f"the whole notebook, {each.seconds:.1f} s",
        *_figures(each.totals, each.trace.seconds(0.0)),
    )


def _figures(totals: Totals, seconds: float) -> tuple[str, ...]:
    spent = format.format_spending(totals)
    return (
        f"{totals.steps:,}",
        f"{totals.live:,}",
        f"{totals.replayed:,}",
        format.duration(seconds),
        f"{totals.tokens:,}",
        spent.removeprefix("spent "),
        format.format_savings(totals).removeprefix("saved ") or "–",
    )


def _pad(row: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
        gap = " " * (width - format.width_of(cell))
        yield cell + gap if column < _WORDS else gap + cell


def _problems(first: Pass, second: Pass) -> Iterator[str]:
    if not first.totals.live:
        yield "the first execution performed no step"
    if second.totals.live:
        yield f"the second execution performed {format.format_count(second.totals.live, 'live step')}, expected none"
    if first.answers != second.answers:
        yield "the second execution gave other answers than the first"


def _verdict(second: Pass, problems: list[str]) -> str:
    if problems:
        return "FAILED: " + "; ".join(problems)
    return (
        f"The second time: 0 live steps, equal answers. {format.format_count(second.totals.saved_tokens, 'token')} "
        f"not paid for again; at the list price of {':'.join(LIST_PRICE_OF)} that is "
        f"{format.money(_savings_of(second))}."
    )


def _savings_of(each: Pass) -> float:
    return sum(_run_worth(node) for node in each.trace.roots)


def _run_worth(node: RunNode) -> float:
    provider, model = LIST_PRICE_OF
    usages = [step.step.usage for step in node.every_step() if step.step.replayed and step.step.usage]
    asked = PricedUsage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
    )
    return float(calc_price(asked, model_ref=model, provider_id=provider).total_price)
