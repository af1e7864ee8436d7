"""convert_checkpoint: from an original's own files to a folder that ``from_pretrained`` reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scfm_hf.cards import Manifest, model_card
from scfm_hf.conversion.renaming import TensorRecord
from scfm_hf.conversion.report import ConversionReport
from scfm_hf.conversion.source import SourceFolder
from scfm_hf.errors import CheckpointError
from scfm_hf.folders import refuse_taken, whole_folder
from scfm_hf.models.registry import FamilySpec, families

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

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


def convert_checkpoint(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    family: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    files: Mapping[str, str | os.PathLike[str]] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> ConversionReport:
    """Convert a checkpoint of an original; nothing in its files is executed.

    Parameters
    ----------
    source
        Folder of the original's files, or its weights file.
    output
        Folder to write: config, safetensors, tokenizer, model card, manifest and report. It appears whole or not at all.
    family
        Name of the family; None recognises it from the files.
    weights
        The weights file, relative to ``source``, where there are several.
    files
        Side files that lie elsewhere: role -> path. ``docs`` and the messages name the roles of each family.
    overwrite
        Replace a folder that is there.
    **options
        Options of the family's conversion.

    Returns
    -------
    A report in which every tensor is accounted for.

    Raises
    ------
    CheckpointError
        If the files are damaged, incomplete, unsafe, of no or another family; nothing is written then.
    FileExistsError
        If ``output`` is there and ``overwrite`` is not given.
    """
    if not overwrite:
        refuse_taken(output)
    folder = SourceFolder(source, weights=weights, files=files)
    spec = _family(folder, family)
    converted = spec.load_conversion().convert(folder, **options)
    model = _build(spec, converted)
    report = ConversionReport(
        family=spec.name,
        architecture=converted.architecture,
        output=Path(output),
        sources=folder.sources,
        tensors=tuple(converted.records),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary_digest=model.config.vocabulary_digest,
        notes=converted.notes,
    )
    with whole_folder(output, replace=overwrite) as new:
        model.save_pretrained(new)
        if converted.tokenizer is not None:
            converted.tokenizer.save_pretrained(new)
        manifest = Manifest(
            family=spec.name,
            sources=folder.sources,
            code_licence=spec.code_licence,
            weights_licence=spec.weights_licence,
            vocabulary_digest=model.config.vocabulary_digest,
        )
        manifest.write(new)
        report.write(new)
        card = model_card(spec, config=model.config.to_dict(), manifest=manifest)
        (new / "README.md").write_text(str(card), encoding="utf-8")
    return report


def _family(folder: SourceFolder, name: str | None) -> FamilySpec:
    """The family that was named, else the one that recognises the files."""
    if name is not None:
        if name not in families():
            raise CheckpointError(f"There is no family {name!r}. There are: {', '.join(families())}.")
        return families()[name]
    fitting = [spec for spec in families().values() if spec.load_conversion().recognise(folder)]
    if len(fitting) == 1:
        return fitting[0]
    found = f"could be of {' or '.join(spec.name for spec in fitting)}" if fitting else "is of no family that is known"
    raise CheckpointError(f"{folder.path} {found}. Name it with family=; there are: {', '.join(families())}.")


def _build(spec: FamilySpec, converted: ConvertedCheckpoint) -> Any:
    """The model with the converted tensors; every one must have its place."""
    if converted.tokenizer is not None:
        converted.config.vocabulary_digest = converted.tokenizer.vocabulary_digest
    with torch.device("meta"):
        model = spec.load_class(converted.architecture)(converted.config)
    expected = model.state_dict()
    tied = set(model.all_tied_weights_keys)
    problems = [f"missing tensor {name}" for name in expected if name not in converted.tensors and name not in tied]
    for name, tensor in converted.tensors.items():
        if name not in expected:
            problems.append(f"unexpected tensor {name}")
        elif tensor.shape != expected[name].shape:
            problems.append(f"{name} has the shape {tuple(tensor.shape)}, the model {tuple(expected[name].shape)}")
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(f"The checkpoint does not fit {converted.architecture}: {shown}. It is damaged or of another version.")
    model = spec.load_class(converted.architecture)(converted.config)
    model.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in converted.tensors.items()}, strict=False)
    model.tie_weights()
    for path, rows in converted.side_tables.items():
        model.get_submodule(path).set_rows(rows)
    return model
