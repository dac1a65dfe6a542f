"""Rows come back as they went in, from wherever they waited."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fnst import memory, rows
from fnst.errors import ImageError
from fnst.rows import Queue, RangeError, ScratchFile, Store

ROOT = Path(__file__).parents[1]


def strip(count, channels=3, width=5):
    maps = torch.randn(1, channels, count, width)
    return maps.contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    made = (
        Store(6, 20, torch.float32) if request.param == "memory" else ScratchFile(6, 20, tmp_path)
    )
    with made as opened:
        yield opened


def test_what_was_put_first_is_taken_first(store):
    queue, first, second = Queue(store), strip(4), strip(2)
    queue.put(first)
    queue.put(second)
    assert torch.equal(queue.take(3), first[:, :, :3])
    assert torch.equal(queue.take(3), torch.cat((first[:, :, 3:], second), 2))


def test_a_row_that_was_taken_leaves_its_place_to_another_queues(store):
    one, other, wide = Queue(store), Queue(store), strip(1, channels=4)
    one.put(strip(6))
    one.take(1)
    other.put(wide)  # a row of another size
    assert torch.equal(other.take(1), wide)


def test_rows_can_be_read_again_unless_they_are_forgotten(store):
    queue, maps = Queue(store), strip(5)
    queue.put(maps)
    for _ in range(2):
        assert torch.equal(torch.cat(list(queue.rows(2, forget=False)), 2), maps)
    assert [part.shape[2] for part in queue.rows(2, forget=True)] == [2, 2, 1]
    assert len(store.free) == 6


def test_new_rows_take_the_places_of_those_that_are_read_and_do_not_mix_with_them(store):
    queue, maps = Queue(store), strip(6)
    queue.put(maps)
    for part in queue.rows(2, forget=True):
        queue.put(part + 1)
    assert torch.equal(queue.take(6), maps + 1)


def test_strips_come_back_in_the_layout_that_convolutions_like(store):
    queue = Queue(store)
    queue.put(torch.randn(1, 3, 4, 5))  # and this is not it
    assert queue.take(4).is_contiguous(memory_format=torch.channels_last)


def test_half_precision_rounds_to_eleven_digits_and_refuses_what_it_cannot_hold():
    with Store(4, 15, torch.float16) as store:
        queue, maps = Queue(store), strip(2)
        queue.put(maps)
        torch.testing.assert_close(queue.take(2), maps, rtol=2**-11, atol=1e-7)
        with pytest.raises(RangeError):
            queue.put(maps * 1e6)


# --- the scratch file -----------------------------------------------------------------------------


def test_a_scratch_file_has_no_name_to_be_left_behind(tmp_path):
    with ScratchFile(2, 10, tmp_path) as store:
        Queue(store).put(strip(1, channels=2))
        assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_the_process_is_killed(tmp_path):
    program = f"""
import os, signal, torch
from pathlib import Path
from fnst.rows import Queue, ScratchFile
Queue(ScratchFile(9, 9, Path({str(tmp_path)!r}))).put(torch.rand(1, 3, 3, 3))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only some systems have a full disk")
@pytest.mark.parametrize("size", [100, 10**6], ids=["buffered", "at once"])
def test_a_disk_that_becomes_full_is_one_sentence(tmp_path, size):
    with ScratchFile(2, size, tmp_path) as store:
        store._file.close()
        store._file = Path("/dev/full").open("r+b")  # noqa: SIM115
        queue = Queue(store)
        with pytest.raises(ImageError) as raised:
            queue.put(torch.rand(1, size, 2, 1))
    assert str(raised.value) == (
        f"the scratch file in {tmp_path} failed: {os.strerror(errno.ENOSPC)}; allow more memory, "
        "or set TMPDIR to a folder with more room."
    )


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(ImageError, match=r"the scratch file in .* failed: No such file"):
        ScratchFile(1, 1, tmp_path / "nothing")


def test_a_disk_that_is_too_small_is_known_beforehand():
    with pytest.raises(ImageError, match=r"expected 4,000,000,000 GB of free disk .* set TMPDIR"):
        ScratchFile(1, 10**18)


def test_a_folder_in_memory_is_no_place_for_what_shall_save_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(rows.tempfile, "tempdir", "/dev/shm")
    if not memory.is_in_memory(Path("/dev/shm")):
        pytest.skip("this system has no such folder")
    monkeypatch.chdir(tmp_path)
    with ScratchFile(1, 1) as store:
        assert str(store._folder) != "/dev/shm"
