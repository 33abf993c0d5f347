"""A scaling law of your text: a grid of runs, the law that fits them, and a larger run that it has to predict."""

import json
import shlex
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import yaml

from ...data.arguments import CorpusArguments
from ...data.packed_corpus import pack_corpora
from ...jobs.extras import extra
from ...jobs.report import Stages, hardware_name, write_report
from ...jobs.resume import check_same_text, check_unchanged
from ...jobs.run_folder import FINGERPRINT, SCALE_FILE, lock_run_folder
from ...jobs.saving import staged
from ...jobs.signals import Interrupted, signal_of
from ..arguments import UNSAVED_ARGUMENTS, ModelArguments, absolute_if_path
from ..config_fields import chosen_fields
from ..flops import multiplied_parameters
from ..new_model import starting_config
from .law import bootstrap, draw, fit_law
from .plan import Plan, Run, ScaleArguments, make_plan
from .runs import RUNS_FILE, TRUNK, GridTrainer, train_all

PLAN_FILE = "plan.json"
RESULT_FILE, PLOT_FILE = "scaling.json", "scaling.png"
INTERVAL = [0.05, 0.95]  # of the bootstrap's laws


def scale(corpus: CorpusArguments, chosen: ScaleArguments, stages: Stages | None = None) -> dict:
    """Train the grid and the larger run, fit the law, and write scaling.json, which is returned, and scaling.png.

    Raises ValueError, OSError, ImportError, and Interrupted if the user stopped it; finished runs are kept.
    """
    with extra("scale", "A scaling law"):  # not after twenty minutes
        import matplotlib  # noqa: F401
        import scipy.optimize  # noqa: F401
    if corpus.streaming:
        raise ValueError("A grid reads the same text in each run, and a stream has no end: leave out --streaming.")
    starting_config(ModelArguments(preset=chosen.preset, block_size=chosen.block_size, **chosen_fields(chosen)))
    stages = stages or Stages()
    with lock_run_folder(chosen.output_dir, chosen.overwrite, chosen.resume, marker=SCALE_FILE) as folder:
        settings, begun = scale_settings(corpus, chosen), folder if chosen.resume else None
        saved = yaml.safe_load((folder / SCALE_FILE).read_text(encoding="utf-8")) or {} if chosen.resume else settings
        check_unchanged(saved, settings, settings, f"grid in {folder}")
        data = pack_corpora(corpus, chosen.tokenizer, chosen.vocab_size, chosen.block_size, stages, begun, chosen.seed)
        settings[FINGERPRINT] = data.fingerprint
        if chosen.resume:
            check_same_text(saved, data.fingerprint)
        trainer = GridTrainer(data, chosen, folder)
        with stages("plan") as say:
            plan = read_plan(folder) if chosen.resume else begin(trainer, settings)
            say(f"{len(plan.grid) + 1} runs, about {plan.minutes:.0f} minutes")
            tokens = plan.larger.steps * trainer.batch_tokens
            which = f"the text {tokens / trainer.text_tokens:.1f} times" if tokens > trainer.text_tokens else "all new"
            say(f"the largest takes {tokens:,} tokens: {which}")
        try:
            with stages("grid") as say:
                finished = train_all(trainer, plan, plan.grid)
                say(f"{len(finished)} runs")
            with stages("law") as say:
                law = predict(finished, multiplied_parameters(trainer.model(plan.larger.width)), tokens)
                say(f"the larger run is predicted to reach a loss of {law['predicted']['loss']:.3f}")
            result = {"settings": settings, "plan": asdict(plan), "machine": hardware_name(trainer.device), **law}
            write_report(result, folder, RESULT_FILE)  # the prediction, before the larger run
            with stages("larger run") as say:
                (larger,) = train_all(trainer, plan, [plan.larger])
                say(f"a loss of {larger['loss']:.3f}")
        except KeyboardInterrupt as error:
            command = shlex.join(["folio", "scale", "--output_dir", chosen.output_dir, "--resume"])
            raise Interrupted(f"Stopped; finished runs are kept. Continue with: {command}", signal_of(error)) from None
        shutil.rmtree(folder / TRUNK, ignore_errors=True)
        result |= {"actual": larger, "error": result["predicted"]["loss"] / larger["loss"] - 1}
        write_report(result, folder, RESULT_FILE)
        draw(result, folder / PLOT_FILE)
    return result


def begin(trainer: GridTrainer, settings: dict) -> Plan:
    """Plan the runs, and write the files that a resumed grid needs. Replaces the grid that was in the folder."""
    tokens = len(trainer.held_out) * trainer.chosen.block_size
    plan = make_plan(trainer.chosen.minutes, trainer.text_tokens, trainer.batch_tokens, tokens, trainer.measure)
    folder = trainer.folder
    for stale in (RUNS_FILE, RESULT_FILE, PLOT_FILE):
        (folder / stale).unlink(missing_ok=True)
    shutil.rmtree(folder / TRUNK, ignore_errors=True)
    with staged(folder) as new:
        trainer.data.tokenizer.save_pretrained(new)
        write_report(asdict(plan), new, PLAN_FILE)
        (new / SCALE_FILE).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return plan


def read_plan(folder: Path) -> Plan:
    """Read the plan that `begin` wrote."""
    plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    seconds = {int(width): value for width, value in plan.pop("step_seconds").items()}
    return Plan(**{**plan, "larger": Run(**plan["larger"]), "step_seconds": seconds})


def predict(finished: list[dict], parameters: int, tokens: int) -> dict:
    """Fit the law of the finished runs; return it with its spread and the loss that it predicts for a run."""
    columns = [[run[name] for run in finished] for name in ("parameters", "tokens", "loss")]
    law = fit_law(*columns)
    others = bootstrap(*columns, law)
    spread = {name: _interval([getattr(other, name) for other in others]) for name in asdict(law)}
    off = [abs(law(n, d) / loss - 1) for n, d, loss in zip(*columns, strict=True)]
    return {
        "law": asdict(law),
        "law_spread": spread,
        "grid": finished,
        "largest_error_of_grid": float(max(off)),
        "predicted": {"parameters": parameters, "tokens": tokens, "loss": float(law(parameters, tokens))},
        "predicted_spread": _interval([other(parameters, tokens) for other in others]),
    }


def _interval(values: list[float]) -> list[float]:
    return [round(float(value), 6) for value in np.quantile(values, INTERVAL)]


def summary(result: dict) -> str:
    """Return the law and its test for people."""
    spread = {name: f"{low:.2f} to {high:.2f}" for name, (low, high) in result["law_spread"].items()}
    law, low_high = result["law"], result["predicted_spread"]
    predicted, actual = result["predicted"], result["actual"]
    between = f"{low_high[0]:.3f} to {low_high[1]:.3f}"
    return f"""
L(N, D) = E + A / N^alpha + B / D^beta, in nats per token; N counts all parameters that a token is multiplied with

  E      {law["E"]:8.3f}   ({spread["E"]})
  A      {law["A"]:8.3g}
  B      {law["B"]:8.3g}
  alpha  {law["alpha"]:8.3f}   ({spread["alpha"]})
  beta   {law["beta"]:8.3f}   ({spread["beta"]})

In brackets: nine of ten laws that are fitted to resampled runs.

The larger run, {actual["parameters"]:,} parameters and {actual["tokens"]:,} tokens:
predicted {predicted["loss"]:.3f} ({between}), actual {actual["loss"]:.3f}: {abs(result["error"]):.2%} apart."""


def scale_settings(corpus: CorpusArguments, chosen: ScaleArguments) -> dict:
    """Return the settings that a resumed grid may not change."""
    settings = {**vars(corpus), "corpus": [absolute_if_path(name) for name in corpus.corpus]}
    settings |= {f.name: getattr(chosen, f.name) for f in fields(chosen) if f.name not in UNSAVED_ARGUMENTS}
    return settings | {"tokenizer": absolute_if_path(chosen.tokenizer)}
