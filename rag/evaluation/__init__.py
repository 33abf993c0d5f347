"""Evaluation of an index and its answers."""
