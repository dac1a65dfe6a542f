"""Getting files: every ending is the right file or one clear error, and nothing comes twice."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from benchmarks.server import serving
from fnst import assets, download, package_index, web
from fnst.assets import Asset, find, get
from fnst.errors import AssetError
from fnst.files import sha256

BODY = bytes(range(256)) * 400  # 102,400 bytes, no two neighbours alike
OTHER = bytes(reversed(BODY))
SIZE = len(BODY)
ALL = f"bytes=0-{download.SMALLEST - 1}"  # a small file is asked for by one request


def rest(first, end=SIZE):
    return f"bytes={first}-{end - 1}"


def hashed(body):
    return hashlib.sha256(body).hexdigest()


def asset(*sources, body=BODY, name="styles/wave.jpg", **changed):
    known = {"sha256": hashed(body), "size": len(body), "licence": "CC0", "sources": sources}
    return Asset(name, **(known | changed))


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    """No mirror, an empty cache and no waiting."""
    monkeypatch.delenv("FNST_MIRROR", raising=False)
    monkeypatch.setenv("FNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "BACKOFF", 0.0)


@pytest.fixture
def site():
    with serving(files={"/wave.jpg": BODY}) as served:
        yield served


@pytest.fixture
def wave(site):
    return asset(f"{site.url}/wave.jpg")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "raw"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def is_whole(folder):
    """Only the file itself is there, with the right bytes."""
    return names(folder) == ["wave.jpg"] and (folder / "wave.jpg").read_bytes() == BODY


def then_resumes(wave, folder, site):
    """A later get goes on after the bytes that are kept."""
    kept = download.held(folder / "wave.jpg.part")
    get(wave, folder)
    return is_whole(folder) and site.ranges[-1] == rest(kept) and site.sent == len(BODY)


# --- plain downloads ------------------------------------------------------------------------------


def test_a_file_arrives_whole_under_the_last_part_of_its_name(wave, folder, site):
    assert get(wave, folder) == folder / "wave.jpg"
    assert is_whole(folder)
    assert site.sent == len(BODY)
    assert site.encodings == ["identity"]  # a compressed body could not be resumed


def test_a_file_that_is_there_is_not_asked_for_again(wave, folder, site):
    get(wave, folder)
    get(wave, folder)
    assert len(site.asked) == 1


def test_a_damaged_file_is_replaced(wave, folder):
    folder.mkdir()
    (folder / "wave.jpg").write_bytes(OTHER)
    get(wave, folder)
    assert is_whole(folder)


def test_progress_tells_name_and_bytes_up_to_the_end(wave, folder):
    told = []
    get(wave, folder, progress=lambda *event: told.append(event))
    assert told[-1] == ("styles/wave.jpg", len(BODY), len(BODY))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_redirects_are_followed(site, folder):
    site.redirects["/old"] = f"{site.url}/wave.jpg"
    get(asset(f"{site.url}/old"), folder)
    assert is_whole(folder)


def test_a_body_in_chunks_arrives_though_its_length_is_not_announced(wave, folder, site):
    site.chunked = True
    get(wave, folder)
    assert is_whole(folder)


def test_the_first_eight_digits_of_a_hash_are_enough(site, folder):
    get(asset(f"{site.url}/wave.jpg", sha256=hashed(BODY)[:8]), folder)
    assert is_whole(folder)


def test_an_md5_verifies_where_no_sha256_is_published(site, folder):
    right = hashlib.md5(BODY).hexdigest()
    get(asset(f"{site.url}/wave.jpg", sha256=None, size=None, md5=right), folder)
    assert is_whole(folder)
    wrong = asset(f"{site.url}/wave.jpg", sha256=None, md5="0" * 32)
    with pytest.raises(AssetError, match="its md5 is"):
        get(wrong, folder / "other")


# --- connections that break -----------------------------------------------------------------------


def test_a_dropped_connection_is_resumed_where_it_broke(wave, folder, site):
    site.drops = [1000, 50_000]
    get(wave, folder)
    assert is_whole(folder)
    assert site.ranges == [ALL, rest(1000), rest(51_000)]
    assert site.sent == len(BODY)


def test_a_dropped_connection_is_resumed_when_no_length_is_known(site, folder):
    site.chunked, site.drops = True, [1000]
    get(asset(f"{site.url}/wave.jpg", size=None), folder)
    assert is_whole(folder)
    assert site.ranges == [ALL, rest(1000)]


def test_only_tries_without_a_new_byte_are_counted(wave, folder, site):
    site.drops = [1000] * 5 * web.TRIES
    get(wave, folder)
    assert is_whole(folder)
    assert site.sent == len(BODY)


def test_a_server_that_gives_no_more_bytes_is_left_after_some_tries(wave, folder, site):
    site.drops = [1000] + [0] * web.TRIES_ONCE_SERVED
    with pytest.raises(AssetError, match=r"styles/wave\.jpg .* 1000 bytes are kept"):
        get(wave, folder)
    assert len(site.asked) == 1 + web.TRIES_ONCE_SERVED
    assert then_resumes(wave, folder, site)


def test_a_server_that_always_breaks_off_at_the_same_byte_is_left(wave, folder, site):
    site.ignores_range, site.drops = True, [1000] * 100
    with pytest.raises(AssetError, match="broke off"):
        get(wave, folder)
    assert len(site.asked) == web.TRIES_ONCE_SERVED + 1


def test_a_stalled_connection_is_left_and_resumed(wave, folder, site, monkeypatch):
    monkeypatch.setattr(web, "READ_TIMEOUT", 0.2)
    site.stalls = [2000]
    get(wave, folder)
    assert is_whole(folder)
    assert site.ranges == [ALL, rest(2000)]
    assert site.sent == len(BODY)


def test_a_server_that_never_answers_is_told_so(wave, folder, site, monkeypatch):
    monkeypatch.setattr(web, "READ_TIMEOUT", 0.1)
    site.stalls = [0] * web.TRIES
    with pytest.raises(AssetError, match=r"127\.0\.0\.1.*(in time|broke off)"):
        get(wave, folder)


def test_an_interrupt_keeps_what_has_arrived(wave, folder, site):
    site.stalls = [3000]

    def interrupt(name, done, total):
        if done == 3000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(wave, folder, progress=interrupt)
    assert (folder / "wave.jpg.part").read_bytes() == BODY[:3000]
    assert not (folder / "wave.jpg").exists()
    assert then_resumes(wave, folder, site)


def test_an_unreachable_server_is_one_sentence(folder):
    with serving() as gone:
        pass
    with pytest.raises(AssetError, match=r"cannot be reached.*Set FNST_MIRROR to a folder"):
        get(asset(f"{gone.url}/wave.jpg"), folder)


# --- servers that refuse, lie or change -----------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again(wave, folder, site, status):
    site.answers = [(status, {"Retry-After": "0"})] * 2
    get(wave, folder)
    assert is_whole(folder)
    assert len(site.asked) == 3


def test_a_missing_file_is_not_asked_for_twice(site, folder):
    with pytest.raises(AssetError, match="it answers 404 Not Found"):
        get(asset(f"{site.url}/none.jpg"), folder)
    assert len(site.asked) == 1


def test_a_server_without_ranges_sends_the_file_anew(wave, folder, site):
    site.ignores_range, site.drops = True, [1000]
    get(wave, folder)
    assert is_whole(folder)
    assert site.ranges == [ALL, rest(1000)]


def test_a_file_that_changed_in_between_is_not_glued_together(site, folder):
    changed = asset(f"{site.url}/wave.jpg", body=OTHER)
    site.files["/wave.jpg"], site.drops = BODY, [1000] + [0] * web.TRIES_ONCE_SERVED
    with pytest.raises(AssetError):
        get(changed, folder)
    site.files["/wave.jpg"], site.sent = OTHER, 0
    get(changed, folder)
    assert (folder / "wave.jpg").read_bytes() == OTHER
    assert site.ranges[-1] == rest(1000)
    assert site.sent == len(OTHER)  # at once, instead of a glued file and then another try


def test_a_changed_file_is_noticed_when_the_server_ignores_the_question(site, folder):
    changed = asset(f"{site.url}/wave.jpg", body=OTHER)
    site.ignores_if_range, site.drops = True, [1000] + [0] * web.TRIES_ONCE_SERVED
    with pytest.raises(AssetError):
        get(changed, folder)
    site.files["/wave.jpg"], told = OTHER, []
    get(changed, folder, progress=lambda name, done, total: told.append(done))
    assert site.ranges[-2:] == [rest(1000), ALL]
    assert told.count(len(OTHER)) == 2  # at the end, and once it is there: nothing was glued
    assert (folder / "wave.jpg").read_bytes() == OTHER


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_date_stands_in_for_a_missing_or_weak_etag(wave, folder, site, etag):
    site.date, site.etags["/wave.jpg"] = "Wed, 21 Oct 2015 07:28:00 GMT", etag
    site.drops = [1000] + [0] * web.TRIES_ONCE_SERVED
    with pytest.raises(AssetError):
        get(wave, folder)
    site.date, site.sent = "Thu, 22 Oct 2015 07:28:00 GMT", 0
    get(wave, folder)
    assert is_whole(folder)
    assert site.sent == len(BODY)  # the date has changed, so all of it


def test_a_download_resumes_without_anything_that_identifies_the_file(wave, folder, site):
    site.etags["/wave.jpg"], site.drops = None, [1000]
    get(wave, folder)
    assert is_whole(folder)
    assert site.sent == len(BODY)


def test_wrong_bytes_under_a_resumed_download_are_fetched_once_more(wave, folder, site):
    get(wave, with_part(folder, OTHER[:1000]))
    assert is_whole(folder)
    assert site.ranges == [rest(1000), ALL]


def test_a_part_that_is_complete_needs_no_more_bytes(wave, folder, site):
    folder.mkdir()
    (folder / "wave.jpg.part").write_bytes(BODY)
    get(wave, folder)
    assert is_whole(folder)
    assert site.asked == []


def test_a_part_of_unknown_size_that_is_complete_is_seen_by_the_416(site, folder):
    get(asset(f"{site.url}/wave.jpg", size=None), with_part(folder, BODY, total=None))
    assert is_whole(folder)
    assert site.sent == 0


def test_a_part_that_is_longer_than_its_ledger_allows_is_fetched_anew(wave, folder, site):
    get(wave, with_part(folder, BODY + b"more", done=1000))
    assert is_whole(folder)
    assert site.ranges == [ALL]


def test_another_range_than_the_one_asked_for_is_not_used(wave, folder, site):
    site.shifts = 1
    get(wave, with_part(folder, BODY[:1000]))
    assert is_whole(folder)
    assert site.ranges == [rest(1000), None]


def with_part(folder, body, done=None, total=SIZE):
    """Leave behind what an interrupted download would."""
    folder.mkdir(exist_ok=True)
    (folder / "wave.jpg.part").write_bytes(body)
    missing = [[len(body) if done is None else done, total or download.ENDLESS]]
    ledger = {"validator": None, "total": total, "missing": missing}
    (folder / "wave.jpg.part.json").write_text(json.dumps(ledger))
    return folder


@pytest.mark.parametrize("lie", [-10, 10])
def test_a_server_that_offers_another_length_is_refused_and_the_part_kept(wave, folder, site, lie):
    with_part(folder, BODY[:1000])
    site.lies = lie
    with pytest.raises(AssetError, match=f"offers {len(BODY) + lie} bytes where {len(BODY)} are"):
        get(wave, folder)
    assert len(site.asked) == 1
    site.lies = 0
    get(wave, folder)
    assert is_whole(folder)
    assert site.ranges == [rest(1000)] * 2


def test_a_body_shorter_than_announced_is_asked_for_its_rest(site, folder):
    site.lies = 10  # no size is known that would give the lie away
    get(asset(f"{site.url}/wave.jpg", size=None), folder)
    assert is_whole(folder)
    assert site.ranges == [ALL, rest(len(BODY), len(BODY) + 10)]
    assert site.sent == len(BODY)


def test_a_body_that_goes_on_after_the_expected_end_is_refused(site, folder):
    site.chunked = site.ignores_range = True
    site.files["/wave.jpg"] = BODY + b"more"
    with pytest.raises(AssetError, match=f"more than the {len(BODY)} bytes"):
        get(asset(f"{site.url}/wave.jpg"), folder)
    assert names(folder) == []


def test_wrong_bytes_are_refused_and_not_kept(wave, folder, site):
    site.files["/wave.jpg"] = OTHER
    with pytest.raises(AssetError, match=f"its sha256 is {hashed(OTHER)} where {hashed(BODY)} is"):
        get(wave, folder)
    assert names(folder) == []


def test_the_next_source_is_tried_and_goes_on_after_the_first(site, folder):
    """It may call the same file another version: whether it is the same, the hash says."""
    drops = [1000] + [0] * web.TRIES_ONCE_SERVED
    with serving(files={"/a.jpg": BODY}, drops=drops) as first:
        first.etags["/a.jpg"], site.etags["/wave.jpg"] = '"one"', '"another"'
        get(asset(f"{first.url}/a.jpg", f"{site.url}/none", f"{site.url}/wave.jpg"), folder)
    assert is_whole(folder)
    assert site.ranges == [rest(1000)] * 2
    assert site.sent + first.sent == len(BODY)


def test_the_error_tells_what_each_source_answered(site, folder):
    site.files["/bad.jpg"] = OTHER[:100]
    sources = [f"{site.url}/none", f"{site.url}/bad.jpg", "package:no_such/a.jpg", "/none/b.jpg"]
    with pytest.raises(AssetError) as caught:
        get(asset(*sources), folder)
    sentence = str(caught.value)
    for part in ("none: it answers 404", "offers 100 bytes", "not installed", "b.jpg: it is not"):
        assert part in sentence
    assert "\n" not in sentence


def test_passwords_are_not_told(site, folder):
    with pytest.raises(AssetError) as caught:
        get(asset(site.url.replace("://", "://user:secret@") + "/none"), folder)
    assert "secret" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_sentence(wave, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AssetError, match=r"styles/wave\.jpg cannot be put into"):
        get(wave, tmp_path / "file" / "raw")


def test_those_who_want_a_file_at_once_bring_it_once(wave, folder, site):
    all_four = [threading.Thread(target=get, args=(wave, folder)) for _ in range(4)]
    for one in all_four:
        one.start()
    for one in all_four:
        one.join()
    assert is_whole(folder)
    assert site.sent == len(BODY)


# --- mirror, cache, package -----------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("FNST_MIRROR", str(tmp_path / "mirror"))
    (tmp_path / "mirror" / "styles").mkdir(parents=True)
    return tmp_path / "mirror"


def test_a_mirror_folder_is_asked_before_anything_else(wave, folder, site, mirror):
    (mirror / "styles" / "wave.jpg").write_bytes(BODY)
    get(wave, folder)
    assert is_whole(folder)
    assert site.asked == []


def test_a_mirror_folder_with_other_bytes_is_passed_over(wave, folder, site, mirror):
    (mirror / "styles" / "wave.jpg").write_bytes(OTHER)
    get(wave, with_part(folder, BODY[:1000]))
    assert is_whole(folder)
    assert site.ranges == [rest(1000)]  # what had arrived was not lost to the mirror's copy
    assert (mirror / "styles" / "wave.jpg").read_bytes() == OTHER


def test_a_mirror_may_be_a_url(wave, folder, site, monkeypatch):
    with serving(files={"/m/styles/a%20%23wave.jpg": BODY}) as far:
        monkeypatch.setenv("FNST_MIRROR", f"{far.url}/m/")
        get(asset(f"{site.url}/wave.jpg", name="styles/a #wave.jpg"), folder)
        assert [path for path, _ in far.asked] == ["/m/styles/a%20%23wave.jpg"]
    assert (folder / "a #wave.jpg").read_bytes() == BODY
    assert site.asked == []


def test_a_mirrored_file_is_copied_not_linked(wave, folder, mirror):
    (mirror / "styles" / "wave.jpg").write_bytes(BODY)
    get(wave, folder).write_bytes(b"edited")
    assert (mirror / "styles" / "wave.jpg").read_bytes() == BODY


def test_a_large_mirrored_file_takes_no_room_twice(wave, folder, mirror, monkeypatch):
    monkeypatch.setattr(assets, "TWICE_UP_TO", len(BODY) - 1)
    (mirror / "styles" / "wave.jpg").write_bytes(BODY)
    assert get(wave, folder).samefile(mirror / "styles" / "wave.jpg")


def test_what_is_near_needs_no_web(wave, folder, mirror, site):
    assert not assets.is_near(wave, folder)
    assert assets.addresses(wave) == [f"{site.url}/wave.jpg"]
    (mirror / "styles" / "wave.jpg").write_bytes(BODY)
    assert assets.is_near(wave, folder)
    (mirror / "styles" / "wave.jpg").write_bytes(BODY + b"of another length")
    assert not assets.is_near(wave, folder)
    assert site.asked == []


def test_a_downloaded_file_is_in_the_cache_when_its_sources_are_down(wave, tmp_path, site):
    get(wave, tmp_path / "first")
    site.files.clear()
    get(wave, tmp_path / "second")
    assert is_whole(tmp_path / "second")
    assert len(site.asked) == 1


def test_a_damaged_cache_is_passed_over_and_healed(wave, tmp_path, site):
    get(wave, tmp_path / "first")
    cached = _cache_entry(tmp_path)
    cached.unlink()
    cached.write_bytes(OTHER)
    get(wave, tmp_path / "second")
    assert is_whole(tmp_path / "second")
    assert cached.read_bytes() == BODY


def _cache_entry(tmp_path):
    (entry,) = (tmp_path / "cache" / "assets").iterdir()
    return entry


def test_the_cache_copies_where_it_cannot_link(wave, tmp_path, site, monkeypatch):
    def across_disks(*_):
        raise OSError

    monkeypatch.setattr(Path, "hardlink_to", across_disks)
    get(wave, tmp_path / "first")
    assert _cache_entry(tmp_path).read_bytes() == BODY


def test_a_leftover_of_a_crash_does_not_stand_in_the_way(wave, tmp_path, site):
    get(wave, tmp_path / "first")
    site.files.clear()
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "wave.jpg.new").hardlink_to(_cache_entry(tmp_path))
    get(wave, tmp_path / "second")
    assert is_whole(tmp_path / "second")


def test_large_and_local_files_are_not_cached(wave, tmp_path, folder, monkeypatch):
    (tmp_path / "local.jpg").write_bytes(BODY)
    get(asset(str(tmp_path / "local.jpg")), folder / "a")
    get(asset((tmp_path / "local.jpg").as_uri()), folder / "b")
    monkeypatch.setattr(assets, "TWICE_UP_TO", len(BODY) - 1)
    get(wave, folder / "c")
    assert all(is_whole(folder / each) for each in "abc")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_no_obstacle(wave, folder, tmp_path):
    (tmp_path / "cache").touch()
    get(wave, folder)
    assert is_whole(folder)


def test_a_file_inside_a_package_is_found_without_importing_it(tmp_path, folder, monkeypatch):
    package = tmp_path / "site" / "with_pictures"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('executed')")
    (package / "wave.jpg").write_bytes(BODY)
    monkeypatch.syspath_prepend(tmp_path / "site")
    get(asset("package:with_pictures/wave.jpg"), folder)
    assert is_whole(folder)
    assert "with_pictures" not in sys.modules
    with pytest.raises(AssetError, match=r"the installed with_pictures has no none\.jpg"):
        get(asset("package:with_pictures/none.jpg"), folder / "other")


# --- the package index ----------------------------------------------------------------------------

SETUP = "import pathlib; pathlib.Path(__file__, '..', 'executed').resolve().touch()"


def archive(*members):
    """Return a source archive, as bytes; each member is a path and its bytes or a TarInfo."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, body in members:
            item = body if isinstance(body, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(body, bytes):
                item.size = len(body)
            tar.addfile(item, io.BytesIO(body) if isinstance(body, bytes) else None)
    return stream.getvalue()


def linked(name, target, kind=tarfile.SYMTYPE):
    item = tarfile.TarInfo(name)
    item.type, item.linkname = kind, target
    return name, item


@pytest.fixture
def index(site, monkeypatch):
    """Offer an archive as `pictures` 1.0 on an index that pip is configured for."""

    def offer(body, fragment=None, prefix=""):
        fragment = f"#sha256={hashed(body)}" if fragment is None else fragment
        wheel = '<a href="../../pictures-1.0-py3-none-any.whl">wheel</a>'
        older = '<a href="../../pictures-0.9.tar.gz">old</a>'
        newest = f'<a href="../../pictures-1.0.tar.gz{fragment}">new</a>'
        site.files[f"{prefix}/simple/pictures/"] = f"{wheel}{older}{newest}".encode()
        site.files[f"{prefix}/pictures-1.0.tar.gz"] = body
        return asset(f"index:pictures==1.0#sha256={hashed(body)}!images/wave.jpg")

    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")
    return offer


GOOD = archive(
    ("pictures-1.0/setup.py", SETUP.encode()),
    ("pictures-1.0/old/images/wave.jpg", OTHER),
    ("pictures-1.0/images/wave.jpg", BODY),
)


def test_one_member_of_a_source_archive_is_had_and_nothing_executed(index, folder, tmp_path):
    get(index(GOOD), folder)
    assert is_whole(folder)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("executed", "setup.py")]
    assert _cache_entry(tmp_path).read_bytes() == BODY


def test_an_archive_is_resumed(index, folder, site):
    wanted, half = index(GOOD), len(GOOD) // 2
    site.drops = [10_000, half]  # the page, and then the archive
    get(wanted, folder)
    assert is_whole(folder)
    assert site.ranges[-2:] == [ALL, rest(half, len(GOOD))]
    assert {path for path, _ in site.asked[-2:]} == {"/pictures-1.0.tar.gz"}


def test_an_archive_with_other_bytes_is_refused(index, folder, site):
    wanted = index(GOOD)
    site.files["/pictures-1.0.tar.gz"] = archive(("pictures-1.0/images/wave.jpg", BODY))
    with pytest.raises(AssetError, match=r"simple: its sha256 is"):
        get(wanted, folder)
    assert names(folder) == []


def test_an_archive_that_the_index_declares_different_is_not_downloaded(index, folder, site):
    with pytest.raises(AssetError, match="it offers other bytes"):
        get(index(GOOD, fragment=f"#sha256={hashed(OTHER)}"), folder)
    assert [path for path, _ in site.asked] == ["/simple/pictures/"]


def test_a_member_with_other_bytes_is_refused(index, folder):
    wanted = index(archive(("pictures-1.0/images/wave.jpg", OTHER)))
    with pytest.raises(AssetError, match="its sha256 is"):
        get(wanted, folder)
    assert names(folder) == []


@pytest.mark.parametrize(
    "member",
    [
        ("../images/wave.jpg", BODY),
        ("/images/wave.jpg", BODY),
        ("pictures-1.0/../images/wave.jpg", BODY),
        linked("pictures-1.0/images/wave.jpg", "/etc/hostname"),
        linked("pictures-1.0/images/wave.jpg", "setup.py", tarfile.LNKTYPE),
    ],
)
def test_links_and_members_outside_the_archives_folder_are_refused(index, folder, member):
    with pytest.raises(AssetError, match=r"no regular file images/wave\.jpg"):
        get(index(archive(member)), folder)
    assert names(folder) == []


def test_a_member_that_swells_is_cut_off(index, folder, tmp_path, monkeypatch):
    swollen = []
    monkeypatch.setattr(assets, "CHUNK", 1000)
    monkeypatch.setattr(assets, "_fault", _noting(assets._fault, swollen))
    with pytest.raises(AssetError, match="bytes where"):
        get(index(archive(("pictures-1.0/images/wave.jpg", bytes(50_000_000)))), folder)
    assert max(swollen) <= len(BODY) + 1000


def _noting(fault, lengths):
    def noted(path, wanted):
        if path.suffix == ".new":
            lengths.append(path.stat().st_size)
        return fault(path, wanted)

    return noted


def test_an_archive_that_is_none_is_refused(index, folder):
    with pytest.raises(AssetError, match="cannot be read"):
        get(index(b"no archive"), folder)


def test_a_package_that_no_index_has_is_told(index, folder, site):
    index(GOOD)
    other = asset(f"index:paintings==2.0#sha256={'0' * 64}!images/wave.jpg")
    with pytest.raises(AssetError, match=r"no package index has .*paintings==2\.0.*not offer it"):
        get(other, folder)


def test_indexes_and_links_that_do_not_answer_are_passed_over(
    index, folder, site, tmp_path, monkeypatch
):
    wanted = index(GOOD)
    with serving() as gone:
        pass
    absent = f"{(tmp_path / 'absent').as_uri()} {gone.url}/simple"
    monkeypatch.setenv("PIP_INDEX_URL", f"{gone.url}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{absent} {site.url}/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "absent"))
    get(wanted, folder)
    assert is_whole(folder)


def test_a_folder_of_archives_is_enough(index, folder, site, tmp_path, monkeypatch):
    wanted = index(GOOD)
    (tmp_path / "pictures-1.0.tar.gz").write_bytes(GOOD)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    get(wanted, folder)
    assert is_whole(folder)
    assert site.asked == []
    assert (tmp_path / "pictures-1.0.tar.gz").read_bytes() == GOOD


def test_the_index_in_pips_own_file_is_used(index, folder, site, tmp_path, monkeypatch):
    wanted = index(GOOD)
    lines = ["[global]", "index-url = http://127.0.0.1:9/no", "[download]"]
    (tmp_path / "pip.conf").write_text("\n".join([*lines, f"index-url = {site.url}/simple"]))
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    get(wanted, folder)
    assert is_whole(folder)


def test_an_index_with_a_password_gives_it_to_its_own_files_only():
    index = "https://user:secret@one.example/simple"
    assert package_index.with_credentials("https://one.example/a.gz", index) == (
        "https://user:secret@one.example/a.gz"
    )
    assert (
        package_index.with_credentials("https://two.example/a.gz", index)
        == "https://two.example/a.gz"
    )


def test_certificates_follow_pips_settings():
    settings = {"cert": "/bundle.pem", "trusted-host": "one.example two.example:8080"}
    assert package_index.verification("https://one.example/a", settings) is False
    assert package_index.verification("https://two.example:8080/a", settings) is False
    assert package_index.verification("https://two.example/a", settings) == "/bundle.pem"
    assert package_index.verification("https://two.example/a", {}) is True


def test_the_real_vgg19_comes_from_the_real_package_index(tmp_path, monkeypatch):
    """The one test that leaves the machine; the user's own cache makes it quick the next time."""
    monkeypatch.delenv("FNST_CACHE")
    vgg = get(find("vgg19-gatys"), tmp_path)
    assert vgg.stat().st_size == 80_102_481
    assert sha256(vgg) == find("vgg19-gatys").sha256


# --- the catalogue --------------------------------------------------------------------------------


def test_an_asset_is_found_by_its_name_and_its_short_name():
    assert find("great-wave") is find("styles/great_wave.jpg")
    assert find("great-wave").name == "styles/great_wave.jpg"
    assert find("vgg19-gatys").name == "networks/vgg19-gatys.pth"
    assert find("coco-2017-test").md5 == "77ad2c53ac5d0aea611d422c0938fb35"


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("great-wawe", "great-wave"), ("styles/the_scram.jpg", "styles/the_scream.jpg")],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed, nearest):
    with pytest.raises(AssetError, match=f"called '{typed}'; the nearest is '{nearest}'"):
        find(typed)


def test_a_name_that_is_near_to_nothing_is_answered_with_all():
    with pytest.raises(AssetError, match=r"known are .*starry-night"):
        find("0123456789")


def test_the_catalogue_cannot_be_changed():
    with pytest.raises(TypeError):
        assets.catalogue()["styles/mine.jpg"] = asset()


def test_every_asset_says_whose_it_is_and_where_it_can_be_had():
    assert len(assets.catalogue()) == 8 + 11 + 4 + 6
    for name, each in assets.catalogue().items():
        assert each.name == name
        assert len(each.licence) > 10
        assert each.sources


def test_the_sample_photographs_are_those_inside_the_installed_packages(tmp_path):
    sample = [each for name, each in assets.catalogue().items() if name.startswith("sample/")]
    assert len(sample) == 8
    for each in sample:
        assert sha256(get(each, tmp_path)) == each.sha256


@pytest.mark.parametrize("name", ["../wave.jpg", "/etc/wave.jpg", "a\\wave.jpg", ""])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(AssetError, match="relative path"):
        asset(name=name)


@pytest.mark.parametrize("digits", [None, "1234567", "XYZ" * 10])
def test_an_asset_that_nothing_could_verify_is_refused(digits):
    with pytest.raises(AssetError, match="needs a sha256"):
        asset(sha256=digits)


def test_the_module_stays_light():
    heavy = ["torch", "mlflow", "dvc", "typer", "unearth", "requests", "numpy"]
    code = f"import fnst.assets, sys; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
