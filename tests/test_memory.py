"""Memory that is freed stays with the process, once it was told so."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fnst import memory
from fnst.errors import ParamsError

# Page faults of writing to 64 MB that were just freed: a page each, or none.
PROGRAM = """
import resource
import torch
from fnst import memory
held = memory.hold() if {hold} else None
for _ in range(12):  # the heap finds its shape in the first ones
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 20, dtype=torch.uint8)
print(held, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, hold):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hold=hold)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told, count = done.stdout.split()
    return told, int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_what_was_freed_is_there_for_the_next_tensor():
    assert faults(hold=False)[1] > 1000
    told, count = faults(hold=True)
    assert told == "True"
    assert count < 1000


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.hold() is False


@pytest.mark.parametrize(
    ("error", "is_lack"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(error, is_lack):
    assert memory.is_lacking(error) is is_lack


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak may begin with the parent's")
def test_the_peak_is_that_of_this_process_and_what_was_freed_counts():
    program = (
        "from fnst import memory; a = memory.peak(); bytearray(10**8); print(memory.peak() - a)"
    )
    held = bytearray(2 * 10**8)  # a child must not begin with what its parent has
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(10**8, rel=0.05), done.stderr
    assert len(held) == 2 * 10**8


# --- what is free ---------------------------------------------------------------------------------


def lay(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_there_is_something_free_and_the_budget_is_a_part_of_it():
    assert 10**7 < memory.budget(torch.device("cpu")) < memory.free()


def test_a_control_group_limits_what_is_free_and_its_cache_would_be_given_back(tmp_path):
    group = "sys/fs/cgroup/user/app"
    files = {
        "proc/self/cgroup": "0::/user/app\n",
        f"{group}/memory.max": "5000\n",
        f"{group}/memory.current": "4000\n",
        f"{group}/memory.stat": "anon 2900\ninactive_file 1000\n",
    }
    assert memory.free(lay(tmp_path, files)) == 2000


def test_so_does_a_group_around_it(tmp_path):
    files = {
        "proc/self/cgroup": "0::/user/app\n",
        "sys/fs/cgroup/user/memory.max": "300\n",
        "sys/fs/cgroup/user/memory.current": "100\n",
        "sys/fs/cgroup/user/memory.stat": "inactive_file 0\n",
        "sys/fs/cgroup/user/app/memory.max": "max\n",
        "sys/fs/cgroup/user/app/memory.current": "100\n",
        "sys/fs/cgroup/user/app/memory.stat": "inactive_file 0\n",
    }
    assert memory.free(lay(tmp_path, files)) == 200


def test_a_container_that_sees_its_group_as_the_root_is_limited_too(tmp_path):
    files = {
        "proc/self/cgroup": "11:cpu:/docker/x\n7:memory:/docker/x\n0::/docker/x\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "900\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 500\n",
    }
    assert memory.free(lay(tmp_path, files)) == 400


def test_nothing_is_free_where_a_group_has_more_than_its_limit(tmp_path):
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "10\n",
        "sys/fs/cgroup/memory.current": "20\n",
        "sys/fs/cgroup/memory.stat": "",
    }
    assert memory.free(lay(tmp_path, files)) == 0


def test_without_control_groups_the_machine_is_the_limit(tmp_path):
    assert memory.free(tmp_path) > 10**7


# --- sizes, and where files lie -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("1.5G", 15 * 10**8),
        ("512MiB", 512 * 2**20),
        ("2 gib", 2 * 2**30),
        ("800000", 800000),
        ("64kB", 64000),
        ("1T", 10**12),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert memory.parse(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "2 apples", "1,5G", "0", "0.0001k", "inf", "3i"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ParamsError, match="expected a size such as 2GB or 512MiB, got"):
        memory.parse(text)


def test_a_folder_is_in_memory_where_what_was_mounted_there_last_is(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda / ext4 rw 0 0\n"
        "tmpfs /tmp tmpfs rw 0 0\n"
        "/dev/sdb /tmp/disk ext4 rw 0 0\n"
        "tmpfs /run tmpfs rw 0 0\n"
        "/dev/sdc /run xfs rw 0 0\n"
    )
    assert memory.is_in_memory(Path("/tmp/a"), mounts)
    assert not memory.is_in_memory(Path("/tmp/disk"), mounts)
    assert not memory.is_in_memory(Path("/run/b"), mounts)
    assert not memory.is_in_memory(Path("/home"), mounts)
    assert not memory.is_in_memory(Path("/home"), tmp_path / "no such file")
