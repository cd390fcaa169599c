"""Cuts the power of a machine at random moments until its work is done, and holds the disk against what it had said."""

from __future__ import annotations

import ctypes
import hashlib
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agentkit.errors import AgentKitError
from agentkit.events import Event, Step
from agentkit.journal import process_lock, schema
from agentkit.journal.response_store import read_answer
from agentkit.journal.storage import JOURNAL_FILE
from agentkit.journal.store import Store
from tests.kill import workload
from tests.kill.figures import Figures, Kill, Undisturbed, name_of
from tests.kill.harness import Life, Plan, Warm, server
from tests.kill.workload import STEP, Job
from tests.powercut.disk import Disk
from tests.powercut.options import Kind, Synchronous
from tests.serving import control

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_CALLER = b"agentkit.models.relay.server"
_SUBREAPER = 36
_EARLY = 0.2
_OPENING = 0.05
_STANDSTILL = 0.1


@dataclass(kw_only=True)
class Cuts(Figures):
    """What a number of power cuts did.

    `acknowledged` counts the steps that had been told of as done before a cut; `gone` those of them that were not on
    disk after it, or not as they had been told; `unrecorded` the requests that had reached the server and of which the
    journal knows nothing. `whole` counts the raw answers that were found in the inbox after a cut, and `torn` those
    that were not whole, or were torn then and there: what a drive leaves of a file that was never synced.
    """

    acknowledged: int = 0
    gone: int = 0
    unrecorded: int = 0
    damaged: int = 0
    torn: int = 0
    whole: int = 0


@dataclass(kw_only=True)
class Said:
    """What a machine told the world of one run: the steps it began, and a digest of what it told of those it ended."""

    began: set[int] = field(default_factory=set)
    done: dict[int, str] = field(default_factory=dict)

    @classmethod
    def read(cls, log: Path) -> Said:
        said = cls()
        for line in log.read_text().splitlines() if log.exists() else ():
            match line.split():
                case ["told", "started", id_, _]:
                    said.began.add(int(id_))
                case ["told", "done", id_, digest]:
                    said.done[int(id_)] = digest
                case _:
                    continue
        return said


class Machine(Warm):
    """Lives are lived on a disk whose power is cut where the other harness would kill one process."""

    def __init__(self, root: str, *, folder: Path, kind: Kind, seed: int, figures: Cuts) -> None:
        super().__init__(root, seed=seed)
        self.figures = figures
        self.disk = Disk(folder, kind=kind, seed=seed)
        self._runtime = folder / "runtime"
        self._counted: set[int] = set()
        self._dark = False
        self._name = folder / "boot_id"
        self._name.touch()
        subprocess.run(["mount", "--bind", str(self._name), str(_BOOT)], check=True)
        # What this user's kernels share lies on the same disk; what is in memory is gone after a cut.
        os.environ["XDG_STATE_HOME"] = str(self.disk.root / "state")
        os.environ["XDG_RUNTIME_DIR"] = str(self._runtime)
        # The caller is nobody's child: it comes to this process when its starter has ended.
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        self._boot()

    def project(self, folder: Path) -> Path:
        return self.disk.root / folder.name

    def _heard(self, event: Event) -> None:
        super()._heard(event)
        live = isinstance(event, Step) and not event.replayed and event.status in ("started", "done")
        if self._log is not None and isinstance(event, Step) and live:
            self._log.note("told", event.status, event.id, _digest(event.kind, event.name, event.result))

    def strike(self, victims: Sequence[int]) -> None:
        """Everything stands still, the disk loses what it had not written, everything is gone."""
        there = [*victims, *_callers()]
        for each in there:
            os.kill(each, signal.SIGSTOP)
        try:
            _wait_for_standstill(there)
            self.disk.cut()
        finally:
            self._dark = True
            for each in there:
                os.kill(each, signal.SIGKILL)

    def _kill(self, folder: Path, pid: int, handle: int, first: int, plan: Plan) -> list[Kill]:
        """Now and then before anything was asked: the journal is made, or opened after the cut before."""
        if self._random.random() >= _EARLY:
            return super()._kill(folder, pid, handle, first, plan)
        if select.select([handle], [], [], self._random.uniform(0, _OPENING))[0]:
            return []
        self.strike([pid])
        return [Kill(sort="kernel", at=time.time())]

    def life(self, folder: Path, *, job: Job = workload.perform, plan: Plan | None = None) -> Life:
        project = self.project(folder)
        project.mkdir(exist_ok=True)
        life = super().life(folder, job=job, plan=plan)
        _bury(_callers())
        # Also where the life had just ended by itself: what it told must be there.
        if self._dark:
            self._dark = False
            self.disk.restore()
            self._boot()
            self._look(folder)
        return life

    def run(self, figures: Figures, calm: Undisturbed, *, job: Job, plan: Plan) -> None:
        self._clear()
        super().run(figures, calm, job=job, plan=plan)

    def one_cut(self, *, within: float) -> None:
        """A run that is not gone on with after its cut."""
        control(self.root, "_reset")
        self._clear()
        with tempfile.TemporaryDirectory() as place:
            self.figures.kills += len(self.life(Path(place), plan=Plan(within=within, most=1)).kills)
        self.figures.runs += 1

    def _clear(self) -> None:
        self._counted.clear()
        for old in self.disk.root.iterdir():
            if old.name != "lost+found":
                shutil.rmtree(old)

    def _boot(self) -> None:
        """A machine that was off has another boot id and an empty runtime folder."""
        shutil.rmtree(self._runtime, ignore_errors=True)
        self._runtime.mkdir(mode=0o700)
        self._name.write_text(f"{uuid.uuid4()}\n")
        # This process lives on where none would.
        process_lock.boot_id.cache_clear()

    def dismantle(self) -> None:
        self.disk.unmount()
        subprocess.run(["umount", str(_BOOT)], check=True)

    # -- after a cut

    def _look(self, folder: Path) -> None:
        """What is on the disk now, against what was told and what the server received."""
        said = Said.read(folder / "log")
        self.figures.acknowledged += len(said.done.keys() - self._counted)
        self._counted |= said.done.keys()
        home = self.project(folder) / ".agentkit"
        for file in sorted((home / "inbox").glob("*")):
            if file.suffix not in (".waiting", ".again"):
                self._tear(file)
        try:
            with Store.open(home / JOURNAL_FILE) as store:
                self._hold(store, said)
        except AgentKitError as error:
            self.figures.damaged += 1
            self.figures.gone += len(said.done)
            self.figures.problems.append(f"after a cut: {error}")

    def _tear(self, file: Path) -> None:
        content = file.read_bytes()
        if read_answer(file) is None or self._random.random() < 0.5:
            self.figures.torn += 1
            at = self._random.randrange(len(content) + 1)
            file.write_bytes(content[:at] + bytes(self._random.choice((0, len(content) - at))))
        else:
            self.figures.whole += 1

    def _hold(self, store: Store, said: Said) -> None:
        problems = store.verify()
        self.figures.damaged += bool(problems)
        self.figures.problems += problems
        for id_, digest in said.done.items():
            row = store.step(id_)
            if row is None or row.status != "done" or _digest(row.kind, row.name, row.result) != digest:
                self.figures.gone += 1
                self.figures.problems.append(f"step {id_} was told as done and is {row and row.status} after a cut")
        known = {name_of(row) for row in (store.step(id_) for id_ in said.began) if row is not None}
        asked = {entry["headers"][STEP] for entry in control(self.root, "_ledger")}
        self.figures.unrecorded += len(asked - known)
        self.figures.problems += [f"asked without a record: {name}" for name in sorted(asked - known)]


def _digest(*told: str) -> str:
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _wait_for_standstill(pids: list[int]) -> None:
    """A thread that waits for the disk cannot act; one that still runs would see an error that no power cut shows."""
    ends = time.monotonic() + _STANDSTILL
    while time.monotonic() < ends and any(" R " in _state(task) for pid in pids for task in _tasks(pid)):
        time.sleep(0.001)


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").glob("*/stat"))


def _state(task: Path) -> str:
    try:
        return task.read_text().rpartition(")")[2][:3]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _callers() -> list[int]:
    """The callers that were started by lives of this process."""
    children = Path("/proc/self/task").glob("*/children")
    ours = [int(pid) for file in children for pid in file.read_text().split()]
    return [pid for pid in ours if _CALLER in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _bury(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def weaken(synchronous: Synchronous) -> None:
    """Make journals of this process sync less than agentkit does: then steps must be found missing."""
    connect = schema.connect

    def weaker(path: Path, *, exclusive: bool = False) -> sqlite3.Connection:
        connection = connect(path, exclusive=exclusive)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        return connection

    schema.connect = weaker


def torture(
    *,
    cuts: int,
    seed: int,
    kind: Kind = "ext4",
    seconds: float | None = None,
    caller: bool = False,
    synchronous: Synchronous = "full",
    cuts_per_run: int = 5,
) -> Cuts:
    """Cut until `cuts` are reached or the time is over. A weakened journal is not run to its end after a cut."""
    figures = Cuts()
    os.environ["AGENTKIT_CALLER"] = "on" if caller else "off"
    if synchronous != "full":
        weaken(synchronous)
    started = time.monotonic()
    scratch = tempfile.TemporaryDirectory(prefix="agentkit-power-", ignore_cleanup_errors=True)
    with scratch as folder, server() as root:
        machine = Machine(root, folder=Path(folder), kind=kind, seed=seed, figures=figures)
        calm = machine.undisturbed()
        while figures.kills < cuts and (seconds is None or time.monotonic() - started < seconds):
            if synchronous == "full":
                plan = Plan(within=calm.seconds * 0.5, most=min(cuts_per_run, cuts - figures.kills))
                machine.run(figures, calm, job=workload.perform, plan=plan)
            else:
                machine.one_cut(within=calm.seconds)
        machine.dismantle()
    figures.seconds = time.monotonic() - started
    return figures
