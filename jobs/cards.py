"""Model cards: what a checkpoint is, how good it is, how to use it, and the command that made it."""

import json

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .markdown import markdown_table
from .report import CURVE_FILE, REPORT_FILE, amount

PIPELINES = {"lm": "text-generation", "classify": "text-classification", "tag": "token-classification",
             "qa": "question-answering"}  # fmt: skip
AUTO_CLASSES = {"lm": "AutoModelForCausalLM", "classify": "AutoModelForSequenceClassification",
                "tag": "AutoModelForTokenClassification", "qa": "AutoModelForQuestionAnswering"}  # fmt: skip


def pretrained_card(report: dict) -> str:
    """Return the README.md of a pretrained checkpoint."""
    speed = report["tokens_per_second"]
    is_ours = report.get("custom_code", True)  # reports of earlier versions do not have it
    rows = [("this model", f"**{report['val_bits_per_byte']:.3f}**")]
    rows += [(f"{name}, given the training text", f"{x:.3f}") for name, x in report["baseline_bits_per_byte"].items()]
    base, fields = report.get("base_model"), report.get("fields", {})
    settings = "".join(f", {name} {value}" for name, value in fields.items())
    origin = f"the weights of `{base}`" if base else "scratch"
    text = f"{amount(report['train_documents'], 'documents')},\n{amount(report['train_bytes'], 'bytes')}"
    about = f"""\
A GPT of {report["parameters"]:,} parameters (preset `{report["preset"]}`, size `{report["size"]}`{settings}), trained
from {origin} with FolioGPT on `{report["corpus"]}`: {text}, {amount(report["steps"], "steps")},
{report["tokens"]:,} tokens in {report["precision"]}.
"""
    quality = f"""\
On {amount(report["val_documents"], "held-out documents")} ({report["val_bytes"]:,} bytes):

{markdown_table(["", "bits per byte"], rows)}

Loss {report["val_loss"]:.3f} nats per token, perplexity {report["val_perplexity"]:.1f}. The run took
{sum(report["seconds"].values()) / 60:.1f} minutes on {report["machine"]}.
It trained at {amount(speed and round(speed), "tokens")} per second.

It is a small model: it has the form of its training text and little of the knowledge. Do not rely on what it says."""
    usage = f"""\
```python
from transformers import pipeline

generator = pipeline("text-generation", {json.dumps(report["output_dir"])}{", trust_remote_code=True" * is_ours})
print(generator({json.dumps(report["prompt"])}, max_new_tokens=60)[0]["generated_text"])
```"""
    if is_ours:
        usage += """

`trust_remote_code=True` runs the checkpoint's Python files; with `foliogpt` installed and
`import foliogpt.modeling` it is not needed."""
    metrics = {name: report[f"val_{name}"] for name in ("perplexity", "bits_per_byte")}
    metadata = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["custom_code"] * is_ours}
    return _card(report, metadata, about, {"How good it is": quality, "Use": usage}, metrics)


def finetuned_card(report: dict, merged: bool = False) -> str:
    """Return the README.md of a fine-tuned checkpoint or adapter, or of the checkpoint that it was merged to."""
    is_adapter = report["method"] != "full" and not merged
    share = report["trainable_parameters"] / report["parameters"]
    trained = f"{report['trainable_parameters']:,} of {report['parameters']:,} parameters ({share:.2%})"
    rows = [(name.replace("_", " "), f"{value:.4f}") for name, value in report["metrics"].items()]
    about = f"""\
`{report["base_model"]}`, fine-tuned with FolioGPT for `{report["task"]}` on `{report["data"]}` ({report["kind"]} data,
{amount(report["train_examples"], "rows")} of it in training). Method `{report["method"]}`: {trained} were trained, in
{amount(report["steps"], "steps")} of {report["precision"]}."""
    quality = f"""\
On {amount(report["val_examples"], "held-out rows")}:

{markdown_table(["", ""], rows)}

Training took {round(report["seconds"]["training"]):,} seconds on {report["machine"]}. It knows what its base knew
and what these examples show. Do not rely on what it says."""
    pipeline = PIPELINES[report["loads_as"]]
    tags = [report["task"], *["custom_code"] * (report["custom_code"] and not is_adapter)]
    metadata = {"library_name": "peft" if is_adapter else "transformers", "pipeline_tag": pipeline, "tags": tags}
    usage = f"```python\n{_finetuned_usage(report, is_adapter)}\n```"
    return _card(report, metadata, about, {"How good it is": quality, "Use": usage}, report["metrics"])


def embedder_card(report: dict) -> str:
    """Return the README.md of an embedding model, or of a reranker, whose report has no `dimension`."""
    trust = ", trust_remote_code=True" * report["custom_code"]
    if report["dimension"]:
        about = f"""\
`{report["base_model"]}` as an embedding model: texts of up to {report["max_length"]:,} tokens become vectors of
{report["dimension"]} numbers, the nearer the more alike. Trained with FolioGPT on {report["train_pairs"]:,} pairs from
`{report["data"]}`, in {report["steps"]:,} steps, against the other texts of a batch."""
        note = """\
Recall@k is the share of questions that have their text among the first k; in brackets its 95 % interval. The pairs were
held out, and come from the same place as those it learned from: on other texts it will be worse."""
        call = 'model.similarity(model.encode_query("a question"), model.encode_document(["a text", "another"]))'
        heading, cls, pipeline = "How well it finds", "SentenceTransformer", "sentence-similarity"
        tags = ["sentence-transformers", "feature-extraction"]
    else:
        about = f"""\
`{report["base_model"]}` as a cross-encoder: it reads a question and a passage together, up to {report["max_length"]:,}
tokens, and gives one score. Trained with FolioGPT on pairs from `{report["data"]}`, in {report["steps"]:,} steps."""
        note = """\
`before` is the order of held-out texts by words (BM25), `after` the first ten of them in the order of the scores."""
        call = 'model.predict([("a question", "a text"), ("a question", "another")])'
        heading, cls, pipeline = "How well it ranks", "CrossEncoder", "text-ranking"
        tags = ["cross-encoder"]
    usage = f"""\
```python
from sentence_transformers import {cls}

model = {cls}({json.dumps(report["output_dir"])}{trust})
print({call})
```"""
    tags += ["custom_code"] * report["custom_code"]
    metadata = {"library_name": "sentence-transformers", "pipeline_tag": pipeline, "tags": tags}
    sections = {heading: f"{recall_table(report)}\n\n{note}", "Use": usage}
    return _card(report, metadata, about, sections)


def recall_table(report: dict) -> str:
    """Return an embedding model's metrics before and after training, and those of others on the same pairs."""
    names = dict.fromkeys(["before", "after", *report["metrics"]])
    rows = []
    for kind, sizes in report["held_out"].items():
        for name in names:
            cells = []
            for metric in report["metrics"][name][kind].values():
                bounds = metric["interval"]  # None for a single question
                cells.append(f"{metric['value']:.3f}" + (" [{:.3f}, {:.3f}]".format(*bounds) if bounds else ""))
            rows.append([f"{sizes['anchors']:,} {kind}s of {sizes['texts']:,} texts", name, *cells])
    return markdown_table(["asked by", "", "recall@1", "recall@10"], rows)


def _card(report: dict, metadata: dict, about: str, sections: dict[str, str], metrics: dict | None = None) -> str:
    """Join metadata, title, sections, and the command with the versions that it ran with; without metrics, no curve."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    curve = f"The curve is in `{CURVE_FILE}`, all" if metrics else "All"
    facts = f"{versions}, seed {report['seed']}.\n{curve} metrics in `{REPORT_FILE}`."
    made_by = f"```\n{report['command']}\n```\n\n{facts}"
    metadata["tags"] = ["foliogpt", *metadata["tags"]]
    if metrics:
        where = {"task_type": metadata["pipeline_tag"], "dataset_type": "text", "dataset_split": "validation"}
        where["dataset_name"] = report["corpus" if "corpus" in report else "data"]
        results = [EvalResult(**where, metric_type=name, metric_value=round(x, 4)) for name, x in metrics.items()]
        metadata |= {"model_name": report["name"], "eval_results": results}
    data = ModelCardData(base_model=report.get("base_model"), **metadata)
    parts = [f"---\n{data.to_yaml()}\n---", f"# {report['name']}", about.strip()]
    parts += [f"## {heading}\n\n{text}" for heading, text in {**sections, "Made by": made_by}.items()]
    return str(ModelCard("\n\n".join(parts) + "\n"))


def _finetuned_usage(report: dict, is_adapter: bool) -> str:
    here, base = json.dumps(report["output_dir"]), json.dumps(report["base_model"])
    trust = ", trust_remote_code=True" * report["custom_code"]
    name = AUTO_CLASSES[report["loads_as"]]
    labels = f", num_labels={report['num_labels']}" if report["num_labels"] else ""
    load = f"model = {name}.from_pretrained({here}{trust})"
    if is_adapter:
        load = f"base = {name}.from_pretrained({base}{labels}{trust})\n"
        load += "base.resize_token_embeddings(len(tokenizer))\n" if report["resized"] else ""
        load += f"model = PeftModel.from_pretrained(base, {here})"
    peft = "from peft import PeftModel\n" if is_adapter else ""
    prompt = json.dumps(report["prompt"] or "A text", ensure_ascii=False)
    inputs = f'tokenizer({prompt}, return_tensors="pt")'
    if report["loads_as"] == "lm" != report["task"]:
        options = 'add_generation_prompt=True, return_tensors="pt", return_dict=True'
        inputs = f"tokenizer.apply_chat_template(\n    {prompt}, {options}\n)"
    call = f"""inputs = {inputs}
outputs = model.generate(**inputs, max_new_tokens=60)
print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""
    return f"""{peft}from transformers import AutoTokenizer, {name}

tokenizer = AutoTokenizer.from_pretrained({here})
{load}
{call if report["loads_as"] == "lm" else f"print(model(**{inputs}))"}"""
