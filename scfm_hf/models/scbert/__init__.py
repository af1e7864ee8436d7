"""scBERT: a Performer over the binned expression of all genes, with gene2vec positions (Yang et al. 2022)."""
