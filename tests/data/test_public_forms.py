"""Rows in the forms of public data sets, with texts of our own, are read whole and trained on."""

import json

import pytest
import torch

from foliogpt.data.arguments import DataArguments
from foliogpt.data.examples import prepare_examples
from foliogpt.jobs.report import Stages
from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.scripts.cli import main
from foliogpt.tokenization import chat_tokenizer, train_tokenizer


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def turns(*values):
    """ShareGPT's messages."""
    return [{"from": who, "value": value} for who, value in values]


TOOL = {"name": "now", "description": "the time", "parameters": {"type": "object", "properties": {}}}
CALL = json.dumps({"name": "now", "arguments": {"zone": "UTC"}})
# Form: task, the row of a number, what must be in what the model reads, and the columns that are not used.
FORMS = {
    "tatsu-lab/alpaca": (
        "sft",
        lambda n: {"instruction": f"add {n}", "input": "to 2", "output": "sum", "text": "Below is an instruction"},
        ["add 3\n\nto 2", "sum"],
        "text",
    ),
    "databricks/databricks-dolly-15k": (
        "sft",
        lambda n: {"instruction": f"add {n}", "context": "", "response": "sum", "category": "sums"},
        ["add 3", "sum"],
        "category",
    ),
    "LLaMA-Factory, alpaca with history": (
        "sft",
        lambda n: {"instruction": f"add {n}", "input": "", "output": "sum", "system": "be kind",
                   "history": [["first", "second"]]},
        ["be kind", "first", "second", "add 3", "sum"],
        "",
    ),
    "LLaMA-Factory, glaive_toolcall": (
        "sft",
        lambda n: {"conversations": turns(("human", f"time {n}"), ("function_call", CALL), ("observation", "noon"),
                                          ("gpt", "noon it is")), "tools": json.dumps([TOOL])},
        ["the time", "time 3", '<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}', "<tool_response>noon"],
        "",
    ),
    "HuggingFaceH4/ultrachat_200k": (
        "sft",
        lambda n: {"prompt": f"hi {n}", "prompt_id": "f0", "messages": [user(f"hi {n}"), said("hello")]},
        ["hi 3", "hello"],
        "prompt, prompt_id",
    ),
    "Open-Orca/OpenOrca": (
        "sft",
        lambda n: {"id": "niv.1", "system_prompt": "be kind", "question": f"hi {n}", "response": "hello"},
        ["be kind", "hi 3", "hello"],
        "id",
    ),
    "mlabonne/FineTome-100k": (
        "sft",
        lambda n: {"conversations": turns(("system", "be kind"), ("human", f"hi {n}"), ("gpt", "hello")),
                   "source": "web", "score": 4.9},
        ["be kind", "hi 3", "hello"],
        "source, score",
    ),
    "openai/gsm8k": (
        "sft", lambda n: {"question": f"one and {n}?", "answer": "4\n#### 4"}, ["one and 3?", "4\n#### 4"], "",
    ),
    "Salesforce/xlam-function-calling-60k, its answers renamed": (
        "sft",
        lambda n: {"id": n, "query": f"time {n}", "answer": f"[{CALL}]", "tools": json.dumps([TOOL])},
        ["the time", "time 3", f"[{CALL}]"],
        "id",
    ),
    "NousResearch/hermes-function-calling-v1": (
        "sft",
        lambda n: {"conversations": turns(("human", f"time {n}"), ("gpt", "<tool_call>x"), ("tool", "noon"),
                                          ("gpt", "noon it is")), "tools": json.dumps([TOOL]), "category": "c"},
        ["the time", "time 3", "<tool_call>x", "noon it is"],
        "category",
    ),
    "trl-internal-testing/zen, prompt and completion": (
        "sft", lambda n: {"prompt": [user(f"hi {n}")], "completion": [said("  hello")]}, ["hi 3", "  hello"], "",
    ),
    "OpenAI, with weights": (
        "sft",
        lambda n: {"messages": [user("first"), {**said("second"), "weight": 0}, user(f"hi {n}"), said("hello")]},
        ["first", "second", "hi 3", "hello"],
        "",
    ),
    "Anthropic/hh-rlhf": (
        "dpo",
        lambda n: {name: f"\n\nHuman: hi {n}\n\nAssistant: {answer}" for name, answer in
                   (("chosen", "hello"), ("rejected", "go"))},
        ["user\nhi 3<|im_end|>", "hello", "go"],
        "",
    ),
    "Intel/orca_dpo_pairs": (
        "dpo",
        lambda n: {"system": "be kind", "question": f"hi {n}", "chosen": "hello", "rejected": "go"},
        ["be kind", "hi 3", "hello", "go"],
        "",
    ),
    "HuggingFaceH4/ultrafeedback_binarized": (
        "dpo",
        lambda n: {"prompt": f"hi {n}", "chosen": [user(f"hi {n}"), said("hello")], "score_chosen": 8.0,
                   "rejected": [user(f"hi {n}"), said("go")], "messages": [user(f"hi {n}"), said("hello")]},
        ["hi 3", "hello", "go"],
        "score_chosen",
    ),
    "LLaMA-Factory, dpo_en_demo": (
        "dpo",
        lambda n: {"conversations": turns(("human", f"hi {n}")), "chosen": turns(("gpt", "hello"))[0],
                   "rejected": turns(("gpt", "go"))[0]},
        ["hi 3", "hello", "go"],
        "",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(["hi hello time noon add sum be kind"] * 3, 280, show_progress=False)
    config = preset_config(
        "folio", "nano", vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    FolioForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, chat_tokenizer(tokenizer)[0]


def write(tmp_path, make) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(make(n)) + "\n" for n in range(24)))
    return str(file)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_is_read_whole(base, tmp_path, caplog, form):
    task, make, read, unused = FORMS[form]
    _, tokenizer = base
    data = prepare_examples(DataArguments(task, write(tmp_path, make)), tokenizer, 512, Stages(silent=True))
    rows = [tokenizer.decode([id for ids in row.values() for id in ids if id >= 0]) for row in data.train]
    rows += [tokenizer.decode([id for ids in row.values() for id in ids if id >= 0]) for row in data.validation]
    assert len(rows) == 24
    assert any(all(text in row for text in read) for row in rows)
    assert [record.getMessage().split("columns ")[1] for record in caplog.records] == ([unused] if unused else [])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_two_steps_are_trained(base, tmp_path, form):
    task, make, *_ = FORMS[form]
    flags = ["--model", str(base[0]), "--data", write(tmp_path, make), "--output_dir", str(tmp_path / "run")]
    small = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--method", "full"]
    assert main(["finetune", task, *flags, *small]) == 0
    assert json.loads((tmp_path / "run" / "report.json").read_text())["steps"] == 2
