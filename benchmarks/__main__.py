"""Run benchmarks by name: `python -m benchmarks cold-start --json`, or all with `--all`."""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from benchmarks import (
    ROOT,
    Result,
    UnavailableError,
    cold_start,
    epoch,
    fetch,
    folder,
    fuzz,
    large,
    precision,
    prepare,
    stylize,
    train_step,
    training,
    video,
)
from fnst import files
from fnst.params import nearest

# name -> a function that yields results; its docstring says what is measured and against what.
BENCHMARKS: dict[str, Callable[[], Iterable[Result]]] = {
    "cold-start": cold_start.measure,
    "fetch": fetch.measure,
    "folder": folder.measure,
    "fuzz": fuzz.measure,
    "prepare": prepare.measure,
    "stylize": stylize.measure,
    "train-step": train_step.measure,
    "train-batches": train_step.measure_batches,
    "train-epoch": epoch.measure,
    "training": training.measure,
    "precision": precision.measure,
    "large": large.measure,
    "video": video.measure,
}
LONG = {"large", "precision", "stylize", "video"}  # take so long that only its name runs it

PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = f"""# Benchmarks

`make bench` measures this page anew. What takes long ({", ".join(sorted(LONG))}) runs when it is
named (`python -m benchmarks video --write`); its section stays, as do the remarks on others. A
ratio is to a baseline that ran in turns with ours; above 1 is better. A limit is the share of this
machine's measured peak."""

COLUMNS = ("name", "value", "unit", "ratio", "limit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names; 1 when something could not be measured here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="none lists them")
    parser.add_argument("--all", action="store_true", help="run every benchmark that takes minutes")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--markdown", action="store_true", help="as docs/benchmarks.md would be then")
    form.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}{nearest(name, BENCHMARKS)}")
    names = [n for n in BENCHMARKS if n not in LONG] if given.all else given.names
    if not names:
        _list()
        return 0
    forms = {_json: given.json, _markdown: given.markdown, _written: given.write, _table: True}
    write = next(form for form, is_wanted in forms.items() if is_wanted)
    failures: list[str] = []
    write(_measured(names, failures))
    return 1 if failures else 0


def _list() -> None:
    for name, measure in BENCHMARKS.items():
        print(f"{name:16} {_doc(measure).splitlines()[0]}")


def _doc(measure: Callable[[], Iterable[Result]]) -> str:
    return inspect.getdoc(measure) or ""


def _measured(names: Sequence[str], failures: list[str]) -> Iterator[tuple[str, Result]]:
    """The results of each benchmark as they come; what cannot run here is said and left out."""
    for name in names:
        try:
            for result in BENCHMARKS[name]():
                yield name, result
        except UnavailableError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failures.append(name)


def _json(results: Iterable[tuple[str, Result]]) -> None:
    for _, result in results:
        print(json.dumps(result.as_json()), flush=True)


def _table(results: Iterable[tuple[str, Result]]) -> None:
    found = [result for _, result in results]
    if not found:
        return
    rows = [COLUMNS, *(_cells(result) for result in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print(f"\n{found[0].machine}; torch {found[0].torch}")


def _cells(result: Result) -> tuple[str, ...]:
    ratio = "" if result.ratio is None else f"{result.ratio:.2f}"
    limit = "" if result.limit is None else f"{result.limit:.0%}"
    return result.name, f"{result.value:.4g}", result.unit, ratio, limit


def _markdown(results: Iterable[tuple[str, Result]]) -> None:
    print(_page(results), end="")


def _written(results: Iterable[tuple[str, Result]]) -> None:
    files.write(PAGE, _page(results).encode())


def _page(results: Iterable[tuple[str, Result]]) -> str:
    """The page anew; what was not measured stays, and so do the remarks behind a machine's name."""
    by_name: dict[str, list[Result]] = {}
    for name, result in results:
        by_name.setdefault(name, []).append(result)
    there = _sections()
    sections = there | {name: _section(name, by_name[name], there) for name in by_name}
    shown = [f"## {name}\n\n{sections[name]}\n" for name in BENCHMARKS if name in sections]
    return "\n".join([HEAD + "\n", *shown])


def _section(name: str, found: Sequence[Result], there: Mapping[str, str]) -> str:
    table = [COLUMNS, ("---", "---:", "---", "---:", "---:"), *map(_cells, found)]
    rows = "\n".join(f"| {' | '.join(row)} |" for row in table).replace(" --- ", "---")
    machine = f"Machine: {found[0].machine}; torch {found[0].torch}."
    before = re.search(r"^Machine: .*?; torch [\w.+]*\w\.?(.*)", there.get(name, ""), re.M | re.S)
    remarks = before.group(1) if before else ""
    return f"{_doc(BENCHMARKS[name])}\n\n{rows}\n\n{machine}{remarks}"


def _sections() -> dict[str, str]:
    """What the page says now, by benchmark."""
    if not PAGE.exists():
        return {}
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    named = (part.partition("\n") for part in parts)
    return {name: text.strip() for name, _, text in named}


if __name__ == "__main__":
    sys.exit(main())
