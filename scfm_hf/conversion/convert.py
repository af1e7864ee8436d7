"""convert_checkpoint: from an original's own files to a folder that ``from_pretrained`` reads."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_hf.cards import Manifest, model_card
from scfm_hf.conversion.building import ConvertedCheckpoint, build_model
from scfm_hf.conversion.report import ConversionReport
from scfm_hf.conversion.source import SourceFolder
from scfm_hf.errors import CheckpointError, ScfmError
from scfm_hf.folders import refuse_taken, whole_folder
from scfm_hf.models.registry import families

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from scfm_hf.models.registry import FamilySpec


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
        Folder to write: config, safetensors, tokenizer, model card, manifest and report. It appears whole or not at
        all.
    family
        Name of the family; None recognises it from the files.
    weights
        The weights file, relative to ``source``, where there are several.
    files
        Side files that lie elsewhere: role -> path. The messages about missing files name the roles of the family.
    overwrite
        Replace a model that is there. A folder of anything else, or of the original, is never replaced.
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
        If ``output`` is there and ``overwrite`` is not given, or is no model.
    TypeError
        If the family has no such option.
    """
    folder = SourceFolder(source, weights=weights, files=files)
    _refuse_place(Path(output), folder, overwrite=overwrite)
    spec = _named(family) if family is not None else _recognised(source, weights, files)
    converted = _convert(spec, folder, options)
    model = build_model(spec, converted)
    report = ConversionReport(
        family=spec.name,
        architecture=converted.architecture,
        output=Path(output),
        sources=folder.sources,
        tensors=tuple(converted.records),
        derived=tuple(sorted(set(converted.tensors) - {record.target for record in converted.records})),
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


def _refuse_place(output: Path, source: SourceFolder, *, overwrite: bool) -> None:
    """Refuse to put the result in the place of anything but another result, and of the original above all."""
    if not overwrite:
        refuse_taken(output)
    place, original = output.resolve(), source.path.resolve()
    if place == original or place in original.parents:
        raise FileExistsError(f"{output} holds the original's own files, which would be lost. Choose another place.")
    if output.is_dir() and any(output.iterdir()) and not (output / "config.json").is_file():
        raise FileExistsError(
            f"{output} holds something other than a model, which would be lost. Choose another place."
        )


def _named(name: str) -> FamilySpec:
    """The family of a name."""
    if name not in families():
        raise CheckpointError(f"There is no family {name!r}. There are: {', '.join(families())}.")
    return families()[name]


def _recognised(source: str | os.PathLike[str], weights: Any, files: Any) -> FamilySpec:
    """The only family that recognises the files."""
    fitting: list[str] = []
    damaged: CheckpointError | None = None
    for spec in families().values():
        try:
            # A folder of its own for each: what is read here is no source of the result yet.
            if spec.load_conversion().recognise(SourceFolder(source, weights=weights, files=files)):
                fitting.append(spec.name)
        except CheckpointError as error:
            damaged = error
        except (KeyError, TypeError, AttributeError):
            # A file of another form than this family's.
            continue
    if len(fitting) == 1:
        return families()[fitting[0]]
    if damaged is not None and not fitting:
        raise damaged
    found = f"could be of {' or '.join(fitting)}" if fitting else "is of no family that is known"
    raise CheckpointError(f"{source} {found}. Name it with family=; there are: {', '.join(families())}.")


def _convert(spec: FamilySpec, folder: SourceFolder, options: dict[str, Any]) -> ConvertedCheckpoint:
    """What the family makes of the files; whatever it stumbles over in them is an error of the checkpoint."""
    convert = spec.load_conversion().convert
    known = list(inspect.signature(convert).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"Its options are: {', '.join(known)}." if known else "It has none."
        raise TypeError(f"The conversion of {spec.title} has no option {', '.join(unknown)}. {has}")
    try:
        return convert(folder, **options)
    except ScfmError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{folder.path} cannot be converted as {spec.title}: {reason}. Its files are damaged, do not belong "
            "together, or are of another family or version."
        ) from error
