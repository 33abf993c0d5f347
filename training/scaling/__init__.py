"""A scaling law of one's own text."""
