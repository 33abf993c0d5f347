"""How good a model is at what it is for: figures with intervals, before against after, beside baselines."""
