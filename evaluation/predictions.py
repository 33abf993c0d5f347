"""What a classifier says of texts: labels with probabilities."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.loading import context_length
from ..data.encoding import encode_text
from .inference import head_logits


def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[dict[str, float]]:
    """The labels of each text with their probabilities, the likeliest first; raises ValueError for an empty text.

    If a text may have several labels, each has a probability of its own; a number that the model predicts stands beside
    its one label. Texts are read one by one, as padding would cost more than batches win, as far as the context goes.
    """
    labels = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    ids = [encode_text(tokenizer, text, context_length(model)) for text in texts]
    if not all(ids):
        raise ValueError("A text is empty: give some text.")
    found = []
    for logits in map(torch.from_numpy, head_logits(model, ids, batch_size=1)):
        if len(labels) == 1:
            scores = logits
        elif model.config.problem_type == "multi_label_classification":
            scores = logits.sigmoid()
        else:
            scores = logits.softmax(-1)
        found.append(dict(sorted(zip(labels, scores.tolist(), strict=True), key=lambda pair: -pair[1])))
    return found
