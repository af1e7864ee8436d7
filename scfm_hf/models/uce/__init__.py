"""UCE: a transformer over proteins sampled by expression, of any species (Universal Cell Embeddings, Rosen 2023)."""
