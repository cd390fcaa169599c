"""A real HTTP server on loopback that speaks the batch APIs of OpenAI and Anthropic, beside what tests/serving.py does.

A batch ends after `polls` looks at it. What becomes of a row stands in its prompt, once for each word of `fates`:

    expires        not run before the batch expired          breaks    answered with status 500
    refused        answered with status 400                  vanishes  no line in any file

`charged` has the prompt of every row that was run, in whichever batch or alone: what a user would pay for.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.serving import Entry, Handler, Serving
from tests.wire import Asking, Said, parse, whole

Fate = Literal["expires", "breaks", "refused", "vanishes"]
FATES: tuple[Fate, ...] = ("expires", "breaks", "refused", "vanishes")
End = Literal["completed", "expired", "failed", "cancelled"]


@dataclass(kw_only=True)
class Job:
    """One batch: its requests by custom id, and how often it was looked at."""

    id: str
    protocol: Literal["responses", "anthropic"]
    requests: dict[str, dict[str, Any]]
    created: float
    file: str = ""
    looks: int = 0
    ended: str = ""
    output: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)


class BatchServing(Serving):
    """`end` is how batches end; `created` is called when one was created and its maker was not told yet.

    The next `cut_creates` answers to creates are lost on their way.
    """

    def __init__(self, *, polls: int = 1, end: End = "completed") -> None:
        self.polls_to_end = polls
        self.end = end
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Job] = {}
        self.charged: list[str] = []
        self.faults: list[tuple[str, int]] = []
        self.cut_creates = 0
        self.created: Callable[[Job], None] = lambda job: None
        self.looked: Callable[[Job], None] = lambda job: None
        self.met: Counter[tuple[str, str]] = Counter()
        super().__init__()

    @property
    def speaks(self) -> type[Handler]:
        return _BatchHandler

    def fate(self, prompt: str) -> Fate | None:
        """What becomes of a row: each word once, so that what is sent again is answered."""
        for word in FATES:
            if word in prompt and not self.met[word, prompt]:
                self.met[word, prompt] += 1
                return word
        return None

    def create(self, protocol: Literal["responses", "anthropic"], requests: dict[str, Any], file: str = "") -> Job:
        id_ = f"{'batch' if protocol == 'responses' else 'msgbatch'}_{len(self.batches)}"
        job = Job(id=id_, protocol=protocol, requests=requests, created=time.time(), file=file)
        self.batches[id_] = job
        self.created(job)
        return job

    def look(self, job: Job) -> None:
        job.looks += 1
        if job.looks >= self.polls_to_end and not job.ended:
            self._run(job)
        self.looked(job)

    def _run(self, job: Job) -> None:
        job.ended = self.end
        if self.end == "failed":
            return
        for id_, body in job.requests.items():
            asking = parse("responses", body) if job.protocol == "responses" else parse_anthropic(body)
            fate = self.fate(asking.prompt)
            if fate == "vanishes" or (fate == "expires" and job.protocol == "responses" and self.end == "expired"):
                continue
            if fate is None:
                self.charged.append(asking.prompt)
            self._put(job, id_, asking, fate)

    def _put(self, job: Job, id_: str, asking: Asking, fate: Fate | None) -> None:
        if job.protocol == "anthropic":
            match fate:
                case "expires":
                    result: dict[str, Any] = {"type": "expired"}
                case "breaks":
                    result = _anthropic_error("api_error")
                case "refused":
                    result = _anthropic_error("invalid_request_error")
                case _:
                    message = anthropic_message(asking, self.answer(asking).text, id_)
                    result = {"type": "succeeded", "message": message}
            job.output.append({"custom_id": id_, "result": result})
            return
        line: dict[str, Any] = {"id": f"line_{id_}", "custom_id": id_, "response": None, "error": None}
        if fate == "expires":
            job.errors.append({**line, "error": {"code": "batch_expired", "message": "not run in time"}})
        elif fate is not None:
            status = 500 if fate == "breaks" else 400
            body: dict[str, Any] = {"error": {"message": f"scripted {status}", "type": "error", "code": None}}
            job.errors.append({**line, "response": {"status_code": status, "request_id": "r", "body": body}})
        else:
            said = whole("responses", asking, self.answer(asking), name=id_)
            job.output.append({**line, "response": {"status_code": 200, "request_id": "r", "body": said}})


def parse_anthropic(body: dict[str, Any]) -> Asking:
    """Read a Messages request."""
    said = [
        Said(
            message["role"],
            content if isinstance(content := message["content"], str) else "\n".join(part["text"] for part in content),
        )
        for message in body["messages"]
    ]
    tools = tuple(tool["name"] for tool in body.get("tools") or ())
    return Asking(model=body["model"], messages=tuple(said), tools=tools, json=False, stream=bool(body.get("stream")))


def anthropic_message(asking: Asking, text: str, name: str) -> dict[str, Any]:
    return {
        "id": f"msg_{name}", "type": "message", "role": "assistant", "model": asking.model,
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 20, "output_tokens": 10},
    }  # fmt: skip


def _anthropic_events(message: dict[str, Any]) -> Iterator[str]:
    (part,) = message["content"]
    events: tuple[dict[str, Any], ...] = (
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part["text"]}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": message["usage"],
        },
        {"type": "message_stop"},
    )
    return (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)


def _anthropic_error(kind: str) -> dict[str, Any]:
    return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": f"scripted {kind}"}}}


class _BatchHandler(Handler):
    serving: BatchServing

    def do_GET(self) -> None:
        if self._fails("GET"):
            return
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["v1", "files", id_, "content"] if id_ in self.serving.files:
                self._bytes(self.serving.files[id_])
            case ["v1", "batches"]:
                self._json(200, self._listing("responses"))
            case ["v1", "messages", "batches"]:
                self._json(200, self._listing("anthropic"))
            case ["v1", "batches", id_] | ["v1", "messages", "batches", id_] if id_ in self.serving.batches:
                job = self.serving.batches[id_]
                self.serving.look(job)
                self._json(200, self._describe(job))
            case ["v1", "messages", "batches", id_, "results"]:
                lines = self.serving.batches[id_].output
                self._bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            case _:
                super().do_GET()

    def _route(self, raw: bytes) -> None:
        if self._fails("POST"):
            return
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["v1", "files"]:
                self._upload(raw)
            case ["v1", "batches"]:
                asked = json.loads(raw)
                lines = self.serving.files[asked["input_file_id"]].splitlines()
                requests = {line["custom_id"]: line["body"] for line in map(json.loads, lines)}
                self._tell(self.serving.create("responses", requests, asked["input_file_id"]))
            case ["v1", "messages", "batches"]:
                requests = {one["custom_id"]: one["params"] for one in json.loads(raw)["requests"]}
                self._tell(self.serving.create("anthropic", requests))
            case ["v1", "messages"]:
                asking = parse_anthropic(json.loads(raw))
                entry = self._entry(kind="responses", name=asking.model, raw=raw)
                entry.prompt = asking.prompt
                self.serving.charged.append(asking.prompt)
                said = anthropic_message(asking, self.serving.answer(asking).text, str(entry.n))
                if asking.stream:
                    self._bytes("".join(_anthropic_events(said)).encode(), "text/event-stream")
                else:
                    self._json(200, said)
            case _:
                super()._route(raw)

    def _entry(self, **given: Any) -> Entry:
        entry = super()._entry(**given)
        if urlsplit(self.path).path.endswith("/responses"):
            self.serving.charged.append(parse("responses", json.loads(given["raw"])).prompt)
        return entry

    def _tell(self, job: Job) -> None:
        if self.serving.cut_creates:
            self.serving.cut_creates -= 1
            self._hang_up()
        else:
            self._json(200, self._describe(job))

    def do_DELETE(self) -> None:
        id_ = self.path.rpartition("/")[2]
        self.serving.files.pop(id_, None)
        self._json(200, {"id": id_, "object": "file", "deleted": True})

    def _fails(self, method: str) -> bool:
        """Whether it is scripted to: `faults` are `METHOD path-part` and a status."""
        for fault in self.serving.faults:
            verb, _, part = fault[0].partition(" ")
            if verb == method and part in self.path:
                self.serving.faults.remove(fault)
                self._json(fault[1], {"error": {"message": f"scripted {fault[1]}", "type": "error"}})
                return True
        return False

    def _upload(self, raw: bytes) -> None:
        boundary = re.search(r"boundary=([^;]+)", self.headers["content-type"])
        assert boundary is not None
        parts = raw.split(b"--" + boundary[1].strip('"').encode())
        (content,) = (part.partition(b"\r\n\r\n")[2] for part in parts if b'name="file"' in part)
        id_ = f"file_{len(self.serving.files)}"
        self.serving.files[id_] = content.removesuffix(b"\r\n")
        self._json(200, self._file(id_))

    def _file(self, id_: str) -> dict[str, Any]:
        size = len(self.serving.files[id_])
        return {
            "id": id_, "object": "file", "bytes": size, "created_at": int(time.time()), "filename": "batch.jsonl",
            "purpose": "batch", "status": "processed",
        }  # fmt: skip

    def _listing(self, protocol: str) -> dict[str, Any]:
        jobs = [job for job in reversed(self.serving.batches.values()) if job.protocol == protocol]
        data = [self._describe(job) for job in jobs]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"object": "list", "data": data, "has_more": False, **ends}

    def _describe(self, job: Job) -> dict[str, Any]:
        if job.protocol == "anthropic":
            return self._describe_anthropic(job)
        files: dict[str, str] = {}
        for kind, lines in (("output", job.output), ("error", job.errors)):
            if job.ended and lines:
                files[f"{kind}_file_id"] = f"file_{kind}_{job.id}"
                self.serving.files[f"file_{kind}_{job.id}"] = b"\n".join(json.dumps(line).encode() for line in lines)
        done = len(job.requests) // 2 if job.looks and not job.ended else len(job.output)
        said: dict[str, Any] = {
            "id": job.id, "object": "batch", "endpoint": "/v1/responses", "input_file_id": job.file,
            "completion_window": "24h", "status": job.ended or "in_progress", "created_at": int(job.created), **files,
            "request_counts": {"total": len(job.requests), "completed": done, "failed": len(job.errors)},
        }  # fmt: skip
        if job.ended == "failed":
            wrong = {"code": "invalid_json_line", "message": "no JSON", "line": None, "param": None}
            said |= {"errors": {"object": "list", "data": [wrong]}, "request_counts": None}
        return said

    def _describe_anthropic(self, job: Job) -> dict[str, Any]:
        kinds = Counter(line["result"]["type"] for line in job.output)
        names = ("succeeded", "errored", "canceled", "expired")
        counts = {name: kinds[name] if job.ended else 0 for name in names}
        # What vanished is counted as expired: the sum is that of the requests.
        counts["expired"] += len(job.requests) - sum(counts.values()) if job.ended else 0
        created = datetime.fromtimestamp(job.created, UTC).isoformat()
        return {
            "id": job.id, "type": "message_batch", "processing_status": "ended" if job.ended else "in_progress",
            "request_counts": {"processing": 0 if job.ended else len(job.requests), **counts},
            "created_at": created, "expires_at": created, "ended_at": created if job.ended else None,
            "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{self.serving.root}/v1/messages/batches/{job.id}/results" if job.ended else None,
        }  # fmt: skip

    def _bytes(self, body: bytes, kind: str = "application/binary") -> None:
        self._head(200, {"content-type": kind, "content-length": str(len(body))})
        self.wfile.write(body)


@contextmanager
def batch_serving(*, polls: int = 1, end: End = "completed") -> Iterator[BatchServing]:
    """A server for one test, in a thread of this process."""
    server = BatchServing(polls=polls, end=end)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
