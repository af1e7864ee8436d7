"""Hubs: pushing and pulling models with their tokenizers, cards and manifests, and adapters that know their base."""

from scfm_hf.cards.card import model_card
from scfm_hf.cards.manifest import Manifest, SourceFile
from scfm_hf.hub.adapters import load_adapter, merge_adapter, save_adapter
from scfm_hf.hub.errors import explain_hub_errors
from scfm_hf.hub.pull import pull
from scfm_hf.hub.push import push
from scfm_hf.hub.weights import weights_digest

__all__ = [
    "Manifest",
    "SourceFile",
    "explain_hub_errors",
    "load_adapter",
    "merge_adapter",
    "model_card",
    "pull",
    "push",
    "save_adapter",
    "weights_digest",
]
