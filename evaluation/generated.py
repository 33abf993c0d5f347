"""What a causal language model writes: beside the text that it should have been, and as samples of its own."""

import copy
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..tokenization import encode_chat, encode_texts
from .answers import answer_metrics
from .bootstrap import Metric, mean, ratio
from .inference import Said, continuations, input_length, nothing
from .overlap import overlap_metrics
from .results import Evaluation
from .samples import distinct, longest_copies, repetition

NEW_TOKENS = 128
PROMPT_CHARACTERS = 200  # of a passage, which samples go on from
PASSAGE = 2000  # characters
SAMPLES = 32


def evaluate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chats: Sequence[list[dict]],
    references: Sequence[Sequence[str]] | None = None,
    batch_size: int = 8,
    options: dict[str, Any] | None = None,
    said: Said = nothing,
    seed: int = 0,
) -> Evaluation:
    """ROUGE and BLEU of what the model says as the last message of each chat; of answers, exact match and F1.

    The likeliest tokens are taken unless `options` say something else. A prompt that leaves no room for the answer
    loses its middle: what is asked is at its beginning or its end.

    Args:
        chats: the last message of each is what the assistant should say.
        references: the right answers to questions, of which there may be several or none.
        options: fields of transformers' GenerationConfig.

    Raises:
        ValueError: if there is no chat, or no room for an answer.
    """
    config = generation_options(model, {"do_sample": False, **(options or {})})
    room = input_length(model) - config.max_new_tokens
    if room < 1:
        raise ValueError(f"--max_new_tokens {config.max_new_tokens} leaves no room for a prompt: use a smaller one.")
    prompts, cut = [], 0
    for chat in chats:
        ids, shorter = _fitting_prompt(tokenizer, chat[:-1], room)
        prompts.append(ids)
        cut += shorter
    new = continuations(model, prompts, config, batch_size, said, seed)
    predictions = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in new]
    notes = [f"{cut:,} of {len(chats):,} prompts lost their middle, for which the context has no room"] if cut else []
    if references is not None:
        metrics, right = answer_metrics(references, predictions), [list(answers) for answers in references]
    else:
        right = [str(chat[-1]["content"]) for chat in chats]
        metrics = overlap_metrics(right, predictions)
    rows = [{"reference": true, "prediction": written} for true, written in zip(right, predictions, strict=True)]
    task = "summarize" if references is None else "qa"
    return Evaluation(task, metrics, len(chats), notes, {"predictions": rows})


def _fitting_prompt(tokenizer, chat: list[dict], room: int) -> tuple[list[int], bool]:
    """Ids of a chat that wait for the answer, and whether its last message had to lose something."""

    def encode(kept: int) -> list[int]:
        text = str(chat[-1]["content"])
        shorter = text if kept >= len(text) else text[: kept // 2] + text[len(text) - kept + kept // 2 :]
        message = {**chat[-1], "content": shorter}
        return encode_chat(tokenizer, [*chat[:-1], message], add_generation_prompt=True)["input_ids"]

    size = len(str(chat[-1]["content"]))
    if len(ids := encode(size)) <= room:
        return ids, False
    if len(encode(0)) > room:
        raise ValueError(f"A chat has more than {room} tokens before its last message: give shorter ones.")
    kept = bisect_left(range(size), True, key=lambda kept: len(encode(kept)) > room)  # the first that is too many
    return encode(kept - 1), True


def passages(texts: Sequence[str], count: int) -> list[str]:
    """At most `count` pieces of texts, from all over them, each longer than a prompt."""
    pieces = [text[i : i + PASSAGE] for text in texts for i in range(0, len(text), PASSAGE)]
    pieces = [piece for piece in pieces if len(piece) > PROMPT_CHARACTERS]
    count = min(count, len(pieces))
    return [pieces[i * len(pieces) // count] for i in range(count)]


def evaluate_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    train_texts: Sequence[str] = (),
    batch_size: int = 8,
    options: dict[str, Any] | None = None,
    said: Said = nothing,
    seed: int = 0,
    count: int = SAMPLES,
) -> Evaluation:
    """How varied, how repetitive and how copied is what the model writes after the beginnings of texts.

    As a yardstick, the same figures of how the texts themselves go on.

    Args:
        texts: what is like the prompts; passages from all over them are taken.
        train_texts: what the model may have copied from.
        options: fields of transformers' GenerationConfig; by default the checkpoint's own.
        count: how many samples.

    Raises:
        ValueError: if no text goes on after a prompt.
    """
    texts = passages(texts, count)
    if not texts:
        raise ValueError(
            f"No text has more than {PROMPT_CHARACTERS} characters, which are the prompt: give longer ones."
        )
    config = generation_options(model, options or {})
    prompts = encode_texts(tokenizer, [text[:PROMPT_CHARACTERS] for text in texts])
    start = tokenizer("")["input_ids"]
    room = input_length(model) - config.max_new_tokens - len(start)
    if room < 1:
        raise ValueError(f"--max_new_tokens {config.max_new_tokens} leaves no room for a prompt: use a smaller one.")
    new = continuations(model, [[*start, *ids[-room:]] for ids in prompts], config, batch_size, said, seed)
    true = [ids[: config.max_new_tokens] for ids in encode_texts(tokenizer, [t[PROMPT_CHARACTERS:] for t in texts])]
    written = [tokenizer.decode(ids, skip_special_tokens=True) for ids in new]
    true_text = [tokenizer.decode(ids, skip_special_tokens=True) for ids in true]
    corpus = Copies(tokenizer, train_texts)
    evaluation = Evaluation("samples", corpus.metrics(new, written), len(texts))
    evaluation.baselines = {"the texts themselves": corpus.metrics(true, true_text)}
    evaluation.details = {
        "samples": [{"prompt": t[:PROMPT_CHARACTERS], "sample": w} for t, w in zip(texts, written, strict=True)]
    }
    if train_texts:
        evaluation.details["longest_copy"] = corpus.longest(written)
    return evaluation


class Copies:
    """The training texts, to look for what was copied from them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]):
        self.texts = texts
        self.ids = encode_texts(tokenizer, list(texts))

    def metrics(self, samples: list[list[int]], written: list[str]) -> list[Metric]:
        metrics = [distinct(samples, 1), distinct(samples, 2), distinct(samples, 3), repetition(samples)]
        metrics.append(mean("tokens", [len(sample) for sample in samples], None))
        if self.texts:
            for unit, copies in (("characters", self.characters(written)), ("tokens", self.tokens(samples))):
                lengths = [length for _, length in copies]
                metrics.append(mean(f"copied_{unit}", lengths, higher_is_better=False))
                metrics.append(ratio(f"copied_{unit}_most", [max(lengths)], [1], higher_is_better=False))
        return metrics

    def tokens(self, samples: list[list[int]]) -> list[tuple[int, int]]:
        return longest_copies(samples, self.ids)

    def characters(self, written: list[str]) -> list[tuple[int, int]]:
        return longest_copies([_code_points(text) for text in written], (_code_points(text) for text in self.texts))

    def longest(self, written: list[str]) -> str:
        """The longest copy of all, as text."""
        (begin, length), text = max(zip(self.characters(written), written, strict=True), key=lambda one: one[0][1])
        return text[begin : begin + length]


def _code_points(text: str) -> list[int]:
    return list(map(ord, text))


def generation_options(model: PreTrainedModel, options: dict[str, Any]) -> GenerationConfig:
    """The checkpoint's own settings, changed by `options`.

    Raises:
        ValueError: for an option that transformers refuses.
    """
    config = copy.deepcopy(model.generation_config)
    config.update(max_length=None, max_new_tokens=NEW_TOKENS, return_dict_in_generate=False, num_return_sequences=1)
    if options.get("do_sample") is False:
        config.update(temperature=None, top_p=None, top_k=None, min_p=None)
    config.update(**options)
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = (eos[0] if isinstance(eos, list) else eos) or 0
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise ValueError(f"{' '.join(str(error).split())} (check the options of generation)") from None
    return config
