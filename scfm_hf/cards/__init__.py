"""What stands beside the weights for people and machines to read: the model card and the manifest."""

from scfm_hf.cards.card import model_card
from scfm_hf.cards.manifest import Manifest, SourceFile

__all__ = ["Manifest", "SourceFile", "model_card"]
