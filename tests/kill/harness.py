"""Kills a workload with SIGKILL again and again until it finishes, and counts at the server what that cost."""

from __future__ import annotations

import asyncio
import itertools
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

from agentkit.events import Event, Step
from agentkit.models.relay.server import sweep
from agentkit.runtime.session import Session, session
from tests.callers import callers, gone, runtime, sockets
from tests.kill import workload
from tests.kill.figures import (
    SORTS,
    Figures,
    Kill,
    Sort,
    Undisturbed,
    count,
    effect_of,
    name_of,
    outputs_of,
    rows,
    rows_of,
)
from tests.kill.wiretap import Log, tapped_model
from tests.kill.workload import Crew, Job
from tests.serving import control

DELAY = 0.04
"""Seconds before the server answers: what the acceptance figure is stated for."""

_LIFE_SECONDS = 60.0
_SETTLING = 0.06
_HELD = 3.0
"""Seconds for which a request is held that is to be hit."""
CALLER_HAS_ENDED = "(the caller) has ended"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Up to `most` kills in a life, each at a random time `within` some seconds of the one before."""

    within: float
    most: int
    sorts: Sequence[Sort] = ("kernel",)


@dataclass(frozen=True, kw_only=True)
class Life:
    """`cut`: the process ended in an error because its caller was killed in the middle of an answer."""

    kills: list[Kill]
    end: Literal["done", "killed", "cut"]


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
        self._caller_kills = itertools.count()
        self._log: Log | None = None
        self._first: int | None = None
        workload.SITE = root
        self.crew: Crew = workload.crew(tapped_model(f"{root}/v1", asked=self._asked, read=self._read))

    def project(self, folder: Path) -> Path:
        """Where the sessions of a run work that logs to `folder`."""
        return folder

    def strike(self, victims: Sequence[int]) -> None:
        """How what lives is ended at a random time."""
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

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
        # What an error beside it stopped is asked about when it is run again; here it is answered before.
        stopped = [row for row in rows_of(opened.store) if row.status == "cancelled" and row.settled is None]
        for row in [*opened.in_doubt(), *stopped]:
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

    def life(self, folder: Path, *, job: Job = workload.perform, plan: Plan | None = None) -> Life:
        """One child until it ends by itself or is killed; its caller may be killed on the way, as often as planned."""
        reads, writes = os.pipe()

        def work() -> None:
            os.close(reads)
            self.settle_doubts(folder)
            self.live(folder, job)

        pid = self.fork(folder, work, first=writes)
        os.close(writes)
        handle = os.pidfd_open(pid)
        try:
            kills = [] if plan is None else self._kill(folder, pid, handle, reads, plan)
            if not select.select([handle], [], [], _LIFE_SECONDS)[0]:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"a life did not end within {_LIFE_SECONDS:.0f} s in {folder}")
        finally:
            os.close(handle)
            os.close(reads)
            _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            return Life(kills=kills, end="killed")
        if os.waitstatus_to_exitcode(status) == 0:
            return Life(kills=kills, end="done")
        error = (folder / "error").read_text()
        if CALLER_HAS_ENDED in error and any(kill.sort == "caller" for kill in kills):
            return Life(kills=kills, end="cut")
        raise AssertionError(error)

    def _kill(self, folder: Path, pid: int, handle: int, first: int, plan: Plan) -> list[Kill]:
        done: list[Kill] = []
        select.select([first], [], [], _LIFE_SECONDS)
        while len(done) < plan.most and not select.select([handle], [], [], self._random.uniform(0, plan.within))[0]:
            sort = self._random.choice(plan.sorts)
            victims = [] if sort == "kernel" else list(callers(under=folder))
            if sort == "caller" and not victims:
                continue
            if sort != "caller":
                # Whichever of the two goes first.
                victims.insert(self._random.randint(0, len(victims)), pid)
            # Every other time, for a random moment is seldom in a call where the machine is slow.
            if sort != "kernel" and next(self._caller_kills) % 2 == 0:
                self._wait_for_call(handle)
            done.append(Kill(sort="kernel" if victims == [pid] else sort, at=time.time()))
            self.strike(victims)
            if pid in victims:
                break
        return done

    def _wait_for_call(self, handle: int) -> None:
        """Until a request to a model is held by the server, or the life ends without one."""
        before = {entry["n"] for entry in control(self.root, "_ledger")}
        control(self.root, "_script", {"faults": [{"delay": _HELD}]})
        while not select.select([handle], [], [], 0.01)[0]:
            for entry in control(self.root, "_ledger"):
                waits = entry["kind"] != "effect" and entry["n"] not in before and entry["sent"] is None
                if waits and time.time() - entry["received"] > _HELD / 10:
                    return

    def undisturbed(self, job: Job = workload.perform) -> Undisturbed:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            control(self.root, "_reset")
            started = time.monotonic()
            self.life(folder, job=job)
            seconds = time.monotonic() - started
            steps = frozenset(name_of(row) for row in rows(self.project(folder)))
            return Undisturbed(outputs=outputs_of(folder)[0], steps=steps, seconds=seconds)

    def run(self, figures: Figures, calm: Undisturbed, *, job: Job, plan: Plan) -> None:
        """One workload to its end, with the planned kills on the way; what it cost is added to `figures`."""
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            control(self.root, "_reset")
            kills: list[Kill] = []
            while True:
                left = plan.most - len(kills)
                life = self.life(folder, job=job, plan=replace(plan, most=left) if left else None)
                kills += life.kills
                figures.lives += 1
                figures.cut += life.end == "cut"
                if life.end == "done":
                    break
                # What a dead client had sent still arrives, and an oracle asked too early would not know of it.
                time.sleep(_SETTLING)
            figures.kills += len(kills)
            for kill in kills:
                figures.killed[kill.sort] += 1
            figures.runs += 1
            figures.steps += len(calm.steps)
            count(figures, calm, folder, control(self.root, "_ledger"), rows(self.project(folder)), kills)


def torture(
    *,
    kills: int,
    seed: int,
    seconds: float | None = None,
    kills_per_run: int = 5,
    caller: bool = False,
    callers_too: bool = False,
) -> Figures:
    """Kill until `kills` are reached or the time is over; every run that was begun is finished and counted."""
    figures = Figures()
    started = time.monotonic()
    choice = random.Random(seed)
    calm: dict[str, Undisturbed] = {}
    with runtime() as place, server() as root:
        os.environ["AGENTKIT_CALLER"] = "on" if caller else "off"
        warm = Warm(root, seed=seed)
        while figures.kills < kills and (seconds is None or time.monotonic() - started < seconds):
            name = choice.choice(list(workload.JOBS))
            job = workload.JOBS[name]
            if name not in calm:
                calm[name] = warm.undisturbed(job)
            plan = Plan(
                within=calm[name].seconds * 0.5,
                most=min(kills_per_run, kills - figures.kills),
                sorts=SORTS if callers_too else ("kernel",),
            )
            known = len(figures.problems)
            warm.run(figures, calm[name], job=job, plan=plan)
            figures.problems[known:] = [f"{name}: {problem}" for problem in figures.problems[known:]]
        figures.problems += left_behind(place, killed=figures.killed["caller"] + figures.killed["both"])
    figures.seconds = time.monotonic() - started
    return figures


def left_behind(place: Path, *, killed: int) -> list[str]:
    """The callers begun there that do not end, and more sockets than were `killed` with their caller."""
    problems = [f"a caller is left: {pid} of {folder}" for pid, folder in gone(runtime=place).items()]
    dead = len(sockets(place))
    # The next caller removes them.
    sweep(place / f"agentkit-{os.getuid()}", young=0.0)
    problems += [f"a socket is left: {file}" for file in sockets(place)]
    if dead > killed:
        problems.append(f"{dead} sockets were left behind where {killed} callers were killed")
    return problems


def write(file: Path, value: object) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.rename(file)
