"""Metrics with confidence intervals, bits per byte, baselines, and answers found in a text."""
