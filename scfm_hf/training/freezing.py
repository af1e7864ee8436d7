"""Freezing the first part of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def freeze(model: PreTrainedModel, *, embeddings: bool = False, first_layers: int = 0) -> list[str]:
    """Stop training the gene embedding and the first layers, in place.

    Parameters
    ----------
    model
        Any model with an encoder of layers.
    embeddings
        Freeze all that stands before the first layer.
    first_layers
        Layers to freeze, counted from the input.

    Returns
    -------
    Names of the parameters that no longer train.

    Raises
    ------
    ValueError
        If the model has fewer layers.
    """
    body = getattr(model, "base_model", model)
    layers = _layers(body)
    if first_layers > len(layers):
        raise ValueError(f"first_layers={first_layers}, but the model has {len(layers)} layers.")
    frozen = {id(parameter) for layer in layers[:first_layers] for parameter in layer.parameters()}
    if embeddings:
        in_layers = {id(parameter) for parameter in layers.parameters()}
        frozen |= {id(parameter) for parameter in body.parameters() if id(parameter) not in in_layers}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in frozen]
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return names


def _layers(body: nn.Module) -> nn.ModuleList:
    """The longest list of layers of one kind: the encoder."""
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module)]
    stacks = [found for found in lists if len({type(layer) for layer in found}) == 1]
    if not stacks:
        raise ValueError(f"{type(body).__name__} has no stack of layers to freeze.")
    return max(stacks, key=lambda found: sum(parameter.numel() for parameter in found.parameters()))
