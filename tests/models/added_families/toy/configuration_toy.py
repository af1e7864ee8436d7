from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import CellConfig


@strict
class ToyConfig(CellConfig):
    model_type = "scfm-toy"
    poolings: ClassVar[tuple[str, ...]] = ("mean",)

    vocab_size: int = 80
    hidden_size: int = 8
    pad_token_id: int | None = 0
