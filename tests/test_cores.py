"""Each core works by itself, and what else runs is left as it was."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.testing import assert_close

from fnst import cores


@pytest.fixture(params=[1, 2, 3])
def count(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_the_work_is_done_once_for_every_part(count):
    done = torch.zeros(20)
    cores.each(lambda part: done[part].add_(part), range(20))
    assert_close(done, torch.arange(20.0))


def test_each_operation_of_the_work_has_one_core(count):
    seen = []
    cores.each(lambda _: seen.append(torch.get_num_threads()), range(12))
    assert seen == [1] * 12


def test_other_threads_keep_all_cores(count):
    cores._begun.cache_clear()  # it is the beginning of a pool that could take them away
    cores.each(lambda _: None, range(3))
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *seen] == [count, count]


def test_the_work_may_write_into_tensors_of_either_mode(count):
    with torch.inference_mode():
        there = torch.zeros(4)
        cores.each(lambda part: there[part].fill_(1), range(4))
    cores.each(lambda part: there[part].add_(1), range(4))
    weights = torch.ones(4, requires_grad=True)
    plain = torch.zeros(4)
    cores.each(lambda part: plain[part].copy_(weights[part]), range(4))
    assert there.tolist() == [2] * 4
    assert plain.tolist() == [1] * 4


def test_where_a_thread_cannot_begin_no_other_waits_for_it(monkeypatch):
    class Poor(ThreadPoolExecutor):
        def submit(self, *work):
            if self._threads:
                raise RuntimeError("can't start new thread")
            return super().submit(*work)

    monkeypatch.setattr(cores, "ThreadPoolExecutor", Poor)
    others = set(threading.enumerate())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)  # as no other test does: no pool is there already
        with pytest.raises(RuntimeError, match="can't start new thread"):
            cores.each(lambda _: None, range(4))
    finally:
        torch.set_num_threads(before)
    for thread in set(threading.enumerate()) - others:
        thread.join(10)
    assert not set(threading.enumerate()) - others


def test_what_goes_wrong_is_raised(count):
    def work(part):
        if part == 2:
            raise ValueError("two")

    with pytest.raises(ValueError, match="two"):
        cores.each(work, range(5))
