"""A real web server on the loopback, with faults that a test switches on."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served, what goes wrong, and what was asked.

    Lists of faults are used up from the front, one per request; a fault that is used up is over.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    """Bodies by path, such as ``/styles/wave.jpg``."""
    redirects: dict[str, str] = field(default_factory=dict)
    etags: dict[str, str | None] = field(default_factory=dict)
    """By path; without an entry the ETag follows from the bytes, None sends none."""
    date: str | None = None
    """Last-Modified of every file."""

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

    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of every request, in order."""
    encodings: list[str | None] = field(default_factory=list)
    """Accept-Encoding of every request."""
    sent: int = 0
    """Bytes of bodies sent."""
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str | None]:
        return [asked_range for _, asked_range in self.asked]

    def etag(self, path: str) -> str | None:
        return self.etags.get(path, f'"{hash(self.files[path]):x}"')


@contextmanager
def serving(**options) -> Iterator[Site]:
    """Serve a `Site` on a free port until the block ends."""
    site = Site(**options)

    class Bound(_Handler):
        pass

    Bound.site = site
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.send_error(405)

    def do_GET(self):
        site = self.site
        site.asked.append((self.path, self.headers["Range"]))
        site.encodings.append(self.headers["Accept-Encoding"])
        if site.answers:
            self._answer(*site.answers.pop(0))
        elif self.path in site.redirects:
            self._answer(302, {"Location": site.redirects[self.path]})
        elif self.path not in site.files:
            self._answer(404, {})
        else:
            self._serve(site.files[self.path])

    def _answer(self, status: int, headers: dict[str, str]):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, body: bytes):
        wanted = self._wanted()
        if wanted is None:
            self.send_response(200)
            return self._send(body, {})
        if wanted >= len(body):
            return self._answer(416, {"Content-Range": f"bytes */{len(body)}"})
        first = wanted + self.site.shifts
        self.send_response(206)
        span = f"bytes {first}-{len(body) - 1}/{len(body) + self.site.lies}"
        return self._send(body[first:], {"Content-Range": span})

    def _wanted(self) -> int | None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        if asked is None or self.site.ignores_range:
            return None
        current = self.site.etag(self.path) or self.site.date
        known = self.headers["If-Range"]
        if known and known != current and not self.site.ignores_if_range:
            return None
        return int(asked[1])

    def _send(self, body: bytes, headers: dict[str, str]):
        site = self.site
        etag = site.etag(self.path)
        headers |= {"ETag": etag} if etag else {}
        headers |= {"Last-Modified": site.date} if site.date else {}
        html = self.path.endswith("/")
        headers["Content-Type"] = "text/html" if html else "application/octet-stream"
        length = {"Content-Length": str(len(body) + site.lies)}
        headers |= {"Transfer-Encoding": "chunked"} if site.chunked else length
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self._write(body)

    def _write(self, body: bytes):
        site = self.site
        dropped = site.drops.pop(0) if site.drops else None
        stalled = site.stalls.pop(0) if site.stalls else None
        end = next((at for at in (dropped, stalled) if at is not None), len(body))
        self._put(body[:end])
        if stalled is not None:
            site.closing.wait()
        if site.chunked and end >= len(body):
            self.wfile.write(b"0\r\n\r\n")

    def _put(self, body: bytes):
        self.site.sent += len(body)
        if self.site.chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        self.wfile.write(body)

    # Chunks need HTTP/1.1; every answer still ends its connection, as HTTP/1.0 has it.
    protocol_version = "HTTP/1.1"

    def end_headers(self):
        self.send_header("Connection", "close")
        super().end_headers()
