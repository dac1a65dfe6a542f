"""`python -m benchmarks`: what it promises to print; how fast anything is, is not tested here."""

import json
import re

import pytest

from benchmarks import ROOT, Result, UnavailableError, __main__, training
from benchmarks.__main__ import BENCHMARKS, main
from fnst import files, params

RESULT = Result("counting/3", 3.0, "s", ratio=1.25, limit=0.5)
KEYS = {"name", "value", "unit", "ratio", "limit", "machine", "torch"}


def test_a_training_to_be_measured_has_the_length_that_was_asked_for(tmp_path, monkeypatch):
    (tmp_path / "data" / "models").mkdir(parents=True)
    training._params(tmp_path, steps=7)
    monkeypatch.setenv("FNST_ROOT", str(tmp_path))
    plan = params.load().chosen.train
    assert (plan.steps, plan.epochs) == (7, None)
    assert plan.warmup_steps == params.load(ROOT / "params.yaml").chosen.train.warmup_steps
    assert not (tmp_path / "data" / "models").exists()


def test_the_time_of_a_step_is_that_of_the_whole_training(tmp_path):
    rows = [{"step": 10, "seconds": 9.0}, {"step": 80, "seconds": 20.0}]
    files.write_rows(tmp_path / "data" / "models" / training.STYLE / "loss.csv", rows)
    assert training._step_seconds(tmp_path) == 0.25


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """A benchmark that takes no time, and one that cannot run here."""

    def counting():
        """Counting to three."""
        yield Result("counting/3", 3.0, "s", ratio=1.25, limit=0.5)
        yield Result("counting/none", 0.0, "s")

    def impossible():
        """Never runs."""
        raise UnavailableError("needs a machine that nobody has.")
        yield

    for name in list(BENCHMARKS):
        monkeypatch.delitem(BENCHMARKS, name)
    monkeypatch.setitem(BENCHMARKS, "counting", counting)
    monkeypatch.setitem(BENCHMARKS, "impossible", impossible)


def test_json_is_one_object_a_line_with_the_promised_keys(capsys):
    assert main(["counting", "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(first) == set(second) == KEYS
    assert (first["name"], first["value"], first["unit"]) == ("counting/3", 3.0, "s")
    assert (first["ratio"], first["limit"]) == (1.25, 0.5)
    assert (second["ratio"], second["limit"]) == (None, None)
    assert "cores" in first["machine"]
    assert first["torch"][0].isdigit()


def test_a_table_names_the_machine(capsys):
    main(["counting"])
    heading, row, *_, machine = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "value", "unit", "ratio", "limit"]
    assert row.split() == ["counting/3", "3", "s", "1.25", "50%"]
    assert "torch" in machine


def test_a_page_has_a_section_for_each_benchmark(capsys):
    main(["--all", "--markdown"])
    page = capsys.readouterr().out
    assert "## counting\n\nCounting to three.\n" in page
    assert "| counting/3 | 3 | s | 1.25 | 50% |" in page
    assert "Machine: " in page


def test_a_page_keeps_remarks_and_what_was_not_measured(tmp_path, monkeypatch):
    page = tmp_path / "benchmarks.md"
    monkeypatch.setattr(__main__, "PAGE", page)
    main(["counting", "--write"])
    remarks = " It takes no time.\n\nOn another machine, five.\n\nAnd once six."
    page.write_text(
        f"{page.read_text().rstrip().replace('| 3 |', '| 4 |')}{remarks}\n\n"
        "## impossible\n\nSeven.\n"
    )
    for _ in range(2):
        main(["counting", "--write"])
    assert "| counting/3 | 3 |" in page.read_text()
    assert page.read_text().endswith(f".{remarks}\n\n## impossible\n\nSeven.\n")


def test_the_page_of_docs_would_lose_no_remark():
    there = __main__._sections()
    for name, text in there.items():
        remarks = re.split(r"; torch [\d.]*\d", text)[-1]
        assert __main__._section("counting", [RESULT], {"counting": text}).endswith(remarks), name


def test_without_a_name_they_are_listed_and_none_runs(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.split("\n")[0].split(maxsplit=1) == [
        "counting",
        "Counting to three.",
    ]


def test_an_unknown_name_is_wrong_usage_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["countin"])
    assert ended.value.code == 2
    assert "no benchmark 'countin'; did you mean 'counting'?" in capsys.readouterr().err


def test_what_cannot_run_here_is_said_and_does_not_stop_the_others(capsys):
    assert main(["impossible", "counting", "--json"]) == 1
    said = capsys.readouterr()
    assert said.err == "error: impossible: needs a machine that nobody has.\n"
    assert len(said.out.splitlines()) == 2
