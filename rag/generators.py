"""Generators of answers: one that quotes, with the embedding model alone, and any causal language model."""

import contextlib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .answering import NO_ANSWER, Citation, Passage, Sentence, answer_messages, merge_adjacent
from .citations import WHOLE_SENTENCE, SentenceSplitter, verified
from .embedding import Embedder
from .lexical import coverage
from .quotations import quotations, shown

MAX_QUOTES = 4
MIN_RELATIVE_SCORE = 0.8  # of a quotation, compared with the best one
COVERAGE_WEIGHT = 0.15
DUPLICATE_OVERLAP = 0.8  # share of the shorter quotation's words from which on another is a duplicate
MAX_SHORT_REPEATS = 3  # of a sentence of a few words; a longer one ends the answer when it is repeated
MAX_LOOP_WORDS, MIN_LOOPING_WORDS = 40, 24  # of a phrase repeated within a sentence, and of all its repetitions


class ExtractiveGenerator:
    """A generator that quotes the sentences nearest to the question by vectors and by words, without Markdown marks."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def write(self, question: str, passages: Sequence[Passage], emit: Callable[[Sentence], None]) -> None:
        found = [(passage, *quotation) for passage in merge_adjacent(passages) for quotation in quotations(passage)]
        if not found:
            return
        texts = [" ".join(shown(passage.text[slice(*span)]) for span in spans) for passage, _, spans in found]
        titled = [f"{each.title}\n{heading}\n{text}" for (each, heading, _), text in zip(found, texts, strict=True)]
        scores = COVERAGE_WEIGHT * np.array(coverage(question, titled))
        if self.embedder.reads(question):  # otherwise cosines are random
            scores += self.embedder.encode(titled) @ self.embedder.encode_query(question)
        least = scores.max() - (1 - MIN_RELATIVE_SCORE) * abs(scores.max())
        words = [set(text.lower().split()) for text in texts]
        chosen: list[int] = []
        for index in np.argsort(-scores, kind="stable"):
            if len(chosen) == MAX_QUOTES or scores[index] < least:
                break
            shared = [(len(words[index] & words[other]), min(len(words[index]), len(words[other]))) for other in chosen]
            if any(same >= DUPLICATE_OVERLAP * shorter for same, shorter in shared):
                continue
            chosen.append(index)
            passage, _, spans = found[index]
            parts: list[str | Citation] = []
            for before, span in zip(["\n", *" " * len(spans)], spans, strict=False):
                parts += [f'{before}"{shown(passage.text[slice(*span)])}" ', passage.citation(*span)]
            emit(Sentence(tuple(parts)))


class _RepetitionError(Exception):
    """A repetition in a model's answer, which small models continue without end."""


def repeats(words: Sequence[str]) -> bool:
    """Return True if a text ends in a phrase repeated at least three times, 24 words together."""
    sizes = range(1, min(MAX_LOOP_WORDS, len(words) // 3) + 1)
    times = {size: max(3, -(-MIN_LOOPING_WORDS // size)) for size in sizes}
    return any(words[-size * count :] == words[-size:] * count for size, count in times.items())


class LLMGenerator(contextlib.AbstractContextManager):
    """A causal language model with a chat template, or its `TextGenerator`, that answers. Each citation is verified.

    `options` are fields of transformers' `GenerationConfig`, and `seed`. By default, decoding is greedy, and a quarter
    of the context is kept for the answer.
    """

    def __init__(self, model, tokenizer, **options) -> None:
        from ..serving.chat import Chat
        from ..serving.generator import SAMPLING, TextGenerator
        from ..tokenization import encode_chat

        self.generator = model if isinstance(model, TextGenerator) else TextGenerator(model, tokenizer)
        self.choice, self.is_stopped = None, False
        self.chat = Chat(self.generator, tokenizer, encode_chat)
        self.options = options if SAMPLING & options.keys() else {"do_sample": False, **options}

    def write(self, question: str, passages: Sequence[Passage], emit: Callable[[Sentence], None]) -> None:
        """Emit each complete sentence. An exception of `emit` or a repetition ends the generation."""
        sources = self.fitted(question, passages)
        choice, _ = self.chat.answer(answer_messages(question, sources), **self.options)
        self.choice, splitter, counts = choice, SentenceSplitter(), Counter()
        if self.is_stopped:
            choice.cancelled.set()

        def emit_verified(texts: list[str]) -> None:
            for text in texts:
                counts[words := tuple(text.split())] += 1
                if counts[words] > (1 if len(words) >= WHOLE_SENTENCE else MAX_SHORT_REPEATS):
                    raise _RepetitionError
                sentence = verified(text, sources)
                claim = "".join(part for part in sentence.parts if isinstance(part, str))
                # A sentence without words, or NO_ANSWER, may be left after dropping invalid citations.
                if sentence.citations or (re.search(r"\w", claim) and claim.strip() != NO_ANSWER):
                    emit(sentence)

        def receive(piece: str) -> None:
            emit_verified(splitter.push(piece))
            if repeats(splitter.text.split()):
                raise _RepetitionError

        with contextlib.suppress(_RepetitionError):
            self.generator.generate(choice, receive)
            emit_verified(splitter.flush())

    def fitted(self, question: str, passages: Sequence[Passage]) -> list[Passage]:
        """Return as many of the best passages as the model's context has room for; the first one may be cut."""

        def has_no_room(chosen: Sequence[Passage]) -> bool:
            if (context := self.generator.context_length) is None:
                return False
            chat = answer_messages(question, merge_adjacent(chosen))
            ids = self.chat.encode_chat(self.chat.tokenizer, chat, add_generation_prompt=True)["input_ids"]
            return len(ids) > context - (self.options.get("max_new_tokens") or max(context // 4, 1))

        count = bisect_left(range(1, len(passages) + 1), True, key=lambda count: has_no_room(passages[:count]))
        if count or not passages:
            return merge_adjacent(passages[:count])
        best = passages[0]
        size = bisect_left(range(1, len(best.text)), True, key=lambda size: has_no_room([_cut(best, size)]))
        if not size:
            context = f"the model's context of {self.generator.context_length} tokens"
            raise ValueError(f"The question leaves no room for a passage in {context}: ask in fewer words.")
        return [_cut(best, size)]

    def try_out(self) -> None:
        """Generate one token, so that errors in the options are raised now."""
        choice, _ = self.chat.answer([{"role": "user", "content": "a"}], **self.options)
        self.generator.try_out(choice)

    def stop(self) -> None:
        """End the current answer at its next token, and later ones before their first."""
        self.is_stopped = True
        if self.choice is not None:
            self.choice.cancelled.set()

    def __exit__(self, *exception: object) -> None:
        self.generator.close()


def _cut(passage: Passage, size: int) -> Passage:
    text = passage.text[:size]
    text = text[: text.rfind(" ")] if " " in text else text
    return replace(passage, end=passage.start + len(text), text=text)


def load_generator(name: str, **options) -> LLMGenerator:
    """Load a checkpoint or adapter by directory or Hub name; OSError or ValueError if it is no causal model."""
    from ..checkpoints.loading import load_model

    return LLMGenerator(*load_model(name), **options)
