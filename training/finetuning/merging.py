"""An adapter and its base as one checkpoint."""

import json
import shutil
from pathlib import Path

from ...checkpoints.adapter_merging import MergeError
from ...checkpoints.base_record import BaseRecord
from ...checkpoints.loading import ADAPTER_CONFIG, load_adapter, task_of
from ...jobs.cards import finetuned_card
from ...jobs.report import CARD_FILE, CURVE_FILE, REPORT_FILE, write_report
from ...jobs.run_folder import RUN_FILE, lock_run_folder
from ...jobs.saving import STATE_FILE, staged

# The settings tell which rows were held out; the state marks the run as complete.
RUN_FILES = (RUN_FILE, STATE_FILE, CURVE_FILE)


def merge(adapter: str, destination: str | Path, trust_remote_code: bool = False) -> int:
    """Merge an adapter into its base, write the checkpoint with its card, and return its number of parameters.

    Raises FileNotFoundError, FileExistsError if `adapter` is no adapter's directory, or something is at `destination`;
    ValueError if it cannot be merged exactly, or its base has other weights than when it was trained.
    """
    folder = Path(adapter).expanduser()
    if not (folder / ADAPTER_CONFIG).is_file():
        raise FileNotFoundError(f"{adapter} is no adapter's directory: it has no {ADAPTER_CONFIG}.")
    record = BaseRecord.load(folder)
    with lock_run_folder(destination, marker="config.json") as output_dir:
        try:
            model, tokenizer = load_adapter(adapter, folder, task_of(adapter, trust_remote_code), trust_remote_code)
        except MergeError as error:
            use = "use it as it is, with every command that takes a model"
            raise ValueError(f"{adapter} cannot be merged ({error}): {use}.") from None
        with staged(output_dir) as place:
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)
            for file in RUN_FILES:
                if record is not None and (folder / file).is_file():
                    shutil.copyfile(folder / file, place / file)
            if record is not None and (folder / REPORT_FILE).is_file():
                report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
                report["name"], report["output_dir"] = output_dir.resolve().name, str(destination)
                write_report(report, place)
                (place / CARD_FILE).write_text(finetuned_card(report, merged=True), encoding="utf-8")
    return model.num_parameters()
