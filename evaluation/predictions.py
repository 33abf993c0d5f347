"""What fine-tuned heads say of texts: labels with probabilities, and answers found in a text."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.encoding import encode_question, encode_text

LONGEST_ANSWER = 30  # tokens


@torch.no_grad()
def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None = None
) -> list[dict[str, float]]:
    """The labels of each text with their probabilities, the likeliest first.

    Where a text may have several labels, each has a probability of its own; where the model predicts a number, that is
    what stands beside its one label. Texts are read one by one, as padding would cost more than batches win here.

    Args:
        max_length: tokens that are read of a text; by default as many as the model's context has.

    Raises:
        ValueError: if a text has no token.
    """
    labels = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    found = []
    for text in texts:
        ids = encode_text(tokenizer, text, max_length or context_length(model))
        if not ids:
            raise ValueError("A text is empty: give some text.")
        logits = model(torch.tensor([ids], device=model.device)).logits[0].float()
        if len(labels) == 1:
            scores = logits
        elif model.config.problem_type == "multi_label_classification":
            scores = logits.sigmoid()
        else:
            scores = logits.softmax(-1)
        found.append(dict(sorted(zip(labels, scores.tolist(), strict=True), key=lambda pair: -pair[1])))
    return found


@torch.no_grad()
def find_answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str, context: str
) -> tuple[int, int] | None:
    """Where in `context`, of any length, a model with a question-answering head finds the answer.

    Returns:
        Its first character and the one after its last; None if the model says that there is no answer.

    Raises:
        ValueError: if the question leaves no room for the context.
    """
    best, place, none = -torch.inf, None, torch.inf
    for ids, spans in encode_question(tokenizer, question, context, context_length(model) or len(context) + 1_000):
        output = model(torch.tensor([ids], device=model.device))
        starts, ends = output.start_logits[0].float(), output.end_logits[0].float()
        none = min(none, (starts[0] + ends[0]).item())
        inside = torch.tensor([end > start for start, end in spans], device=model.device)
        scores = starts[:, None] + ends  # (T, T)
        possible = inside[:, None] & inside & torch.ones_like(scores, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
        if not possible.any():
            continue
        first, last = divmod(scores.masked_fill(~possible, -torch.inf).argmax().item(), len(ids))
        if scores[first, last] > best:
            best, place = scores[first, last].item(), (spans[first][0], spans[last][1])
    return place if best > none else None


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens that the model reads at once, or None if there is no end."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
