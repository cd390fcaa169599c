"""A real HTTP server on loopback that speaks the OpenAI chat and Responses protocols, fails on demand, and counts.

What it answers depends only on the request (`follow`), so concurrent requests may come in any order. A prompt may say
what its agent shall do, one model turn per line, `&` for parallel calls:

    do double {"n": 1} & double {"n": 2}
    do save {"text": "x"}
    say all is saved

Instead of `say`, `write 300` is answered by so many words, slowly, and `fill 1000000` by so many letters at once.

From another process: `python -m tests.serving --port 0` prints the base URL; `POST /_script` queues faults or sets the
delay, `GET /_ledger` gives every request with its times, `POST /_reset` forgets, `POST /effect/NAME` counts an effect.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import socket
import struct
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.wire import Answer, Asking, Left, Protocol, parse, stream, whole

Cut = Literal["before", "middle"]
Packing = Literal["gzip", "chunked", "events"]
Plan = Callable[[Asking], Answer]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How one request is treated; `match` (part of its prompt) says which, the first one if empty.

    `status` other than 200 is answered with an error body, its `code` and `headers`; `cut` closes the connection before
    the answer or in its middle; `delay` waits before the first byte, `slow` before every streamed piece, `first`
    between the head and the first piece, in seconds; `finish` is the reason the answer says it ended for, and `without`
    is what it leaves out, `more` what a whole one says beside it. An error body is sent `packed` in each of these ways:
    `gzip`, `chunked`, as `events`.
    """

    match: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: Cut | None = None
    delay: float | None = None
    slow: float = 0.0
    first: float = 0.0
    code: str = ""
    finish: str = ""
    packed: tuple[Packing, ...] = ()
    without: tuple[Left, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)


OVERFLOW = Fault(status=400, code="context_length_exceeded")
FILTERED = Fault(status=400, code="content_filter")


@dataclass(kw_only=True)
class Quota:
    """What the server lets pass: so many tokens and requests in any `period` seconds; what is above is a 429."""

    tokens: int
    requests: int = 1_000_000
    period: float = 60.0
    told: bool = True

    def __post_init__(self) -> None:
        self._taken: deque[tuple[float, int]] = deque()

    def take(self, tokens: int) -> dict[str, str] | None:
        """The headers that tell of the quota; None when it is used up."""
        now = time.monotonic()
        while self._taken and self._taken[0][0] <= now - self.period:
            self._taken.popleft()
        used = sum(taken for _, taken in self._taken)
        if used + tokens > self.tokens or len(self._taken) >= self.requests:
            return None
        self._taken.append((now, tokens))
        if not self.told:
            return {}
        return {
            "x-ratelimit-limit-tokens": str(self.tokens),
            "x-ratelimit-remaining-tokens": str(self.tokens - used - tokens),
            "x-ratelimit-reset-tokens": f"{self.period:g}s",
        }

    def wait(self) -> str:
        """When to come again, in whole seconds as servers say it."""
        oldest = self._taken[0][0] if self._taken else time.monotonic()
        return str(max(1, round(oldest + self.period - time.monotonic() + 0.5)))


@dataclass(kw_only=True)
class Entry:
    """One request in the ledger. `sent` is when the last byte of a 200 was written, None if it never was.

    `again`: it came under an Idempotency-Key that was answered before, and is not charged for.
    """

    n: int
    kind: Protocol | Literal["effect"]
    name: str
    digest: str
    received: float
    prompt: str = ""
    turn: int = 0
    stream: bool = False
    status: int = 200
    sent: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """A background response: asked for by its id until it is done."""

    reply: dict[str, Any]
    done: float

    def told(self) -> dict[str, Any]:
        if time.monotonic() >= self.done:
            return self.reply
        return {**self.reply, "status": "in_progress", "output": [], "usage": None}


def follow(asking: Asking) -> Answer:
    """Do what the lines of the prompt say; without any, echo the prompt and what the tools gave."""
    lines = [line.strip() for line in asking.prompt.splitlines()]
    todo = [line[3:] for line in lines if line.startswith("do ")]
    if asking.turn < len(todo):
        calls = (call.strip().partition(" ") for call in todo[asking.turn].split(" & "))
        return Answer(calls=tuple((name, json.loads(args or "{}")) for name, _, args in calls))
    for line in lines:
        if line.startswith("write "):
            return Answer(text=" ".join(f"word{n}" for n in range(int(line[6:]))), pace=0.001)
        if line.startswith("fill "):
            return Answer(text="x" * int(line[5:]))
    said = next((line[4:] for line in lines if line.startswith("say ")), None)
    if "final_result" in asking.tools:
        return Answer(calls=(("final_result", json.loads(said or "{}")),))
    return Answer(text=said or " ".join((f"You said: {asking.prompt}", *asking.results)))


class _Server(ThreadingHTTPServer):
    # Many clients that come at once are not to be reset.
    request_queue_size = 512


class Serving:
    """The running server. `url` is the base URL for clients, `model(name)` the agentkit model string."""

    @property
    def speaks(self) -> type[Handler]:
        """What answers its connections."""
        return Handler

    def __init__(self, *, port: int = 0, plan: Plan = follow, delay: float = 0.0, quota: Quota | None = None) -> None:
        self._lock = threading.Lock()
        self._faults: deque[Fault] = deque()
        self._entries: list[Entry] = []
        self.jobs: dict[str, Job] = {}
        self.listed: tuple[str, ...] = ()
        self.polls = 0
        self._keyed: dict[tuple[str, str], int] = {}
        self._plan = plan
        self._quota = quota
        self.delay = delay
        handler = type("Handler", (self.speaks,), {"serving": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.root}/v1"

    def model(self, name: str = "small") -> str:
        return f"{self.url}#{name}"

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def script(self, *faults: Fault) -> None:
        with self._lock:
            self._faults.extend(faults)

    def reset(self) -> None:
        with self._lock:
            self._faults.clear()
            self._entries.clear()

    def ledger(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def answer(self, asking: Asking) -> Answer:
        return self._plan(asking)

    def enter(self, entry: Entry) -> Entry:
        with self._lock:
            entry.n = len(self._entries)
            self._entries.append(entry)
            if (key := entry.headers.get("idempotency-key")) and entry.kind != "effect":
                entry.again = (key, entry.digest) in self._keyed
                entry.n = self._keyed.setdefault((key, entry.digest), entry.n)
        return entry

    def admit(self, raw: bytes) -> Fault | dict[str, str]:
        """The headers of an answer within the quota; outside of it, the 429."""
        if self._quota is None:
            return {}
        with self._lock:
            headers = self._quota.take(tokens_of(raw))
            return Fault(status=429, headers={"retry-after": self._quota.wait()}) if headers is None else headers

    def fault(self, asking: Asking) -> Fault:
        with self._lock:
            for fault in self._faults:
                if fault.match in asking.prompt:
                    self._faults.remove(fault)
                    return fault
        return Fault()


class Handler(BaseHTTPRequestHandler):
    serving: Serving
    protocol_version = "HTTP/1.1"
    # Without this every small streamed piece would wait for the acknowledgement of the one before.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """The ledger is the log."""

    def handle(self) -> None:
        with suppress(ConnectionResetError, BrokenPipeError):  # a client that was killed
            super().handle()

    def do_GET(self) -> None:
        if self.path == "/_ledger":
            self._json(200, [asdict(entry) for entry in self.serving.ledger()])
        elif self.path == "/v1/models":
            known = self.headers.get("authorization") != "Bearer sk-wrong"
            listed = [{"id": name, "object": "model"} for name in self.serving.listed]
            self._json(200 if known else 401, {"object": "list", "data": listed})
        elif (job := self.serving.jobs.get(self.path.partition("?")[0].rpartition("/")[2])) is not None:
            self._poll(job)
        else:
            self._json(404, {"error": {"message": f"no such path: {self.path}"}})

    def _poll(self, job: Job) -> None:
        self.serving.polls += 1
        time.sleep(self.serving.delay)
        with suppress(BrokenPipeError, ConnectionResetError):
            self._json(200, job.told())

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        raw = self.rfile.read(length)
        if len(raw) < length:  # killed while it sent: not a request
            self.close_connection = True
            return
        try:
            self._route(raw)
        except (BrokenPipeError, ConnectionResetError):
            # The client went away (or was killed): its entry keeps `sent` None.
            self.close_connection = True

    def _route(self, raw: bytes) -> None:
        # Whoever takes this server for a proxy sends the whole address.
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["v1", "chat", "completions"]:
                self._model("chat", raw)
            case ["v1", "responses"]:
                self._model("responses", raw)
            case ["effect", name]:
                self._effect(name, raw)
            case ["_script"]:
                self._script(json.loads(raw))
            case ["_reset"]:
                self.serving.reset()
                self._json(200, {})
            case _:
                self._json(404, {"error": {"message": f"no such path: {self.path}"}})

    def _script(self, orders: dict[str, Any]) -> None:
        self.serving.script(*(Fault(**fault) for fault in orders.get("faults", ())))
        self.serving.delay = orders.get("delay", self.serving.delay)
        self._json(200, {})

    def _effect(self, name: str, raw: bytes) -> None:
        entry = self._entry(kind="effect", name=name, raw=raw)
        count = sum(other.kind == "effect" and other.name == name for other in self.serving.ledger())
        # It has happened; the answer takes half as long as a model's.
        time.sleep(self.serving.delay / 2)
        entry.sent = time.time()
        self._json(200, {"count": count})

    def _entry(self, *, kind: Protocol | Literal["effect"], name: str, raw: bytes) -> Entry:
        digest = hashlib.sha256(raw).hexdigest()
        kept = {key.lower(): value for key, value in self.headers.items() if key.lower().startswith(("x-", "idem"))}
        return self.serving.enter(Entry(n=0, kind=kind, name=name, digest=digest, received=time.time(), headers=kept))

    def _model(self, protocol: Protocol, raw: bytes) -> None:
        asking = parse(protocol, json.loads(raw))
        entry = self._entry(kind=protocol, name=asking.model, raw=raw)
        entry.prompt, entry.turn, entry.stream = asking.prompt, asking.turn, asking.stream
        fault, admitted = self.serving.fault(asking), self.serving.admit(raw)
        if isinstance(admitted, Fault):
            fault, admitted = admitted, {}
        entry.status = fault.status
        time.sleep(self.serving.delay if fault.delay is None else fault.delay)
        if fault.cut == "before":
            self._hang_up()
        elif fault.status != 200:
            said = {"message": f"scripted {fault.status}", **({"code": fault.code} if fault.code else {})}
            self._complain(fault, json.dumps({"error": said}).encode())
        elif json.loads(raw).get("background"):
            self._begin(asking, entry, fault)
        else:
            self._reply(protocol, asking, entry=entry, fault=fault, headers={**admitted, **fault.headers})

    def _begin(self, asking: Asking, entry: Entry, fault: Fault) -> None:
        reply = whole("responses", asking, self.serving.answer(asking), name=str(entry.n))
        job = Job(reply={**reply, "background": True}, done=time.monotonic() + fault.slow)
        self.serving.jobs[reply["id"]] = job
        self._json(200, job.told())

    def _reply(
        self, protocol: Protocol, asking: Asking, *, entry: Entry, fault: Fault, headers: dict[str, str]
    ) -> None:
        answer = self.serving.answer(asking)
        fault = replace(fault, slow=fault.slow or answer.pace)
        if asking.stream:
            self._head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **headers}, entry)
            time.sleep(fault.first)
            spoken = stream(protocol, asking, answer, name=str(entry.n), finish=fault.finish, without=fault.without)
            events = (event.encode() for event in spoken)
            self._pieces([f"{len(data):x}\r\n".encode() + data + b"\r\n" for data in events], entry, fault)
            return
        said = whole(protocol, asking, answer, name=str(entry.n), finish=fault.finish, without=fault.without)
        body = json.dumps({**said, **fault.more}).encode()
        self._head(200, {"content-type": "application/json", "content-length": str(len(body)), **headers}, entry)
        self._pieces([body[: len(body) // 2], body[len(body) // 2 :]], entry, fault)

    def _pieces(self, pieces: list[bytes], entry: Entry, fault: Fault) -> None:
        *before, last = pieces
        for piece in before[: len(pieces) // 2] if fault.cut else before:
            time.sleep(fault.slow)
            self.wfile.write(piece)
        if fault.cut:
            self._hang_up()
            return
        # Noted before the write: a client may ask for the ledger in the instant it has read the last byte.
        entry.sent = time.time()
        try:
            self.wfile.write(last + (b"0\r\n\r\n" if entry.stream else b""))
        except OSError:
            entry.sent = None
            raise

    def _head(self, status: int, headers: dict[str, str], entry: Entry | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if entry is not None:
            self.send_header("x-request-id", f"req_{entry.n}")
        self.end_headers()

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        shape = {"content-type": "application/json", "content-length": str(len(body))}
        self._head(status, {**shape, **(headers or {})})
        self.wfile.write(body)

    def _complain(self, fault: Fault, body: bytes) -> None:
        shape = {"content-type": "text/event-stream" if "events" in fault.packed else "application/json"}
        if "events" in fault.packed:
            body = b"data: " + body + b"\n\n"
        if "gzip" in fault.packed:
            body = gzip.compress(body)
            shape["content-encoding"] = "gzip"
        if "chunked" in fault.packed:
            halves = (body[: len(body) // 2], body[len(body) // 2 :])
            body = b"".join(b"%x\r\n%b\r\n" % (len(half), half) for half in halves) + b"0\r\n\r\n"
            shape["transfer-encoding"] = "chunked"
        else:
            shape["content-length"] = str(len(body))
        self._head(fault.status, {**shape, **fault.headers})
        self.wfile.write(body)

    def _hang_up(self) -> None:
        # Lingering for zero seconds makes the close a reset, as when a server dies.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()


def tokens_of(raw: bytes) -> int:
    """What the server counts for a request: about what is in it, and what may come back."""
    asked = json.loads(raw)
    return len(raw) // 4 + int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)


@contextmanager
def serving(*, port: int = 0, plan: Plan = follow, delay: float = 0.0, quota: Quota | None = None) -> Iterator[Serving]:
    """A server for one test, in a thread of this process."""
    server = Serving(port=port, plan=plan, delay=delay, quota=quota)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def control(root: str, path: str, orders: Any = None) -> Any:
    """Speak to a server in another process: `control(root, "_ledger")`, `control(root, "_script", {"delay": 0.04})`."""
    data = None if path == "_ledger" else json.dumps(orders or {}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{root}/{path}", data=data), timeout=10) as reply:
        return json.load(reply)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before the first byte of each answer")
    options = parser.parse_args()
    server = Serving(port=options.port, delay=options.delay)
    print(server.url, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
