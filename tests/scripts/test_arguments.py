"""Settings from files: what a run's own file may decide, and what only the command line may."""

from dataclasses import dataclass, field

import pytest
import yaml

from foliogpt.jobs.run_folder import RUN_FILE
from foliogpt.scripts.arguments import parse
from foliogpt.training.arguments import PretrainingArguments


@dataclass
class Method:
    trust_remote_code: bool = field(default=False)


def resumed(folder, settings: dict, *flags: str):
    (folder / RUN_FILE).write_text(yaml.safe_dump(settings))
    argv = ["--output_dir", str(folder), "--resume", *flags]
    return parse(argv, [Method, PretrainingArguments], "folio finetune", "", run_file=RUN_FILE)


@pytest.mark.parametrize(
    ("name", "value", "repeat", "refuse"),
    [
        ("trust_remote_code", True, "--trust_remote_code true", "--trust_remote_code false"),
        ("push_to_hub", True, "--push_to_hub true", "--push_to_hub false"),
        ("report_to", ["wandb", "mlflow"], "--report_to wandb mlflow", "--report_to none"),
        ("report_to", "all", "--report_to all", "--report_to none"),
    ],
)
def test_a_run_file_cannot_run_code_or_send_data(tmp_path, name, value, repeat, refuse):
    with pytest.raises(ValueError, match=repeat) as error:
        resumed(tmp_path, {name: value, "seed": 3})
    assert refuse in str(error.value)
    method, args = resumed(tmp_path, {name: value, "seed": 3}, *refuse.split())
    assert (method.trust_remote_code, args.push_to_hub, args.report_to, args.seed) == (False, False, [], 3)


def test_a_flag_repeats_the_consent_that_a_run_had(tmp_path):
    method, args = resumed(tmp_path, {"trust_remote_code": True, "seed": 3}, "--trust-remote-code=true")
    assert method.trust_remote_code
    assert args.seed == 3


def test_a_run_that_asked_for_nothing_resumes_as_it_was(tmp_path):
    settings = {"trust_remote_code": False, "push_to_hub": False, "report_to": ["none"], "seed": 3}
    method, args = resumed(tmp_path, settings)
    assert (method.trust_remote_code, args.push_to_hub, args.report_to, args.seed) == (False, False, [], 3)
