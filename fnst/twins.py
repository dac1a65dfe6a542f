"""Which photographs are the same file, whatever they are called and wherever they lie.

Every photograph is told by its size and its CRC-32, which reading it from a zip computes anyway. A
SHA-256 of each would take a thirtieth of all the time of packing; so it decides only where both
coincide, for the two photographs in question, and the verdict is that of SHA-256 alone.
"""

from collections.abc import Callable

from fnst.collection import Entry

Told = tuple[int, int]  # a photograph's bytes, how many, and their CRC-32


class Twins:
    """Photographs of which no two are the same."""

    def __init__(self, digest: Callable[[Entry], bytes]) -> None:
        """``digest`` reads a photograph, which may fail in any way, and gives its SHA-256."""
        self.digest = digest
        self.known: dict[Told | tuple[Told, bytes], Entry] = {}

    def take(self, photo: Entry, told: Told) -> Entry | None:
        """Take up a photograph; or the one that is the same, when there is such a one already.

        One that cannot be read again, to compare it, counts as the same: rather one photograph
        less than one that is both trained on and held out.
        """
        if told not in self.known:
            self.known[told] = photo
            return None
        first = self.known[told]
        try:
            of_first, digest = self.digest(first), self.digest(photo)
        except Exception:  # a damaged member makes its decompressor raise almost anything
            return first
        self.known.setdefault((told, of_first), first)
        if (told, digest) in self.known:
            return self.known[told, digest]
        self.known[told, digest] = photo
        return None
