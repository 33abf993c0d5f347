"""The model card of a fine-tuned checkpoint or adapter."""

import json

from ...jobs.report import CURVE_FILE, REPORT_FILE, amount

PIPELINES = {"lm": "text-generation", "classify": "text-classification", "tag": "token-classification",
             "qa": "question-answering"}  # fmt: skip
PEFT_CLASSES = {"lm": "AutoModelForCausalLM", "classify": "AutoModelForSequenceClassification",
                "tag": "AutoModelForTokenClassification", "qa": "AutoModelForQuestionAnswering"}  # fmt: skip


def finetuned_card(report: dict, merged: bool = False) -> str:
    """The README.md: what was adapted to what, how good it is, how to use it, and the command that made it.

    Args:
        merged: of the checkpoint that an adapter and its base were merged to.
    """
    metrics = "".join(f"    - type: {name}\n      value: {value:.4f}\n" for name, value in report["metrics"].items())
    table = "".join(f"| {name.replace('_', ' ')} | {value:.4f} |\n" for name, value in report["metrics"].items())
    is_adapter = report["method"] != "full" and not merged
    share = report["trainable_parameters"] / report["parameters"]
    trained = f"{report['trainable_parameters']:,} of {report['parameters']:,} parameters ({share:.2%})"
    code = "\n- custom_code" if report["custom_code"] and not is_adapter else ""
    return f"""---
library_name: {"peft" if is_adapter else "transformers"}
pipeline_tag: {PIPELINES[report["loads_as"]]}
base_model: {json.dumps(report["base_model"])}
tags:
- foliogpt
- {report["task"]}{code}
model-index:
- name: {json.dumps(report["name"])}
  results:
  - task:
      type: {PIPELINES[report["loads_as"]]}
    dataset:
      name: {json.dumps(report["data"])}
      type: text
      split: validation
    metrics:
{metrics}---

# {report["name"]}

`{report["base_model"]}`, fine-tuned with FolioGPT for `{report["task"]}` on `{report["data"]}` ({report["kind"]} data,
{report["train_examples"]:,} rows of it in training). Method `{report["method"]}`: {trained} were trained, in
{report["steps"]:,} steps of {report["precision"]}.

## How good it is

On {report["val_examples"]:,} held-out rows:

| | |
|---|---|
{table}
Training took {amount(round(report["seconds"]["training"]))} seconds on {report["machine"]}. It knows what its base knew
and what these examples show. Do not rely on what it says.

## Use

```python
{_usage(report, is_adapter)}
```

## Made by

```
{report["command"]}
```

transformers {report["versions"]["transformers"]}, torch {report["versions"]["torch"]}, seed {report["seed"]}.
The curve is in `{CURVE_FILE}`, every figure in `{REPORT_FILE}`.
"""


def _usage(report: dict, is_adapter: bool) -> str:
    here, base = json.dumps(report["output_dir"]), json.dumps(report["base_model"])
    trust = ", trust_remote_code=True" if report["custom_code"] else ""
    name = PEFT_CLASSES[report["loads_as"]]
    labels = f", num_labels={report['num_labels']}" if report["num_labels"] else ""
    load = f"model = {name}.from_pretrained({here}{trust})"
    if is_adapter:
        load = f"base = {name}.from_pretrained({base}{labels}{trust})\n"
        load += "base.resize_token_embeddings(len(tokenizer))\n" if report["resized"] else ""
        load += f"model = PeftModel.from_pretrained(base, {here})"
    peft = "from peft import PeftModel\n" if is_adapter else ""
    return f"""{peft}from transformers import AutoTokenizer, {name}

tokenizer = AutoTokenizer.from_pretrained({here})
{load}
{_call(report)}"""


def _call(report: dict) -> str:
    if report["loads_as"] == "lm" and report["task"] != "lm":
        prompt = json.dumps(report["prompt"], ensure_ascii=False)
        return f"""inputs = tokenizer.apply_chat_template(
    {prompt}, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
outputs = model.generate(**inputs, max_new_tokens=60)
print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
    text = json.dumps(report["prompt"] if isinstance(report["prompt"], str) else "A text", ensure_ascii=False)
    if report["loads_as"] == "lm":
        return f"""inputs = tokenizer({text}, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=60)[0], skip_special_tokens=True))"""
    return f"""print(model(**tokenizer({text}, return_tensors="pt")))"""
