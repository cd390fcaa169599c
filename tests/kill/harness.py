"""Kills a workload with SIGKILL again and again until it finishes, and counts at the server what that cost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from agentkit.durable.records import Row
from agentkit.durable.store import Store
from agentkit.engine.session import Session, session
from agentkit.events import Event, Step
from tests.kill import workload
from tests.kill.wiretap import Log, tapped_model
from tests.kill.workload import KEYED, REPEATABLE, STEP, Crew
from tests.serving import control

Job = Callable[[Crew], Coroutine[Any, Any, list[str]]]

DELAY = 0.04
"""Seconds before the server answers: what the acceptance figure is stated for."""

_LIFE_SECONDS = 60.0
_SETTLING = 0.06


@dataclass(kw_only=True)
class Figures:
    """What a number of kills did.

    `answered_again` counts the model answers that the server had sent whole before; `read_and_paid_again` those of them
    whose last byte had been read by the client.
    """

    kills: int = 0
    runs: int = 0
    lives: int = 0
    steps: int = 0
    lost: int = 0
    wrong_outputs: int = 0
    doubled: int = 0
    in_doubt: int = 0
    redone: int = 0
    model_requests: int = 0
    answered_again: int = 0
    read_and_paid_again: int = 0
    listed: int = 0
    unlisted: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def per_100(self, count: int) -> float:
        return 100 * count / max(1, self.kills)


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """What the same workload does when nobody disturbs it."""

    outputs: list[str]
    steps: frozenset[str]
    seconds: float


@contextmanager
def server(delay: float = DELAY) -> Iterator[str]:
    """The root URL of a server in its own process."""
    command = [sys.executable, "-m", "tests.serving", "--port", "0", "--delay", str(delay)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip().removesuffix("/v1")
    finally:
        process.terminate()
        process.wait()


class Warm:
    """The parent: everything is imported and the agents are built, so that a child is at work within milliseconds."""

    def __init__(self, root: str, *, seed: int) -> None:
        self.root = root
        self._random = random.Random(seed)
        self._log: Log | None = None
        self._first: int | None = None
        workload.SITE = root
        self.crew: Crew = workload.crew(tapped_model(f"{root}/v1", asked=self._asked, read=self._read))

    def project(self, folder: Path) -> Path:
        """Where the sessions of a run work that logs to `folder`."""
        return folder

    def strike(self, pid: int) -> None:
        """How a life is ended at a random time."""
        os.kill(pid, signal.SIGKILL)

    # -- in the child

    def _asked(self) -> None:
        if self._first is not None:
            os.write(self._first, b"!")
            os.close(self._first)
            self._first = None

    def _read(self, step: str) -> None:
        if self._log is not None:
            self._log.note("read", step)

    def _heard(self, event: Event) -> None:
        if self._log is not None and isinstance(event, Step) and event.status == "done" and not event.replayed:
            self._log.note("ended", event.id)

    def live(self, folder: Path, job: Job) -> None:
        with session("kill", folder=self.project(folder)) as opened:
            opened.listen(self._heard)
            outputs = asyncio.run(job(self.crew))
        write(folder / f"outputs-{os.getpid()}.json", outputs)

    def settle_doubts(self, folder: Path) -> None:
        with session("settle", folder=self.project(folder)) as opened:
            self._settle(opened)

    def _settle(self, opened: Session) -> None:
        """Answers as a person would who can see the far side: it happened, or it did not."""
        happened = Counter(entry["name"] for entry in control(self.root, "_ledger") if entry["kind"] == "effect")
        for row in opened.in_doubt():
            if row.kind != "tool" or row.effects not in ("once", "undeclared"):
                continue
            name = effect_of(row)
            assert self._log is not None
            self._log.note("result" if happened[name] else "redo", row.id)
            if happened[name]:
                opened.settle(row.id, "result", workload.happened(name))
            else:
                opened.settle(row.id, "redo")

    def _child(self, folder: Path, work: Callable[[], None], first: int | None) -> NoReturn:
        code = 1
        try:
            self._log = Log(str(folder / "log"))
            self._first = first
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must not unwind into the parent's code
            (folder / "error").write_text(traceback.format_exc())
        finally:
            os._exit(code)

    # -- in the parent

    def fork(self, folder: Path, work: Callable[[], None], *, first: int | None = None) -> int:
        """A child that does `work` and logs to `folder`; it writes to the pipe `first` when it first asks a model."""
        pid = os.fork()
        if pid == 0:
            self._child(folder, work, first)
        return pid

    def life(self, folder: Path, *, within: float | None) -> bool:
        """One child until it ends by itself (False) or is killed at a random time after its first request (True)."""
        reads, writes = os.pipe()

        def work() -> None:
            os.close(reads)
            self.settle_doubts(folder)
            self.live(folder, workload.perform)

        pid = self.fork(folder, work, first=writes)
        os.close(writes)
        handle = os.pidfd_open(pid)
        try:
            killed = within is not None and self._kill(pid, handle, reads, within)
            if not killed and not select.select([handle], [], [], _LIFE_SECONDS)[0]:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"a life did not end within {_LIFE_SECONDS:.0f} s in {folder}")
        finally:
            os.close(handle)
            os.close(reads)
            _, status = os.waitpid(pid, 0)
        if killed and os.WIFSIGNALED(status):
            return True
        if os.waitstatus_to_exitcode(status) != 0:
            raise AssertionError((folder / "error").read_text())
        return False

    def _kill(self, pid: int, handle: int, first: int, within: float) -> bool:
        select.select([first], [], [], _LIFE_SECONDS)
        if select.select([handle], [], [], self._random.uniform(0, within))[0]:
            return False
        self.strike(pid)
        return True

    def undisturbed(self) -> Undisturbed:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            control(self.root, "_reset")
            started = time.monotonic()
            self.life(folder, within=None)
            seconds = time.monotonic() - started
            steps = frozenset(name_of(row) for row in rows(self.project(folder)))
            return Undisturbed(outputs=outputs_of(folder)[0], steps=steps, seconds=seconds)

    def run(self, figures: Figures, calm: Undisturbed, *, within: float, most: int) -> None:
        """One workload to its end, with at most `most` kills on the way; what it cost is added to `figures`."""
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            control(self.root, "_reset")
            kills = 0
            while self.life(folder, within=within if kills < most else None):
                kills += 1
                # What a dead client had sent still arrives, and an oracle asked too early would not know of it.
                time.sleep(_SETTLING)
            figures.kills += kills
            figures.lives += kills + 1
            figures.runs += 1
            figures.steps += len(calm.steps)
            count(figures, calm, folder, control(self.root, "_ledger"), rows(self.project(folder)))


def write(file: Path, value: object) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.rename(file)


def outputs_of(folder: Path) -> list[list[str]]:
    """What each life that reached its end put out."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("outputs-*.json"))]


def effect_of(row: Row) -> str:
    """The effect's name, from the recorded request: name='a1'."""
    return row.request.partition("'")[2].rstrip("'")


def rows(folder: Path) -> list[Row]:
    with Store.open(folder / ".agentkit" / "journal.db", read_only=True) as store:
        found = {event.id: store.step(event.id) for run in store.runs(limit=10_000) for event in store.steps(run.id)}
        return [row for row in found.values() if row is not None]


def name_of(row: Row) -> str:
    return f"{row.key.hex()[:32]}-{row.n}-{row.gen}"


def count(figures: Figures, calm: Undisturbed, folder: Path, ledger: list[dict[str, Any]], recorded: list[Row]) -> None:
    """Hold the record, the client's log and the server's ledger against each other."""
    log = [line.split() for line in (folder / "log").read_text().splitlines()]
    _count_steps(figures, calm, folder, recorded, log)
    _count_effects(figures, recorded, ledger)
    _count_payments(figures, recorded, ledger, log)


def _count_steps(figures: Figures, calm: Undisturbed, folder: Path, recorded: list[Row], log: list[list[str]]) -> None:
    ended = Counter(words[1] for words in log if words[0] == "ended")
    figures.lost += sum(times - 1 for times in ended.values())
    names = {name_of(row) for row in recorded}
    if names != calm.steps:
        figures.lost += len(names ^ calm.steps)
        figures.problems.append(f"other steps than undisturbed: {sorted(names ^ calm.steps)}")
    found = outputs_of(folder)
    if not found or any(outputs != calm.outputs for outputs in found):
        figures.wrong_outputs += 1
    figures.redone += sum(words[0] == "redo" for words in log)
    figures.in_doubt += sum(words[0] in ("redo", "result") for words in log)


def _count_effects(figures: Figures, recorded: list[Row], ledger: list[dict[str, Any]]) -> None:
    seen = [entry for entry in ledger if entry["kind"] == "effect"]
    times = Counter(entry["name"] for entry in seen)
    for row in recorded:
        if row.kind != "tool" or row.name in REPEATABLE or row.name not in {tool_name(f) for f in workload.TOOLS}:
            continue
        name = effect_of(row)
        keys = {entry["headers"]["idempotency-key"] for entry in seen if entry["name"] == name}
        # A far side that honours the key does the same thing once, however often it is told.
        happened = len(keys) if row.name in KEYED else times[name]
        figures.doubled += max(0, happened - 1)
        if happened != 1:
            figures.problems.append(f"{row.name} {name} happened {happened} times")


def tool_name(function: Any) -> str:
    return str(function.__name__)


def _count_payments(figures: Figures, recorded: list[Row], ledger: list[dict[str, Any]], log: list[list[str]]) -> None:
    asked = [entry for entry in ledger if entry["kind"] != "effect"]
    answered = Counter(entry["headers"][STEP] for entry in asked if entry["sent"] is not None)
    read = Counter(words[1] for words in log if words[0] == "read")
    listed = {name_of(row) for row in recorded if row.maybe_paid_twice}
    figures.model_requests += len(asked)
    figures.answered_again += sum(times - 1 for times in answered.values())
    figures.read_and_paid_again += sum(times - 1 for times in read.values())
    figures.listed += len(listed)
    missing = sorted({step for step, times in answered.items() if times > 1} - listed)
    figures.unlisted += len(missing)
    figures.problems += [f"answered more than once and not listed: {step}" for step in missing]


def torture(
    *, kills: int, seed: int, seconds: float | None = None, kills_per_run: int = 5, caller: bool = False
) -> Figures:
    """Kill until `kills` are reached or the time is over; every run that was begun is finished and counted."""
    figures = Figures()
    os.environ["AGENTKIT_CALLER"] = "on" if caller else "off"
    started = time.monotonic()
    with server() as root:
        warm = Warm(root, seed=seed)
        calm = warm.undisturbed()
        while figures.kills < kills and (seconds is None or time.monotonic() - started < seconds):
            most = min(kills_per_run, kills - figures.kills)
            warm.run(figures, calm, within=calm.seconds * 0.5, most=most)
    figures.seconds = time.monotonic() - started
    return figures


def as_json(figures: Figures) -> str:
    return json.dumps(asdict(figures))
