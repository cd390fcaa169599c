"""What the caller adds to a live call: `python -m tests.benchmarks.bench_caller`, both ways in turn in one process."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from agentkit.journal.response_store import PendingResponses
from agentkit.models.relay.http_transport import RelayTransport
from agentkit.models.request_context import update_request
from agentkit.models.transport.http_client import Connections
from agentkit.models.transport.response_capture import ResponseCapture
from agentkit.runtime.session import session

ROUNDS = 150
STARTS = 10


async def once(client: httpx2.AsyncClient, url: str, *, number: str, stream: bool) -> tuple[float, float]:
    """Seconds to the first piece and to the end."""
    messages = [{"role": "user", "content": f"{number} " + "word " * 200}]
    started = time.perf_counter()
    first = None
    asked = client.stream("POST", url, json={"model": "small", "messages": messages, "stream": stream})
    async with asked as response:
        async for _ in response.aiter_bytes():
            first = first or time.perf_counter() - started
    return first or 0.0, time.perf_counter() - started


async def measure(root: str, folder: Path, *, stream: bool) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {"direct": [], "caller": []}
    url = f"{root}/chat/completions"
    with session("bench", folder=folder) as opened:
        opened.store.runs(limit=1)
        client = httpx2.AsyncClient(transport=ResponseCapture(RelayTransport(Connections())))
        for number in range(ROUNDS + 10):
            for way in found:
                responses = PendingResponses(
                    folder / ".agentkit" / "inbox",
                    f"{'ab' * 32}.{number}.{len(way)}",
                    journal=str,
                    clean=lambda text: True,
                )
                update_request(responses=responses, relay=opened.calling if way == "caller" else None)
                seconds = await once(client, url, number=f"{number} {way} {stream}", stream=stream)
                if number >= 10:
                    found[way].append(seconds)
        await client.aclose()
    return found


def starting() -> dict[str, list[float]]:
    """Seconds that the first live call of a session waits for its caller, beside bare processes, in turn."""
    found: dict[str, list[float]] = {"caller": [], "pass": [], "import httpx2, asyncio": []}
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as place, session("bench", folder=Path(place)) as opened:
            opened.store.runs(limit=1)
            started = time.perf_counter()
            asyncio.run(opened.calling.line())
            found["caller"].append(time.perf_counter() - started)
            opened.calling.ask("stop")
        for program in list(found)[1:]:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            found[program].append(time.perf_counter() - started)
    return found


def main() -> None:
    os.environ["AGENTKIT_CALLER"] = "on"
    command = [sys.executable, "-m", "tests.serving", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        root = server.stdout.readline().strip()
        for stream in (False, True):
            with tempfile.TemporaryDirectory() as place:
                found = asyncio.run(measure(root, Path(place), stream=stream))
            for name, part in (("first piece", 0), ("whole answer", 1)):
                direct, through = (statistics.median(s[part] for s in found[way]) * 1000 for way in found)
                added = statistics.median(b[part] - a[part] for a, b in zip(*found.values(), strict=True)) * 1000
                kind = "streamed" if stream else "plain"
                print(f"{kind:9}{name:13} direct {direct:6.2f} ms   caller {through:6.2f} ms   added {added:5.2f} ms")
        took = {name: statistics.median(seconds) for name, seconds in starting().items()}
        beside = ", ".join(f"{took['caller'] / t:.1f} x `python -c '{name}'`" for name, t in list(took.items())[1:])
        print(f"to start  {took['caller'] * 1000:.0f} ms, {beside}")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
