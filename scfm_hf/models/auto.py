"""Auto classes: transformers' own learn of every family, and two more for what transformers has no class for.

Model classes are imported when an Auto class first needs them, so that registering a dozen families costs next to
nothing.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from scfm_hf.models.configuration import CellConfig
from scfm_hf.models.registry import FamilySpec, families
from scfm_hf.models.shipped import resolve_ids

if TYPE_CHECKING:
    from collections.abc import ItemsView, ValuesView


class AutoModelForExpressionPrediction(_BaseAutoModelClass):
    """Loads the model of any family that predicts expression values."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForPerturbation(_BaseAutoModelClass):
    """Loads the model of any family that predicts the response to a perturbation."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


_OWN = {cls.__name__: cls for cls in (AutoModelForExpressionPrediction, AutoModelForPerturbation)}


class _ClassReference(NamedTuple):
    """Classes by module and name, not yet imported."""

    places: tuple[tuple[str, str], ...]

    def load(self) -> Any:
        classes = tuple(getattr(importlib.import_module(module), name) for module, name in self.places)
        # Of several, transformers takes the one that `architectures` names, and the first if it names none.
        return classes if len(classes) > 1 else classes[0]


class _ImportedOnUse(dict[Any, Any]):
    """The part of an Auto mapping where registered classes stand; a reference in it is imported when looked up."""

    def __getitem__(self, key: Any) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, _ClassReference):
            value = self[key] = value.load()
        return value

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return {key: self[key] for key in self}.values()

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]
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
    for auto_name in spec.model_classes:
        mapping = auto_class(auto_name)._model_mapping
        if not isinstance(mapping._extra_content, _ImportedOnUse):
            mapping._extra_content = _ImportedOnUse(mapping._extra_content)
        mapping._extra_content[config_class] = _ClassReference(tuple(map(spec.locate, spec.classes_of(auto_name))))


def register_all() -> None:
    """Make every family known to the Auto classes."""
    for spec in families().values():
        register(spec)
    from scfm_hf.tokenization import CellTokenizer

    used = {name for spec in families().values() for name in spec.model_classes}
    for loader in (AutoConfig, AutoTokenizer, CellConfig, CellTokenizer, *map(auto_class, sorted(used))):
        resolve_ids(loader)
