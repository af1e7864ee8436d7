"""Nicheformer: a BERT encoder over genes ranked against technology means, with context tokens (Schaar et al. 2025)."""
