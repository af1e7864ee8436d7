"""What tGPT is."""

from __future__ import annotations

from scfm_hf.models.registry import FamilySpec

FAMILY = FamilySpec(
    name="tgpt",
    title="tGPT",
    config_class="TGPTConfig",
    model_classes={
        "AutoModel": "TGPTModel",
        "AutoModelForCausalLM": "TGPTForCausalLM",
        "AutoModelForPreTraining": "TGPTForCausalLM",
        "AutoModelForSequenceClassification": "TGPTForSequenceClassification",
    },
    scheme="tgpt",
    lora_targets=("c_attn", "attn.c_proj"),
    lora_feedforward=("mlp.c_fc", "mlp.c_proj"),
    own_objectives={"next_gene": "TGPTForCausalLM"},
    causal=True,
    gene_ids="symbol",
    code_licence="GPL-3.0-only",
    weights_licence="none stated",
    paper=(
        "Shen et al., Generative pretraining from large-scale transcriptomes for single-cell deciphering, "
        "iScience 26 (2023)"
    ),
    citation="""@article{shen2023tgpt,
  title = {Generative pretraining from large-scale transcriptomes for single-cell deciphering},
  author = {Shen, Hongru and Liu, Jilei and Hu, Jiani and Shen, Xilin and Zhang, Chao and Wu, Dan and Feng, Mengyao and
            Yang, Meng and Li, Yang and Yang, Yichen and Wang, Wei and Zhang, Qiang and Yang, Jilong and
            Chen, Kexin and Li, Xiangchun},
  journal = {iScience}, volume = {26}, number = {5}, pages = {106536}, year = {2023},
  doi = {10.1016/j.isci.2023.106536}
}""",
    code_url="https://github.com/deeplearningplus/tGPT",
    weights_url="https://huggingface.co/lixiangchun/transcriptome-gpt-1024-8-16-64",
    tiny={
        "vocab_size": 120,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
)
