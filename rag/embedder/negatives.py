"""Texts that do not answer a question and look as if they did: what a reranker learns the most from."""

import random

from .pair_ranking import by_words
from .pairs import Pair

NEAREST = 20  # texts that a hard negative is drawn from
NOTHING_TO_TELL_APART = (
    "No two of the pairs to learn from can stand beside each other, since their questions or texts are the same: give "
    "pairs with different ones."
)


def with_hard_negatives(pairs: list[Pair], chosen: list[Pair], count: int, seed: int) -> list[tuple[Pair, list[str]]]:
    """The `chosen` pairs with `count` wrong texts each: the pair's own negative, then texts near by words, then others.

    Wrong texts are of the pair's own kind, so that nothing but what they say tells them from the right one. A pair that
    has no wrong text is left out; ValueError if none has one.
    """
    right: dict[str, set[str]] = {}  # texts and sources that answer a question
    for pair in pairs:
        right.setdefault(pair.anchor, set()).update((pair.source, pair.positive))
    chance, found = random.Random(seed), []
    for kind in dict.fromkeys(pair.kind for pair in chosen):
        asked = [pair for pair in chosen if pair.kind == kind]
        of = {pair.positive: pair.source for pair in pairs if pair.kind == kind}
        texts = list({source: text for text, source in of.items()}.values())  # of each source one
        for pair, ranking in zip(asked, by_words([pair.anchor for pair in asked], texts, NEAREST), strict=True):
            known = right[pair.anchor]
            near = [texts[n] for n in ranking if known.isdisjoint((texts[n], of[texts[n]]))]
            wrong = [pair.negative] * bool(pair.negative) + chance.sample(near, min(count, len(near)))
            if len(wrong) < count:
                others = [text for text in texts if text not in wrong and known.isdisjoint((text, of[text]))]
                wrong += chance.sample(others, min(count - len(wrong), len(others)))
            if wrong:
                found.append((pair, [wrong[n % len(wrong)] for n in range(count)]))
    if not found:
        raise ValueError(NOTHING_TO_TELL_APART)
    return found
