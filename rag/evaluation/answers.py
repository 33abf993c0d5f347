"""How good answers are: against those that a data set calls right, and beside two baselines.

One is the writer without any passage; the other has the right one, and shows what better retrieval could add at most.
"""

import re
from collections.abc import Callable, Sequence

from ...evaluation.answers import answer_metrics
from ...evaluation.bootstrap import Metric, mean, ratio
from ..answering import Citation, Passage, Sentence, Writer, answer
from ..retrieval import Retriever
from .datasets import Dataset, Question

FOUND, NOTHING, RIGHT = "passages found", "no passages", "the right passage"


def judge_answers(
    retriever: Retriever, dataset: Dataset, writer: Writer, mode: str, say: Callable[[str], None]
) -> dict[str, dict[str, Metric]]:
    """Ask all questions: metric -> what the writer was given -> figure.

    Exact match and F1 are SQuAD's, a refusal being an empty answer; they need a data set with answers.
    """
    catalog = retriever.store.catalog
    answered, valid, cited = [], [], []  # (number, of how many), for each question
    predictions: dict[str, list[str]] = {FOUND: [], NOTHING: [], RIGHT: []}
    has_answers = any(question.answers for question in dataset.questions)

    def written(question: Question, *passages: Passage) -> str:
        sentences: list[Sentence] = []
        writer.write(question.text, passages, sentences.append)
        return said(sentences)

    for number, question in enumerate(dataset.questions, 1):
        found = answer(retriever, question.text, writer, mode=mode)
        answered.append(not found.refused)
        cites = [(catalog.document(each.document).text[each.start : each.end], each.quote) for each in found.citations]
        valid.append((sum(text == quote for text, quote in cites), len(cites)))
        cited.append((sum(each.is_cited for each in found.sentences), len(found.sentences)))
        if has_answers:
            predictions[FOUND].append(said(found.sentences))
            predictions[NOTHING].append(written(question))
            name, section = next(iter(question.relevant))
            document = catalog.document(name)
            starts = [*dataset.sections.get(name, [0]), len(document.text)]
            right = Passage.of(document, starts[section], starts[section + 1])
            predictions[RIGHT].append(written(question, right))
        say(f"{number:,} of {len(dataset.questions):,} answers")
    figures: dict[str, dict[str, Metric]] = {}
    if has_answers:
        references = [question.answers for question in dataset.questions]
        for given, texts in predictions.items():
            for metric in answer_metrics(references, texts):
                figures.setdefault(metric.name, {})[given] = metric
    figures["answered"] = {FOUND: mean("answered", answered)}
    for name, counted in (("citations that hold", valid), ("sentences with a citation", cited)):
        if any(total for _, total in counted):  # of none, no share holds
            figures[name] = {FOUND: ratio(name, *zip(*counted, strict=True))}
    return figures


def said(sentences: Sequence[Sentence]) -> str:
    """What sentences say, without their citations; quotations alone if they say nothing else."""
    claims, quotations = [], []
    for sentence in sentences:
        for part, following in zip(sentence.parts, [*sentence.parts[1:], None], strict=True):
            if isinstance(part, str):
                is_quotation = part.lstrip().startswith('"') and isinstance(following, Citation)
                (quotations if is_quotation else claims).append(part.strip())
    return " ".join(claims if re.search(r"\w", "".join(claims)) else quotations)
