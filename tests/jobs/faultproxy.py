"""An HTTP proxy that stands before an S3 server and breaks things on purpose.

It serves in a thread of its own. Rates can be changed while it runs, requests are counted, and a particular fault can
be ordered for the next request of a method.
"""

import asyncio
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType

FAULTS = ("503", "500", "reset", "lost", "truncate")
"""503 and 500: refused before it reaches the server. reset: the connection drops before it does. lost: the server does
the work, then the connection drops instead of the reply. truncate: half of a GET's body, then the connection drops."""

REFUSALS = ("expired", "denied")
"""What no second try heals: credentials that have expired, and such that do not suffice."""

_REASONS = {
    "503": ("503 Slow Down", "SlowDown"),
    "500": ("500 Internal Server Error", "InternalError"),
    "expired": ("400 Bad Request", "ExpiredToken"),
    "denied": ("403 Forbidden", "AccessDenied"),
}

Watch = Callable[[str, str, str, int], None]
"""Called "before" a request goes to the server and "after" it was answered there, with method, path and the client's
port. An OSError that it raises drops the connection."""


def unwatched(when: str, method: str, path: str, port: int) -> None:
    """Nobody watches."""


class FaultProxy:
    """`with FaultProxy(upstream_port) as proxy:` listens at `proxy.url`."""

    def __init__(self, upstream_port: int, *, seed: int = 0) -> None:
        self.rates: dict[str, float] = {}
        """Probability of each fault: {"503": 0.05}, or for one method only, {"PUT lost": 0.1}."""
        self.requests: Counter[str] = Counter()
        """By method, what clients sent, faults included."""
        self.faults: Counter[str] = Counter()
        self.served: Counter[tuple[str, str]] = Counter()
        """By method and path without query, what the server answered."""
        self.watch: Watch = unwatched
        self._ordered: dict[str, deque[str]] = {}
        self._upstream_port = upstream_port
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset(self) -> None:
        """No faults, all counts zero, nobody watches."""
        self.rates, self._ordered, self.watch = {}, {}, unwatched
        for counter in (self.requests, self.faults, self.served):
            counter.clear()

    def order(self, method: str, *faults: str) -> None:
        """The next requests of this method meet these faults, one each; "" lets one pass."""
        self._ordered.setdefault(method, deque()).extend(faults)

    def _run(self, coroutine):  # noqa: ANN001, ANN202
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _fault(self, method: str) -> str:
        if self._ordered.get(method):
            return self._ordered[method].popleft()
        drawn = self._random.random()
        for fault in (*FAULTS, *REFUSALS):
            drawn -= self.rates.get(fault, 0) + self.rates.get(f"{method} {fault}", 0)
            if drawn < 0:
                return fault
        return ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection: it is closed after the reply."""
        try:
            await self._exchange(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, head, body = await _request(reader, writer)
        fault = self._fault(method)
        self.requests[method] += 1
        self.faults[fault] += bool(fault)
        if fault == "reset":
            writer.transport.abort()
            return
        if fault in _REASONS:
            writer.write(_refusal(fault, has_body=method != "HEAD"))
            await writer.drain()
            return
        port = writer.get_extra_info("peername")[1]
        self.watch("before", method, path, port)
        reply = await self._forward(head + body)
        self.served[method, path.partition("?")[0]] += 1
        self.watch("after", method, path, port)
        if fault == "lost":
            writer.transport.abort()
        elif fault == "truncate" and method == "GET":
            start = reply.index(b"\r\n\r\n") + 4
            writer.write(reply[: start + (len(reply) - start) // 2])
            await writer.drain()
        else:
            writer.write(reply)
            await writer.drain()

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream_port, limit=1 << 24)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read(-1)  # the server closes the connection, because `_request` told it to
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, str, bytes, bytes]:
    """Method, path, head (changed so that the server closes the connection) and body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    kept = [line for line in lines if not line.lower().startswith(("expect:", "connection:"))]
    head = "\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1")
    method, path, _ = lines[0].split(" ", 2)
    return method, path, head, await _request_body(reader, headers)


async def _request_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return body


def _refusal(fault: str, *, has_body: bool) -> bytes:
    reason, code = _REASONS[fault]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made by the test</Message></Error>".encode()
    head = f"HTTP/1.1 {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (body if has_body else b"")
