"""Photographs are the same when their bytes are; a sum that coincides is no proof."""

import hashlib
import zlib

import pytest

from fnst.collection import Entry
from fnst.twins import Twins


def digest(photo):
    return hashlib.sha256(photo.read()).digest()


@pytest.fixture
def twins():
    return Twins(digest)


def photo(name, content):
    return Entry(name, len(content), "", lambda: content)


def told(content):
    return len(content), zlib.crc32(content)


def with_crc(content, wanted):
    """Those bytes and four more, so that the CRC-32 of all is what is wanted."""
    zeros = zlib.crc32(content + bytes(4))
    # What each bit of the four changes; a CRC is linear, so these solve it by elimination.
    changes = [
        (zlib.crc32(content + (1 << i).to_bytes(4, "big")) ^ zeros, 1 << i) for i in range(32)
    ]
    left, added = zeros ^ wanted, 0
    for bit in reversed(range(32)):
        pivot = next((change for change in changes if change[0] >> bit & 1), None)
        assert pivot
        changes.remove(pivot)
        changes = [(c ^ pivot[0], b ^ pivot[1]) if c >> bit & 1 else (c, b) for c, b in changes]
        if left >> bit & 1:
            left, added = left ^ pivot[0], added ^ pivot[1]
    return content + added.to_bytes(4, "big")


def test_the_same_bytes_are_found_under_any_name(twins):
    assert twins.take(photo("a", b"one"), told(b"one")) is None
    assert twins.take(photo("b", b"two"), told(b"two")) is None
    assert twins.take(photo("c", b"one"), told(b"one")).name == "a"


def test_size_and_crc_may_coincide_and_photographs_be_different(twins):
    same_sum = [with_crc(content, 1) for content in (b"one", b"two", b"six")]
    assert {told(content) for content in same_sum} == {(7, 1)}
    for name, content in zip("abc", same_sum, strict=True):
        assert twins.take(photo(name, content), (7, 1)) is None
    for name, content in zip("abc", same_sum, strict=True):
        assert twins.take(photo("again", content), (7, 1)).name == name


def test_nothing_is_read_again_without_need():
    twins = Twins(lambda photo: pytest.fail("it was read"))
    assert twins.take(photo("a", b"one"), told(b"one")) is None
    assert twins.take(photo("b", b"two"), told(b"two")) is None
    assert twins.take(photo("c", b"longer"), (6, told(b"one")[1])) is None


@pytest.mark.parametrize("gone", ["a", "b"])
def test_what_cannot_be_read_again_counts_as_the_same(gone):
    def lost(photo):
        if photo.name == gone:
            raise OSError
        return digest(photo)

    twins = Twins(lost)
    twins.take(photo("a", b"one"), (3, 1))
    assert twins.take(photo("b", b"two"), (3, 1)).name == "a"


def test_a_photograph_is_its_own_twin(twins):
    one = photo("a", b"one")
    assert twins.take(one, told(b"one")) is None
    assert twins.take(one, told(b"one")) is one
