"""Writers of answers: one that quotes, which needs no model but the embedder, and any causal language model."""

import contextlib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .answering import NO_ANSWER, Citation, Passage, Sentence, answer_messages, join
from .citations import WHOLE_SENTENCE, Sentences, verified
from .embedding import Embedder
from .lexical import coverage
from .quotations import quotations, shown

QUOTES = 4  # at most
NEARLY_AS_GOOD = 0.8  # of the best quotation's score: what an answer still has
COVERAGE_WEIGHT = 0.15
THE_SAME = 0.8  # of the words of the shorter of two quotations: they say the same
MOST_SHORT = 3  # times that an answer may have the same sentence of a few words; it has no other twice
LONGEST_LOOP, FEWEST_LOOPING = 40, 24  # words: of what is repeated within a sentence, and of all repetitions


class QuoteWriter:
    """Answers with the quotations nearest to the question by the embedder and by words, without marks of Markdown."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def write(self, question: str, passages: Sequence[Passage], emit: Callable[[Sentence], None]) -> None:
        """Emit a sentence for each quotation, the best first."""
        found = [(passage, *quotation) for passage in join(passages) for quotation in quotations(passage)]
        if not found:
            return
        texts = [" ".join(shown(passage.text[slice(*span)]) for span in spans) for passage, _, spans in found]
        titled = [f"{each.title}\n{heading}\n{text}" for (each, heading, _), text in zip(found, texts, strict=True)]
        scores = COVERAGE_WEIGHT * np.array(coverage(question, titled))
        if self.embedder.reads(question):  # else cosines are chance
            scores += self.embedder.encode(titled) @ self.embedder.encode_query(question)
        least = scores.max() - (1 - NEARLY_AS_GOOD) * abs(scores.max())
        words = [set(text.lower().split()) for text in texts]
        chosen: list[int] = []
        for index in np.argsort(-scores, kind="stable"):
            if len(chosen) == QUOTES or scores[index] < least:
                break
            shared = [(len(words[index] & words[other]), min(len(words[index]), len(words[other]))) for other in chosen]
            if any(same >= THE_SAME * shorter for same, shorter in shared):
                continue
            chosen.append(index)
            passage, _, spans = found[index]
            parts: list[str | Citation] = []
            for before, span in zip(["\n", *" " * len(spans)], spans, strict=False):
                parts += [f'{before}"{shown(passage.text[slice(*span)])}" ', passage.citation(*span)]
            emit(Sentence(tuple(parts)))


class _Repetition(Exception):
    """The model says again what it has said, as small models do without end."""


def repeats(words: Sequence[str]) -> bool:
    """Whether a text ends in the same few words over and over: at least three times, and 24 words together."""
    sizes = range(1, min(LONGEST_LOOP, len(words) // 3) + 1)
    times = {size: max(3, -(-FEWEST_LOOPING // size)) for size in sizes}
    return any(words[-size * count :] == words[-size:] * count for size, count in times.items())


class ModelWriter(contextlib.AbstractContextManager):
    """Has a causal language model with a chat template, or its `TextGenerator`, answer; each sentence is checked.

    `options` are fields of transformers' `GenerationConfig`, and `seed`; unless they say otherwise, the likeliest token
    is taken each time, and a quarter of the context is kept for the answer.
    """

    def __init__(self, model, tokenizer, **options) -> None:
        from ..serving.chat import Chat
        from ..serving.generator import SAMPLING, TextGenerator
        from ..tokenization import encode_chat

        self.generator = model if isinstance(model, TextGenerator) else TextGenerator(model, tokenizer)
        self._choice = None
        self.chat = Chat(self.generator, tokenizer, encode_chat)
        self.options = options if SAMPLING & options.keys() else {"do_sample": False, **options}

    def write(self, question: str, passages: Sequence[Passage], emit: Callable[[Sentence], None]) -> None:
        """Emit each sentence when it is whole. Whatever `emit` raises ends the generation, as does a repetition."""
        sources = self.fitted(question, passages)
        choice, _ = self.chat.answer(answer_messages(question, sources), **self.options)
        self._choice, cut, before = choice, Sentences(), Counter()

        def say(texts: list[str]) -> None:
            for text in texts:
                before[words := tuple(text.split())] += 1
                if before[words] > (1 if len(words) >= WHOLE_SENTENCE else MOST_SHORT):
                    raise _Repetition
                sentence = verified(text, sources)
                said = "".join(part for part in sentence.parts if isinstance(part, str))
                # Without what does not count, nothing may be left, or no answer: neither is one.
                if sentence.citations or (re.search(r"\w", said) and said.strip() != NO_ANSWER):
                    emit(sentence)

        def hear(piece: str) -> None:
            say(cut.push(piece))
            if repeats(cut.text.split()):
                raise _Repetition

        with contextlib.suppress(_Repetition):
            self.generator.generate(choice, hear)
            say(cut.flush())

    def fitted(self, question: str, passages: Sequence[Passage]) -> list[Passage]:
        """As many of the passages, the best first, as have room in the model's context; the first one may be cut."""

        def has_no_room(chosen: Sequence[Passage]) -> bool:
            if (context := self.generator.context_length) is None:
                return False
            chat = answer_messages(question, join(chosen))
            ids = self.chat.encode_chat(self.chat.tokenizer, chat, add_generation_prompt=True)["input_ids"]
            return len(ids) > context - (self.options.get("max_new_tokens") or max(context // 4, 1))

        count = bisect_left(range(1, len(passages) + 1), True, key=lambda count: has_no_room(passages[:count]))
        if count or not passages:
            return join(passages[:count])
        best = passages[0]
        size = bisect_left(range(1, len(best.text)), True, key=lambda size: has_no_room([_cut(best, size)]))
        if not size:
            raise ValueError(
                f"The question leaves no room for a passage in the model's context of {self.generator.context_length} "
                "tokens: ask in fewer words, or give another --writer."
            )
        return [_cut(best, size)]

    def try_out(self) -> None:
        """Write one token, so that whatever is wrong with the options is raised now."""
        choice, _ = self.chat.answer([{"role": "user", "content": "a"}], **self.options)
        self.generator.try_out(choice)

    def stop(self) -> None:
        """End what is being written with its next token."""
        if self._choice is not None:
            self._choice.cancelled.set()

    def close(self) -> None:
        self.generator.close()

    def __exit__(self, *exception: object) -> None:
        self.close()


def _cut(passage: Passage, size: int) -> Passage:
    """The beginning of a passage, to the last whole word."""
    text = passage.text[:size]
    text = text[: text.rfind(" ")] if " " in text else text
    return replace(passage, end=passage.start + len(text), text=text)


def load_writer(name: str, **options) -> ModelWriter:
    """The writer that a checkpoint or an adapter is, by directory or Hub name; OSError or ValueError if it is none."""
    from ..checkpoints.loading import load_model

    return ModelWriter(*load_model(name), **options)
