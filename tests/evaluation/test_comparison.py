"""Comparison of training runs: differing settings are named, and metrics that cannot be compared are left out."""

import json
from pathlib import Path

import pytest
import yaml

from foliogpt.evaluation.comparison import METRICS_FILE, compare, find_runs, plot_losses, read_run, show
from foliogpt.scripts.cli import main

SETTINGS = {"corpus": ["a.txt"], "preset": "folio", "size": "nano", "corpus_fingerprint": "f", "torchrun_job": None}
HISTORY = [
    {"step": 1, "seconds": 1.0, "tokens": 64, "loss": 5.0},
    {"step": 5, "seconds": 6.0, "tokens": 320, "eval_loss": 4.5},
    {"step": 5, "seconds": 6.1, "tokens": 320, "sample": "Once\nupon"},
]


@pytest.fixture
def make_run(tmp_path):
    def make(name, tokenizer="{}", finished=True, **settings):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.yaml").write_text(yaml.safe_dump({**SETTINGS, **settings}))
        (folder / METRICS_FILE).write_text("\n".join(map(json.dumps, HISTORY)) + '\n{"step": 6, "lo')
        (folder / "tokenizer.json").write_text(tokenizer)
        if finished:
            report = {"parameters": 1000, "steps": 5, "tokens": 320, "seconds": {"training": 7.0}}
            report |= {"val_loss": 4.4, "val_bits_per_byte": 2.2, "tokens_per_second": 50.0}
            (folder / "report.json").write_text(json.dumps(report))
        return str(folder)

    return make


def test_compare_names_the_settings_that_differ_and_no_others(make_run):
    make_run("a", learning_rate=0.02, seed=1)
    make_run("b", learning_rate=0.01, seed=1, torchrun_job="x")
    compared = compare(find_runs(make_run("c", learning_rate=0.02, seed=1) + "/.."))
    assert compared["settings"] == {"learning_rate": [0.02, 0.01, 0.02]}
    assert compared["cautions"] == []
    assert compared["samples"] == ["Once\nupon"] * 3


@pytest.mark.parametrize(
    ("changes", "caution", "shows_loss"),
    [({"tokenizer": "[]"}, "tokenizers differ", False), ({"corpus_fingerprint": "g"}, "texts differ", True)],
)
def test_compare_warns_of_metrics_that_cannot_be_compared(make_run, changes, caution, shows_loss):
    compared = compare([read_run(make_run("a")), read_run(make_run("b", **changes))])
    assert [caution in line for line in compared["cautions"]] == [True]
    text = show(compared)
    assert ("validation loss" in text) == shows_loss
    assert "validation bits per byte" in text


def test_plot_losses_converts_to_bits_per_byte_when_tokenizers_differ(make_run, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: [drawn.append(a[1]), plot(self, *a, **k)][1])
    one, other = read_run(make_run("a")), read_run(make_run("b", tokenizer="[]"))
    plot_losses([one, one], tmp_path / "same.png")
    assert set(drawn) == {(5.0,), (4.5,)}
    drawn.clear()
    plot_losses([one, other], tmp_path / "other.png")
    assert set(drawn) == {(2.5,), (2.25,)}  # 2.2 bits per byte are 4.4 nats per token
    assert (tmp_path / "other.png").read_bytes().startswith(b"\x89PNG")


def test_runs_lists_an_unfinished_run_with_its_metrics_so_far(make_run, capsys):
    folder = make_run("a", finished=False)
    assert read_run(folder).summary() | {"run": ""} == {
        "run": "", "task": "pretrain", "finished": False, "seconds": 6.1, "parameters": None, "steps": 5,
        "tokens": 320, "tokens_per_second": None, "val_loss": 4.5, "val_bits_per_byte": None,
    }  # fmt: skip
    assert main(["runs", f"{folder}/.."]) == 0
    assert "(unfinished)" in capsys.readouterr().out


def test_runs_and_compare_print_json_alone_with_null_for_nan(make_run, capsys):
    folders = [make_run("a"), make_run("b")]
    (Path(folders[1]) / "report.json").write_text('{"val_loss": NaN, "val_bits_per_byte": Infinity}')
    for argv in (["runs", f"{folders[0]}/.."], ["compare", *folders]):
        assert main([*argv, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        runs = printed if argv[0] == "runs" else printed["runs"]
        assert [run["val_loss"] for run in runs] == [4.4, None]


def test_compare_writes_a_plot_and_json_or_names_the_mistake(make_run, tmp_path, capsys):
    folders = [make_run("a"), make_run("b", learning_rate=0.5)]
    picture, output = tmp_path / "new" / "x.png", tmp_path / "x.json"
    assert main(["compare", *folders, "--plot", str(picture), "--output", str(output)]) == 0
    assert "learning_rate" in capsys.readouterr().out
    assert picture.is_file()
    assert json.loads(output.read_text())["runs"][1]["val_loss"] == 4.4
    for argv, says in (
        (["compare", folders[0]], "nothing to compare"),
        (["compare", str(tmp_path / "new")], "holds no training run"),
        (["runs", str(tmp_path / "nowhere")], "holds no training run"),
        (["runs", "a", "b"], "one folder"),
    ):
        assert main(argv) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "runs" / "a" / "report.json").write_text("{")
    assert main(["compare", *folders]) == 2
    assert "damaged" in capsys.readouterr().err
