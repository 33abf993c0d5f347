"""Files to text and rows: readers, decoding, cleaning, corpora, example formats, packing, streams."""
