"""The lm-evaluation-harness runs on a checkpoint of ours, offline, with a task of one's own."""

import json
import os

import forks
import pytest
import torch

from foliogpt.modeling import FolioForCausalLM, preset_config
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


def test_a_custom_task_runs_by_the_command_of_the_harness(folder, tmp_path):
    given = f"pretrained={folder / 'model'},trust_remote_code=True"
    argv = ["--model", "hf", "--model_args", given, "--tasks", "rhymes", "--include_path", str(folder / "tasks")]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    program = ["import runpy; runpy.run_module('lm_eval', run_name='__main__', alter_sys=True)", *argv]
    done = forks.run(
        [*program, "--device", "cpu", "--output_path", str(tmp_path / "out")], env=environment, stranger=True
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").rglob("*.json")
    value = json.loads(file.read_text())["results"]["rhymes"]["acc,none"]
    assert value in [pytest.approx(right / 3) for right in range(4)]


@pytest.mark.parametrize("prelude", ["import foliogpt.modeling", "sys.modules['foliogpt'] = None"])
def test_the_harness_itself_loads_a_checkpoint_with_and_without_our_package(folder, prelude, tmp_path):
    trust = "sys.modules" in prelude
    code = f"""if True:
        import sys
        {prelude}
        from lm_eval.models.huggingface import HFLM
        model = HFLM(pretrained={str(folder / "model")!r}, device="cpu", trust_remote_code={trust})
        print(type(model.model).__module__)"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path)}
    done = forks.run([code], env=environment, stranger=trust)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("transformers_modules" if trust else "foliogpt.modeling"), done.stdout
