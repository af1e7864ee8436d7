"""What SCimilarity is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="scimilarity",
    title="SCimilarity",
    config_class="SCimilarityConfig",
    model_classes={
        "AutoModel": "SCimilarityModel",
        "AutoModelForPreTraining": "pretraining_scimilarity:SCimilarityForPreTraining",
        "AutoModelForSequenceClassification": "SCimilarityForSequenceClassification",
    },
    scheme="scimilarity",
    lora_targets=("linear", "projection"),
    attentions=False,
    gene_states=False,
    gene_ids="symbol",
    code_licence="Apache-2.0",
    weights_licence="see the Zenodo record",
    paper=(
        "Heimberg, Kuo et al., A cell atlas foundation model for scalable search of similar human cells, "
        "Nature 638 (2025)"
    ),
    citation="""@article{heimberg2025scimilarity,
  title = {A cell atlas foundation model for scalable search of similar human cells},
  author = {Heimberg, Graham and Kuo, Tony and others},
  journal = {Nature}, volume = {638}, pages = {1085--1094}, year = {2025},
  doi = {10.1038/s41586-024-08411-y}
}""",
    code_url="https://github.com/Genentech/scimilarity",
    weights_url="https://zenodo.org/records/10685499",
    tiny={
        "vocab_size": 120,
        "num_genes": 119,
        "pad_token_id": 119,
        "hidden_sizes": [20, 14],
        "latent_size": 12,
        "hidden_dropout_prob": 0.0,
        "input_dropout_prob": 0.0,
    },
)
