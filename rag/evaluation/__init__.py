"""How good an index and its answers are."""
