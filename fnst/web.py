"""One request, its answer checked; and what to do when it breaks off.

`ask` asks a URL for some bytes, or for all, and hands out an `Answer` whose headers agree with what
was asked. What may pass (a dropped line, a busy server) is a `BrokenOffError`; what will not is an
`AssetError`. `Patience` is the rule by which a broken request is repeated, `Crew` are the threads
that ask at the same time, and `fetch` brings a few bytes into memory by these means.
"""

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from fnst.errors import AssetError
from fnst.files import readable

Report = Callable[[int, int | None], None]
"""Called with the bytes so far and, where it is known, the bytes in all."""

Span = tuple[int, int]
"""The first byte, and the one after the last."""

# Chosen by us. A server that is silent for half a minute is taken for gone; what it sent is kept.
CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds between two pieces, not for the whole file
TRIES = 4  # in a row without a single new byte, while a server has given none: 4 seconds
TRIES_ONCE_SERVED = 8  # the same, after it gave some: a minute, enough for a router to start anew
BACKOFF = 0.5  # seconds before the second try; doubles from there
LONGEST_WAIT = 60.0  # seconds, even if a server asks for more
CHUNK = 1 << 20  # bytes read at once, at most
TICK = 0.1  # seconds between two looks at a crew: how often people see progress
STOP_SECONDS = 1.0  # for a crew to end; a thread that still connects may end later, by itself


class NoRangesError(AssetError):
    """The server cannot be asked for a part of the file."""


class BrokenOffError(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait  # seconds that the server asks for
        self.received = 0  # bytes that came before


class BeyondError(Exception):
    """The file ends before the span that was asked for: it has `total` bytes."""

    def __init__(self, total: int) -> None:
        super().__init__(f"it has only {total} bytes")
        self.total = total


# --- one request ----------------------------------------------------------------------------------


@dataclass(eq=False)
class Answer:
    """What a server said, before its body is read."""

    ranged: bool
    """False where Range was ignored, or not asked for: the body is the whole file."""
    first: int
    """Where in the file the body begins."""
    end: int | None
    """Where it ends (the byte after its last); None if that is not told."""
    total: int | None
    """The length of the whole file; always told where `ranged`."""
    validator: str | None
    """What identifies the file's version on the server: its ETag, or else its date."""
    response: Any
    received: int = 0
    """Bytes of the body that were read."""

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes, at most `CHUNK` bytes at once."""
        # read1 gives what has come, so that nothing is lost in a buffer when the line breaks
        while piece := self.response.raw.read1(CHUNK, decode_content=False):
            self.received += len(piece)
            yield piece

    def abandon(self) -> None:
        """End at once what another thread waits for in `pieces`."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has ended by itself
            self.response.raw.shutdown()


@contextlib.contextmanager
def ask(
    url: str, span: Span | None = None, *, validator: str | None = None, verify: bool | str = True
) -> Iterator[Answer]:
    """Ask for some bytes of a file; whatever goes wrong is told in our own errors.

    Redirects are followed; proxies and certificates are those of the environment. Connections are
    kept for the next request of the same thread.

    Args:
        url: An http or https address.
        span: The bytes to ask for; all when None.
        validator: Ask for them only if the file is still this version; otherwise it comes whole.
        verify: As in requests: a bundle of certificates to trust, or False for any.

    Raises:
        BrokenOffError: if it may help to ask again.
        BeyondError: if the file has no byte of the span.
        NoRangesError: if the answer is another part of the file than the one asked for.
        AssetError: if the server refuses.
    """
    import requests
    import urllib3

    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    answer = None
    try:
        with _session().get(
            url, headers=_headers(span, validator), stream=True, timeout=timeout, verify=verify
        ) as response:
            _refuse(response, span)
            answer = _answer(response, span)
            yield answer
    except requests.exceptions.SSLError as error:
        raise AssetError("no trusted connection (the certificate does not verify)") from error
    except requests.Timeout as error:
        raise BrokenOffError("it does not answer in time") from error
    except requests.ConnectionError as error:
        raise BrokenOffError("it cannot be reached") from error
    except (requests.RequestException, ValueError) as error:  # the latter for a broken address
        raise AssetError(f"it cannot be asked: {error}") from error
    except urllib3.exceptions.HTTPError as error:
        raise _counted(BrokenOffError("the connection broke off"), answer) from error
    except BrokenOffError as broken:
        _counted(broken, answer)
        raise


_of_thread = threading.local()


def _session() -> Any:
    """This thread's own: a session keeps connections, but is not made for several threads."""
    import requests

    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
    return _of_thread.session


def _headers(span: Span | None, validator: str | None) -> dict[str, str]:
    # the bytes as they are: a compressed answer could be neither resumed nor verified
    headers = {"Accept-Encoding": "identity"}
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        if validator:
            headers["If-Range"] = validator
    return headers


def _refuse(response: Any, span: Span | None) -> None:
    answer = f"it answers {response.status_code} {response.reason}"
    if response.status_code >= 500 or response.status_code in (408, 425, 429):
        raise BrokenOffError(answer, _retry_after(response))
    if response.status_code not in ((200,) if span is None else (200, 206, 416)):
        raise AssetError(answer)


def _retry_after(response: Any) -> float | None:
    """Return the seconds that a server asks to wait, which it may also give as a date."""
    asked = response.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    return None


def _answer(response: Any, span: Span | None) -> Answer:
    if response.status_code == 200 or span is None:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        return Answer(False, 0, total, total, _validator(response), response)
    first, last, total = _content_range(response)
    if response.status_code == 416 and total is not None and total <= span[0]:
        raise BeyondError(total)
    if first is None or last is None or total is None:
        raise NoRangesError("it does not say which bytes of how many it sends")
    if first != span[0] or not first <= last < span[1]:
        raise NoRangesError("it sends other bytes than those that were asked for")
    return Answer(True, first, min(last + 1, total), total, _validator(response), response)


def _content_range(response: Any) -> tuple[int | None, int | None, int | None]:
    """Return the first byte, the last, and the length of the whole file."""
    told = re.fullmatch(
        r"bytes (?:(\d+)-(\d+)|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", "").strip()
    )
    first, last, total = told.groups() if told else (None, None, None)
    return _number(first), _number(last), _number(total)


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits)


def _validator(response: Any) -> str | None:
    etag: str = response.headers.get("ETag", "")
    date: str | None = response.headers.get("Last-Modified")
    # a weak ETag promises the same meaning, not the same bytes
    return etag if etag.startswith('"') else date


def _counted(broken: BrokenOffError, answer: Answer | None) -> BrokenOffError:
    broken.received = answer.received if answer else 0
    return broken


# --- many requests --------------------------------------------------------------------------------


class Patience:
    """How often one thread asks again, and how long it waits before.

    It gives up after `TRIES` failures in a row between which not a single byte was new anywhere, or
    `TRIES_ONCE_SERVED` if there were new bytes before. The wait doubles with every request of its
    own that brought nothing, so that a server which serves others but refuses this one is left in
    peace.
    """

    def __init__(self, done: int) -> None:
        self.furthest = done
        self.tries = TRIES
        self.idle = 0
        self.failures = 0

    def served(self, done: int) -> None:
        """Note that a request has brought what it asked for."""
        self.idle = self.failures = 0
        self._note(done)

    def _note(self, done: int) -> None:
        if done > self.furthest:
            self.idle, self.furthest, self.tries = 0, done, TRIES_ONCE_SERVED

    def after(self, broken: BrokenOffError, done: int) -> float:
        """Return the seconds to wait; `done` counts the bytes that all threads have.

        Raises:
            AssetError: if it is time to give up.
        """
        self.idle += 1
        self._note(done)
        self.failures = 0 if broken.received else self.failures + 1
        if self.idle >= self.tries:
            raise AssetError(str(broken)) from broken
        # a server that asks for no pause at all gets one nevertheless
        return min(max(BACKOFF * 2.0 ** (self.failures - 1), broken.wait or 0.0), LONGEST_WAIT)


class Crew:
    """Threads that work on the same thing; when one fails, or the block ends, all end.

    The thread that made the crew only watches: so an interrupt finds it at once.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._working = 0  # threads that have not ended
        self._busy = 0  # of these, who are not waiting for a second try
        self._reading: list[Answer] = []
        self._error: BaseException | None = None
        self._gave_up: AssetError | None = None

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        for answer in tuple(self._reading):
            answer.abandon()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def start(self, work: Callable[[], None], count: int = 1) -> None:
        """Let `count` more threads do `work`."""
        for _ in range(count):
            # a thread that hangs in a dead connection must not keep the program from ending
            thread = threading.Thread(target=self._run, args=(work,), daemon=True)
            with self._lock:
                self._threads.append(thread)
                self._working += 1
            thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            with self._lock:
                self._error = self._error or (None if self.over.is_set() else error)
            self.over.set()
        finally:
            with self._lock:
                self._working -= 1
                if not self._working:
                    self.over.set()

    def watch(self, look: Callable[[], None], is_left: Callable[[], bool]) -> None:
        """Wait until all have ended, with a `look` now and then; raise what one of them raised.

        Args:
            look: Called by this thread.
            is_left: Whether there is work that nobody has done.
        """
        while not self.over.wait(TICK):
            look()
        if self._error:
            raise self._error
        # whoever gave up left the work to others, who may have ended at the same moment
        if is_left():
            raise self._gave_up or AssetError("it does not send all that is asked for")

    @contextlib.contextmanager
    def reading(self, answer: Answer) -> Iterator[None]:
        """Make this answer's body end when the crew does."""
        self._reading.append(answer)
        try:
            if self.over.is_set():
                answer.abandon()
            yield
        finally:
            self._reading.remove(answer)

    def repeat(self, step: Callable[[], bool], done: Callable[[], int]) -> None:
        """Take one step after the other, with patience, until one returns False.

        Args:
            step: One request; it may raise BrokenOffError.
            done: Counts the bytes that the whole crew has.
        """
        patience = Patience(done())
        while not self.over.is_set():
            try:
                with self._asking():
                    if not step():
                        return
                patience.served(done())
            except BrokenOffError as broken:
                try:
                    wait = patience.after(broken, done())
                except AssetError as gave_up:
                    if self._busy:  # with others; they finish the work, or the last of them tells
                        self._gave_up = gave_up
                        return
                    raise
                self.over.wait(wait)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1


def fetch(
    url: str,
    span: Span,
    *,
    validator: str | None = None,
    verify: bool | str = True,
    arrived: Callable[[bytes], None] = lambda piece: None,
) -> tuple[bytes, Answer]:
    """Return some bytes of a file and the last answer; after a break only the rest is asked for.

    Args:
        url: An http or https address.
        span: The bytes to ask for.
        validator: Only of this version of the file.
        verify: As in requests: a bundle of certificates to trust, or False for any.
        arrived: Called with every piece as it comes, in order.

    Raises:
        NoRangesError: if the server does not give parts, or not of this version.
        BeyondError: if the file has no byte of the span.
        AssetError: if the server refuses, or nothing new comes for some tries.
    """
    body, patience = bytearray(), Patience(0)
    while True:
        rest = (span[0] + len(body), span[1])
        try:
            with ask(url, rest, validator=validator, verify=verify) as answer:
                if not answer.ranged:
                    raise NoRangesError("it sends the whole file where a part is asked for")
                for piece in answer.pieces():
                    body += piece
                    if len(body) > span[1] - span[0]:
                        raise AssetError(
                            f"it sends more than the {span[1] - span[0]} bytes asked for"
                        )
                    arrived(piece)
            if len(body) == min(span[1], answer.total or 0) - span[0]:
                return bytes(body), answer
            raise BrokenOffError("the connection broke off")
        except BrokenOffError as broken:
            time.sleep(patience.after(broken, len(body)))


def require_room(needed: int, folder: Path) -> None:
    """Make sure that `needed` bytes fit on the disk.

    Raises:
        AssetError: if they do not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise AssetError(
            f"it needs {readable(needed)}, and {readable(free)} are free in {folder}; "
            "free some or choose a folder on another disk"
        )
