"""Finished models: loading, conversion, publishing."""
