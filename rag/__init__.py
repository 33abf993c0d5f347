"""Retrieval-augmented generation: ask your documents, with citations."""
