"""Memory that is freed stays with the process, once it was told so."""

import subprocess
import sys

import pytest

from fnst import memory

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


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak may begin with the parent's")
def test_the_peak_is_that_of_this_process_and_what_was_freed_counts():
    program = (
        "from fnst import memory; a = memory.peak(); bytearray(10**8); print(memory.peak() - a)"
    )
    held = bytearray(2 * 10**8)  # a child must not begin with what its parent has
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert float(done.stdout) == pytest.approx(10**8, rel=0.05), done.stderr
    assert len(held) == 2 * 10**8
