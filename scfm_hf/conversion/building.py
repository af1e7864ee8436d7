"""From tensors under the right names to a model, strictly: every one has its place, and no place is empty."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedConfig

    from scfm_hf.conversion.renaming import TensorRecord
    from scfm_hf.models.base import CellPreTrainedModel
    from scfm_hf.models.registry import FamilySpec
    from scfm_hf.tokenization import CellTokenizer


@dataclass(frozen=True, kw_only=True)
class ConvertedCheckpoint:
    """What a family's ``convert`` gives.

    Parameters
    ----------
    config
        Configuration of the model.
    architecture
        Name of the model class that holds all the tensors.
    tensors
        Tensors by the names of that class.
    records
        What became of each tensor of the original.
    tokenizer
        The tokenizer; None only where the original has none.
    side_tables
        Path of the module -> rows, for big tables beside the weights.
    notes
        What a user should know.
    """

    config: PreTrainedConfig
    architecture: str
    tensors: Mapping[str, Tensor]
    records: Sequence[TensorRecord]
    tokenizer: CellTokenizer | None
    side_tables: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def build_model(spec: FamilySpec, converted: ConvertedCheckpoint) -> CellPreTrainedModel:
    """Make the model with the converted tensors, which must be all of its own and no others.

    Parameters
    ----------
    spec
        The family.
    converted
        What its conversion gave. The configuration gets the digest of the tokenizer's vocabulary.

    Returns
    -------
    The model, ready to be saved. Buffers that are not saved hold nothing.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected, of another shape, or holds values that are not finite.
    """
    if converted.tokenizer is not None:
        converted.config.vocabulary_digest = converted.tokenizer.vocabulary_digest
    with torch.device("meta"):
        model: CellPreTrainedModel = spec.load_class(converted.architecture)(converted.config)
    expected, tied = model.state_dict(), dict(model.all_tied_weights_keys)
    problems = [*_misplaced(converted.tensors, expected, tied), *_unequal(converted.tensors, tied)]
    problems += _unaccounted(converted)
    problems += _not_finite(converted.tensors, {name for name, _ in model.named_parameters()})
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(
            f"The checkpoint does not fit {converted.architecture}: {shown}. It is damaged or of another version."
        )
    # Each tensor gets memory of its own: they may be mapped from a file, or parts of one another.
    own = {
        name: tensor.detach().to(expected[name].dtype, copy=True).contiguous()
        for name, tensor in converted.tensors.items()
        if name not in tied
    }
    model.load_state_dict(own, strict=False, assign=True)
    model.tie_weights()
    for path, rows in converted.side_tables.items():
        model.get_submodule(path).set_rows(rows)
    return model


def _misplaced(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], tied: Mapping[str, str]) -> list[str]:
    """Tensors that are missing, unexpected or of another shape."""
    problems = [f"missing tensor {name}" for name in expected if name not in tensors and name not in tied]
    for name, tensor in tensors.items():
        if name not in expected:
            problems.append(f"unexpected tensor {name}")
        elif tensor.shape != expected[name].shape:
            problems.append(f"{name} has the shape {tuple(tensor.shape)}, the model {tuple(expected[name].shape)}")
    return problems


def _unequal(tensors: Mapping[str, Tensor], tied: Mapping[str, str]) -> list[str]:
    """Tensors that the model shares and the checkpoint holds twice, with other values."""
    return [
        f"{name} differs from {source}, and the model has one tensor for both"
        for name, source in tied.items()
        if name in tensors and source in tensors and not torch.equal(tensors[name], tensors[source])
    ]


def _unaccounted(converted: ConvertedCheckpoint) -> list[str]:
    """Tensors that the report says were taken over, and that are not there."""
    targets = {record.target: record.source for record in converted.records if record.target is not None}
    return [
        f"{source} was renamed {name} and then lost"
        for name, source in targets.items()
        if name not in converted.tensors
    ]


def _not_finite(tensors: Mapping[str, Tensor], parameters: set[str]) -> list[str]:
    """Weights with NaN or infinite values: no model was ever released with them."""
    return [
        f"{name} holds values that are not finite"
        for name, tensor in tensors.items()
        if name in parameters and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
