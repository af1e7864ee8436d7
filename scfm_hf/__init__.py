"""Single-cell foundation models as ordinary Hugging Face models."""
