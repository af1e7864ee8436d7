"""GeneCompass: a BERT encoder over ranked genes with values and prior knowledge, human and mouse (Yang et al. 2024)."""
