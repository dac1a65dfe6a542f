"""One file over HTTP, resumed where it broke off: drops, stalls, lies and busy servers survived."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fnst.errors import AssetError

if TYPE_CHECKING:
    from requests import Response

Report = Callable[[int, int | None], None]
"""Called with the bytes so far and, where it is known, the bytes in all."""

# Chosen by us. A server that is silent for half a minute is taken for gone; what it sent is kept.
CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds between two pieces, not for the whole file
TRIES = 4  # in a row without a single new byte
BACKOFF = 0.5  # seconds before the second try; doubles from there
LONGEST_WAIT = 60.0  # seconds, even if a server asks for more
CHUNK = 1 << 20  # bytes


class _BrokenOffError(Exception):
    """A download broke off in a way that may pass; `wait` is what the server asks for, seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    progress: Report | None = None,
    verify: bool | str = True,
) -> None:
    """Fill `path` with the bytes behind `url`, going on after those that `path` already holds.

    What identifies the file on the server (ETag or date) is kept in ``<path>.json`` while it is
    incomplete, so that a file that has changed in between is not glued together. Whether the bytes
    are the right ones is for the caller to verify.

    Args:
        url: An http or https address. Proxies and certificates are those of the environment.
        path: The partial file; complete when this returns.
        size: Bytes in all, if known; a server that offers another length is refused.
        progress: Called with the bytes so far and the bytes in all.
        verify: As in requests: a bundle of certificates to trust, or False for any.

    Raises:
        AssetError: if the server refuses, offers another length, or fails `TRIES` times without a
            new byte. What has arrived stays in `path` for a later call.
        OSError: if the disk is full or `path` cannot be written.
    """
    furthest, tries = _length(path), 0
    while True:
        try:
            _attempt(url, path, size, progress or (lambda done, total: None), verify)
            return _state(path).unlink(missing_ok=True)
        except _BrokenOffError as broken:
            tries = 0 if _length(path) > furthest else tries + 1
            furthest = max(furthest, _length(path))
            if tries >= TRIES:
                raise AssetError(f"{broken}{_kept(path)}") from broken
            wait = BACKOFF * 2 ** (tries - 1) if broken.wait is None else broken.wait
            time.sleep(min(wait, LONGEST_WAIT))


def _attempt(url: str, path: Path, size: int | None, report: Report, verify: bool | str) -> None:
    have = _length(path)
    if have and have == size:
        return
    with _asked(url, _range(path, have), verify) as response:
        if response.status_code == 416 and _span(response)[1] == have:
            return  # asked for what follows the last byte: there was nothing missing
        start, total = _offer(response, path, have)
        if size is not None and total is not None and total != size:
            raise AssetError(f"it offers {total} bytes where {size} are expected")
        if start == 0:
            path.write_bytes(b"")
            _remember(path, response)
        _receive(response, path, total if size is None else size, report)


@contextlib.contextmanager
def _asked(url: str, headers: dict[str, str], verify: bool | str) -> Iterator["Response"]:
    """Ask a server and hand out its answer; whatever goes wrong is told in our own errors."""
    import requests
    import urllib3

    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=timeout, verify=verify
        ) as response:
            _refuse(response)
            yield response
    except requests.exceptions.SSLError as error:
        raise AssetError("no trusted connection (the certificate does not verify)") from error
    except requests.Timeout as error:
        raise _BrokenOffError("it does not answer in time") from error
    except requests.ConnectionError as error:
        raise _BrokenOffError("it cannot be reached") from error
    except requests.RequestException as error:
        raise AssetError(f"it cannot be asked: {error}") from error
    except urllib3.exceptions.HTTPError as error:
        raise _BrokenOffError("the connection broke off") from error


def _refuse(response: "Response") -> None:
    answer = f"it answers {response.status_code} {response.reason}"
    if response.status_code >= 500 or response.status_code in (408, 425, 429):
        raise _BrokenOffError(answer, _retry_after(response))
    if response.status_code not in (200, 206, 416):
        raise AssetError(answer)


def _retry_after(response: "Response") -> float | None:
    """Return the seconds that a server asks to wait, which it may also give as a date."""
    asked = response.headers.get("Retry-After", "")
    if asked.isdecimal():
        return float(asked)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    return None


def _range(path: Path, have: int) -> dict[str, str]:
    """Return the headers that ask for the bytes from `have` on, if the file is still the same."""
    # the bytes as they are: a compressed answer could be neither resumed nor verified
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator := _remembered(path):
            headers["If-Range"] = validator
    return headers


def _span(response: "Response") -> tuple[int | None, int | None]:
    """Return the first byte and the length of the whole file, as Content-Range tells them."""
    told = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", "").strip()
    )
    first, total = told.groups() if told else (None, None)
    return (None if first is None else int(first), None if total is None else int(total))


def _offer(response: "Response", path: Path, have: int) -> tuple[int, int | None]:
    """Return where the answer's body begins in the file, and the file's length if it is told."""
    if response.status_code == 200:  # the whole file: it has changed, or Range is not understood
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    first, total = _span(response)
    before, now = _remembered(path), _validator(response)
    if first != have or (before and now and before != now):
        discard(path)
        raise _BrokenOffError("it sends other bytes than those that are missing")
    return first, total


def _receive(response: "Response", path: Path, end: int | None, report: Report) -> None:
    """Append the answer's body to `path`, up to `end` bytes in all."""
    with path.open("ab") as stream:
        done = stream.tell()
        # read1 gives what has come, so that nothing is lost in a buffer when the line breaks
        while piece := response.raw.read1(CHUNK, decode_content=False):
            done += stream.write(piece)
            if end is not None and done > end:
                break
            report(done, end)
    if end is not None and done > end:
        discard(path)
        raise AssetError(f"it sends more than the {end} bytes that are expected")
    if end is not None and done < end:
        raise _BrokenOffError(f"it ends after {done} of {end} bytes")


def _validator(response: "Response") -> str | None:
    """Return what identifies the file's version on the server."""
    etag = response.headers.get("ETag", "")
    # a weak ETag promises the same meaning, not the same bytes
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _remember(path: Path, response: "Response") -> None:
    _state(path).write_text(json.dumps({"validator": _validator(response)}), encoding="utf-8")


def _remembered(path: Path) -> str | None:
    try:
        validator = json.loads(_state(path).read_text(encoding="utf-8"))["validator"]
    except (OSError, ValueError, KeyError, TypeError):  # the hash has the last word anyway
        return None
    return validator if isinstance(validator, str) else None


def _state(path: Path) -> Path:
    return beside(path, ".json")


def discard(path: Path) -> None:
    """Remove a partial file and what is remembered of it."""
    path.unlink(missing_ok=True)
    _state(path).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _kept(path: Path) -> str:
    have = _length(path)
    return f", but {have} bytes are kept and the next try goes on from there" if have else ""


def beside(path: Path, suffix: str) -> Path:
    """The file of that name with more behind it."""
    return path.with_name(path.name + suffix)
