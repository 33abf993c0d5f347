"""WordPiece from scratch: pieces learned by likelihood, and words cut into the longest pieces first, as BERT does.

Schuster and Nakajima (2012) add the piece that raises the likelihood of the text most. Their program was never
published. It is usually read, also here, as the adjacent pair with the largest count(ab) / (count(a) * count(b)). The
`WordPieceTrainer` of the `tokenizers` library merges the most frequent pair instead, as BPE does, and only writes the
result with `##`. Texts are cut exactly as that library cuts them with the same vocabulary (Devlin et al., 2019).
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tokenizers import normalizers, pre_tokenizers

from .tokenizer_json import ScratchTokenizer, check_filled, check_room, check_unicode, tokenizer_json

UNKNOWN = "[UNK]"
PREFIX = "##"  # of a piece that continues a word
SPECIAL_TOKENS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100
CACHED_WORDS = 100_000
# The library's decoder writes these without the space before them.
CLEANUP = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")

PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()

Pair = tuple[int, int]


class WordPieceTokenizer(ScratchTokenizer):
    """A WordPiece tokenizer: a vocabulary of beginnings of words, and of `##` pieces that continue them.

    >>> tokenizer = WordPieceTokenizer.train(["low lower lowest"] * 9, vocab_size=17)
    >>> tokenizer.decode(tokenizer.encode("Lowest low"))
    'lowest low'
    """

    def __init__(self, vocab: dict[str, int], lowercase: bool = True, special_tokens: Iterable[str] = SPECIAL_TOKENS):
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise ValueError("ids are not 0, 1, 2, ... without a gap or a repetition")
        self.vocab, self.lowercase, self.special = vocab, lowercase, list(dict.fromkeys(special_tokens))
        for token in (UNKNOWN, *self.special):
            if token not in vocab:
                raise ValueError(f"the special token {token!r} is not in the vocabulary")
        for token in vocab:
            check_unicode(token, f"The token {token!r}")
        self.tokens = sorted(vocab, key=vocab.__getitem__)
        self._longest = max(map(len, vocab))
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, lowercase=True, special_tokens: Iterable[str] = SPECIAL_TOKENS
    ) -> "WordPieceTokenizer":
        """Learn pieces from documents (Schuster and Nakajima, 2012).

        Scores are compared exactly. Of pairs with equal scores the more frequent comes first, then the one with the
        smaller ids, first of the left and then of the right piece, so the result depends only on the texts. These are
        read once; words over 100 characters, which are encoded as `[UNK]` anyway, are skipped.

        `vocab_size` counts special tokens, `[UNK]` among them, then each character as it begins or continues a word,
        sorted, then a piece for each merge. `lowercase` also strips accents, as BERT does. Raises ValueError if
        `vocab_size` does not fit, or a text is not valid Unicode.
        """
        special = list(dict.fromkeys(special_tokens))
        if UNKNOWN not in special:
            raise ValueError(f"special_tokens must hold {UNKNOWN!r}, got {special}")
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(text, lowercase))
        short = [word for word in counts if len(word) <= LONGEST_WORD]
        spelled = {word: [word[0], *(PREFIX + character for character in word[1:])] for word in short}
        alphabet = {symbol for word in spelled.values() for symbol in word}
        tokens = [*special, *sorted(alphabet - set(special))]
        symbols = len(tokens) - len(special)
        check_room(vocab_size, len(special), symbols, "characters of the text (one may count twice)")
        ids = {token: id for id, token in enumerate(tokens)}
        words = [[ids[symbol] for symbol in word] for word in spelled.values()]
        _learn(words, [counts[word] for word in spelled], tokens, vocab_size)
        check_filled(len(tokens), vocab_size)
        return cls({token: id for id, token in enumerate(tokens)}, lowercase, special)

    def encode(self, text: str) -> list[int]:
        """Encode a text without `[CLS]` and `[SEP]`; special tokens are text. Raises ValueError for lone surrogates."""
        return [id for word in split_words(text, self.lowercase) for id in self._encode_word(word)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, with special tokens, without spaces before `.?!,`; ValueError for unknown ids."""
        text = []
        for id in ids:
            if not 0 <= id < len(self):
                raise ValueError(f"There is no token {id}: ids go from 0 to {len(self) - 1}.")
            token = self.tokens[id]
            if text:
                token = token[len(PREFIX) :] if token.startswith(PREFIX) else f" {token}"
            text.append(token[1:] if token.startswith(CLEANUP) else token)
        return "".join(text)

    def _encode_word(self, word: str) -> list[int]:
        if (ids := self._cache.get(word)) is None:
            ids = self._longest_matches(word) if len(word) <= LONGEST_WORD else [self.vocab[UNKNOWN]]
            if len(self._cache) < CACHED_WORDS:
                self._cache[word] = ids
        return ids

    def _longest_matches(self, word: str) -> list[int]:
        ids, start = [], 0
        while start < len(word):
            prefix = PREFIX if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                if (id := self.vocab.get(prefix + word[start:end])) is not None:
                    break
            else:
                return [self.vocab[UNKNOWN]]  # one gap makes the whole word unknown
            ids.append(id)
            start = end
        return ids

    def to_dict(self) -> dict:
        """Return the content of a `tokenizer.json`; with it the library, unlike this, finds special tokens in texts."""
        special = {token: self.vocab[token] for token in sorted(self.special, key=self.vocab.__getitem__)}
        model = {
            "type": "WordPiece", "unk_token": UNKNOWN, "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": LONGEST_WORD, "vocab": {token: id for id, token in enumerate(self.tokens)},
        }  # fmt: skip
        cleaning = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
        normalizer = {"type": "BertNormalizer", **cleaning, "lowercase": self.lowercase}
        decoder = {"type": "WordPiece", "prefix": PREFIX, "cleanup": True}
        return tokenizer_json(special, model, {"type": "BertPreTokenizer"}, decoder, normalizer)

    @classmethod
    def _from_dict(cls, data: dict) -> "WordPieceTokenizer":
        normalizer, vocab = data["normalizer"], data["model"]["vocab"]
        lowercase = normalizer["lowercase"]
        if normalizer.get("strip_accents") not in (None, lowercase):
            raise ValueError(f"accents are stripped with lowercasing or not at all, not by {normalizer}")
        if not isinstance(lowercase, bool):
            raise ValueError(f"normalizer.lowercase is {lowercase!r}, not true or false")
        if not isinstance(vocab, dict) or any(type(id) is not int for id in vocab.values()):
            raise ValueError("model.vocab does not map tokens to whole numbers")
        for added in data["added_tokens"]:
            if not added["special"] or vocab.get(added["content"]) != added["id"]:
                raise ValueError(f"the added token {added['content']!r} is not a special token of the vocabulary")
        tokenizer = cls(vocab, lowercase, [added["content"] for added in data["added_tokens"]])
        expected = tokenizer.to_dict()
        normalizer["strip_accents"] = None
        for name in ("model", "normalizer", "pre_tokenizer", "decoder", "truncation", "padding"):
            if data[name] != expected[name]:
                expected["model"]["vocab"] = "..."
                raise ValueError(f"its {name} is not {expected[name]}")
        return tokenizer


def split_words(text: str, lowercase: bool = True) -> list[str]:
    """Cut a text as BERT does: at whitespace, around punctuation marks, and around Chinese characters.

    The `tokenizers` library does it, as a vocabulary depends on its tables of characters. Control characters and U+FFFD
    are removed; `lowercase` also strips accents (Devlin et al., 2019).
    """
    check_unicode(text, "The text")
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    return [word for word, _ in PRE_TOKENIZER.pre_tokenize_str(normalizer.normalize_str(text))]


def _learn(words: list[list[int]], counts: list[int], tokens: list[str], vocab_size: int) -> None:
    """Merge the pair with the best score until there are `vocab_size` tokens, which are appended to `tokens`.

    A merge changes the score of every pair with one of its pieces, up or down. So each of those pairs is pushed again,
    and an entry of the heap is valid only if its score and count are still those of its pair.
    """
    ids = {token: id for id, token in enumerate(tokens)}
    state = _Counts(words, counts)
    heap = [state.entry(pair) for pair in state.pairs]
    heapq.heapify(heap)
    while len(tokens) < vocab_size and heap:
        entry = heapq.heappop(heap)
        pair = entry[2]
        if pair not in state.pairs or entry != state.entry(pair):
            continue
        token = tokens[pair[0]] + tokens[pair[1]][len(PREFIX) :]
        if token not in ids:  # a piece may come together in two ways
            ids[token] = len(tokens)
            tokens.append(token)
        for changed in state.merge(pair, ids[token]):
            heapq.heappush(heap, state.entry(changed))
        if len(heap) > 4 * len(state.pairs) + 1000:  # mostly stale
            heap = [state.entry(pair) for pair in state.pairs]
            heapq.heapify(heap)


class _Counts:
    """The counts of pieces and of adjacent pairs, and the words in which they occur."""

    def __init__(self, words: list[list[int]], counts: list[int]):
        self.words, self.counts = words, counts
        self.pieces: Counter[int] = Counter()
        self.pairs: Counter[Pair] = Counter()
        self.where: dict[Pair, set[int]] = {}  # may hold words that have lost the pair since
        self.pairs_with: dict[int, set[Pair]] = {}
        for index in range(len(words)):
            self._count(index, 1)
        # Two scores that differ do so by at least 1 / total**4, as no count exceeds the total. After this many
        # binary places their whole parts differ, so integers are compared instead of fractions.
        self.places = 4 * self.pieces.total().bit_length()

    def entry(self, pair: Pair) -> tuple[int, int, Pair]:
        """Return the key by which the heap sorts pairs, the best first."""
        count = self.pairs[pair]
        return -((count << self.places) // (self.pieces[pair[0]] * self.pieces[pair[1]])), -count, pair

    def merge(self, pair: Pair, new: int) -> set[Pair]:
        """Merge a pair in all words, and return the pairs that may have another score now."""
        for index in self.where[pair]:
            if pair in pairwise(self.words[index]):
                self._count(index, -1)
                self.words[index] = _merge_word(self.words[index], pair, new)
                self._count(index, 1)
        changed = self.pairs_with[pair[0]] | self.pairs_with[pair[1]] | self.pairs_with.get(new, set())
        gone = {each for each in changed if not self.pairs[each]}
        for each in gone:
            del self.pairs[each], self.where[each]
            for piece in each:
                self.pairs_with[piece].discard(each)
        return changed - gone

    def _count(self, index: int, sign: int) -> None:
        word, count = self.words[index], sign * self.counts[index]
        for piece in word:
            self.pieces[piece] += count
        for pair in pairwise(word):
            self.pairs[pair] += count
            if pair not in self.where:
                self.where[pair] = set()
                for piece in pair:
                    self.pairs_with.setdefault(piece, set()).add(pair)
            self.where[pair].add(index)


def _merge_word(word: list[int], pair: Pair, new: int) -> list[int]:
    merged, i = [], 0
    while i < len(word):
        found = tuple(word[i : i + 2]) == pair
        merged.append(new if found else word[i])
        i += 2 if found else 1
    return merged
