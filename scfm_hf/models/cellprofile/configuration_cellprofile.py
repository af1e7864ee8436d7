"""Configuration of CellProfile."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from scfm_hf.models.configuration import CellConfig


@strict
class CellProfileConfig(CellConfig):
    """Sizes and options of a CellProfile; the defaults are those of the model that ships.

    Parameters
    ----------
    pooling
        Which parts ``cell_embedding`` holds, each scaled to unit length: ``joined`` (learned, factors, sketch), or one
        of them alone.
    vocab_size
        Genes, padding included.
    hidden_size, num_hidden_layers
        Width and number of layers of the encoder.
    output_size
        Width of the learned part.
    factor_size
        Width of the factors: coordinates along the main directions of variation in the corpus.
    sketch_size
        Width of the sketch: a fixed random projection, which keeps what the corpus had no variation in.
    hidden_dropout_prob, layer_norm_eps
        Of every layer.
    temperature
        Divides the cosine similarities of the contrastive loss.
    reconstruction_weight
        Weight of the reconstruction beside the contrastive loss.
    """

    model_type = "scfm-cellprofile"
    poolings: ClassVar[tuple[str, ...]] = ("joined", "learned", "factors", "sketch")

    pooling: str = "joined"
    vocab_size: int = 8001
    hidden_size: int = 256
    num_hidden_layers: int = 2
    output_size: int = 128
    factor_size: int = 64
    sketch_size: int = 352
    hidden_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    temperature: float = 0.1
    reconstruction_weight: float = 0.5

    def check(self) -> None:
        """Raise ValueError if a size cannot be."""
        super().check()
        sizes = ("hidden_size", "num_hidden_layers", "output_size", "factor_size", "sketch_size")
        if wrong := [name for name in sizes if getattr(self, name) < 1]:
            raise ValueError(f"{', '.join(wrong)} must be at least 1.")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0.")
