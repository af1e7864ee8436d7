"""Which families there are: each says so itself, in the ``family.py`` of its folder.

A folder of ``scfm_hf/models`` with a ``family.py`` that defines ``FAMILY`` is a family; nothing else needs to know it.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from scfm_hf.errors import CompatibilityError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """What a family is; the only place where it is said.

    Parameters
    ----------
    name
        Name of the folder, in lower case; ``scfm-<name>`` is its ``model_type``.
    title
        The name that people use.
    config_class
        Name of the configuration class in ``configuration_<name>.py``.
    model_classes
        Name of the Auto class -> name of the class in ``modeling_<name>.py``, or ``module:Class`` for another file of
        the folder. Where an Auto class leads to several, the first is the default and ``architectures`` of a checkpoint
        chooses.
    extra_classes
        Further public classes that no Auto class leads to, named alike.
    scheme
        Name of the tokenizer scheme; one of ``scfm_hf.tokenization``, or ``module:Class`` of the family's own.
    lora_targets, lora_feedforward
        Module names that an adapter acts on, and those of them that are feed-forward (IA3 wants to know).
    modules_to_save
        Modules beside the head that an adapter trains and saves whole (normalisation with running statistics, value
        encoders).
    own_objectives
        Pretraining objective of ``scfm_hf.training.objectives``, by name -> the class whose head and loss are this
        objective's own.
    attentions, values, causal, gene_states, spatial
        What it offers to tasks: attention probabilities, predicted values, a causal language model, a state for each
        gene, coordinates.
    species, modalities
        What it was trained on.
    gene_ids
        ``ensembl_id`` or ``symbol``.
    code_licence, weights_licence
        SPDX names where there are some; shown separately.
    paper, citation
        Reference in words, and as BibTeX.
    has_original
        False for a family of this library's own, which has no checkpoints to convert and no numbers to compare with.
    code_url, weights_url
        Where the original's code and weights are published.
    tiny
        Keywords of the configuration that make a model of a few thousand parameters, for tests and examples.
    """

    name: str
    title: str
    config_class: str
    model_classes: Mapping[str, str | tuple[str, ...]]
    extra_classes: tuple[str, ...] = ()
    scheme: str
    lora_targets: tuple[str, ...]
    lora_feedforward: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    own_objectives: Mapping[str, str] = field(default_factory=dict)
    attentions: bool = True
    values: bool = False
    causal: bool = False
    gene_states: bool = True
    spatial: bool = False
    species: tuple[str, ...] = ("human",)
    modalities: tuple[str, ...] = ("rna",)
    has_original: bool = True
    gene_ids: str
    code_licence: str
    weights_licence: str
    paper: str
    citation: str
    code_url: str
    weights_url: str
    tiny: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def model_type(self) -> str:
        """``model_type`` of the configuration, prefixed so that no name of transformers is shadowed."""
        return f"scfm-{self.name}"

    @property
    def package(self) -> str:
        """Dotted name of the family's folder."""
        return f"{__package__}.{self.name}"

    def load_config_class(self) -> type[Any]:
        """Import the configuration class."""
        return getattr(importlib.import_module(f"{self.package}.configuration_{self.name}"), self.config_class)

    def locate(self, class_name: str) -> tuple[str, str]:
        """Module and name of a model class, from the way the spec writes it."""
        module, _, name = class_name.rpartition(":")
        return f"{self.package}.{module or f'modeling_{self.name}'}", name

    def load_class(self, class_name: str) -> type[Any]:
        """Import a model class by its own name.

        Raises
        ------
        KeyError
            If the family has no such class.
        """
        for written in self._written_classes():
            module, name = self.locate(written)
            if name == class_name:
                return getattr(importlib.import_module(module), name)
        raise KeyError(f"{self.title} has no class {class_name!r}. It has {', '.join(self.class_names)}.")

    def load_conversion(self) -> Any:
        """Import the family's conversion module."""
        return importlib.import_module(f"{self.package}.conversion_{self.name}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all its public model classes."""
        return tuple(dict.fromkeys(self.locate(written)[1] for written in self._written_classes()))

    def classes_of(self, auto_name: str) -> tuple[str, ...]:
        """The classes that an Auto class leads to, as the spec writes them; none if the family has no such head."""
        written = self.model_classes.get(auto_name, ())
        return (written,) if isinstance(written, str) else written

    def _written_classes(self) -> tuple[str, ...]:
        return (
            tuple(name for auto_name in self.model_classes for name in self.classes_of(auto_name)) + self.extra_classes
        )


@cache
def families() -> Mapping[str, FamilySpec]:
    """All families by name, in alphabetical order.

    Raises
    ------
    ValueError
        If a folder and the name in its ``family.py`` differ.
    """
    package = importlib.import_module(__package__ or "scfm_hf.models")
    found: dict[str, FamilySpec] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        place = f"{package.__name__}.{module.name}.family"
        if not module.ispkg or importlib.util.find_spec(place) is None:
            continue
        spec = importlib.import_module(place).FAMILY
        if spec.name != module.name:
            raise ValueError(
                f"scfm_hf/models/{module.name}/family.py calls its family {spec.name!r}; the two must be the same."
            )
        found[spec.name] = spec
    return MappingProxyType(found)


def family_of(model_or_config: Any) -> FamilySpec:
    """Spec of the family that a model, an adapter over one, or a configuration belongs to.

    Raises
    ------
    CompatibilityError
        If it is of no family of this library.
    """
    config = getattr(model_or_config, "config", model_or_config)
    model_type = getattr(config, "model_type", None) or (config.get("model_type") if isinstance(config, dict) else None)
    for spec in families().values():
        if spec.model_type == model_type:
            return spec
    known = ", ".join(spec.model_type for spec in families().values())
    raise CompatibilityError(f"model_type {model_type!r} belongs to no family of scfm_hf. There are: {known}.")
