"""Several connections fill one file: it is the right one, and nothing comes twice."""

import errno
import json
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.server import serving
from fnst import download as module
from fnst import web
from fnst.download import Ledger, discard, download, held
from fnst.errors import AssetError

BODY = random.Random(0).randbytes(200_000)
OTHER = random.Random(1).randbytes(200_000)
SIZE = len(BODY)
PIECE = 10_000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pieces that fit the tests' files and no waiting."""
    monkeypatch.setattr(web, "BACKOFF", 0.0)
    monkeypatch.setattr(module, "PIECE", PIECE)
    monkeypatch.setattr(module, "SMALLEST", PIECE)
    monkeypatch.setattr(module, "CONNECTIONS", 4)


@pytest.fixture
def site():
    with serving(files={"/a": BODY}) as served:
        yield served


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.part"


def bring(site, path, **options):
    download(f"{site.url}/a", path, **options)
    return path.read_bytes()


def spans(asked):
    """What ranges asked for, as numbers, in the order of the file."""
    found = [re.fullmatch(r"bytes=(\d+)-(\d+)", each) for each in asked]
    return sorted((int(each[1]), int(each[2]) + 1) for each in found)


def joined(pieces):
    """Put adjacent spans together."""
    whole = []
    for first, end in sorted(pieces):
        if whole and whole[-1][1] == first:
            whole[-1] = (whole[-1][0], end)
        else:
            whole.append((first, end))
    return whole


def names(path):
    return sorted(each.name for each in path.parent.iterdir())


def still(site):
    """Wait until the server has noticed that nobody listens any more."""
    while site.busy:
        time.sleep(0.005)


def ledger(path):
    return json.loads(path.with_name(path.name + ".json").read_text())


def missing(path):
    return [tuple(span) for span in ledger(path)["missing"]]


def claims_only_what_is_there(path, body=BODY):
    """Every byte that the ledger and its log count as here is the right one."""
    here, there = path.read_bytes(), [(0, len(body))]
    for span in module._remembered(path, None, None).missing:
        there = module._without(there, span)
    return all(here[first:end] == body[first:end] for first, end in there)


# --- the ledger -----------------------------------------------------------------------------------


def test_a_new_ledger_lacks_everything():
    new = Ledger()
    assert (new.done, new.reach, new.total) == (0, 0, None)
    assert new.take() == (0, PIECE)


def test_pieces_are_given_out_once_and_again_after_they_were_given_back():
    known = Ledger(missing=[(0, 25_000)], total=25_000)
    assert [known.take() for _ in range(4)] == [
        (0, 10_000),
        (10_000, 20_000),
        (20_000, 25_000),
        None,
    ]
    known.arrived((10_000, 13_000))
    known.release((10_000, 20_000))
    assert known.take() == (13_000, 20_000)
    assert known.done == 3000


def test_the_last_pieces_are_smaller_so_that_all_connections_end_together(monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 100)
    known = Ledger(missing=[(0, 80_000)], total=80_000)
    lengths = [end - first for first, end in iter(known.take, None)]
    assert lengths[:2] == [10_000, 10_000]
    assert lengths == sorted(lengths, reverse=True)
    assert min(lengths[:-1]) == 100
    assert sum(lengths) == 80_000


def test_a_length_that_is_learned_cuts_off_what_lies_beyond():
    known = Ledger()
    known.arrived((0, 10))
    known.ends_at(30)
    assert (known.missing, known.done, known.reach) == ([(10, 30)], 10, 10)


def test_versions_that_are_known_have_to_agree():
    known = Ledger(validator='"a"', total=10)
    assert known.fits('"a"', 10)
    assert known.fits(None, None)
    assert not known.fits('"b"', 10)
    assert not known.fits('"a"', 11)


@given(st.data(), st.integers(0, 500))
def test_whatever_arrives_and_fails_every_byte_is_asked_for_until_it_is_here(data, total):
    known, here = Ledger(), set()
    known.ends_at(total)
    taken = []
    while known.missing:
        span = known.take()
        if span is not None:
            assert not here & set(range(*span))
            taken.append(span)
        span = taken.pop(data.draw(st.integers(0, len(taken) - 1)))
        end = data.draw(st.integers(span[0], span[1]))
        known.arrived((span[0], end))
        here |= set(range(span[0], end))
        known.release(span)
        assert known.done == len(here)
        assert known.reach == max(here, default=-1) + 1
    assert here == set(range(total))


# --- several connections --------------------------------------------------------------------------


def test_a_small_file_is_one_request(site, path, monkeypatch):
    monkeypatch.setattr(module, "PIECE", SIZE)
    monkeypatch.setattr(module, "SMALLEST", SIZE)
    assert bring(site, path, size=SIZE) == BODY
    assert site.ranges == [f"bytes=0-{SIZE - 1}"]


def test_a_large_file_comes_over_several_connections_without_overlap(site, path):
    site.speed = 1e6  # slow enough for all to get their share
    assert bring(site, path) == BODY
    assert joined(spans(site.ranges)) == [(0, SIZE)]
    assert (site.connections, site.busiest) == (4, 4)
    assert site.sent == SIZE
    assert names(path) == [path.name]


def test_progress_grows_up_to_the_end_and_is_told_by_the_calling_thread(site, path):
    told = []
    site.speed = 2e5
    bring(site, path, progress=lambda *now: told.append((*now, threading.current_thread())))
    assert told[-1][:2] == (SIZE, SIZE)
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)
    assert len(told) > 2
    assert {thread for *_, thread in told} == {threading.current_thread()}


@given(length=st.integers(0, 5000), piece=st.integers(1, 3000), drops=st.lists(st.integers(0, 900)))
def test_it_is_the_file_whatever_its_size_the_pieces_and_the_breaks(
    tmp_path_factory, length, piece, drops
):
    piece = max(piece, length // 20)
    path = tmp_path_factory.mktemp("any") / "a.part"
    with pytest.MonkeyPatch.context() as patch, serving(files={"/a": BODY[:length]}) as site:
        patch.setattr(web, "BACKOFF", 0.0)
        patch.setattr(web, "TRIES", 100)
        patch.setattr(module, "PIECE", piece)
        patch.setattr(module, "SMALLEST", piece)
        site.drops = drops
        assert bring(site, path) == BODY[:length]
        assert site.sent == length


# --- faults ---------------------------------------------------------------------------------------


def test_dropped_connections_cost_nothing(site, path):
    site.drops = [100, 0, 5000, 9999, 1] * 4
    assert bring(site, path) == BODY
    assert site.sent == SIZE


def test_a_stalled_connection_is_left_and_its_rest_asked_for(site, path, monkeypatch):
    monkeypatch.setattr(web, "READ_TIMEOUT", 0.2)
    site.stalls = [100, 5000]
    assert bring(site, path) == BODY
    assert site.sent == SIZE


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}])
def test_a_busy_server_is_asked_again(site, path, status, headers):
    site.answers = [(status, headers)] * 3
    assert bring(site, path) == BODY


def test_a_server_that_allows_few_connections_is_served_by_few(site, path, monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", 0.01)
    site.most, site.speed = 1, 2e6
    assert bring(site, path) == BODY
    assert site.busiest == 1
    assert len(site.asked) > 20  # some were refused
    assert site.sent == SIZE


def test_a_server_that_gives_no_more_is_left_and_what_came_is_kept(site, path):
    site.drops = [100] + [0] * 1000
    with pytest.raises(AssetError, match="but 100 bytes are kept and the next try goes on"):
        bring(site, path)
    assert held(path) == 100
    site.drops = []
    assert bring(site, path) == BODY
    assert site.sent == SIZE


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_told_at_once_and_leaves_nothing(site, path, status):
    site.answers = [(status, {})]
    with pytest.raises(AssetError, match=f"it answers {status}"):
        bring(site, path)
    assert len(site.asked) == 1
    assert names(path) == []


def test_redirects_are_followed_for_every_piece(site, path):
    site.redirects["/old"] = f"{site.url}/a"
    download(f"{site.url}/old", path)
    assert path.read_bytes() == BODY
    assert site.sent == SIZE


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_without_ranges_sends_one_stream(site, path, chunked):
    site.ignores_range, site.chunked = True, chunked
    assert bring(site, path) == BODY
    assert len(site.asked) == 1
    assert site.sent == SIZE


def test_without_ranges_a_break_begins_from_the_start(site, path):
    site.ignores_range, site.drops = True, [50_000, 60_000, 70_000, 80_000, 90_000, 95_000]
    assert bring(site, path) == BODY
    assert len(site.asked) == 7


def test_a_body_in_chunks_that_ends_early_is_no_file(site, path):
    site.ignores_range = site.chunked = True
    with pytest.raises(AssetError, match=f"it ends after {SIZE} of {SIZE + 1} bytes"):
        bring(site, path, size=SIZE + 1)


def test_a_server_that_shifts_ranges_is_asked_for_all(site, path):
    site.shifts = 1
    assert bring(site, path) == BODY
    assert site.ranges[-1] is None


def test_a_file_that_changes_in_between_begins_anew(site, path):
    site.changes_after, site.changed["/a"] = 5, OTHER
    assert bring(site, path) == OTHER


@pytest.mark.parametrize("etag", ['"same"', None])
def test_a_file_of_another_length_is_never_glued(site, path, etag):
    site.etags["/a"] = etag
    site.changes_after, site.changed["/a"] = 5, OTHER[:150_000]
    assert bring(site, path) == OTHER[:150_000]


def test_a_file_that_changes_all_the_time_is_given_up(site, path, monkeypatch):
    marks = iter(range(10**6))
    monkeypatch.setattr(type(site), "etag", lambda self, path: f'"{next(marks)}"')
    with pytest.raises(AssetError, match="another file each time"):
        bring(site, path)


def test_a_change_between_two_calls_is_seen(site, path):
    interrupted(site, path)
    site.files["/a"] = OTHER
    assert bring(site, path) == OTHER


@pytest.mark.parametrize("lie", [-7, 7])
def test_another_length_than_expected_is_refused_and_the_part_kept(site, path, lie):
    kept = interrupted(site, path)
    site.lies = lie
    with pytest.raises(AssetError, match=f"it offers {SIZE + lie} bytes where {SIZE} are expected"):
        bring(site, path, size=SIZE)
    assert missing(path) == kept


def test_a_body_that_is_longer_than_its_range_is_refused(site, path):
    site.chunked, site.overshoots = True, 3
    with pytest.raises(AssetError, match="it sends more than the"):
        bring(site, path)
    assert names(path) == []


def test_an_empty_file_is_a_file(site, path):
    site.files["/a"] = b""
    assert bring(site, path) == b""
    assert names(path) == [path.name]


def test_a_full_file_without_a_ledger_is_complete(site, path):
    path.write_bytes(BODY)
    assert bring(site, path, size=SIZE) == BODY
    assert site.asked == []


@pytest.mark.parametrize(
    "told", ['{"validator": null}', "{", '{"missing": 3}', '{"missing": [[0, "x"]]}', "[]"]
)
def test_a_ledger_that_says_nothing_means_that_nothing_is_known(site, path, told):
    path.write_bytes(OTHER)
    path.with_name("a.part.json").write_text(told)
    assert bring(site, path, size=SIZE) == BODY
    assert site.sent == SIZE


def test_a_ledger_that_claims_more_than_there_is_is_not_believed(site, path):
    interrupted(site, path)
    path.write_bytes(path.read_bytes()[:10])
    site.sent = 0
    assert bring(site, path) == BODY
    assert site.sent == SIZE


# --- the disk -------------------------------------------------------------------------------------


def test_a_file_that_does_not_fit_is_refused_before_its_first_byte(site, path, monkeypatch):
    usage = type("usage", (), {"free": SIZE - 1})
    monkeypatch.setattr(web.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(AssetError, match=r"it needs 200 kB, and 200 kB are free in"):
        bring(site, path)
    assert names(path) == []


def test_only_what_is_missing_has_to_fit(site, path, monkeypatch):
    kept = interrupted(site, path)
    usage = type("usage", (), {"free": sum(end - first for first, end in kept)})
    monkeypatch.setattr(web.shutil, "disk_usage", lambda folder: usage)
    assert bring(site, path) == BODY


def test_a_disk_that_fills_up_keeps_what_it_has(site, path):
    """RLIMIT_FSIZE stands for the full disk: the kernel refuses to write beyond it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            bring(site, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert claims_only_what_is_there(path)
    assert held(path) > 0
    still(site)
    here, site.sent = held(path), 0
    assert bring(site, path) == BODY
    assert site.sent == SIZE - here


# --- interrupts and kills -------------------------------------------------------------------------


def interrupted(site, path, after=50_000):
    """Interrupt a download half way; returns what is missing."""
    speed, site.speed = site.speed, 1e5

    def interrupt(done, total):
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(site, path, progress=interrupt)
    site.speed = speed
    still(site)
    return missing(path)


def test_after_an_interrupt_exactly_what_is_missing_is_asked_for(site, path):
    kept = interrupted(site, path)
    assert claims_only_what_is_there(path)
    assert held(path) == SIZE - sum(end - first for first, end in kept) >= 50_000
    site.asked.clear()
    assert bring(site, path) == BODY
    assert joined(spans(site.ranges)) == joined(kept)


CHILD = """
import sys
from pathlib import Path
from fnst import download, web

download.PIECE = download.SMALLEST = 100_000
download.SAVE_SECONDS, web.TICK = float(sys.argv[3]), 0.02
print("ready", flush=True)
try:
    download.download(sys.argv[1], Path(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""
NEVER = 3600.0  # seconds between two ledgers: what a kill leaves is only in the log


def child(site, path, save_seconds=0.02):
    started = subprocess.Popen(
        [sys.executable, "-c", CHILD, f"{site.url}/a", str(path), str(save_seconds)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert started.stdout is not None
    started.stdout.readline()
    return started


def ended(process):
    process.communicate()
    return process.returncode


def test_ctrl_c_ends_a_download_at_once_and_nothing_comes_twice(site, path):
    site.speed = 1e4  # a tenth of the file in two seconds: it will not be complete
    process = child(site, path)
    while site.sent < 20_000:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert ended(process) == 130
    kept, site.speed = missing(path), None
    assert claims_only_what_is_there(path)
    assert held(path) > 10_000
    site.asked.clear()
    assert bring(site, path) == BODY
    assert joined(spans(site.ranges)) == joined(kept)


def stalled(site, path, stalls):
    """Kill a download by eight connections, all of whose bytes have reached the file."""
    site.stalls, before = list(stalls), site.sent
    process = child(site, path, NEVER)
    late = time.monotonic() + 20  # only so that a test that fails comes to an end
    while site.sent < before + sum(stalls) or held(path) < site.sent:
        if time.monotonic() > late:
            break
        time.sleep(0.005)
    process.kill()
    ended(process)
    assert held(path) == site.sent == before + sum(stalls)


def test_kills_at_any_moment_cost_nothing_that_has_reached_the_file(path):
    moments, body = random.Random(3), BODY * 5
    with serving(files={"/a": body}) as site:
        for _ in range(3):  # of a piece of 100,000 bytes there is always a rest
            stalled(site, path, [moments.randrange(1, 30_000) for _ in range(8)])
            assert claims_only_what_is_there(path, body)
        assert bring(site, path) == body
        assert site.sent == len(body)
    assert names(path) == [path.name]


def test_what_a_killed_download_left_is_not_glued_to_another_file(path):
    with serving(files={"/a": BODY * 5}) as site:
        stalled(site, path, [10_000] * 8)
        site.files["/a"] = OTHER * 5
        assert bring(site, path) == OTHER * 5


def test_twelve_kills_end_with_the_right_file_and_cost_only_what_was_on_its_way(path):
    """A server has sent two parts to each dead connection before it notices.

    Two more are allowed for what nobody has read yet; measured are none.
    """
    moments, body, part = random.Random(2), BODY * 40, 4000
    with serving(files={"/a": body}, speed=part * 50) as site:
        for kill in range(12):
            process = child(site, path, NEVER if kill % 3 else 0.02)
            sent = site.sent
            while site.sent == sent and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
            ended(process)
            assert not path.exists() or claims_only_what_is_there(path, body)
        still(site)
        site.speed, kept, before = None, held(path), site.sent
        assert bring(site, path) == body
        assert site.sent - before == len(body) - kept
        assert site.sent < len(body) + 12 * 8 * (2 + 2) * part
    assert names(path) == [path.name]


# --- what a kill leaves ---------------------------------------------------------------------------


@pytest.fixture
def log(path):
    """That of a ledger that claims nothing, with two spans in it."""
    path.write_bytes(BODY[:60_000])
    written = module._Log(path)
    written.begin([(0, 10_000)])
    written.add((40_000, 60_000))
    told = {"log": written.tie, "validator": None, "total": SIZE, "missing": [[0, SIZE]]}
    path.with_name("a.part.json").write_text(json.dumps(told))
    yield written
    written.file.close()


def test_what_is_in_the_log_is_here(site, path, log):
    assert held(path) == 30_000
    assert bring(site, path) == BODY
    assert site.sent == SIZE - 30_000


@pytest.mark.parametrize("lost", [1, 15])
def test_half_a_record_is_ignored(path, log, lost):
    log.file.truncate(log.end - lost)
    assert held(path) == 10_000


@pytest.mark.parametrize("left", [0, 31, 32])
def test_a_log_without_records_adds_nothing(path, log, left):
    log.file.truncate(left)
    assert held(path) == 0


def test_the_record_after_one_that_did_not_fit_is_read(path, log):
    """As on a disk that was full for a moment."""
    end = log.end
    log.add((20_000, 30_000))
    log.file.truncate(end + 9)
    log.end = end
    log.add((10_000, 11_000))
    assert held(path) == 31_000


@pytest.mark.parametrize("boot", ["another\n", None])
def test_after_a_reboot_only_the_ledger_is_believed(path, log, tmp_path, monkeypatch, boot):
    other = tmp_path / "boot_id"
    if boot:
        other.write_text(boot)
    monkeypatch.setattr(module, "BOOT_ID", other)
    assert held(path) == 0


def test_the_log_of_another_ledger_is_not_believed(path, log):
    told = ledger(path) | {"log": "another"}
    path.with_name("a.part.json").write_text(json.dumps(told))
    assert held(path) == 0


def test_a_log_that_claims_more_than_there_is_is_not_believed(path, log):
    path.write_bytes(BODY[:59_999])
    assert held(path) == 0


def test_a_saved_ledger_leaves_nothing_to_the_log(site, path):
    interrupted(site, path)
    assert module._logged(path, ledger(path)["log"]) == []
    assert held(path) == Ledger(total=SIZE, missing=missing(path)).done


def test_what_arrives_while_the_ledger_is_saved_stays_in_the_log(path, monkeypatch):
    filling = module._Filling("http://unasked/a", path, SIZE, True, True)
    filling.ledger.ends_at(SIZE)
    filling._put(0, BODY[:100], SIZE)
    monkeypatch.setattr(module, "_sync", lambda file: filling._put(500, BODY[500:700], SIZE))
    filling._save()
    filling.file.close()
    filling.log.file.close()
    assert missing(path) == [(100, SIZE)]
    assert held(path) == 300


def test_the_ledger_takes_over_the_log_only_after_the_disk_has_its_bytes(
    site, path, log, monkeypatch
):
    claimed, sync = [], module._sync

    def watched(file):
        claimed.append(missing(path))
        sync(file)

    monkeypatch.setattr(module, "_sync", watched)
    assert bring(site, path) == BODY
    assert claimed[0] == [(0, SIZE)]


def test_discarding_leaves_nothing(site, path):
    interrupted(site, path)
    (path.parent / f".{path.name}.json.abc").touch()  # a kill while the ledger was written
    discard(path)
    assert names(path) == []
