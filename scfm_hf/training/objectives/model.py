"""An encoder with the heads of its objectives, as one model for Trainer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from scfm_hf.models.base import HEADS_OF_OBJECTIVES, CellPreTrainedModel
from scfm_hf.training.objectives.collator import WHOLE
from scfm_hf.training.objectives.heads import encode, gene_embedding
from scfm_hf.training.objectives.objective import Seen

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from scfm_hf.training.objectives.heads import EncoderShape
    from scfm_hf.training.objectives.objective import Objective

#: File beside the weights that says which objectives they were trained with.
OBJECTIVES_FILE = "objectives.json"


@dataclass
class ObjectivesOutput(ModelOutput):
    """Output of an encoder with objectives.

    Parameters
    ----------
    loss
        Weighted sum of ``losses``, scalar.
    losses
        Each objective's loss before its weight, scalars by name.
    objective_losses
        The same in evaluation, for ``Objectives.compute_metrics``: the configuration of some families hides ``losses``.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    objective_losses: dict[str, Tensor] | None = None


class EncoderWithObjectives(CellPreTrainedModel):
    """An encoder of any family with the heads of a mixture of objectives; made by ``Objectives.model``.

    ``save_pretrained`` writes an ordinary checkpoint of the encoder (with the family's own heads where the objectives
    train those): the Auto classes open it. The general heads lie in the same file, under names that they pass over.

    Parameters
    ----------
    encoder
        The encoder alone.
    objectives
        By name.
    shape
        Of the encoder.
    own_models
        By objective, the family's own model around the same encoder, for the objectives that train its head.
    description
        What is written beside the weights.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        objectives: Mapping[str, Objective],
        shape: EncoderShape,
        own_models: Mapping[str, PreTrainedModel],
        description: Mapping[str, Any],
    ) -> None:
        super().__init__(encoder.config)
        self.base_model_prefix = encoder.base_model_prefix
        self.supports_gradient_checkpointing = encoder.supports_gradient_checkpointing
        self._no_split_modules = encoder._no_split_modules
        self.shape, self.description, self._objectives = shape, dict(description), dict(objectives)
        # In a plain dictionary, so that torch does not list their parameters a second time.
        self._own_models = dict(own_models)
        self._architecture = type(encoder).__name__
        self.add_module(encoder.base_model_prefix, encoder)
        ties: dict[str, str] = {}
        for own in own_models.values():
            self._architecture = type(own).__name__
            ties |= dict(own._tied_weights_keys or {})
            for name, child in own.named_children():
                if name != encoder.base_model_prefix:
                    self.add_module(name, child)
                    self.fresh_heads = tuple(dict.fromkeys((*self.fresh_heads, name)))
        self._tied_weights_keys = ties
        general = {name: one.head(shape) for name, one in objectives.items() if name not in own_models}
        self.add_module(HEADS_OF_OBJECTIVES, nn.ModuleDict(general))
        self.fresh_heads = (*self.fresh_heads, *general)
        # All weights have their values: those of a checkpoint, or those that their modules began with.
        for module in self.modules():
            module._is_hf_initialized = True
        self.post_init()

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder alone."""
        return getattr(self, self.base_model_prefix)

    @property
    def heads(self) -> nn.ModuleDict:
        """The general heads by objective; objectives that train the family's own head have none."""
        return getattr(self, HEADS_OF_OBJECTIVES)

    def own_model(self, name: str) -> PreTrainedModel:
        """The family's own model that an objective trains, around this encoder and these heads.

        Raises
        ------
        KeyError
            If the objective has a general head.
        """
        own = self._own_models[name]
        # An adapter, or a wrapper for several processes, takes the place of modules here and not there.
        for part in own._modules:
            own._modules[part] = self._modules[part]
        return own

    def train(self, mode: bool = True) -> EncoderWithObjectives:
        """Set training or evaluation mode, for the family's own models too."""
        for own in getattr(self, "_own_models", {}).values():
            own.training = mode
        return super().train(mode)

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's embedding of the genes."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace it."""
        self.encoder.set_input_embeddings(value)

    def forward(
        self,
        inputs: dict[str, dict[str, Tensor]],
        labels: dict[str, dict[str, Tensor]] | None = None,
        return_loss: bool = True,
    ) -> ObjectivesOutput:
        """Run each pass through the encoder once, and compute the losses.

        Parameters
        ----------
        inputs
            By pass, the encoder's arguments; see :class:`ObjectiveCollator`.
        labels
            By objective, what its loss compares with; an objective that is not there is left out.
        return_loss
            There for Trainer, which evaluates models that have it.
        """
        passes: dict[str, ModelOutput] = {}
        losses: dict[str, Tensor] = {}
        labels = labels or {}
        # Those with a pass of their own come first: others may look at it.
        for name in sorted(labels, key=lambda name: self._objectives[name].source is not None):
            objective = self._objectives[name]
            source = name if name in inputs else objective.source or WHOLE
            given = inputs[source]
            if name in self._own_models:
                passes[source], losses[name] = objective.own_loss(self.own_model(name), given, labels[name])
                continue
            if source not in passes:
                passes[source] = encode(self.encoder, given)
            embedding = gene_embedding(self.encoder, self.shape.vocab_size)
            seen = Seen(passes[source], given, embedding, self.training)
            losses[name] = objective.loss(self.heads[name], seen, labels[name])
        if not losses:
            return ObjectivesOutput()
        loss = torch.stack([self._objectives[name].weight * one.float() for name, one in losses.items()]).sum()
        each = {name: losses[name].detach() for name in self._objectives if name in losses}
        return ObjectivesOutput(loss, each, None if self.training else each)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save a checkpoint that the Auto classes open, and the description of the objectives beside it."""
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        if folder.is_dir() and kwargs.get("is_main_process", True):
            self.config.architectures = [self._architecture]
            self.config.save_pretrained(folder)
            text = json.dumps(self.description, indent=2, ensure_ascii=False)
            (folder / OBJECTIVES_FILE).write_text(text + "\n", encoding="utf-8")
