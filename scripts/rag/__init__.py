"""The commands of `folio rag`."""
