"""scGPT: a transformer over genes with binned expression values (Cui et al. 2024)."""
