"""Auto classes: transformers' own learn of every family, and two more for what transformers has no class for.

Model classes are imported when an Auto class first needs them, so that registering a dozen families costs next to nothing.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import ItemsView, ValuesView
from typing import Any, NamedTuple

import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from scfm_hf.models.registry import FamilySpec, families


class AutoModelForExpressionPrediction(_BaseAutoModelClass):
    """Loads the model of any family that predicts expression values."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForPerturbation(_BaseAutoModelClass):
    """Loads the model of any family that predicts the response to a perturbation."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


_OWN = {cls.__name__: cls for cls in (AutoModelForExpressionPrediction, AutoModelForPerturbation)}


class _ClassReference(NamedTuple):
    """A class by module and name, not yet imported."""

    module: str
    name: str

    def load(self) -> type[Any]:
        return getattr(importlib.import_module(self.module), self.name)


class _ImportedOnUse(dict[Any, Any]):
    """The part of an Auto mapping where registered classes stand; a reference in it is imported when it is looked up."""

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, _ClassReference):
            value = self[key] = value.load()
        return value

    def values(self) -> ValuesView[Any]:
        return {key: self[key] for key in self}.values()

    def items(self) -> ItemsView[Any, Any]:
        return {key: self[key] for key in self}.items()


def auto_class(name: str) -> Any:
    """The Auto class of a name, transformers' or ours."""
    return _OWN.get(name) or getattr(transformers, name)


def register(spec: FamilySpec) -> None:
    """Make a family known to the Auto classes; doing it twice does no harm."""
    from scfm_hf.tokenization import CellTokenizer

    config_class = spec.load_config_class()
    AutoConfig.register(spec.model_type, config_class, exist_ok=True)
    AutoTokenizer.register(config_class, fast_tokenizer_class=CellTokenizer, exist_ok=True)
    for auto_name, class_name in spec.model_classes.items():
        mapping = auto_class(auto_name)._model_mapping
        if not isinstance(mapping._extra_content, _ImportedOnUse):
            mapping._extra_content = _ImportedOnUse(mapping._extra_content)
        mapping._extra_content[config_class] = _ClassReference(f"{spec.package}.modeling_{spec.name}", class_name)


def register_all() -> None:
    """Make every family known to the Auto classes."""
    for spec in families().values():
        register(spec)
