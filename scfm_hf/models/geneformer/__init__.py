"""Geneformer: a BERT encoder over genes ranked by scaled expression (Theodoris et al. 2023; Chen et al. 2024)."""
