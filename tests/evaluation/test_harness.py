"""The lm-evaluation-harness runs on a checkpoint of ours, offline, with a task of one's own."""

import json
import subprocess
import sys

import pytest
import torch

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import train_tokenizer

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.slow
QUESTIONS = [
    {"question": "The cat is", "choices": ["free", "tricks"], "answer": 0},
    {"question": "The dog has", "choices": ["free", "tricks"], "answer": 1},
    {"question": "One two three, four five", "choices": ["six", "cat"], "answer": 0},
]
TASK = """\
task: rhymes
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("harness")
    tokenizer = train_tokenizer(["The cat is free, the dog has tricks. " * 50], 270, show_progress=False)
    tokenizer.save_pretrained(place / "model")
    torch.manual_seed(0)
    config = preset_config("folio", "nano", vocab_size=270, hidden_size=32, num_hidden_layers=2, intermediate_size=48,
                           max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=1)  # fmt: skip
    FolioForCausalLM(config).save_pretrained(place / "model")
    (place / "tasks").mkdir()
    (place / "tasks" / "rhymes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (place / "tasks" / "rhymes.yaml").write_text(TASK.format(file=place / "tasks" / "rhymes.jsonl"))
    return place


@pytest.mark.usefixtures("private_datasets_cache")
def test_one_command_runs_a_task_of_ones_own(folder, capsys, tmp_path):
    output = tmp_path / "figures.json"
    argv = ["evaluate", "--model", str(folder / "model"), "--harness", "rhymes", "--include_path"]
    assert main([*argv, str(folder / "tasks"), "--output", str(output)]) == 0
    assert "rhymes acc" in capsys.readouterr().out
    entry = json.loads(output.read_text())["figures"]["rhymes acc"]
    assert entry["value"] in [pytest.approx(right / 3) for right in range(4)]
    assert entry["stderr"] >= 0


def test_a_task_that_is_not_there_is_named(folder, capsys):
    argv = ["evaluate", "--model", str(folder / "model"), "--harness", "no_such_task"]
    assert main([*argv, "--include_path", str(folder / "tasks")]) == 2
    assert "no task 'no_such_task'" in capsys.readouterr().err


@pytest.mark.parametrize("prelude", ["import foliogpt.modeling", "sys.modules['foliogpt'] = None"])
def test_the_harness_itself_loads_a_checkpoint_with_and_without_our_package(folder, prelude, tmp_path):
    trust = "sys.modules" in prelude
    code = f"""if True:
        import sys
        {prelude}
        from lm_eval.models.huggingface import HFLM
        model = HFLM(pretrained={str(folder / "model")!r}, device="cpu", trust_remote_code={trust})
        print(type(model.model).__module__)"""
    environment = {"PATH": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("transformers_modules" if trust else "foliogpt.modeling"), done.stdout
