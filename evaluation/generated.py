"""Evaluation of generated text, against the right answers, and as samples of the model's own."""

import copy
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from ..tokenization import encode_chat, encode_texts
from .answers import answer_metrics, overlap_metrics
from .bootstrap import Metric, mean, ratio
from .inference import Subject, continuations
from .results import Evaluation

NEW_TOKENS = 128
PROMPT_CHARACTERS, PASSAGE_CHARACTERS = 200, 2000  # samples continue the first ones of a passage
SAMPLES = 32
WIDTHS = 16, 8, 4, 2, 1  # of the n-grams that copies are looked up by; few places of unrelated texts share the longest


def evaluate_answers(
    subject: Subject, chats: list[list[dict]], references: list[list[str]] | None, options: dict[str, Any], seed: int
) -> Evaluation:
    """Measure what the model says as the last message of each chat: ROUGE and BLEU; of answers, exact match and F1.

    Decoding is greedy unless `options` of GenerationConfig say otherwise. A prompt that leaves no room for the answer
    loses its middle. `references` are the right answers to questions, several or none. Raises ValueError.
    """
    config = generation_options(subject.model, {"do_sample": False, **options})
    room = _room(subject, config)
    fitted = [_fitting_prompt(subject.tokenizer, chat[:-1], room) for chat in chats]
    cut = sum(shorter for _, shorter in fitted)
    new = continuations(subject.model, [ids for ids, _ in fitted], config, subject.batch_size, subject.progress, seed)
    predictions = [text.strip() for text in subject.tokenizer.batch_decode(new, skip_special_tokens=True)]
    notes = [f"{cut:,} of {len(chats):,} prompts lost their middle: they are longer than the context"] if cut else []
    task, right = "qa", references
    if right is None:
        task, right = "summarize", [str(chat[-1]["content"]) for chat in chats]
        metrics = overlap_metrics(right, predictions)
    else:
        metrics = answer_metrics(right, predictions)
    rows = [{"reference": true, "prediction": text} for true, text in zip(right, predictions, strict=True)]
    return Evaluation(task, metrics, len(chats), notes, {"predictions": rows})


def _room(subject: Subject, config: GenerationConfig, taken: int = 0) -> int:
    """Return how many tokens a prompt may have in addition to those `taken` and those that are generated."""
    room = subject.input_length(most=None) - config.max_new_tokens - taken
    if room < 1:
        raise ValueError(f"--max_new_tokens {config.max_new_tokens} leaves no room for a prompt: use a smaller one.")
    return room


def _fitting_prompt(tokenizer, chat: list[dict], room: int) -> tuple[list[int], bool]:
    """Return the ids of a chat up to the answer, and True if its last message had to lose something."""
    text = str(chat[-1]["content"])
    size = len(text)

    def encode(kept: int) -> list[int]:
        message = {**chat[-1], "content": text[: kept // 2] + text[size - kept + kept // 2 :]}
        return encode_chat(tokenizer, [*chat[:-1], message], add_generation_prompt=True)["input_ids"]

    if len(ids := encode(size)) <= room:
        return ids, False
    if len(encode(0)) > room:
        raise ValueError(f"A chat has more than {room} tokens before its last message: give shorter ones.")
    kept = bisect_left(range(size), True, key=lambda kept: len(encode(kept)) > room)  # the first that is too many
    return encode(kept - 1), True


def passages(texts: Sequence[str], count: int) -> list[str]:
    """Cut texts into passages and return at most `count` of them, from all over, each longer than a prompt."""
    size = PASSAGE_CHARACTERS
    pieces = [text[i : i + size] for text in texts for i in range(0, len(text) - PROMPT_CHARACTERS, size)]
    count = min(count, len(pieces))
    return [pieces[i * len(pieces) // count] for i in range(count)]


def evaluate_samples(
    subject: Subject, texts: Sequence[str], train_texts: Sequence[str], options: dict[str, Any], seed: int, count: int
) -> Evaluation:
    """Measure how varied, repetitive and copied the continuations are that the model writes for passages of texts.

    The true continuations are the baseline. There are `count` passages from all over `texts`; copies are searched for
    in `train_texts`. Raises ValueError if no text is longer than a prompt.
    """
    texts = passages(texts, count)
    if not texts:
        raise ValueError(f"No text is longer than a prompt of {PROMPT_CHARACTERS} characters: give longer ones.")
    config, tokenizer = generation_options(subject.model, options), subject.tokenizer
    prompts, following = [text[:PROMPT_CHARACTERS] for text in texts], [text[PROMPT_CHARACTERS:] for text in texts]
    start = tokenizer("")["input_ids"]
    room = _room(subject, config, len(start))
    inputs = [[*start, *ids[-room:]] for ids in encode_texts(tokenizer, prompts)]
    new = continuations(subject.model, inputs, config, subject.batch_size, subject.progress, seed)
    true = [ids[: config.max_new_tokens] for ids in encode_texts(tokenizer, following)]
    written, following = (tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (new, true))
    metrics, longest = _sample_metrics(new, written, train_texts)
    baseline, _ = _sample_metrics(true, following, train_texts)
    details: dict[str, Any] = {"longest_copy": longest} if train_texts else {}
    details["samples"] = [{"prompt": p, "sample": text} for p, text in zip(prompts, written, strict=True)]
    return Evaluation("samples", metrics, len(texts), details=details, baselines={"the texts themselves": baseline})


def _sample_metrics(
    samples: list[list[int]], written: list[str], train_texts: Sequence[str]
) -> tuple[list[Metric], str]:
    """Compute metrics of samples, given as ids and as texts, and find the longest text that one of them has copied."""
    metrics = [*(distinct(samples, n) for n in (1, 2, 3)), repetition(samples)]
    metrics.append(mean("tokens", [len(sample) for sample in samples], None))
    if not train_texts:
        return metrics, ""
    longest = longest_copies(written, train_texts)
    metrics.append(mean("copied_characters", list(map(len, longest)), higher_is_better=False))
    metrics.append(ratio("copied_characters_most", [max(map(len, longest))], [1], higher_is_better=False))
    return metrics, max(longest, key=len)


def distinct(samples: Sequence[Sequence], n: int) -> Metric:
    """Compute the share of different n-grams among those of all samples together (distinct-n, Li et al., 2016).

    It has no interval: a resample has samples twice, so fewer of its n-grams are different.
    """
    grams = [gram for sample in samples for gram in ngrams(sample, n)]
    return ratio(f"distinct_{n}", [len(set(grams))], [len(grams)], None)


def repetition(samples: Sequence[Sequence], n: int = 4) -> Metric:
    """Compute the mean share of a sample's n-grams that it has had before (seq-rep-n, Welleck et al., 2020)."""
    shares = []
    for sample in samples:
        grams = list(ngrams(sample, n))
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return mean(f"repetition_{n}", shares, higher_is_better=False)


def ngrams(sample: Sequence, n: int) -> Iterator[tuple]:
    return zip(*(sample[i:] for i in range(n)), strict=False)


def longest_copies(samples: Sequence[str], documents: Sequence[str]) -> list[str]:
    """Find the longest passage of each sample that a document contains word for word."""
    longest = [""] * len(samples)
    for width in WIDTHS:
        seeds: dict[str, set[int]] = {}  # the n-grams of samples without a copy so far, and which samples have them
        for index, sample in enumerate(samples):
            for i in range(0 if longest[index] else len(sample) - width + 1):
                seeds.setdefault(sample[i : i + width], set()).add(index)
        for document in documents if seeds else ():
            for place in range(len(document)):
                for index in seeds.get(document[place : place + width], ()):
                    size = len(longest[index])
                    while place + size < len(document) and document[place : place + size + 1] in samples[index]:
                        size += 1
                    longest[index] = max(longest[index], document[place : place + size], key=len)
    return longest


def generation_options(model: PreTrainedModel, options: dict[str, Any]) -> GenerationConfig:
    """Return the checkpoint's settings, changed by `options`; raises ValueError if transformers rejects them."""
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
