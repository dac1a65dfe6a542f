"""A real web server on the loopback, with faults that a test or a benchmark switches on."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PART = 1 << 17  # bytes written at once


@dataclass
class Site:
    """What is served, what goes wrong, and what was asked.

    Lists of faults are used up from the front, one per request; a fault that is used up is over.
    """

    files: dict[str, bytes | Path] = field(default_factory=dict)
    """Bodies by path, such as ``/styles/wave.jpg``; a Path is served from the disk."""
    redirects: dict[str, str] = field(default_factory=dict)
    etags: dict[str, str | None] = field(default_factory=dict)
    """By path; without an entry the ETag follows from the bytes, None sends none."""
    date: str | None = None
    """Last-Modified of every file."""
    keeps_alive: bool = True
    """Answer several requests on one connection."""

    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers that are answered instead of a file."""
    drops: list[int] = field(default_factory=list)
    """Close the connection after so many bytes of the body."""
    stalls: list[int] = field(default_factory=list)
    """Send so many bytes of the body, and then nothing until the site closes."""
    ignores_range: bool = False
    ignores_if_range: bool = False
    shifts: int = 0
    """Answer a range so many bytes beside the one that was asked for."""
    lies: int = 0
    """Add this to the length that is announced."""
    chunked: bool = False
    """Send the body in chunks, announcing no length."""
    overshoots: int = 0
    """Send so many bytes more than the answer announces; only chunks let a client see them."""
    most: int | None = None
    """Answer 429 while so many bodies are being sent."""
    speed: float | None = None
    """Bytes per second and connection, at most."""
    changes_after: int | None = None
    """After so many requests every file has another ETag, and the bytes in `changed`."""
    changed: dict[str, bytes | Path] = field(default_factory=dict)

    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of every request, in order."""
    encodings: list[str | None] = field(default_factory=list)
    """Accept-Encoding of every request."""
    sent: int = 0
    """Bytes of bodies sent."""
    connections: int = 0
    """How many were opened."""
    busy: int = 0
    """How many bodies are being sent."""
    busiest: int = 0
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ranges(self) -> list[str | None]:
        """Range of every request, in order."""
        return [asked_range for _, asked_range in self.asked]

    def body(self, path: str) -> bytes | Path:
        """What is behind a path now."""
        return self.changed.get(path, self.files[path]) if self._has_changed else self.files[path]

    def etag(self, path: str) -> str | None:
        """What identifies it."""
        body = self.body(path)
        mark = hash(body) if isinstance(body, bytes) else body.stat().st_mtime_ns
        return self.etags.get(path, f'"{mark:x}{"-changed" * self._has_changed}"')

    @property
    def _has_changed(self) -> bool:
        return self.changes_after is not None and len(self.asked) > self.changes_after


@contextmanager
def serving(**options: Any) -> Iterator[Site]:
    """Serve a `Site` on a free port until the block ends."""
    site = Site(**options)

    class Bound(_Handler):
        pass

    Bound.site = site
    server = _Server(("127.0.0.1", 0), Bound)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        server.hang_up()
        thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that come at once are not to wait for a second SYN

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what is tested."""

    def hang_up(self) -> None:
        """End connections that clients keep for later."""
        for connection in tuple(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a small body waits for the client to confirm the headers

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def setup(self) -> None:
        super().setup()
        with self.site.lock:
            self.site.connections += 1

    def do_HEAD(self) -> None:
        self.send_error(405)

    def do_GET(self) -> None:
        site = self.site
        with site.lock:
            site.asked.append((self.path, self.headers["Range"]))
            site.encodings.append(self.headers["Accept-Encoding"])
            answer = _next(site.answers)
        if answer is not None:
            self._answer(*answer)
        elif self.path in site.redirects:
            self._answer(302, {"Location": site.redirects[self.path]})
        elif self.path not in site.files:
            self._answer(404, {})
        else:
            self._serve_if_free()

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve_if_free(self) -> None:
        site = self.site
        with site.lock:
            free = site.most is None or site.busy < site.most
            site.busy += free
            site.busiest = max(site.busiest, site.busy)
        if not free:
            return self._answer(429, {"Retry-After": "0"})
        try:
            self._serve(site.body(self.path))
        finally:
            with site.lock:
                site.busy -= 1

    def _serve(self, body: bytes | Path) -> None:
        length = len(body) if isinstance(body, bytes) else body.stat().st_size
        wanted = self._wanted()
        if wanted is None:
            self.send_response(200)
            return self._send(body, 0, length, {})
        if wanted[0] >= length:
            return self._answer(416, {"Content-Range": f"bytes */{length}"})
        first, end = wanted[0] + self.site.shifts, min(wanted[1] or length, length)
        self.send_response(206)
        span = f"bytes {first}-{end - 1}/{length + self.site.lies}"
        return self._send(body, first, end, {"Content-Range": span})

    def _wanted(self) -> tuple[int, int | None] | None:
        """The first byte that is asked for, and the one after the last if that is told."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if asked is None or self.site.ignores_range:
            return None
        current = self.site.etag(self.path) or self.site.date
        known = self.headers["If-Range"]
        if known and known != current and not self.site.ignores_if_range:
            return None
        return int(asked[1]), int(asked[2]) + 1 if asked[2] else None

    def _send(self, body: bytes | Path, first: int, end: int, headers: dict[str, str]) -> None:
        site = self.site
        etag = site.etag(self.path)
        headers |= {"ETag": etag} if etag else {}
        headers |= {"Last-Modified": site.date} if site.date else {}
        html = self.path.endswith("/")
        headers["Content-Type"] = "text/html" if html else "application/octet-stream"
        length = {"Content-Length": str(end - first + site.lies)}
        headers |= {"Transfer-Encoding": "chunked"} if site.chunked else length
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._write(body, first, end)

    def _write(self, body: bytes | Path, first: int, end: int) -> None:
        site = self.site
        with site.lock:
            dropped, stalled = _next(site.drops), _next(site.stalls)
        cut = next((at for at in (dropped, stalled) if at is not None), end - first)
        self._put_all(_parts(body, first, min(end, first + cut), self._part()))
        if site.overshoots:
            self._put_all(iter([bytes(site.overshoots)]))
        if stalled is not None:
            site.closing.wait()
        if site.chunked and cut >= end - first:
            self.wfile.write(b"0\r\n\r\n")
        if cut < end - first or site.lies:
            self.close_connection = True

    def _part(self) -> int:
        """How much to write at once: little, where the speed is capped."""
        return PART if self.site.speed is None else max(1, min(PART, int(self.site.speed / 50)))

    def _put_all(self, parts: Iterator[bytes]) -> None:
        began, put = time.monotonic(), 0
        for part in parts:
            with self.site.lock:  # before it goes: who has received it may count on it
                self.site.sent += len(part)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if self.site.chunked else part)
            put += len(part)
            if self.site.speed is not None:
                time.sleep(max(0.0, put / self.site.speed - (time.monotonic() - began)))

    def end_headers(self) -> None:
        if not self.site.keeps_alive:
            self.send_header("Connection", "close")
            self.close_connection = True
        super().end_headers()


def _next(faults: list[T]) -> T | None:
    return faults.pop(0) if faults else None


def _parts(body: bytes | Path, first: int, end: int, length: int) -> Iterator[bytes]:
    """The bytes of a span, a little at a time; a file is never in memory as a whole."""
    spans = [(at, min(at + length, end)) for at in range(first, end, length)]
    if isinstance(body, bytes):
        yield from (body[at:to] for at, to in spans)
        return
    with body.open("rb") as stream:
        stream.seek(first)
        yield from (stream.read(to - at) for at, to in spans)
