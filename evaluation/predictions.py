"""Labels of texts with their probabilities, as a classifier predicts them."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.loading import context_length
from ..data.encoding import encode_text
from .inference import head_logits


def check_single_label(model: PreTrainedModel) -> None:
    """Raise ValueError if a head predicts a number, or any number of labels at once."""
    config = model.config
    kind = "regression" if config.num_labels == 1 else config.problem_type
    if kind in ("regression", "multi_label_classification"):
        name = model.name_or_path or type(model).__name__
        raise ValueError(f"{name} is a model for {kind}: give a classifier that predicts one label per text.")


def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[dict[str, float]]:
    """Return the labels of each text with their probabilities, the most probable first.

    Texts are read one by one, as padding would cost more than batches win, and cut to the context. Raises ValueError
    for an empty text, or if the model predicts no single label.
    """
    check_single_label(model)
    labels = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    ids = [encode_text(tokenizer, text, context_length(model)) for text in texts]
    if not all(ids):
        raise ValueError("A text is empty: give some text.")
    scores = (torch.from_numpy(logits).softmax(-1).tolist() for logits in head_logits(model, ids, batch_size=1))
    return [dict(sorted(zip(labels, each, strict=True), key=lambda pair: -pair[1])) for each in scores]
