"""The labels of rows of each form are those of TRL's own trainers."""

import copy
import json
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from turns import encode_turns

from foliogpt.data.arguments import DataArguments
from foliogpt.data.encoding import encode_preference
from foliogpt.data.examples import prepare_examples
from foliogpt.data.formats import as_messages, load_examples
from foliogpt.jobs.report import Stages
from foliogpt.tokenization import chat_tokenizer, train_tokenizer
from foliogpt.tokenization.special_tokens import ChatEncoder

CODE = "    if x:\n        return 1\n\n"
UNMARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
CONTROL = {
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>", "<bos>"],
    "phi3": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "qwen2_5": [],
    "qwen3": ["<think>", "</think>"],
}
TOOL = {
    "type": "function",
    "function": {"name": "now", "description": "the time", "parameters": {"type": "object", "properties": {}}},
}


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


SYSTEM, ASKED, SAID, AGAIN, CODED = (
    {"role": "system", "content": "be kind"}, user("what is one?"), said(" two spaces before"), user("go on"),
    said(CODE),
)  # fmt: skip
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "now",
        "arguments": {}}}]}  # fmt: skip
TIMED = [ASKED, CALL, {"role": "tool", "name": "now", "content": "noon"}, said("It is noon.")]
# A row as it is in a public file, and the same in TRL's form.
SUPERVISED = {
    "messages": ({"messages": [SYSTEM, ASKED, SAID, AGAIN, CODED]},) * 2,
    "content in parts": (
        {"messages": [user([{"type": "text", "text": "what is "}, {"type": "text", "text": "one?"}]), SAID]},
        {"messages": [ASKED, SAID]},
    ),
    "a column of the system's words": (
        {"messages": [ASKED, SAID], "system": "be kind"},
        {"messages": [SYSTEM, ASKED, SAID]},
    ),
    "tools": ({"messages": TIMED, "tools": [TOOL]},) * 2,
    "tools as JSON": ({"messages": TIMED, "tools": json.dumps([TOOL])},) * 2,
    "weight 0": (
        {"messages": [ASKED, {**SAID, "weight": 0}, AGAIN, {**CODED, "weight": 1}]},
        {"prompt": [ASKED, SAID, AGAIN], "completion": [CODED]},
    ),
    "prompt and completion of messages": ({"prompt": [SYSTEM, ASKED, SAID, AGAIN], "completion": [CODED]},) * 2,
    "completion of several messages": ({"prompt": [ASKED], "completion": [SAID, AGAIN, CODED]},) * 2,
    "prompt and completion of texts": (
        {"prompt": "what is one?", "completion": CODE},
        {"prompt": [ASKED], "completion": [CODED]},
    ),
    "question and answer": (
        {"question": "what is one?", "answer": CODE},
        {"prompt": [ASKED], "completion": [CODED]},
    ),
    "OpenOrca": (
        {"id": "1", "system_prompt": "be kind", "question": "what is one?", "response": "x"},
        {"prompt": [SYSTEM, ASKED], "completion": [said("x")]},
    ),
    "Alpaca with its system and history": (
        {"instruction": "go", "input": "on", "output": "x", "system": "be kind", "history": [["what is one?", "two"]]},
        {"messages": [SYSTEM, ASKED, said("two"), user("go\n\non"), said("x")]},
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "Human", "value": "what is one?"}, {"from": "gpt", "value": CODE}],
            "system": "be kind",
        },
        {"messages": [SYSTEM, ASKED, CODED]},
    ),
    "ShareGPT with calls": (
        {
            "conversations": [
                {"from": "human", "value": "what is one?"},
                {"from": "function_call", "value": '{"name": "now", "arguments": {}}'},
                {"from": "observation", "value": "noon"},
                {"from": "gpt", "value": "It is noon."},
            ],
            "tools": json.dumps([TOOL]),
        },
        {"messages": TIMED, "tools": [TOOL]},
    ),
}
QUESTION, GOOD, BAD = [ASKED], [said(CODE)], [said("  no")]
PREFERRED = {
    "prompt and answers of messages": ({"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},) * 2,
    "prompt and several messages": (
        {"prompt": [SYSTEM, ASKED], "chosen": [SAID, AGAIN, CODED], "rejected": [SAID, AGAIN, said("no")]},
    )
    * 2,
    "prompt of text and several messages": (
        {"prompt": "what is one?", "chosen": [said("x"), AGAIN, CODED], "rejected": [said("y"), AGAIN, said("no")]},
        {"prompt": QUESTION, "chosen": [said("x"), AGAIN, CODED], "rejected": [said("y"), AGAIN, said("no")]},
    ),
    "chats": ({"chosen": QUESTION + GOOD, "rejected": QUESTION + BAD},) * 2,
    "chats that part early": (
        {"chosen": [ASKED, said("x"), AGAIN, CODED], "rejected": [ASKED, said("y"), AGAIN, SAID]},
    )
    * 2,
    "UltraFeedback": (
        {"prompt": "what is one?", "chosen": QUESTION + GOOD, "rejected": QUESTION + BAD, "score_chosen": 8.0},
        {"chosen": QUESTION + GOOD, "rejected": QUESTION + BAD},
    ),
    "Orca": (
        {"system": "be kind", "question": "what is one?", "chosen": CODE, "rejected": "  no"},
        {"prompt": [SYSTEM, *QUESTION], "chosen": GOOD, "rejected": BAD},
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "what is one?"}],
            "chosen": {"from": "gpt", "value": "x"},
            "rejected": {"from": "gpt", "value": "y"},
        },
        {"prompt": QUESTION, "chosen": [said("x")], "rejected": [said("y")]},
    ),
    "HH": (
        {"chosen": "\n\nHuman: what is one?\n\nAssistant: x", "rejected": "\n\nHuman: what is one?\n\nAssistant: y"},
        {"prompt": QUESTION, "chosen": [said("x")], "rejected": [said("y")]},
    ),
    "tools": (
        {"prompt": TIMED[:3], "chosen": TIMED[3:], "rejected": BAD, "tools": json.dumps([TOOL])},
        {"prompt": TIMED[:3], "chosen": TIMED[3:], "rejected": BAD, "tools": [TOOL]},
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    words = f"what is one? two spaces before system user assistant {CODE}"
    return chat_tokenizer(train_tokenizer([words + "\n\n\n  \n x\n\n  x\n"] * 9, 310, show_progress=False))[0]


@pytest.fixture(scope="module")
def model(tokenizer):
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer) + 9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                    intermediate_size=8)
    )  # fmt: skip


@pytest.fixture
def trained(model, tokenizer, tmp_path):
    """Encode rows with a trainer of TRL."""

    def prepare(rows: list[dict], tokenizer=tokenizer, dpo=False, marked=True) -> list[dict]:
        shared = {"output_dir": str(tmp_path / "trl"), "report_to": [], "bf16": False, "max_length": None}
        config = DPOConfig(**shared) if dpo else SFTConfig(**shared, assistant_only_loss=marked)
        reference = {"ref_model": copy.deepcopy(model)} if dpo else {}
        trainer = (DPOTrainer if dpo else SFTTrainer)(
            copy.deepcopy(model), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            **reference,
        )  # fmt: skip
        return list(trainer.train_dataset)

    return prepare


def read(tmp_path, row: dict, task: str) -> tuple[dict, str]:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (example,), kind = load_examples(str(tmp_path / "rows.jsonl"), task)
    return example, kind


def with_template(tokenizer, name: str):
    changed = copy.deepcopy(tokenizer)
    changed.add_special_tokens({"extra_special_tokens": CONTROL[name]})
    changed.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return changed


@pytest.mark.parametrize("form", SUPERVISED)
def test_supervised_rows_of_each_form(tokenizer, trained, tmp_path, form):
    row, theirs = SUPERVISED[form]
    example, kind = read(tmp_path, row, "sft")
    (expected,) = trained([theirs])
    found = encode_turns(tokenizer, as_messages(example, kind), example.get("tools"))
    assert found == {name: expected[name] for name in ("input_ids", "labels")}
    assert set(found["labels"]) > {-100}


@pytest.mark.parametrize("form", PREFERRED)
def test_preferences_of_each_form(tokenizer, trained, tmp_path, form):
    row, theirs = PREFERRED[form]
    example, _ = read(tmp_path, row, "dpo")
    (expected,) = trained([theirs], dpo=True)
    answers = {name: example[name] for name in ("prompt", "chosen", "rejected", "tools")}
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    assert encode_preference(ChatEncoder(tokenizer), **answers) == {name: expected[name] for name in names}


@pytest.mark.parametrize("answer", [CODE, "  x", "\n\nx", "\nx", "x", " ", "x\n"])
def test_a_template_that_marks_nothing(tokenizer, trained, monkeypatch, answer):
    monkeypatch.setattr(tokenizer, "chat_template", UNMARKED)
    (expected,) = trained([{"prompt": [SYSTEM, ASKED], "completion": [said(answer)]}], marked=False)
    found = encode_turns(tokenizer, [SYSTEM, ASKED, said(answer)])
    assert found == {name: expected[name] for name in ("input_ids", "labels")}


@pytest.mark.parametrize("name", CONTROL)
@pytest.mark.parametrize("count", [1, 2])
def test_templates_that_trl_knows(tokenizer, trained, name, count):
    changed = with_template(tokenizer, name)
    messages = [ASKED, SAID, AGAIN, CODED][: 2 * count]
    (expected,) = trained([{"messages": messages}], changed)
    assert encode_turns(changed, messages) == {name: expected[name] for name in ("input_ids", "labels")}


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("x \n\t.é"), min_size=1, max_size=6), st.sampled_from([UNMARKED, UNMARKED + "{# #}"]))
def test_no_character_of_an_answer_is_lost_to_the_prompt(tokenizer, answer, template):
    changed = copy.copy(tokenizer)
    changed.chat_template = template
    prompt = changed.apply_chat_template([ASKED], tokenize=False, add_generation_prompt=True)
    labels = encode_turns(changed, [ASKED, said(answer)])["labels"]
    learned = changed.decode([label for label in labels if label != -100], clean_up_tokenization_spaces=False)
    assert learned.endswith(f"{answer}<|im_end|>\n")
    assert f"\n{answer}<|im_end|>\n".endswith(learned)  # a newline of the prompt may be in the same token
    assert prompt.endswith("\n")
    pair = encode_preference(ChatEncoder(changed), [ASKED], [said(answer)], [said(f"{answer} no")])
    assert changed.decode(pair["prompt_ids"] + pair["chosen_ids"]) == f"{prompt}{answer}<|im_end|>\n"


def test_chat_labels_are_those_of_trl_from_file_to_batch(tokenizer, trained, tmp_path):
    rows = [{"messages": [user(f"number {i}"), said("  " * i + "x" * i)]} for i in range(1, 12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = DataArguments("sft", str(tmp_path / "rows.jsonl"))
    data = prepare_examples(args, tokenizer, 512, Stages(silent=True))
    found = sorted((row["input_ids"], row["labels"]) for part in (data.train, data.validation) for row in part)
    assert found == sorted((row["input_ids"], row["labels"]) for row in trained(rows))
    assert torch.is_tensor(data.collator(list(data.train))["labels"])
