"""Train a tokenizer and a GPT on the Python manual, and check that the checkpoint loads without FolioGPT.

If the extra rag is installed, a question is then answered from a part of the manual, with citations.

    folio quickstart
    folio quickstart --output_dir runs/quickstart --minutes 3 --seed 0 --overwrite
"""

import shlex
import tempfile
import textwrap
from dataclasses import dataclass

from ..jobs.options import option

PROMPTS = ["The for statement", "json.dumps(", "Return a list of"]
QUESTION = "How do I read a JSON file?"
MODULES = ("collections", "json", "tempfile", "textwrap")  # for the question: embedding all of the manual takes minutes


@dataclass
class QuickstartArguments:
    output_dir: str = option("runs/quickstart", "folder for the checkpoint")
    minutes: float = option(3.0, "minutes of training; the other steps take about one minute")
    seed: int = option(0, "random seed of weights, data order and samples")
    overwrite: bool = option(False, "replace the run in output_dir")


def main(argv: list[str]) -> None:
    import torch
    import transformers

    from ..checkpoints.clean_process import logits_in_clean_process
    from ..data.arguments import CorpusArguments
    from ..jobs.report import Stages, peak_memory_bytes, write_report
    from ..training.arguments import ModelArguments, PretrainingArguments
    from ..training.pretraining import pretrain
    from .arguments import command_line, parse

    (chosen,) = parse(argv, [QuickstartArguments], "folio quickstart", __doc__)
    args, stages = PretrainingArguments(**vars(chosen)), Stages()
    command = command_line("folio quickstart", argv)
    report = pretrain(CorpusArguments(), ModelArguments(), args, command=command, stages=stages)
    folder = report["output_dir"]

    transformers.set_seed(chosen.seed)
    generator = transformers.pipeline("text-generation", model=folder)
    with stages("samples") as say:
        samples = [generator(prompt, max_new_tokens=60)[0]["generated_text"] for prompt in PROMPTS]
        say(f"{len(samples)} from transformers.pipeline")
    with stages("reload") as say:
        ids = generator.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            here = generator.model.to("cpu")(ids).logits
        if not torch.equal(here, logits_in_clean_process(folder, ids)):
            raise RuntimeError("The reloaded checkpoint computes different logits: please report this.")
        report["reload_identical"] = True
        say("a process without foliogpt computes the same logits, bit for bit")
    with stages("question") as say:
        report["answer"] = ask_manual(say)
    report |= {"samples": samples, "seconds": stages.seconds, "peak_memory_bytes": peak_memory_bytes()}
    write_report(report, folder)
    print(summary(report))


def ask_manual(say) -> dict | None:
    """Answer the question from some modules of the manual; return None without the extra that it needs."""
    try:
        from ..jobs.extras import missing_extra
        from ..rag import Rag
        from ..rag.embedding import MINILM_PACKAGE, packaged_minilm
        from ..rag.readers import manual_documents

        if packaged_minilm() is None:  # otherwise it would be downloaded
            raise missing_extra("rag", "The default embedder", MINILM_PACKAGE)
        documents = [each for each in manual_documents() if each.title.partition(".")[0] in MODULES]
        with tempfile.TemporaryDirectory() as index, Rag.open(index) as rag:
            rag.sync(documents)
            answer = rag.answer(QUESTION)
    except (ImportError, OSError, RuntimeError) as error:  # the model is trained, its report not yet written
        say(f"left out. {' '.join(str(error).split())}")
        return None
    say(f"asked {len(documents)} documents of the manual, {', '.join(MODULES)}")
    citations = [{"document": each.document, "quote": each.quote} for each in answer.citations]
    return {"question": QUESTION, "text": answer.text, "citations": citations}


def summary(report: dict) -> str:
    """Return the metrics, the samples, and the next commands."""
    rates = {"this model": report["val_bits_per_byte"], **report["baseline_bits_per_byte"]}
    bars = "\n".join(f"  {name:<11}{bits:6.3f}  {'#' * round(bits * 20)}" for name, bits in rates.items())
    samples = "\n\n".join(textwrap.indent(sample.strip(), "> ", lambda line: True) for sample in report["samples"])
    answer = ""
    if found := report["answer"]:
        cited = "".join(f"[{number}] {each['document']}\n" for number, each in enumerate(found["citations"], 1))
        answer = f"{found['question']}\n{found['text']}\n{cited}\n"
    return f"""
Bits to store a byte of held-out text (less is better). The compressors are given the training text first;
zlib looks back at the last 32 kB of it, bz2 at 900 kB, xz at all of it:
{bars}

{report["parameters"]:,} parameters, loss {report["val_loss"]:.3f}, perplexity {report["val_perplexity"]:.1f}, \
{report["tokens_per_second"]:,.0f} tokens/s, {sum(report["seconds"].values()):.0f} s in total, \
peak memory {report["peak_memory_bytes"] / 1e9:.2f} GB

{samples}

{answer}The checkpoint, its loss curve and its model card are in {report["output_dir"]}. Next:
  folio generate --model {shlex.quote(report["output_dir"])} --prompt "The with statement"
  folio pretrain --corpus YOUR_TEXT_FILE_OR_FOLDER --output_dir runs/mine --minutes 10
  folio rag sync YOUR_TEXT_FILE_OR_FOLDER --index runs/index"""
