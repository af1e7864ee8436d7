"""Training with the stock Trainer: adapters, freezing, classes, metrics, masking."""

from scfm_hf.training.adapters import lora_config
from scfm_hf.training.classes import balance_classes, class_weights, weighted_loss
from scfm_hf.training.freezing import freeze
from scfm_hf.training.metrics import classification_metrics

__all__ = ["balance_classes", "class_weights", "classification_metrics", "freeze", "lora_config", "weighted_loss"]
