"""Members of a zip on a server: each is verified, and only what is asked for is transferred."""

import json
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import pytest

from benchmarks.server import serving
from fnst import remote_zip, web
from fnst.errors import AssetError
from fnst.remote_zip import open_zip
from fnst.web import NoRangesError

RANDOM = random.Random(0)
FILES = {f"photos/{i:03}.jpg": RANDOM.randbytes(RANDOM.randrange(500, 5000)) for i in range(60)}
SMALL = 1000  # bytes: what answers may cost besides members and directory


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few connections, no gaps bridged and no waiting."""
    monkeypatch.setattr(web, "BACKOFF", 0.0)
    monkeypatch.setattr(remote_zip, "CONNECTIONS", 3)
    monkeypatch.setattr(remote_zip, "GAP", 0)
    monkeypatch.setattr(remote_zip, "TAIL", 100)


def zipped(contents, method=zipfile.ZIP_STORED, comment=b""):
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.comment = comment
        for name, content in contents.items():
            archive.writestr(name, content)
    return stream.getvalue()


ARCHIVE = zipped(FILES)
# the 22 bytes at the end tell the directory's length and where it begins
DIRECTORY, BEGIN = struct.unpack("<LL", ARCHIVE[-10:-2])
LISTING = len(ARCHIVE) - BEGIN  # bytes that a listing costs, besides the one that tells the size


@pytest.fixture
def site():
    with serving(files={"/a.zip": ARCHIVE}) as served:
        yield served


@pytest.fixture
def notes(tmp_path):
    return tmp_path / "notes.json"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "photographs"


def opened(site, notes, **options):
    return open_zip(f"{site.url}/a.zip", notes, **options)


def offered(body, notes):
    """The members that an archive offers, by name."""
    with serving(files={"/a.zip": body}) as site:
        return {member.name: member for member in opened(site, notes).members}


def brought(body, notes, folder):
    with serving(files={"/a.zip": body}) as site:
        archive = opened(site, notes)
        return {path.name: path.read_bytes() for path in archive.bring(archive.members, folder)}


def are_right(paths):
    return all(path.read_bytes() == FILES[f"photos/{path.name}"] for path in paths)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- the listing ----------------------------------------------------------------------------------


def test_the_listing_is_that_of_the_archive(site, notes):
    archive = opened(site, notes)
    assert [m.name for m in archive.members] == list(FILES)
    assert [m.size for m in archive.members] == [len(body) for body in FILES.values()]
    assert [m.crc for m in archive.members] == [zlib.crc32(body) for body in FILES.values()]
    assert archive.total == len(ARCHIVE)
    assert (archive.members[0].start, archive.members[-1].end) == (0, BEGIN)
    assert archive.cost(archive.members) == BEGIN


def test_the_directory_is_one_request_after_the_tail(site, notes):
    opened(site, notes)
    size = len(ARCHIVE)
    directory = f"bytes={BEGIN}-{size - 101}"  # the tail has its end
    assert site.ranges == ["bytes=0-0", f"bytes={size - 100}-{size - 1}", directory]


def test_a_listing_that_is_known_costs_one_byte(site, notes):
    first = opened(site, notes)
    site.sent = 0
    assert opened(site, notes) == first
    assert site.sent == 1


def test_another_archive_is_listed_anew(site, notes):
    opened(site, notes)
    site.files["/a.zip"] = zipped({"b.jpg": b"other"})
    assert [member.name for member in opened(site, notes).members] == ["b.jpg"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"validator": 1}', '{"members": 3}'])
def test_damaged_notes_are_written_anew(site, notes, damage):
    first = opened(site, notes)
    notes.write_text(damage)
    assert opened(site, notes) == first
    assert json.loads(notes.read_text())["total"] == len(ARCHIVE)


def test_without_anything_that_identifies_the_archive_it_is_listed_each_time(site, notes):
    site.etags["/a.zip"] = None
    opened(site, notes)
    site.files["/a.zip"] = zipped({name: b"x" * len(body) for name, body in FILES.items()})
    assert opened(site, notes).members[0].crc == zlib.crc32(b"x" * len(FILES["photos/000.jpg"]))


def test_a_directory_in_zip64_is_read(notes, folder, monkeypatch):
    """Lower limits make zipfile write zip64 records into an archive of a few bytes."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    body = zipped({"a.jpg": b"a" * 500, "b.jpg": b"b" * 600})
    monkeypatch.undo()
    assert b"PK\6\6" in body  # the zip64 end of the directory
    assert brought(body, notes, folder) == {"a.jpg": b"a" * 500, "b.jpg": b"b" * 600}


def test_offsets_beyond_four_gibibytes_are_read(notes, tmp_path, folder):
    """A sparse file: a member that lies 5 GB behind the first, as in the archives of COCO."""
    path = tmp_path / "huge.zip"
    with path.open("wb") as stream, zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("near.jpg", b"near")
        stream.seek(5 << 30)
        archive.start_dir = stream.tell()
        archive.writestr("far.jpg", b"far")
    with serving(files={"/a.zip": path}) as site:
        remote = opened(site, notes)
        far = remote.members[-1]
        assert far.start >= 5 << 30
        assert [p.read_bytes() for p in remote.bring([far], folder)] == [b"far"]
        assert site.sent < SMALL


def test_a_comment_and_what_lies_before_an_archive_are_no_obstacle(notes, folder):
    body = b"#!/bin/sh\n" * 50 + zipped({"a.jpg": b"one"}, comment=b"c" * 3000)
    assert brought(body, notes, folder) == {"a.jpg": b"one"}


@pytest.mark.parametrize(
    "name",
    ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "..", "a\\b.jpg", "C:/a.jpg", "a\0.jpg", "folder/"],
)
def test_names_that_lead_elsewhere_are_not_offered(notes, name):
    stand_in = "x" * len(name)  # zipfile itself would not write some of them
    body = zipped({"good.jpg": b"good", stand_in: b""}).replace(stand_in.encode(), name.encode())
    assert list(offered(body, notes)) == ["good.jpg"]


def test_encrypted_and_enormous_members_are_not_offered(notes, monkeypatch):
    body = bytearray(zipped({"secret.jpg": b"s", "long.jpg": b"l" * 200, "good.jpg": b"g"}))
    body[body.index(b"PK\1\2") + 8] |= 1  # the flags of the directory's first entry
    monkeypatch.setattr(remote_zip, "LARGEST", 199)
    assert list(offered(bytes(body), notes)) == ["good.jpg"]


def test_of_two_members_with_one_name_the_later_counts(notes, folder):
    body = zipped({"a.jpg": b"old", "b.jpg": b"new"}).replace(b"b.jpg", b"a.jpg")
    assert brought(body, notes, folder) == {"a.jpg": b"new"}


@pytest.mark.parametrize("body", [b"", b"no zip", b"PK\3\4" * 1000, ARCHIVE[:-300]])
def test_what_is_no_zip_is_one_sentence(notes, body):
    with pytest.raises(AssetError, match="it is no zip"):
        offered(body, notes)
    assert not notes.exists()


@pytest.mark.parametrize("at", [BEGIN + 1, BEGIN + 45, len(ARCHIVE) - 8, len(ARCHIVE) - 5])
def test_a_damaged_directory_is_one_sentence(notes, at):
    body = bytearray(ARCHIVE)
    body[at] ^= 0x40
    with pytest.raises(AssetError, match="its directory is damaged"):
        offered(bytes(body), notes)
    assert names(notes.parent) == []


def test_a_server_without_ranges_is_told_apart(site, notes, folder):
    site.ignores_range = True
    with pytest.raises(NoRangesError):
        opened(site, notes)
    site.ignores_range = False
    archive = opened(site, notes)
    site.ignores_range = True
    with pytest.raises(NoRangesError):
        archive.bring(archive.members, folder)


@pytest.mark.parametrize("etags", [{}, {"/a.zip": None}])
def test_an_archive_that_changes_while_it_is_listed_is_told(site, notes, etags):
    site.etags = etags
    site.changes_after, site.changed["/a.zip"] = 2, zipped(dict(list(FILES.items())[:50]))
    with pytest.raises(AssetError):
        opened(site, notes)
    assert opened(site, notes).total == len(site.changed["/a.zip"])


# --- a listing that stops half way ----------------------------------------------------------------


def half(site, notes, some=1000):
    """Begin a listing on a server that gives some bytes of the directory and then no more."""
    site.drops = [1, 100, some] + [0] * 100
    with pytest.raises(AssetError, match="the connection broke off"):
        opened(site, notes)
    site.drops = []
    site.asked.clear()
    return part(notes)


def part(notes):
    return notes.with_name("notes.json.part")


def test_a_listing_goes_on_where_it_stopped(site, notes):
    half(site, notes)
    assert opened(site, notes).members == opened(site, notes).members
    directory = f"bytes={BEGIN + 1000}-{len(ARCHIVE) - 101}"
    assert site.ranges == ["bytes=0-0", directory, "bytes=0-0"]
    assert site.sent == 3 + LISTING
    assert names(notes.parent) == [notes.name]


def test_a_listing_that_stops_often_costs_no_more_than_one_that_does_not(site, notes):
    for some in (10, 1, 1500):
        half(site, notes, some)
        site.drops = [1, some] + [0] * 100
        with pytest.raises(AssetError):
            opened(site, notes)
        site.drops = []
        assert [member.name for member in opened(site, notes).members] == list(FILES)
        notes.unlink()
    assert site.sent == 3 * (3 + LISTING)


def test_progress_tells_how_much_of_the_directory_has_come(site, notes):
    half(site, notes)
    told, site.speed = [], 2e4
    opened(site, notes, progress=lambda *now: told.append(now))
    assert told[0] == (1000, DIRECTORY - 78)
    assert told[-1] == (DIRECTORY - 78, DIRECTORY - 78)
    assert told == sorted(told)
    assert len(told) > 2


def test_progress_says_nothing_of_a_listing_that_is_known(site, notes):
    opened(site, notes)
    told = []
    opened(site, notes, progress=lambda *now: told.append(now))
    assert told == []


def test_an_interrupt_of_a_listing_keeps_what_came(site, notes):
    site.speed = 2e4

    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(site, notes, progress=interrupt)
    site.speed, told = None, []
    site.asked.clear()
    opened(site, notes, progress=lambda *now: told.append(now))
    assert told[0][0] > 0
    assert site.ranges[1] == f"bytes={BEGIN + told[0][0]}-{len(ARCHIVE) - 101}"


LIST = """
import sys
from pathlib import Path
from fnst import remote_zip

remote_zip.TAIL = 100
remote_zip.open_zip(sys.argv[1], Path(sys.argv[2]))
"""


def test_a_kill_while_listing_costs_nothing_that_came(site, notes):
    site.stalls = [None, None, 1000]
    command = [sys.executable, "-c", LIST, f"{site.url}/a.zip", str(notes)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    late = time.monotonic() + 20  # only so that a test that fails comes to an end
    while time.monotonic() < late:
        if part(notes).exists() and part(notes).stat().st_size > 1100:
            break
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert [member.name for member in opened(site, notes).members] == list(FILES)
    assert site.sent == 2 + LISTING


def test_a_part_of_another_archive_is_not_used(site, notes):
    half(site, notes)
    site.files["/a.zip"] = ARCHIVE.replace(b"photos/0", b"images/0")  # of the same length
    assert opened(site, notes).members[0].name == "images/000.jpg"
    assert names(notes.parent) == [notes.name]


def test_a_part_from_another_address_is_not_used(site, notes):
    half(site, notes)
    site.files["/b.zip"], site.etags["/b.zip"] = (
        ARCHIVE.replace(b"photos/0", b"images/0"),
        site.etag("/a.zip"),
    )
    assert open_zip(f"{site.url}/b.zip", notes).members[0].name == "images/000.jpg"


def test_without_anything_that_identifies_the_archive_no_part_is_used(site, notes):
    site.etags["/a.zip"] = None
    half(site, notes)
    opened(site, notes)
    assert site.ranges[2] == f"bytes={BEGIN}-{len(ARCHIVE) - 101}"


@pytest.mark.parametrize("left", [10, 200, -500, -1])
def test_of_a_part_that_is_cut_off_the_rest_is_used(site, notes, left):
    kept = half(site, notes)
    kept.write_bytes(kept.read_bytes()[:left])
    assert [member.name for member in opened(site, notes).members] == list(FILES)


def test_a_part_that_was_cut_off_can_be_gone_on_with(site, notes):
    kept = half(site, notes)
    kept.write_bytes(kept.read_bytes()[:-1])
    site.drops = [1, 500] + [0] * 100
    with pytest.raises(AssetError):
        opened(site, notes)
    site.drops, told = [], []
    opened(site, notes, progress=lambda *now: told.append(now))
    assert told[0][0] >= 500


def test_what_a_power_cut_has_damaged_is_asked_for_again(site, notes):
    site.speed = 2e4  # so that it comes in several pieces
    kept = half(site, notes, 3000)
    content = kept.read_bytes()
    kept.write_bytes(content[:-10] + bytes(10))
    site.speed, before = None, site.sent
    assert [member.name for member in opened(site, notes).members] == list(FILES)
    assert LISTING - 3100 < site.sent - before < LISTING - 100


def test_those_who_want_a_listing_at_once_bring_it_once(site, notes):
    site.speed, found = 1e4, []
    both = [threading.Thread(target=lambda: found.append(opened(site, notes))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert found[0] == found[1]
    assert site.sent == 2 + LISTING


def test_a_full_disk_is_not_taken_for_a_damaged_directory(site, notes):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="File too large"):
            opened(site, notes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert opened(site, notes).total == len(ARCHIVE)


# --- bringing -------------------------------------------------------------------------------------


def test_members_become_files_in_the_order_that_was_asked_for(site, notes, folder):
    archive = opened(site, notes)
    wanted = [archive.members[i] for i in (50, 3, 20)]
    assert archive.bring(wanted, folder) == [folder / member.name for member in wanted]
    assert names(folder) == ["photos/003.jpg", "photos/020.jpg", "photos/050.jpg"]
    assert are_right(folder.rglob("*.jpg"))


def test_a_sample_costs_only_its_spans(site, notes, folder):
    archive = opened(site, notes)
    sample = archive.members[::7]
    archive.bring(sample, folder)
    assert site.sent == archive.cost(sample) + 1 + LISTING
    assert site.sent < len(ARCHIVE) / 3


def test_deflated_members_are_inflated(notes, folder):
    contents = {"a.jpg": b"a" * 10_000, "b.jpg": FILES["photos/000.jpg"], "empty.jpg": b""}
    assert brought(zipped(contents, zipfile.ZIP_DEFLATED), notes, folder) == contents


def test_members_of_other_methods_are_told(notes, folder):
    body = zipped({"a.jpg": b"a" * 10_000}, zipfile.ZIP_BZIP2)
    with pytest.raises(AssetError, match=r"a\.jpg is packed by method 12"):
        brought(body, notes, folder)


def test_neighbours_come_in_one_request_where_the_gap_is_small(site, notes, folder, monkeypatch):
    archive = opened(site, notes)
    chosen = [archive.members[i] for i in (0, 1, 3, 30)]
    monkeypatch.setattr(remote_zip, "GAP", archive.members[3].start - archive.members[1].end)
    site.asked.clear()
    assert are_right(archive.bring(chosen, folder))
    spans = [(chosen[0].start, chosen[2].end), (chosen[3].start, chosen[3].end)]
    assert sorted(site.ranges) == sorted(f"bytes={first}-{end - 1}" for first, end in spans)


def test_no_request_is_longer_than_a_piece(site, notes, folder, monkeypatch):
    monkeypatch.setattr(remote_zip, "PIECE", 12_000)
    archive = opened(site, notes)
    site.asked.clear()
    assert are_right(archive.bring(archive.members, folder))
    lengths = [int(end) - int(first) + 1 for first, end in (r[6:].split("-") for r in site.ranges)]
    assert 6000 < max(lengths) <= 12_000


def test_files_that_are_there_and_right_are_not_asked_for(site, notes, folder):
    archive = opened(site, notes)
    archive.bring(archive.members[:30], folder)
    damaged, cut = folder / "photos/003.jpg", folder / "photos/010.jpg"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    cut.write_bytes(b"")
    site.asked.clear()
    assert are_right(archive.bring(archive.members[:30], folder))
    wanted = [archive.members[i] for i in (3, 10)]
    assert sorted(site.ranges) == sorted(f"bytes={m.start}-{m.end - 1}" for m in wanted)


def test_progress_counts_what_is_there_and_ends_with_all(site, notes, folder):
    archive, told = opened(site, notes), []
    archive.bring(archive.members[:30], folder)
    site.speed = 1e5
    archive.bring(archive.members, folder, progress=lambda *now: told.append(now))
    assert told[0][0] >= archive.cost(archive.members[:30])
    assert told[-1] == (archive.cost(archive.members),) * 2
    assert told == sorted(told)
    assert len(told) > 2


# --- faults ---------------------------------------------------------------------------------------


def test_dropped_connections_cost_less_than_a_member_each(site, notes, folder):
    archive = opened(site, notes)
    site.drops, site.sent = [0, 100, 1000, 7000, 20_000, 1], 0
    assert are_right(archive.bring(archive.members, folder))
    assert site.sent < BEGIN + 6 * 5000


def test_busy_and_stalled_servers_are_asked_again(site, notes, folder, monkeypatch):
    monkeypatch.setattr(web, "READ_TIMEOUT", 0.2)
    archive = opened(site, notes)
    site.answers, site.stalls = [(503, {}), (429, {"Retry-After": "0"})], [50]
    assert are_right(archive.bring(archive.members, folder))


def test_a_server_that_allows_one_connection_serves_all(site, notes, folder, monkeypatch):
    monkeypatch.setattr(remote_zip, "PIECE", 12_000)
    monkeypatch.setattr(web, "BACKOFF", 0.01)
    site.most, site.speed = 1, 1e6
    archive = opened(site, notes)
    assert are_right(archive.bring(archive.members, folder))
    assert site.busiest == 1


def test_a_server_that_gives_no_more_is_left(site, notes, folder):
    archive = opened(site, notes)
    site.answers = [(503, {})] * 100
    with pytest.raises(AssetError, match="it answers 503"):
        archive.bring(archive.members, folder)
    assert names(folder) == []


def damaged(at):
    body = bytearray(ARCHIVE)
    body[at] ^= 1
    return bytes(body)


def test_a_damaged_member_is_asked_for_once_more_and_then_named(site, notes, folder):
    archive = opened(site, notes)
    member = archive.members[5]
    site.etags["/a.zip"] = archive.validator
    site.files["/a.zip"] = damaged(member.end - 1)
    site.asked.clear()
    with pytest.raises(AssetError, match=r"photos/005\.jpg is damaged in the archive: expected"):
        archive.bring([member], folder)
    assert site.ranges == [f"bytes={member.start}-{member.end - 1}"] * 2
    assert names(folder) == []


def test_a_member_that_was_damaged_on_its_way_comes_again(site, notes, folder):
    archive = opened(site, notes)
    site.etags["/a.zip"] = archive.validator
    site.files["/a.zip"], site.changed["/a.zip"] = damaged(archive.members[5].end - 1), ARCHIVE
    site.changes_after = len(site.asked) + 1
    assert are_right(archive.bring(archive.members, folder))


@pytest.mark.parametrize("offset", [0, 6, 26, 27, 28])
def test_a_local_header_that_lies_is_damage(site, notes, folder, offset):
    archive = opened(site, notes)
    site.etags["/a.zip"] = archive.validator
    site.files["/a.zip"] = damaged(archive.members[5].start + offset)
    with pytest.raises(AssetError, match=r"005\.jpg is damaged"):
        archive.bring(archive.members, folder)


def test_a_member_that_swells_is_refused(notes, folder):
    body = bytearray(zipped({"a.jpg": bytes(10**7)}, zipfile.ZIP_DEFLATED))
    entry = body.index(b"PK\1\2")
    body[entry + 24 : entry + 28] = struct.pack("<L", 1000)  # the directory's word for its size
    with pytest.raises(AssetError, match=r"expected 1000 bytes .* got 1001"):
        brought(bytes(body), notes, folder)


def test_an_archive_that_has_changed_is_told_and_its_listing_forgotten(site, notes, folder):
    archive = opened(site, notes)
    site.files["/a.zip"] = zipped(dict.fromkeys(FILES, b"x"))
    with pytest.raises(AssetError, match="has changed; run this again"):
        archive.bring(archive.members, folder)
    assert not notes.exists()
    again = opened(site, notes)
    assert {path.read_bytes() for path in again.bring(again.members, folder)} == {b"x"}


def test_what_does_not_fit_is_refused_before_the_first_byte(site, notes, folder, monkeypatch):
    archive = opened(site, notes)
    archive.bring(archive.members[:59], folder)
    usage = type("usage", (), {"free": 4096})  # a block
    monkeypatch.setattr(web.shutil, "disk_usage", lambda folder: usage)
    archive.bring(archive.members, folder)  # only the last one has to fit
    usage.free, asked = usage.free - 1, len(site.asked)
    (folder / archive.members[59].name).unlink()
    with pytest.raises(AssetError, match=r"it needs .* are free in"):
        archive.bring(archive.members, folder)
    assert len(site.asked) == asked


def test_an_interrupt_is_prompt_and_what_arrived_stays(site, notes, folder):
    archive = opened(site, notes)
    site.speed = 2e4

    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.bring(archive.members, folder, progress=interrupt)
    site.speed, here = None, names(folder)
    assert 0 < len(here) < 60
    while site.busy:
        time.sleep(0.005)
    site.sent = 0
    assert are_right(archive.bring(archive.members, folder))
    there = [member for member in archive.members if member.name in here]
    assert site.sent == archive.cost(archive.members) - archive.cost(there)


CHILD = """
import sys
from pathlib import Path
from fnst import remote_zip

archive = remote_zip.open_zip(sys.argv[1], Path(sys.argv[2]))
archive.bring(archive.members, Path(sys.argv[3]))
"""


def test_a_kill_leaves_only_whole_files_and_the_next_call_tidies_up(site, notes, folder):
    site.speed = 1e5
    command = [sys.executable, "-c", CHILD, f"{site.url}/a.zip", str(notes), str(folder)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    while not list(folder.rglob("*.jpg")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert are_right(folder.rglob("*.jpg"))
    (folder / remote_zip.ARRIVING / "123").write_bytes(b"half a member")
    site.speed, archive = None, opened(site, notes)
    assert are_right(archive.bring(archive.members, folder))
    assert names(folder) == sorted(FILES)
    assert [path.name for path in folder.iterdir()] == ["photos"]
