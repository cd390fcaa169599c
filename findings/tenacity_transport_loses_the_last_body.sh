#!/usr/bin/env bash
# pydantic-ai-slim 2.68.0 [retries]: after the last attempt of `AsyncHTTPX2TenacityTransport` the response of a status
# that is retried is closed before its body was read, so a `retry_error_callback` that hands that response on gives the
# client a 429 whose body cannot be read (StreamClosed).
#
# Why one would guess otherwise: tenacity's way to give up is to return the last outcome, and the response is in it.
# What is seen: a loopback server says "over quota until noon" with status 429; what the client can read of it, with the
# retries and without.
# What follows: the body of an error must be read below the retries, or the server's reason is lost.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
python3 -m venv env && env/bin/pip -qq --disable-pip-version-check install 'pydantic-ai-slim[openai,retries]==2.68.0'
cat > probe.py <<'PY'
import asyncio, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
import httpx2
import tenacity
from pydantic_ai.retries import AsyncHTTPX2TenacityTransport, RetryConfig

class Refuse(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"over quota until noon"
        self.send_response(429); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass

server = HTTPServer(("127.0.0.1", 0), Refuse)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"

async def ask(transport):
    async with httpx2.AsyncClient(transport=transport) as client:
        try:
            answer = await client.get(url)
            return f"{answer.status_code} {answer.text}"
        except Exception as error:
            return type(error).__name__

def give_up(state):
    error = state.outcome.exception()
    return error.response if isinstance(error, httpx2.HTTPStatusError) else state.outcome.result()

retrying = AsyncHTTPX2TenacityTransport(
    RetryConfig(retry=tenacity.retry_if_exception_type(httpx2.HTTPStatusError), stop=tenacity.stop_after_attempt(2),
                retry_error_callback=give_up),
    wrapped=httpx2.AsyncHTTPTransport(), validate_response=lambda response: response.raise_for_status())
plain, retried = asyncio.run(ask(httpx2.AsyncHTTPTransport())), asyncio.run(ask(retrying))
server.shutdown()
print("without retries:", plain, "| with retries, at the end:", retried)
assert plain == "429 over quota until noon" and retried == "StreamClosed", "the behaviour changed"
PY
env/bin/python probe.py
