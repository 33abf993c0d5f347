"""A small GPT of one's own as a generator of cited answers: from raw text to figures, before and after fine-tuning.

    python -m benchmarks.answering
    python -m benchmarks.answering --model runs/long --rows 800 --questions 60

Known items of the manual are asked, with the sentences that are asked for taken out of it before anything else. Some of
the questions are learnt from, others are asked: half of them with passages among which the right one is, half without.
The model is 600 steps of `folio pretrain` with a context of 1,024 tokens, unless --model names one. The index is that
of `python -m benchmarks.embedder`; what is made is kept in --folder, where a second run goes on.
"""

import math
import random
from pathlib import Path

from foliogpt.checkpoints.loading import fit_embeddings, load_model
from foliogpt.evaluation.bootstrap import Metric, interval, ratio
from foliogpt.rag import Rag
from foliogpt.rag.answering import NO_ANSWER, Sentence, answer_messages
from foliogpt.rag.citations import MARK, SentenceSplitter, verified
from foliogpt.rag.generators import ExtractiveGenerator, LLMGenerator
from foliogpt.tokenization import chat_tokenizer, encode_chat

from .answering_rows import Exercise, exercises, write_answering_rows
from .embedder import FOLDER, MINILM_INDEX, manual, run, write_documents
from .tables import parser, show, write

CONTEXT = 1024
LONGEST_ANSWER = 80  # tokens


class Quoting:
    """The generator that needs no model."""

    def __init__(self, embedder) -> None:
        self.generator = ExtractiveGenerator(embedder)

    def __call__(self, exercise: Exercise) -> tuple[list[Sentence], int, bool]:
        found: list[Sentence] = []
        self.generator.write(exercise.question, exercise.passages, found.append)
        return found, len(found), not found


class Writing:
    """A causal language model, and what it wrote before its citations were looked up."""

    def __init__(self, path: Path) -> None:
        model, tokenizer = load_model(str(path))
        tokenizer, _ = chat_tokenizer(tokenizer)
        fit_embeddings(model, tokenizer)
        self.generator = LLMGenerator(model, tokenizer)

    def fits(self, messages: list[dict]) -> bool:
        ids = encode_chat(self.generator.chat.tokenizer, messages, add_generation_prompt=True)["input_ids"]
        return len(ids) <= self.generator.generator.context_length * 3 // 4  # the rest is for the answer

    def __call__(self, exercise: Exercise) -> tuple[list[Sentence], int, bool]:
        messages, pieces = answer_messages(exercise.question, exercise.passages), []
        choice, _ = self.generator.chat.answer(messages, do_sample=False, max_new_tokens=LONGEST_ANSWER)
        self.generator.generator.generate(choice, pieces.append)
        text, cut = "".join(pieces), SentenceSplitter()
        sentences = [verified(each, exercise.passages) for each in [*cut.push(text), *cut.flush()]]
        return sentences, len(MARK.findall(text)), text.strip() == NO_ANSWER


def measured(generate, asked: list[Exercise]) -> list[Metric]:
    """Measure the answers of a generator to exercises."""
    written, held, cited, right, refused, refused_wrongly = [], [], [], [], [], []
    for exercise in asked:
        sentences, marks, is_refusal = generate(exercise)
        citations = [citation for sentence in sentences for citation in sentence.citations]
        written.append(marks)
        held.append(len(citations))
        if exercise.right is None:
            refused.append(is_refusal)
            continue
        wanted = exercise.passages[exercise.right]
        cited.append(bool(citations))
        refused_wrongly.append(is_refusal)
        right.append(
            any(
                citation.document == wanted.document and wanted.start <= citation.start < wanted.end
                for citation in citations[:1]
            )
        )
    ones = [1.0] * len(cited)
    return [
        ratio("citations written that hold", held, written),
        ratio("answers with a citation that holds", cited, ones),
        ratio("first citation of the right passage", right, ones),
        ratio("refused, having the answer", refused_wrongly, ones, higher_is_better=False),
        ratio("refused, not having it", refused, [1.0] * len(refused)),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, default=FOLDER)
    options.add_argument("--model", type=Path, help="a checkpoint to begin with, of a context of 1,024 or so")
    options.add_argument("--rows", type=int, default=1600, help="questions to learn from")
    options.add_argument("--questions", type=int, default=200, help="to ask")
    chosen = options.parse_args()
    dataset, documents = manual(), chosen.folder / "documents.jsonl"
    write_documents(documents, dataset)
    base = chosen.model or chosen.folder / "base-of-long-context"
    if not (base / "config.json").exists():
        size = ["--block_size", str(CONTEXT), "--per_device_train_batch_size", "4", "--max_steps", "600"]
        run("pretrain", "--corpus", str(documents), *size, "--output_dir", str(base))
    questions = random.Random(0).sample(dataset.questions, len(dataset.questions))
    kept, learnt = questions[: chosen.questions], questions[chosen.questions :][: chosen.rows]
    before, answering, rows = Writing(base), chosen.folder / "answering", chosen.folder / "answering.jsonl"
    with Rag.open(chosen.folder / MINILM_INDEX) as rag:
        rag.sync(dataset.documents, prune=True)
        asked = list(exercises(rag, dataset, kept, before.fits, without_answer=0.5))
        if not (answering / "config.json").exists():
            write_answering_rows(rows, list(exercises(rag, dataset, learnt, before.fits)))
            method = ["--method", "full", "--learning_rate", "1e-3", "--num_train_epochs", "2"]
            run("finetune", "sft", "--model", str(base), "--data", str(rows), *method, "--output_dir", str(answering))
        generators = {"before": before, "after": Writing(answering), "quote": Quoting(rag._store.embedder)}
        found = []
        for name, generate in generators.items():
            found.append({"generator": name})
            for metric in measured(generate, asked):
                low, high = interval(metric) or (math.nan,) * 2  # of fewer than 6 questions there is none
                found[-1][metric.name] = f"{metric.value:.2f} [{low:.2f}, {high:.2f}]"
            print(found[-1], flush=True)
    having = sum(exercise.right is not None for exercise in asked)
    show("answers", found, f"{len(asked)} questions; {having} of them with the right passage.")
    write(chosen.json, {"answers": found})


if __name__ == "__main__":
    main()
