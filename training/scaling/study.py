"""A scaling law of one's own text: a grid of runs, the law that fits them, and a larger run that it has to predict."""

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
from ...jobs.report import Stages, machine, write_report
from ...jobs.run_folder import FINGERPRINT, SCALE_FILE, lock_run_folder
from ...jobs.saving import staged
from ...jobs.signals import Interrupted, signal_of
from ..arguments import ModelArguments, from_anywhere
from ..config_fields import chosen_fields
from ..flops import multiplied_parameters
from ..new_model import starting_config
from .law import bootstrap, draw, fit_law
from .plan import Plan, Run, ScaleArguments, make_plan
from .runs import RUNS_FILE, TRUNK, Workshop, train_all

PLAN_FILE = "plan.json"
RESULT_FILE, PICTURE_FILE = "scaling.json", "scaling.png"
OF_ONE_CALL = ("output_dir", "resume", "overwrite")
INTERVAL = [0.05, 0.95]  # of the bootstrap's laws


def scale(corpus: CorpusArguments, chosen: ScaleArguments, stages: Stages | None = None) -> dict:
    """Train the grid and the larger run, fit the law, and write scaling.json, which is returned, and scaling.png.

    Raises ValueError, OSError for settings and input that do not work, ImportError if scipy or matplotlib is missing,
    and Interrupted if the user stopped it; finished runs are kept.
    """
    with extra("scale", "A scaling law"):  # not after twenty minutes
        import matplotlib  # noqa: F401
        import scipy.optimize  # noqa: F401
    if corpus.streaming:
        raise ValueError("A grid reads the same text in each run, and a stream has no end: leave out --streaming.")
    starting_config(ModelArguments(preset=chosen.preset, block_size=chosen.block_size, **chosen_fields(chosen)))
    stages = stages or Stages()
    with lock_run_folder(chosen.output_dir, chosen.overwrite, chosen.resume, marker=SCALE_FILE) as folder:
        settings = scale_settings(corpus, chosen)
        saved = check_settings(folder, settings) if chosen.resume else {}
        begun = folder if chosen.resume else None
        data = pack_corpora(corpus, chosen.tokenizer, chosen.vocab_size, chosen.block_size, stages, begun, chosen.seed)
        settings[FINGERPRINT] = data.fingerprint
        if chosen.resume and data.fingerprint != saved.get(FINGERPRINT):
            raise ValueError("The corpus is not the text that this grid began with: start another one for it.")
        workshop = Workshop(data, chosen, folder)
        with stages("plan") as say:
            plan = read_plan(folder) if chosen.resume else begin(workshop, settings)
            say(f"{len(plan.grid) + 1} runs, about {plan.minutes:.0f} minutes")
            tokens = plan.larger.steps * workshop.batch_tokens
            passes = tokens / workshop.text_tokens
            which = f"the text {passes:.1f} times" if passes > 1 else "all new"
            say(f"the largest takes {tokens:,} tokens: {which}")
        try:
            result = grid_and_law(workshop, plan, settings, stages)
            with stages("larger run") as say:
                (larger,) = train_all(workshop, plan, [plan.larger])
                say(f"a loss of {larger['loss']:.3f}")
        except KeyboardInterrupt as error:
            command = shlex.join(["folio", "scale", "--output_dir", chosen.output_dir, "--resume"])
            raise Interrupted(f"Stopped; finished runs are kept. Go on with: {command}", signal_of(error)) from None
        shutil.rmtree(folder / TRUNK, ignore_errors=True)
        result |= {"actual": larger, "error": result["predicted"]["loss"] / larger["loss"] - 1}
        write_report(result, folder, RESULT_FILE)
        draw(result, folder / PICTURE_FILE)
    return result


def grid_and_law(workshop: Workshop, plan: Plan, settings: dict, stages: Stages) -> dict:
    """Train the grid, fit the law, and write what it says of the larger run, before that is trained."""
    with stages("grid") as say:
        finished = train_all(workshop, plan, plan.grid)
        say(f"{len(finished)} runs")
    with stages("law") as say:
        parameters = multiplied_parameters(workshop.model(plan.larger.width))
        law = predict(finished, parameters, plan.larger.steps * workshop.batch_tokens)
        say(f"the larger run is predicted to reach a loss of {law['predicted']['loss']:.3f}")
    result = {"settings": settings, "plan": asdict(plan), "machine": machine(workshop.device), **law}
    write_report(result, workshop.folder, RESULT_FILE)
    return result


def begin(workshop: Workshop, settings: dict) -> Plan:
    """Plan the runs, and write what a later call needs to go on. Replaces the grid that was in the folder."""
    tokens = len(workshop.held_out) * workshop.chosen.block_size
    plan = make_plan(workshop.chosen.minutes, workshop.text_tokens, workshop.batch_tokens, tokens, workshop.measure)
    folder = workshop.folder
    for stale in (RUNS_FILE, RESULT_FILE, PICTURE_FILE):
        (folder / stale).unlink(missing_ok=True)
    shutil.rmtree(folder / TRUNK, ignore_errors=True)
    with staged(folder) as new:
        workshop.data.tokenizer.save_pretrained(new)
        write_report(asdict(plan), new, PLAN_FILE)
        (new / SCALE_FILE).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return plan


def read_plan(folder: Path) -> Plan:
    """The plan that was written by `begin`."""
    plan = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    seconds = {int(width): value for width, value in plan.pop("step_seconds").items()}
    return Plan(**{**plan, "larger": Run(**plan["larger"]), "step_seconds": seconds})


def predict(finished: list[dict], parameters: int, tokens: int) -> dict:
    """The law of the finished runs, how far it spreads, and the loss that it says a run will have."""
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
    """The law and its test, for people."""
    spread = {name: f"{low:.2f} to {high:.2f}" for name, (low, high) in result["law_spread"].items()}
    law, low_high = result["law"], result["predicted_spread"]
    predicted, actual = result["predicted"], result["actual"]
    between = f"{low_high[0]:.3f} to {low_high[1]:.3f}"
    return f"""
L(N, D) = E + A / N^alpha + B / D^beta, in nats a token; N counts all parameters a token is multiplied with

  E      {law["E"]:8.3f}   ({spread["E"]})
  A      {law["A"]:8.3g}
  B      {law["B"]:8.3g}
  alpha  {law["alpha"]:8.3f}   ({spread["alpha"]})
  beta   {law["beta"]:8.3f}   ({spread["beta"]})

In brackets where nine of ten laws lie that are fitted to runs drawn anew.

The larger run, {actual["parameters"]:,} parameters and {actual["tokens"]:,} tokens:
predicted {predicted["loss"]:.3f} ({between}), actual {actual["loss"]:.3f}: {abs(result["error"]):.2%} apart."""


def scale_settings(corpus: CorpusArguments, chosen: ScaleArguments) -> dict:
    """What has to be the same for a grid to go on."""
    settings = {**vars(corpus), "corpus": [from_anywhere(name) for name in corpus.corpus]}
    settings |= {f.name: getattr(chosen, f.name) for f in fields(chosen) if f.name not in OF_ONE_CALL}
    return settings | {"tokenizer": from_anywhere(chosen.tokenizer)}


def check_settings(folder: Path, settings: dict) -> dict:
    """The settings of the grid in the folder; raises ValueError if they are others."""
    saved = yaml.safe_load((folder / SCALE_FILE).read_text(encoding="utf-8")) or {}
    for name, value in settings.items():
        if saved.get(name) != value:
            raise ValueError(
                f"The grid in {folder} has {name} {saved.get(name)}, not {value}: "
                "leave it out to go on, or start another one with another --output_dir."
            )
    return saved
