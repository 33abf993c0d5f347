"""The law comes out of runs that follow it, and a grid of runs can be stopped and gone on with."""

import json

import numpy as np
import pytest

from foliogpt.data.arguments import CorpusArguments
from foliogpt.data.packed_corpus import pack_corpora
from foliogpt.jobs.report import Stages
from foliogpt.scripts.cli import main
from foliogpt.training.scaling import plan as scaling_plan
from foliogpt.training.scaling import runs as scaling_runs
from foliogpt.training.scaling.law import Law, bootstrap, fit_law
from foliogpt.training.scaling.plan import Run, ScaleArguments, make_plan
from foliogpt.training.scaling.runs import GridTrainer
from foliogpt.training.scaling.study import scale

# Chinchilla's, as Besiroglu et al. (2024) fitted them again.
TRUE = Law(E=1.82, A=482.0, B=2085.0, alpha=0.348, beta=0.366)
PARAMETERS = np.repeat([2e5, 3e5, 5e5, 8e5], 5)
TOKENS = np.tile(1e6 / 1.68 ** np.arange(5), 4)


def test_the_fit_recovers_the_constants_that_losses_were_made_from():
    law = fit_law(PARAMETERS, TOKENS, TRUE(PARAMETERS, TOKENS))
    for name, value in vars(TRUE).items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-4), name


def test_noise_and_an_outlier_leave_the_prediction_within_the_bar():
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(len(TOKENS)))
    losses = TRUE(PARAMETERS, TOKENS) * noise
    losses[7] *= 1.2
    law = fit_law(PARAMETERS, TOKENS, losses)
    assert law(1.5e6, 2e6) == pytest.approx(TRUE(1.5e6, 2e6), rel=0.02)
    others = [other(1.5e6, 2e6) for other in bootstrap(PARAMETERS, TOKENS, losses, law)]
    assert np.quantile(others, 0.05) <= law(1.5e6, 2e6) <= np.quantile(others, 0.95)


def test_laws_of_resampled_runs_are_the_best_that_fit_them(monkeypatch):
    monkeypatch.setattr("foliogpt.training.scaling.law.SAMPLES", 1)
    losses = TRUE(PARAMETERS, TOKENS) * np.exp(0.005 * np.random.default_rng(0).standard_normal(len(TOKENS)))
    laws = bootstrap(PARAMETERS, TOKENS, losses, fit_law(PARAMETERS, TOKENS, losses), seed=0)
    draw = np.random.default_rng(0)
    for law in laws:
        rows = draw.integers(len(TOKENS), size=len(TOKENS))
        best = fit_law(PARAMETERS[rows], TOKENS[rows], losses[rows])
        assert law(1.5e6, 2e6) == pytest.approx(best(1.5e6, 2e6), rel=1e-3)


def test_the_best_split_of_flops_is_where_the_law_is_lowest():
    n, d = TRUE.best_split(1e15)
    assert 6 * n * d == pytest.approx(1e15)
    tried = np.geomspace(n / 10, n * 10, 2001)
    assert n == pytest.approx(tried[np.argmin(TRUE(tried, 1e15 / 6 / tried))], rel=0.01)


def test_too_few_sizes_are_no_law():
    with pytest.raises(ValueError, match="three sizes"):
        fit_law([1e5, 2e5] * 3, np.arange(1, 7), np.ones(6))


def test_losses_that_are_no_numbers_or_all_alike_are_no_law():
    n, d = (column.ravel() for column in np.meshgrid([1e5, 2e5, 4e5], [1e6, 2e6, 4e6]))
    losses = 1 + 400 / n**0.5 + 400 / d**0.4
    for wrong in (np.inf, np.nan, 0.0):
        with pytest.raises(ValueError, match=r"200,000 parameters: (inf|nan|0\.0).*Leave these runs out"):
            fit_law(n, d, np.where((n == 2e5) & (d == 1e6), wrong, losses))
    with pytest.raises(ValueError, match="nearly the same"):
        fit_law(n, d, 3 + 1e-5 * losses)


def measure(width: int) -> tuple[int, float]:
    return 13 * width**2 * -(-width // 32), width**3 / 1e7


def test_a_plan_fills_its_time_and_no_run_reads_the_text_too_often():
    for minutes in (10, 100, 1000):
        plan = make_plan(minutes, 10_000_000, 1024, 100_000, measure)
        assert plan.minutes == pytest.approx(minutes, rel=0.02)
        assert plan.larger.steps * 1024 <= 2 * 10_000_000
        assert plan.larger.width > max(plan.widths)
        assert plan.larger.steps == 2 * max(plan.steps)
    assert min(plan.widths) > 48, "with more time, larger models"
    short = make_plan(100, 1_000_000, 1024, 100_000, measure)
    assert short.larger.steps * 1024 <= 2 * 1_000_000


def test_make_plan_names_the_time_and_text_that_suffice_when_there_is_too_little():
    with pytest.raises(ValueError, match=r"1 minutes are too few.*--minutes (\d+)") as error:
        make_plan(1, 10_000_000, 1024, 100_000, measure)
    make_plan(int(str(error.value).rpartition(" ")[2].rstrip(".")), 10_000_000, 1024, 100_000, measure)
    with pytest.raises(ValueError, match="50,000 tokens are too little text"):
        make_plan(100, 50_000, 1024, 1_000, measure)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A text, and a family of which a grid takes seconds."""
    monkeypatch.setattr(scaling_plan, "WIDTHS", (16, 32, 48, 64, 80))
    for name, value in {"LEAST_STEPS": 4, "WARMUP_STEPS": 2, "PART_SECONDS": 0.0}.items():
        monkeypatch.setattr(scaling_plan, name, value)
    monkeypatch.setattr(scaling_runs, "WARMUP_STEPS", 2)
    monkeypatch.setattr(GridTrainer, "measure", lambda self, width: (13 * width**2, width / 1600))  # on every machine
    file = tmp_path / "text.txt"
    words = [f"{a}{b} sees {c}" for a in "abcdefgh" for b in "aeiou" for c in ("night", "day", "love", "none")]
    file.write_text("\n".join(f"Then {word}, and {word[::-1]} is not far." for word in words * 20))
    return ["--corpus", str(file), "--tokenizer", "char", "--block_size", "16", "--minutes", "0.6"]


def test_a_branch_is_the_run_that_its_own_schedule_gives(tiny, tmp_path):
    corpus = CorpusArguments(tiny[1])
    chosen = ScaleArguments(tokenizer="char", block_size=16)
    data = pack_corpora(corpus, chosen.tokenizer, chosen.vocab_size, chosen.block_size, Stages(silent=True))
    workshop = GridTrainer(data, chosen, tmp_path)
    branches = [workshop.train(Run(16, steps), shares_trunk=True) for steps in (10, 20)]
    alone = workshop.train(Run(16, 20), shares_trunk=False)
    assert branches[1] == alone
    assert branches[0]["loss"] != alone["loss"]


def test_fields_of_the_config_are_those_of_every_run_and_are_checked_before_any_text_is_read(tiny, tmp_path):
    corpus = CorpusArguments(tiny[1])
    chosen = ScaleArguments(tokenizer="char", block_size=16, norm_type="layernorm", dropout=0.1)
    data = pack_corpora(corpus, chosen.tokenizer, chosen.vocab_size, chosen.block_size, Stages(silent=True))
    config = GridTrainer(data, chosen, tmp_path).model(16).config
    assert (config.norm_type, config.hidden_dropout, config.attention_dropout) == ("layernorm", 0.1, 0.1)
    with pytest.raises(ValueError, match="hidden_act is 'wave'"):
        scale(CorpusArguments("no-text"), ScaleArguments(hidden_act="wave", output_dir=str(tmp_path / "grid")))


@pytest.mark.slow
def test_a_stopped_grid_resumes_with_the_missing_runs(tiny, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "scale"
    trained = []
    train = GridTrainer.train

    def stopped_at_the_eighth(self, run, shares_trunk):
        trained.append(run)
        if len(trained) == 8:
            raise KeyboardInterrupt
        return train(self, run, shares_trunk)

    monkeypatch.setattr(GridTrainer, "train", stopped_at_the_eighth)
    assert main(["scale", *tiny, "--output_dir", str(folder)]) == 130
    assert f"folio scale --output_dir {folder} --resume" in capsys.readouterr().err
    assert main(["scale", *tiny, "--output_dir", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["scale", "--output_dir", str(folder), "--resume", "--seed", "1"]) == 2
    assert "has seed 0, not 1" in capsys.readouterr().err
    with (folder / "runs.jsonl").open("a") as file:
        file.write('{"width": 16, "ste')  # killed while writing
    assert main(["scale", "--output_dir", str(folder), "--resume"]) == 0
    assert len(trained) == 22, "each once, but the one that was stopped"
    result = json.loads((folder / "scaling.json").read_text())
    assert len(result["grid"]) == 20
    assert result["actual"]["loss"] < min(run["loss"] for run in result["grid"]) + 0.5
    assert result["error"] == pytest.approx(result["predicted"]["loss"] / result["actual"]["loss"] - 1)
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert f"{result['predicted']['loss']:.3f}" in capsys.readouterr().out
    assert not (folder / "trunk").exists()


def test_a_stream_is_no_corpus_for_a_grid(tmp_path, capsys):
    assert main(["scale", "--streaming", "--output_dir", str(tmp_path / "scale")]) == 2
    assert "--streaming" in capsys.readouterr().err
    assert not (tmp_path / "scale").exists()
