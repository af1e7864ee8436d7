"""CellLM: a Performer over expressed genes with contrastive pretraining (Zhao et al. 2023)."""
