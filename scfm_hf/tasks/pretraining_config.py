"""The configuration of a pretraining run: read from YAML or a dictionary, and checked before anything is loaded."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scfm_hf.errors import ConfigurationError

if TYPE_CHECKING:
    import os

#: Arguments of load_corpus that the run itself decides.
_DECIDED_BY_THE_RUN = frozenset({"files", "tokenizer", "encode", "vocabulary", "batch_size", "cell_ids", "options"})
#: Options of TrainingArguments that the run itself decides.
_DECIDED_BY_RUN = frozenset({"output_dir", "resume_from_checkpoint", "remove_unused_columns"})
#: Keys of ``tokenizer`` that build one from the corpus; those of the scheme come on top.
_BUILDING = ("scheme", "min_cells", "max_length", "species", "options", "counting")

#: Types that a value of YAML is held against, as annotations name them; what has any other type is not looked at.
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "Sequence[str]": "a list of texts",
    "None": "nothing",
}
_YAML_NUMBER = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """What a run is to do; one field a section of the YAML file.

    Parameters
    ----------
    output
        Folder of the finished model; checkpoints lie beside it, in ``<output>-run``.
    corpus
        ``files``; ``validation`` (files that are held out) or ``validation_share``; and the arguments of
        :func:`scfm_hf.load_corpus`.
    tokenizer
        ``from``: a folder or hub id; or how to build one from the corpus. Left out, it is the one beside
        ``model.from``; with ``model.new_genes`` it must be left out.
    model
        ``family`` and ``config``; or ``from``, a folder, hub id or shipped model to go on from, with
        ``new_genes``: how rows of genes that it does not know begin (see :func:`scfm_hf.extend_vocabulary`).
    objectives
        Name -> options; see :func:`scfm_hf.training.objectives.make_objectives`.
    training
        Options of transformers' ``TrainingArguments``.
    seed
        Of the order, the first weights, what is hidden, and the split.
    """

    output: str
    corpus: Mapping[str, Any]
    model: Mapping[str, Any]
    objectives: Mapping[str, Mapping[str, Any]]
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def read(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> Self:
        """Read a YAML file, or take a dictionary, and check it.

        Raises
        ------
        ConfigurationError
            If a key is unknown, missing or has a value that it cannot have: all problems at once, each with the keys
            that there are.
        FileNotFoundError
            If there is no such file.
        """
        if isinstance(source, Mapping):
            values, where = dict(source), "The configuration"
        else:
            values, where = _read_yaml(Path(source)), str(source)
        problems = _problems(values)
        if problems:
            listed = "\n".join(f"- {problem}" for problem in problems)
            raise ConfigurationError(f"{where} cannot be used:\n{listed}")
        objectives = values["objectives"]
        if not isinstance(objectives, Mapping):
            objectives = dict.fromkeys(objectives, {})
        objectives = {name: dict(options or {}) for name, options in objectives.items()}
        given = {name: value for name, value in values.items() if value is not None}
        return cls(**{**given, "objectives": objectives, "output": str(values["output"])})

    def to_dict(self) -> dict[str, Any]:
        """All sections, in plain types."""
        return asdict(self)

    @property
    def run_folder(self) -> Path:
        """Where the run keeps its checkpoints."""
        return Path(self.output).with_name(f"{Path(self.output).name}-run")

    @property
    def files(self) -> list[str]:
        """Files to train on, as they were named."""
        return _listed(self.corpus["files"])

    @property
    def validation_files(self) -> list[str]:
        """Files that are held out, as they were named."""
        return _listed(self.corpus.get("validation") or [])

    @property
    def corpus_options(self) -> dict[str, Any]:
        """Arguments of load_corpus."""
        own = ("files", "validation", "validation_share")
        return {"seed": self.seed, **{name: value for name, value in self.corpus.items() if name not in own}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys in which two configurations of one run differ and may not; how long and how fast it trains may change."""
    found = []
    for section in sorted({*old, *new} - {"training", "output"}):
        one, other = old.get(section), new.get(section)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += [f"{section}.{name}" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
        elif one != other:
            found.append(section)
    return found


def to_yaml(values: Mapping[str, Any]) -> str:
    """A configuration as YAML, keys in their order."""
    import yaml

    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def _listed(files: Any) -> list[str]:
    return [str(files)] if isinstance(files, str) or not isinstance(files, Sequence) else [str(file) for file in files]


def _read_yaml(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-4 as a number, which YAML 1.1 takes for a word."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _YAML_NUMBER, list("-+0123456789"))
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - a subclass of the safe loader
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is no YAML: {error}") from error


def _problems(values: Any) -> list[str]:
    """All that is wrong with a configuration."""
    if not isinstance(values, Mapping):
        return [f"it must be a mapping with the sections {', '.join(_sections())}"]
    problems = [_unknown(name, "", _sections()) for name in values if name not in _sections()]
    for name in ("output", "corpus", "model", "objectives"):
        if not values.get(name):
            problems.append(f"{name} is missing")
    for name in ("corpus", "tokenizer", "model", "training"):
        if values.get(name) is not None and not isinstance(values[name], Mapping):
            problems.append(f"{name} must be a mapping, not {values[name]!r}")
    if problems:
        return problems
    checks = {
        "corpus": _corpus_problems,
        "tokenizer": _tokenizer_problems,
        "model": _model_problems,
        "training": _training_problems,
    }
    for name, check in checks.items():
        problems += check(values.get(name) or {})
    problems += _objective_problems(values["objectives"])
    if values.get("tokenizer") and values["model"].get("new_genes"):
        problems.append("tokenizer and model.new_genes: leave tokenizer out, new genes come to the one of model.from")
    if not values.get("tokenizer") and "from" not in values["model"]:
        problems.append("tokenizer is missing: name one (from:), or say how to build it (scheme: rank)")
    if not isinstance(values.get("seed", 0), int):
        problems.append(f"seed must be a whole number, not {values['seed']!r}")
    return problems


def _sections() -> tuple[str, ...]:
    return tuple(one.name for one in fields(PretrainingConfig))


def _unknown(name: Any, section: str, known: Sequence[str], *, all_known: bool = True) -> str:
    close = get_close_matches(str(name), known, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    listed = f" There are: {', '.join(known)}." if all_known else ""
    return f"{section}{name}: there is no such key.{hint}{listed}"


def _corpus_problems(corpus: Mapping[str, Any]) -> list[str]:
    from scfm_hf.data.corpus import load_corpus

    parameters = inspect.signature(load_corpus).parameters
    arguments = [name for name in parameters if name not in _DECIDED_BY_THE_RUN]
    known = ["files", "validation", "validation_share", *arguments]
    problems = [_unknown(name, "corpus.", known) for name in corpus if name not in known]
    problems += _wrong_types("corpus.", corpus, {name: parameters[name].annotation for name in arguments})
    if not corpus.get("files"):
        problems.append("corpus.files is missing: files, folders or patterns to train on")
    if corpus.get("validation") and corpus.get("validation_share"):
        problems.append("corpus.validation and corpus.validation_share: give one of them")
    share = corpus.get("validation_share")
    if share is not None and not (isinstance(share, (int, float)) and 0 < share < 1):
        problems.append(f"corpus.validation_share must be between 0 and 1, not {share!r}")
    return problems


def _tokenizer_problems(tokenizer: Mapping[str, Any]) -> list[str]:
    from scfm_hf.tokenization.scheme import scheme_class

    if "from" in tokenizer:
        known = ("from", "revision")
        return [_unknown(name, "tokenizer.", known) for name in tokenizer if name not in known]
    problems = [_unknown(name, "tokenizer.", ("from", *_BUILDING)) for name in tokenizer if name not in _BUILDING]
    problems += _wrong_types("tokenizer.", tokenizer, {"scheme": "str", "min_cells": "int", "max_length": "int"})
    if tokenizer and "scheme" not in tokenizer:
        problems.append("tokenizer.scheme is missing: the scheme of the tokenizer to build (or from:, to take one)")
    elif tokenizer:
        try:
            scheme_class(str(tokenizer["scheme"]))
        except ValueError as error:
            problems.append(f"tokenizer.scheme: {error}")
    return problems


def _model_problems(model: Mapping[str, Any]) -> list[str]:
    from scfm_hf.models.registry import families

    if "from" in model:
        known: tuple[str, ...] = ("from", "revision", "config", "new_genes")
        if "family" in model:
            return ["model.family and model.from: give one of them"]
        return [_unknown(name, "model.", known) for name in model if name not in known] + _new_gene_problems(model)
    problems = [_unknown(name, "model.", ("family", "config")) for name in model if name not in ("family", "config")]
    if "family" not in model:
        return [*problems, f"model.family is missing (or model.from). There are: {', '.join(families())}."]
    if model["family"] not in families():
        return [*problems, f"model.family: there is no {model['family']!r}. There are: {', '.join(families())}."]
    config = model.get("config") or {}
    of_family = [one.name for one in fields(families()[model["family"]].load_config_class())]
    names = sorted(name for name in of_family if not name.startswith("_"))
    return problems + [_unknown(name, "model.config.", names) for name in config if name not in names]


def _new_gene_problems(model: Mapping[str, Any]) -> list[str]:
    described = model.get("new_genes") or {}
    described = {"init": described} if isinstance(described, str) else described
    known = ("init", "min_cells")
    if not isinstance(described, Mapping):
        return [f"model.new_genes must be mean, neighbours, or a mapping with {', '.join(known)}, not {described!r}"]
    problems = [_unknown(name, "model.new_genes.", known) for name in described if name not in known]
    if described.get("init", "mean") not in ("mean", "neighbours"):
        problems.append(f"model.new_genes.init must be mean or neighbours, not {described['init']!r}")
    return problems


def _training_problems(training: Mapping[str, Any]) -> list[str]:
    from transformers import TrainingArguments

    decided = [f"training.{name} is decided by the run: leave it out" for name in training if name in _DECIDED_BY_RUN]
    known = sorted(one.name for one in fields(TrainingArguments) if one.init)
    unknown = [
        _unknown(name, "training.", known, all_known=False) + " See TrainingArguments of transformers."
        for name in training
        if name not in known and name not in _DECIDED_BY_RUN
    ]
    typed = {one.name: getattr(one.type, "__name__", str(one.type)) for one in fields(TrainingArguments)}
    # Numbers and switches only: what is annotated as a text may take more, such as fsdp: true.
    typed = {name: annotation for name, annotation in typed.items() if "str" not in annotation}
    return decided + unknown + _wrong_types("training.", training, typed)


def _wrong_types(section: str, values: Mapping[str, Any], annotations: Mapping[str, str]) -> list[str]:
    """Values that are not of the type that they are annotated with."""
    problems = []
    for name, value in values.items():
        kinds = annotations.get(name, "Any").split(" | ")
        if not set(kinds) <= set(_TYPES) or any(_is_of(value, kind) for kind in [*kinds, "None"]):
            continue
        allowed = " or ".join(_TYPES[kind] for kind in kinds)
        problems.append(f"{section}{name} must be {allowed}, not {value!r}")
    return problems


def _is_of(value: Any, kind: str) -> bool:
    if kind == "Sequence[str]":
        return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    if kind in ("int", "float"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (kind == "float" or float(value).is_integer())  # 1e3 is a whole number too
    return isinstance(value, {"bool": bool, "str": str, "None": type(None)}[kind])


def _objective_problems(objectives: Any) -> list[str]:
    from scfm_hf.training.objectives.objective import make_objective

    if isinstance(objectives, str) or not isinstance(objectives, (Mapping, Sequence)):
        return [f"objectives must be a list of names, or name -> options, not {objectives!r}"]
    described = objectives if isinstance(objectives, Mapping) else dict.fromkeys(objectives)
    problems = []
    for name, options in described.items():
        if options is not None and not isinstance(options, Mapping):
            problems.append(f"objectives.{name} must be a mapping of options, not {options!r}")
            continue
        try:
            make_objective(name, options or {})
        except ValueError as error:
            problems.append(f"objectives.{name}: {error}")
    return problems
