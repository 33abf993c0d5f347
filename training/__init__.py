"""What Hugging Face's Trainer is given: corpora, packed blocks, optimizers, callbacks."""
