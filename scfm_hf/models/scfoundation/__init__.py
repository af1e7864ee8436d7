"""scFoundation: an encoder over expressed genes and a Performer decoder over all genes (Hao et al. 2024)."""
