"""The door for pictures under attack: every file is whole in the end, or refused in one sentence.

`python -m benchmarks fuzz` tries thousands; here are some hundreds, the same every time.
"""

import itertools

import pytest

from benchmarks import command, fuzz, hostile

SEED = 0


@pytest.mark.parametrize(
    ("files", "count"), [("tricks", len(hostile.tricks())), (f"mutants {SEED}", 400)]
)
def test_hostile_files_are_refused_or_whole_quickly_and_in_bounded_memory(files, count):
    found = fuzz.survey(files, count)
    assert not found.worst
    assert found.kinds.total() == count
    assert found.kinds[fuzz.WHOLE] > 0.1 * count
    assert found.kinds[fuzz.REFUSED] > 0.1 * count
    assert found.memory < 500e6


def test_a_folder_of_hostile_files_is_painted_as_far_as_it_can_be():
    tricks = len(hostile.tricks())
    found = fuzz.survey_command({"tricks": tricks, f"mutants {SEED}": 40})
    assert not found.worst
    assert found.kinds.total() == tricks + 40
    assert found.kinds[fuzz.WHOLE] > 10
    assert found.kinds[fuzz.REFUSED] > 40
    assert found.memory < 800e6


def test_what_becomes_of_a_folder_is_judged_file_by_file(tmp_path):
    sample = hostile.samples()["plain.png"]
    for name in ("whole", "cut", "both", "strange"):
        (tmp_path / f"{name}-untrained-v1.png").write_bytes(sample[: 50 if name == "cut" else None])
    said = ["error: in/both.png: no.", "warning of a library. error: in/bad.png: no."]
    done = command.Stylized(1, said, 1.0, 1.0)
    names = ["bad.png", "both.png", "cut.png", "silent.png", "whole.png"]
    kinds = [(row["name"], row["kind"]) for row in fuzz._judged(names, tmp_path, done)]
    assert kinds == [
        ("bad.png", fuzz.REFUSED),
        ("both.png", fuzz.WRONG),
        ("cut.png", fuzz.WRONG),
        ("silent.png", fuzz.WRONG),
        ("whole.png", fuzz.WHOLE),
        ("strange-untrained-v1.png", fuzz.WRONG),
    ]
    done = command.Stylized(-9, said, 1.0, 1.0)
    assert [row["kind"] for row in fuzz._judged([], tmp_path, done)][-1] == fuzz.CRASH


def test_samples_are_whole_and_of_every_kind(tmp_path):
    import torch

    from fnst.network import TransformerNetwork

    network = TransformerNetwork(width=4, blocks=1).eval()
    torch.manual_seed(0)
    for name, content in hostile.samples().items():
        assert fuzz._try(network, tmp_path, name, content, ".png") == (fuzz.WHOLE, ""), name
    endings = {name.rpartition(".")[2] for name in hostile.samples()}
    assert endings == {"jpg", "png", "webp", "gif", "bmp", "avif", "ppm", "tif"}


def test_the_same_seed_makes_the_same_files():
    def first(seed):
        return list(itertools.islice(hostile.mutants(seed), 20))

    assert first(1) == first(1)
    assert first(1) != first(2)


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        ("os.kill(os.getpid(), 11)", fuzz.CRASH),
        ("signal.alarm(1); time.sleep(30)", fuzz.HANG),
    ],
)
def test_a_process_that_dies_costs_one_file(harm, kind, monkeypatch, tmp_path):
    """What the survey promises to notice, it notices."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, signal, sys, time\n"
        "for index in range(int(sys.argv[-2]), int(sys.argv[-1])):\n"
        f"    if index == 2: {harm}\n"
        "    print(json.dumps({'name': 'a', 'kind': 'whole', 'said': ''}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "PROGRAM", [str(program)])
    found = fuzz.survey("any", 5)
    assert found.kinds == {fuzz.WHOLE: 4, kind: 1}
    assert found.worst[0].startswith(f"number 2: {kind}")
