"""Fine-tuning: examples of any common form, full or through adapters, with PEFT and TRL."""
