"""tGPT: a GPT-2 that continues a cell's genes in the order of their expression (Shen et al. 2023)."""
