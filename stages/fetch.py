"""Fetch: photographs, style pictures and the loss network, each verified, into data/raw/."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fnst import files, params, sources
from fnst.assets import Progress
from fnst.progress import watch
from stages import run

RAW = Path("data/raw")


def main() -> None:
    """Get everything that params.yaml names; what is here already is only verified."""
    wanted = params.load()
    with _shown() as progress:
        chosen = {
            "train": _photos(wanted.chosen.photos.train, progress),
            "held_out": _photos(wanted.chosen.photos.held_out, progress),
        }
        files.write_json(RAW / "photos" / "chosen.json", chosen)
        for name, style in wanted.styles.items():
            _alone(style.image, RAW / "styles" / name, progress)
        _alone(wanted.loss.network, RAW / "network", progress)
    counts = ", ".join(f"{len(names)} for {use}" for use, names in chosen.items())
    print(f"fetch: photographs ({counts}), {len(wanted.styles)} styles, {wanted.loss.network}")
    print(f"fetch: all in {RAW}/")


def _photos(source: str | tuple[str, ...], progress: Progress) -> list[str]:
    folder = RAW / "photos"
    names = (source,) if isinstance(source, str) else source
    found = [file for name in names for file in sources.bring(name, folder, progress=progress)]
    return [str(file.relative_to(folder)) for file in found]


def _alone(source: str, folder: Path, progress: Progress) -> None:
    sources.keep_only(sources.bring(source, folder, progress=progress), folder)


@contextmanager
def _shown() -> Iterator[Progress]:
    with watch("fetch", None) as update:

        def progress(name: str, done: int, total: int | None) -> None:
            of = f" of {total / 1e6:.1f}" if total else ""
            update(done, f"{name} {done / 1e6:.1f}{of} MB")

        yield progress


if __name__ == "__main__":
    run(main)
