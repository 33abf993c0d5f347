"""An embedder trained on one's own documents."""
