"""scGPT-spatial: scGPT pretrained further on spatial transcriptomics (Wang et al. 2025)."""
