"""Files to text and rows: readers, decoding, cleaning, corpora, example formats, packing, streams."""

from .arguments import CorpusArguments, DataArguments

__all__ = ["CorpusArguments", "DataArguments"]
