"""Small models to push: a plain BERT of transformers, a classifier, and adapters over them."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedModel

GENES = ["<pad>", "<mask>", *(f"ENSG{number:011d}" for number in range(30))]


def make_bert(seed: int = 0, **options: Any) -> BertModel:
    """A BERT of a few thousand parameters; the same seed makes the same weights."""
    torch.manual_seed(seed)
    return BertModel(tiny_bert_config(**options)).eval()


def make_classifier(seed: int = 0, **options: Any) -> BertForSequenceClassification:
    """The same with a head for three labels."""
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_bert_config(num_labels=3, **options)).eval()


def tiny_bert_config(**options: Any) -> BertConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(vocab_size=len(GENES), max_position_embeddings=40, **sizes, **options)


def add_lora(model: PreTrainedModel, **options: Any) -> PeftModel:
    """A LoRA adapter that changes the results, as if it were trained."""
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value"], **options)).eval()
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.5 if "lora" in name else 0.1))
    return adapted


@torch.no_grad()
def results(model: torch.nn.Module) -> torch.Tensor:
    """What a model gives for one fixed cell: logits, else the last hidden state."""
    output = model(input_ids=torch.arange(2, 12)[None])
    return output["logits"] if "logits" in output else output["last_hidden_state"]
