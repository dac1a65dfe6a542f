"""What is made in advance comes in order, no further than asked, and ends with its reader."""

import threading
import time

import pytest

from fnst.ahead import ahead


def test_items_come_in_their_order():
    assert list(ahead(range(100))) == list(range(100))


def test_no_more_are_made_than_there_is_room_for():
    made = []
    items = ahead((made.append(i) or i for i in range(100)), depth=2)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 4  # one was taken, two wait, and one is held out
    items.close()


def test_what_goes_wrong_is_raised_where_items_are_used():
    def items():
        yield 1
        raise ValueError("broken")

    made = ahead(items())
    assert next(made) == 1
    with pytest.raises(ValueError, match="broken"):
        next(made)


def test_who_stops_early_ends_the_thread_and_what_it_draws_from():
    ended = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            ended.set()

    before = threading.active_count()
    made = ahead(items())
    next(made)
    made.close()
    assert ended.is_set()
    assert threading.active_count() == before
