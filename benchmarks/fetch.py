"""Getting photographs from a server: how fast, how much of it, and what faults cost."""

import contextlib
import hashlib
import io
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import ROOT, Result, peak_memory
from benchmarks.server import Site, serving
from fnst import assets, download, remote_zip, web
from fnst.errors import AssetError

PHOTOGRAPHS = 500
ROUNDS = 5
CAPPED = 20e6  # bytes per second and connection
FAULTY = 8 << 20  # bytes of the file that meets faults
FAULTY_PIECE = 1 << 18  # so that every fault meets several pieces

DOWNLOAD = """
import sys
from pathlib import Path
from fnst.download import download
download(sys.argv[1], Path(sys.argv[2]))
"""

# Downloads one file in small pieces; the third argument is the size of the disk.
CHILD = f"""
import resource, signal, sys
from pathlib import Path
from fnst import download

download.PIECE = download.SMALLEST = {FAULTY_PIECE}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
download.download(sys.argv[1], Path(sys.argv[2]))
"""


def measure() -> Iterator[Result]:
    """A zip of 500 photographs, stored as COCO's, from a server process on the loopback.

    `whole` is `download` against one plain `requests` stream that writes the same file, in turns,
    medians of five: once as fast as the machine goes, and once with every connection capped at
    20 MB/s, as servers far away are. `sample` brings a seeded tenth of the photographs by ranges,
    listing included; its ratio is that of the bytes of the whole zip to those it transferred.
    `peak` is the most memory that a fresh process takes to download the zip, and one four times as
    long. Each `fault` is met by a download of 8 MB: the bytes that are lost or wrong at the end
    (for what has to be refused: those that were accepted), and the bytes that were transferred
    beyond the file's own. A kill or an interrupt is followed by a second call.
    """
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="fnst-fetch-") as scratch:
        folder = Path(scratch)
        archive = _archive(folder / "photographs.zip")
        yield from _whole(archive, folder, None)
        yield from _whole(archive, folder, CAPPED)
        yield from _sample(archive, folder)
        yield from _peak(archive, folder)
        for kind, meet in FAULTS.items():
            with tempfile.TemporaryDirectory(dir=folder) as room:
                lost, extra = meet(Path(room))
            yield Result(f"fetch/fault/{kind}", lost, "bytes lost")
            yield Result(f"fetch/fault/{kind}/extra", extra, "bytes")


# --- what is served -------------------------------------------------------------------------------


def _archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, content in enumerate(itertools.islice(_photographs(), PHOTOGRAPHS)):
            archive.writestr(f"test2017/{number:012}.jpg", content)
    return path


def _photographs() -> Iterator[bytes]:
    """Those of the mirror without end, or else crops of the built-in sample."""
    mirror = Path(os.environ.get("FNST_MIRROR") or os.devnull) / "coco"
    found = sorted(mirror.glob("*.jpg"))
    return (path.read_bytes() for path in itertools.cycle(found)) if found else _crops()


def _crops() -> Iterator[bytes]:
    from PIL import Image

    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        known = [each for name, each in assets.catalogue().items() if name.startswith("sample/")]
        sources = [Image.open(assets.get(each, Path(scratch))).convert("RGB") for each in known]
    while True:
        source = chance.choice(sources)
        left, top = (chance.random() * side / 2 for side in source.size)
        box = (left, top, left + source.width / 2, top + source.height / 2)
        stream = io.BytesIO()
        source.resize((640, 480), box=box).save(stream, "JPEG", quality=90)
        yield stream.getvalue()


@dataclass
class Elsewhere:
    """A site in another process."""

    url: str
    pipe: "Connection[str, Any]"

    def sent(self) -> int:
        """The bytes of bodies that it has sent."""
        self.pipe.send("sent")
        return int(self.pipe.recv())


@contextlib.contextmanager
def _elsewhere(**options: Any) -> Iterator[Elsewhere]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, options))
    process.start()
    try:
        yield Elsewhere(ours.recv(), ours)
    finally:
        ours.send("end")
        process.join()


def _serve(pipe: "Connection[Any, str]", options: dict[str, Any]) -> None:
    with serving(**options) as site:
        pipe.send(site.url)
        while pipe.recv() != "end":
            pipe.send(site.sent)


# --- speed and memory -----------------------------------------------------------------------------


def _whole(archive: Path, folder: Path, speed: float | None) -> Iterator[Result]:
    name = "unlimited" if speed is None else f"{speed / 1e6:.0f}-MB/s-each"
    size = archive.stat().st_size
    with _elsewhere(files={"/a.zip": archive}, speed=speed) as far:
        ways: dict[str, Callable[[str, Path], None]] = {"ours": download.download, "plain": _plain}
        rounds = [
            {way: _seconds(bring, f"{far.url}/a.zip", folder / "b") for way, bring in ways.items()}
            for _ in range(ROUNDS)
        ]
    ours, plain = (median(each[way] for each in rounds) for way in ways)
    ratio = median(each["plain"] / each["ours"] for each in rounds)
    yield Result(f"fetch/whole/{name}", size / ours / 1e6, "MB/s", ratio)
    yield Result(f"fetch/whole/{name}/plain", size / plain / 1e6, "MB/s")


def _plain(url: str, path: Path) -> None:
    import requests

    with requests.get(url, stream=True, timeout=30) as response, path.open("wb") as file:
        for piece in response.iter_content(web.CHUNK):
            file.write(piece)


def _seconds(bring: Callable[[str, Path], None], url: str, path: Path) -> float:
    began = time.perf_counter()
    bring(url, path)
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def _sample(archive: Path, folder: Path) -> Iterator[Result]:
    with _elsewhere(files={"/a.zip": archive}) as far:
        began = time.perf_counter()
        remote = remote_zip.open_zip(f"{far.url}/a.zip", folder / "notes.json")
        sample = random.Random(0).sample(remote.members, PHOTOGRAPHS // 10)
        remote.bring(sample, folder / "sample")
        seconds = time.perf_counter() - began
        yield Result("fetch/sample/speed", len(sample) / seconds, "photographs/s")
        yield Result("fetch/sample/bytes", far.sent() / 1e6, "MB", remote.total / far.sent())
        yield Result("fetch/sample/whole-zip", remote.total / 1e6, "MB")


def _peak(archive: Path, folder: Path) -> Iterator[Result]:
    longer = folder / "longer"
    with longer.open("wb") as stream:
        for _ in range(4):
            stream.write(archive.read_bytes())
    with _elsewhere(files={"/1x": archive, "/4x": longer}) as far:
        for times in ("1x", "4x"):
            peak = peak_memory(DOWNLOAD, f"{far.url}/{times}", folder / times)
            yield Result(f"fetch/peak/{times}", peak / 1e6, "MB")


# --- faults ---------------------------------------------------------------------------------------
# Each way of meeting one takes an empty folder and returns the bytes lost and the bytes too many.

BODY = random.Random(0).randbytes(FAULTY)
OTHER = random.Random(1).randbytes(FAULTY)
Meet = Callable[[Path], tuple[int, int]]


@contextlib.contextmanager
def _small_pieces() -> Iterator[None]:
    kept = download.PIECE, download.SMALLEST, web.READ_TIMEOUT
    download.PIECE = download.SMALLEST = FAULTY_PIECE
    web.READ_TIMEOUT = 1.0
    try:
        yield
    finally:
        download.PIECE, download.SMALLEST, web.READ_TIMEOUT = kept


def _lost(path: Path, body: bytes) -> int:
    """How many bytes of a file are not those of `body`."""
    found = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(found).digest() == hashlib.sha256(body).digest():
        return 0
    different = sum(a != b for a, b in zip(found, body, strict=False))
    return different + abs(len(found) - len(body))


def _with(body: bytes = BODY, path: str = "/a", **faults: Any) -> Meet:
    """A download through faults that has to end with the right file."""

    def meet(folder: Path) -> tuple[int, int]:
        with _small_pieces(), serving(**{"files": {"/a": BODY}, **faults}) as site:
            download.download(site.url + path, folder / "a")
            return _lost(folder / "a", body), site.sent - len(body)

    return meet


def _long_body(folder: Path) -> tuple[int, int]:
    with _small_pieces(), serving(files={"/a": BODY}, chunked=True, overshoots=9) as site:
        with contextlib.suppress(AssetError):
            download.download(f"{site.url}/a", folder / "a")
        return sum(path.stat().st_size for path in folder.iterdir()), 0


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(8):
            archive.writestr(f"{number}.jpg", BODY[number::8])
    return stream.getvalue()


def _damaged_member(folder: Path) -> tuple[int, int]:
    """A member that comes damaged once."""
    right = _zip()
    with serving(files={"/a": right}) as site:
        remote = remote_zip.open_zip(f"{site.url}/a", folder / "notes.json")
        site.etags["/a"], site.changed["/a"] = remote.validator, right
        site.files["/a"], site.changes_after = _flipped(right, 1000), len(site.asked) + 1
        site.sent = 0
        paths = remote.bring(remote.members, folder / "members")
        lost = sum(_lost(path, BODY[number::8]) for number, path in enumerate(paths))
        return lost, site.sent - remote.cost(remote.members)


def _damaged_directory(folder: Path) -> tuple[int, int]:
    right = _zip()
    with serving(files={"/a": _flipped(right, right.index(b"PK\1\2"))}) as site:
        with contextlib.suppress(AssetError):
            return len(remote_zip.open_zip(f"{site.url}/a", folder / "notes.json").members), 0
        return 0, site.sent


def _flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def _ended(end: Callable[[Any], None], disk: int = -1) -> Meet:
    """A process that ends half way, and then a download that goes on."""

    def meet(folder: Path) -> tuple[int, int]:
        with serving(files={"/a": BODY}, speed=5e5) as site:
            command = [sys.executable, "-c", CHILD, f"{site.url}/a", str(folder / "a"), str(disk)]
            process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
            _wait_for(lambda: site.sent > FAULTY // 2 or process.poll() is not None)
            end(process)
            process.wait()
            _wait_for(lambda: not site.busy)
            return _gone_on(site, folder / "a")

    return meet


def _gone_on(site: Site, path: Path) -> tuple[int, int]:
    site.speed = None
    with _small_pieces():
        download.download(f"{site.url}/a", path)
    return _lost(path, BODY), site.sent - len(BODY)


def _wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


FAULTS: dict[str, Meet] = {
    "dropped-connections": _with(drops=[100_000, 0, 200_000, 1] * 4),
    "stall": _with(stalls=[100_000] * 3),
    "503": _with(answers=[(503, {})] * 3),
    "429-retry-after": _with(answers=[(429, {"Retry-After": "1"})] * 3),
    "no-range": _with(ignores_range=True, drops=[FAULTY // 2]),
    "short-body": _with(ignores_range=True, lies=-1000, body=BODY[:-1000]),
    "long-body-refused": _long_body,
    "changed-etag": _with(changes_after=12, changed={"/a": OTHER}, body=OTHER),
    "redirect": _with(path="/old", redirects={"/old": "/a"}),
    "too-many-connections": _with(most=2, speed=4e6),
    "damaged-member": _damaged_member,
    "damaged-directory-refused": _damaged_directory,
    "full-disk": _ended(lambda process: None, disk=FAULTY // 2),
    "kill-9": _ended(lambda process: process.kill()),
    "ctrl-c": _ended(lambda process: process.send_signal(signal.SIGINT)),
}
