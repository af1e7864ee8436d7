"""What UCE is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="uce",
    title="UCE",
    config_class="UceConfig",
    model_classes={
        "AutoModel": "UceModel",
        "AutoModelForPreTraining": "expression_uce:UceForPreTraining",
        "AutoModelForSequenceClassification": "UceForSequenceClassification",
    },
    scheme="uce",
    lora_targets=("qkv", "out_proj"),
    lora_feedforward=("linear1", "linear2"),
    own_objectives={"binary_expression": "UceForPreTraining"},
    species=(
        "human",
        "mouse",
        "frog",
        "zebrafish",
        "pig",
        "mouse_lemur",
        "macaca_fascicularis",
        "macaca_mulatta",
    ),
    gene_ids="symbol",
    code_licence="MIT",
    weights_licence="MIT",
    paper=(
        "Rosen, Roohani, Agrawal, Samotorcan, Tabula Sapiens Consortium, Quake & Leskovec, Universal Cell Embeddings: "
        "A Foundation Model for Cell Biology, bioRxiv (2023)"
    ),
    citation="""@article{rosen2023universal,
  title = {Universal Cell Embeddings: A Foundation Model for Cell Biology},
  author = {Rosen, Yanay and Roohani, Yusuf and Agrawal, Ayush and Samotor{\\v{c}}an, Leon and
            {Tabula Sapiens Consortium} and Quake, Stephen R. and Leskovec, Jure},
  journal = {bioRxiv}, year = {2023}, doi = {10.1101/2023.11.28.568918}
}""",
    code_url="https://github.com/snap-stanford/UCE",
    weights_url="https://figshare.com/articles/dataset/Universal_Cell_Embedding_Model_Files/24320806",
    tiny={
        "table_size": 120,
        "token_dim": 12,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "output_dim": 14,
        "decoder_hidden_size": 20,
        "expression_hidden_sizes": [16, 12, 8],
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
)
