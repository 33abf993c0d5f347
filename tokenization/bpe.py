"""Byte-pair encoding from scratch: merges are learned from text, and cut text into tokens.

Sennrich et al. (2016) merge the most frequent pair of adjacent symbols, again and again; GPT-2 (Radford et al., 2019)
begins with bytes, so that every text can be written. The merges, their order and the ids are those of the `tokenizers`
library, whose files are read and written, too. It is faster; this code can be read.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count, pairwise

import regex

from .tokenizer_json import ScratchTokenizer, check_filled, check_room, check_unicode, cut_long_runs, tokenizer_json

# Text is cut by these before pairs are counted: no token spans two pieces.
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
CACHED_PIECES, LONGEST_CACHED = 100_000, 64  # pieces, and their bytes
SURROGATES = "read it with errors='replace', or use encode_bytes"

Pair = tuple[int, int]


def byte_characters() -> list[str]:
    """Return GPT-2's printable character for each byte, with which files write tokens that are not valid UTF-8."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


CHARACTERS = byte_characters()
BYTES = {character: bytes([byte]) for byte, character in enumerate(CHARACTERS)}
# Ids of bytes follow the order of their characters, as in the files of the library.
BYTE_ORDER = sorted(range(256), key=lambda byte: CHARACTERS[byte])


class BPETokenizer(ScratchTokenizer):
    """A byte-level BPE tokenizer: a token for each byte, and one for each merge of two tokens.

    >>> tokenizer = BPETokenizer.train(["low lower lowest"] * 9, vocab_size=260)
    >>> tokenizer.decode(tokenizer.encode("lowest"))
    'lowest'
    """

    def __init__(
        self, vocab: dict[bytes, int], merges: list[tuple[bytes, bytes]], special: dict[str, int], pattern: str
    ):
        self.vocab, self.merges, self.special, self.pattern = vocab, merges, special, pattern
        self.tokens = {id: token for token, id in vocab.items()}
        self.tokens |= {id: token.encode() for token, id in special.items()}
        self._byte_ids = [vocab[bytes([byte])] for byte in range(256)]
        # (rank, id of the result) of each pair; if a pair was merged twice, the last one counts.
        self._ranks = {(vocab[a], vocab[b]): (rank, vocab[a + b]) for rank, (a, b) in enumerate(merges)}
        self._split = _splitter(pattern)
        self._cache: dict[bytes, list[int]] = {}

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, pattern: str = "gpt2", special_tokens: Iterable[str] = ()
    ) -> "BPETokenizer":
        """Learn merges from documents, which are read once; each distinct piece and its count is kept.

        Runs of over 2,000 characters without a space are cut, as training on them would not end. `vocab_size` counts
        special tokens, which no text is encoded as, the 256 bytes, and a token for each merge. `pattern` is a name in
        `PATTERNS`. Raises ValueError if `vocab_size` does not fit, or a text is not valid Unicode.
        """
        special = {token: id for id, token in enumerate(dict.fromkeys(special_tokens))}
        check_room(vocab_size, len(special))
        split, counts = _splitter(pattern), Counter()
        for text in texts:
            for part in cut_long_runs(text, SURROGATES):
                counts.update(split(part))
        tokens = [*(token.encode() for token in special), *(bytes([byte]) for byte in BYTE_ORDER)]
        byte_ids = {byte: len(special) + rank for rank, byte in enumerate(BYTE_ORDER)}
        words = [[byte_ids[byte] for byte in piece.encode()] for piece in counts]
        merges = _learn(words, list(counts.values()), tokens, vocab_size)
        vocab = {token: id for id, token in enumerate(tokens) if id >= len(special)}
        check_filled(len(tokens), vocab_size)
        return cls(vocab, [(tokens[a], tokens[b]) for a, b in merges], special, pattern)

    def encode(self, text: str) -> list[int]:
        """Encode a text, in which special tokens are ordinary text; raises ValueError for a lone surrogate."""
        check_unicode(text, remedy=SURROGATES)
        return [id for piece in self._split(text) for id in self._encode_piece(piece.encode())]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Encode any bytes; the ids of valid UTF-8 are those of its text."""
        pieces = self._split(data.decode("utf-8", errors="surrogateescape"))
        return [id for piece in pieces for id in self._encode_piece(piece.encode("utf-8", errors="surrogateescape"))]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not valid UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; raises ValueError for an unknown id."""
        try:
            return b"".join([self.tokens[id] for id in ids])
        except KeyError as error:
            raise ValueError(f"There is no token {error.args[0]}: ids go from 0 to {len(self) - 1}.") from None

    def _encode_piece(self, piece: bytes) -> list[int]:
        if (ids := self._cache.get(piece)) is None:
            ids = _merge([self._byte_ids[byte] for byte in piece], self._ranks)
            if len(piece) < LONGEST_CACHED and len(self._cache) < CACHED_PIECES:
                self._cache[piece] = ids
        return ids

    def to_dict(self) -> dict:
        """Return the content of a `tokenizer.json`."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        before = {**byte_level, "use_regex": True}
        if self.pattern != "gpt2":  # the one that ByteLevel has built in
            before = {"type": "Sequence", "pretokenizers": [cut_step(self.pattern), {**byte_level, "use_regex": False}]}
        model = {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": self.special | {_spell(token): id for token, id in self.vocab.items()},
            "merges": [[_spell(a), _spell(b)] for a, b in self.merges],
        }
        return tokenizer_json(self.special, model, before, decoder={**byte_level, "use_regex": True})

    @classmethod
    def _from_dict(cls, data: dict) -> "BPETokenizer":
        model = data["model"]
        for name in ("unk_token", "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
            if model.get(name):
                raise ValueError(f"model.{name} is {model[name]!r}, which a byte-level BPE does not have")
        if model["type"] != "BPE" or model.get("ignore_merges") or data.get("normalizer"):
            raise ValueError("only a BPE model with merges and without a normalizer is supported")
        special = {token["content"]: token["id"] for token in data.get("added_tokens", [])}
        vocab = {_unspell(token): id for token, id in model["vocab"].items() if special.get(token) != id}
        ids = [*vocab.values(), *special.values()]
        if sorted(ids) != list(range(len(ids))):
            raise ValueError("ids are not 0, 1, 2, ... without a gap or a repetition")
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        pairs = [(_unspell(a), _unspell(b)) for a, b in merges]
        for a, b in pairs:
            if not {a, b, a + b} <= vocab.keys():
                raise ValueError(f"the merge of {a!r} and {b!r} has a token that is not in the vocabulary")
        if missing := [byte for byte in range(256) if bytes([byte]) not in vocab]:
            raise ValueError(f"it has no token for the byte {missing[0]}: it is not byte-level")
        return cls(vocab, pairs, special, _pattern_of(data["pre_tokenizer"]))


def _splitter(pattern: str) -> Callable[[str], list[str]]:
    if pattern not in PATTERNS:
        raise ValueError(f"There is no pattern {pattern!r}: choose one of {', '.join(PATTERNS)}.")
    return regex.compile(PATTERNS[pattern]).findall


def cut_step(pattern: str) -> dict:
    """Return the step of a `tokenizer.json` that cuts text by one of `PATTERNS`."""
    return {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}


def _pattern_of(pre_tokenizer: dict) -> str:
    parts = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    byte_level = parts[-1]
    if byte_level["type"] == "ByteLevel" and not byte_level["add_prefix_space"]:
        # With `use_regex`, ByteLevel itself cuts as GPT-2 does.
        cuts = {"gpt2": []} if byte_level["use_regex"] else {name: [cut_step(name)] for name in PATTERNS}
        if found := next((name for name, cut in cuts.items() if cut == parts[:-1]), None):
            return found
    raise ValueError(f"its pre-tokenizer is none of {', '.join(PATTERNS)}")


def _spell(token: bytes) -> str:
    return "".join([CHARACTERS[byte] for byte in token])


def _unspell(token: str) -> bytes:
    return b"".join([BYTES[character] for character in token])


def _learn(words: list[list[int]], counts: list[int], tokens: list[bytes], vocab_size: int) -> list[Pair]:
    """Merge the most frequent pair until there are `vocab_size` tokens, which are appended to `tokens`.

    A merge changes only the counts of its neighbors, in the words that contain it. Of equally frequent pairs, the one
    with the smaller ids is first. An entry of the heap keeps the words in which its pair was new; if its count has
    changed since, it is pushed again.
    """
    ids = {token: id for id, token in enumerate(tokens)}
    pair_counts: Counter[Pair] = Counter()
    where: dict[Pair, set[int]] = {}
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += counts[index]
            where.setdefault(pair, set()).add(index)
    serial = count()  # so that entries are never compared by their words
    heap = [(-pair_counts[pair], pair, next(serial), places) for pair, places in where.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while len(tokens) < vocab_size and heap:
        negative, pair, _, places = heapq.heappop(heap)
        if -negative != pair_counts[pair]:
            heapq.heappush(heap, (-pair_counts[pair], pair, next(serial), places))
            continue
        if negative >= 0:
            break
        token = tokens[pair[0]] + tokens[pair[1]]
        if token not in ids:  # the same bytes may come together in two ways
            ids[token] = len(tokens)
            tokens.append(token)
        merges.append(pair)
        where = {}
        for index in places:
            for changed, change in _merge_word(words[index], pair, ids[token]):
                pair_counts[changed] += change * counts[index]
                if change > 0:
                    where.setdefault(changed, set()).add(index)
        for changed, in_words in where.items():
            if pair_counts[changed] > 0:
                heapq.heappush(heap, (-pair_counts[changed], changed, next(serial), in_words))
    return merges


def _merge_word(word: list[int], pair: Pair, new: int) -> list[tuple[Pair, int]]:
    """Merge a pair everywhere in a word; return the pairs that this removed (-1) and made (+1)."""
    first, second = pair
    changes, i = [], 0
    while i < len(word) - 1:
        if word[i] == first and word[i + 1] == second:
            if i > 0:
                changes += [((word[i - 1], first), -1), ((word[i - 1], new), 1)]
            word[i : i + 2] = [new]
            if i < len(word) - 1:
                changes += [((second, word[i + 1]), -1), ((new, word[i + 1]), 1)]
        i += 1
    return changes


def _merge(ids: list[int], ranks: dict[Pair, Pair]) -> list[int]:
    """Merge the pair of lowest rank, the leftmost first, until there is none: by a heap of pairs, in n log n steps."""
    end = len(ids)
    before, after = [*range(-1, end - 1)], [*range(1, end + 1)]  # the neighbors of each symbol that is left
    found = [ranks.get(pair) for pair in pairwise(ids)]
    heap = [pair[0] << 40 | i for i, pair in enumerate(found) if pair is not None]  # rank and position as one number
    heapq.heapify(heap)
    while heap:
        rank, left = divmod(heapq.heappop(heap), 1 << 40)
        right = after[left]
        if right == end or ids[left] < 0:
            continue
        found = ranks.get((ids[left], ids[right]))
        if found is None or found[0] != rank:  # merged away since
            continue
        ids[left], ids[right] = found[1], -1
        after[left] = right = after[right]
        if right < end:
            before[right] = left
        for i in (before[left], left):
            if i >= 0 and after[i] < end:
                found = ranks.get((ids[i], ids[after[i]]))
                if found is not None:
                    heapq.heappush(heap, found[0] << 40 | i)
    return [id for id in ids if id >= 0]
