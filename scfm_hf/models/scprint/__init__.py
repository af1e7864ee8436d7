"""scPRINT: protein-language gene vectors, genome positions and one token a class (Kalfon et al. 2025)."""
