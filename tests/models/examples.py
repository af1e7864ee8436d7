"""A tiny model of every family, and real cells for it: what the tests of this folder run on.

Everything follows from the family's own specification. A family that needs more (another input, a further option of one
of its classes) puts a subclass of :class:`FamilyExample` named ``Example`` into ``tests/models/<family>/example.py``;
no shared file changes.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import torch

from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.registry import FamilySpec, families
from scfm_hf.models.side_tables import SideTable
from scfm_hf.tokenization import CellTokenizer
from scfm_hf.tokenization.scheme import scheme_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.models.configuration import CellConfig

CELLS = Path(__file__).parents[1] / "data" / "human_pbmc.h5ad"
#: Rows of the file that make a ragged batch: from 8 to 60 genes of those that the examples know.
ROWS = slice(0, 72, 9)
#: Genes of the file that no vocabulary of the examples has.
N_UNKNOWN = 20


class FamilyExample:
    """What the tests need of a family; a subclass changes what does not follow from the specification."""

    #: Lists of batch rows that depend on one another by design, such as the cells of a set; None: each cell on itself
    #: alone.
    groups: Sequence[Sequence[int]] | None = None
    #: Classes whose loss compares the cells of a batch with each other, so that it is not a mean over cells.
    loss_of_the_batch: Sequence[str] = ()

    def __init__(self, spec: FamilySpec) -> None:
        self.spec = spec

    # What a subclass may change ---------------------------------------------------------------------------------------

    def config_options(self, class_name: str) -> dict[str, Any]:
        """Options of the configuration that a class needs beside ``spec.tiny``."""
        return {}

    def scheme_options(self) -> dict[str, Any]:
        """Options of the tokenizer's scheme."""
        return {}

    def further_inputs(
        self, class_name: str, cells: anndata.AnnData, encoded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Inputs that no tokenizer makes, such as the batch that a cell comes from."""
        return {}

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a class needs beside its inputs to give a loss; empty if it gives none."""
        task = class_name.partition("For")[2]
        if not task:
            return {}
        real = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
        if task in ("MaskedLM", "CausalLM"):
            wanted = real & (torch.arange(real.shape[1]) % 3 == 1)
            return {"labels": inputs["input_ids"].masked_fill(~wanted, -100)}
        if task == "SequenceClassification":
            return {"labels": torch.arange(len(next(iter(inputs.values())))) % config.num_labels}
        if task == "TokenClassification":
            return {"labels": (inputs["input_ids"] % config.num_labels).masked_fill(~real, -100)}
        if "values" in inputs:
            return {"labels": inputs["values"].clone()}
        raise NotImplementedError(f"tests/models/{self.spec.name}/example.py must say what labels {class_name} takes.")

    def unfit_for_mixin(self, class_name: str) -> dict[str, str]:
        """Tests of transformers' ``ModelTesterMixin`` that do not fit a class, by a pattern of their names, and why."""
        return {}

    # What follows from the specification ------------------------------------------------------------------------------

    def config(self, class_name: str, **options: Any) -> CellConfig:
        """The tiny configuration, without dropout, so that training and evaluation can be compared."""
        made = self.spec.load_config_class()(**{**self.spec.tiny, **self.config_options(class_name), **options})
        for name in vars(made):
            if "dropout" in name and isinstance(getattr(made, name), float):
                setattr(made, name, 0.0)
        return made

    @cached_property
    def cells(self) -> anndata.AnnData:
        """Real cells of different depth over the genes of the vocabulary and some others."""
        cells = anndata.read_h5ad(CELLS)
        if self.spec.gene_ids == "ensembl_id":
            cells.var["symbol"] = cells.var_names
            cells.var_names = cells.var["ensembl_id"].to_numpy()
        cells.var_names.name = None
        # Genes that a tenth to two fifths of the cells express, evenly from the whole file, so that cells differ in
        # length.
        detected = np.asarray((cells.X > 0).mean(axis=0)).ravel()
        fit = np.flatnonzero((detected > 0.1) & (detected < 0.4) & ~cells.var_names.duplicated(keep=False))
        taken = fit[np.linspace(0, len(fit) - 1, self._n_genes + N_UNKNOWN).round().astype(int)]
        return cells[ROWS, taken].copy()

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """Genes of the cells, with the special tokens at the ids that the configuration says."""
        tokens = dict.fromkeys(range(self._n_tokens), "")
        tokens.update({token_id: f"<{role}>" for role, token_id in self._special_ids.items()})
        genes = iter(np.random.default_rng(0).permutation(self.cells.var_names.to_numpy())[: self._n_genes])
        return GeneVocabulary(
            [token or str(next(genes)) for token in tokens.values()],
            special_tokens={role: f"<{role}>" for role in self._special_ids},
            id_kind=self.spec.gene_ids,
            species=self.spec.species[:1],
        )

    @cached_property
    def tokenizer(self) -> CellTokenizer:
        """A tokenizer with seeded statistics."""
        random = np.random.default_rng(1)
        return CellTokenizer.from_vocabulary(
            self.vocabulary,
            scheme=self.spec.scheme,
            statistics={
                name: random.uniform(0.5, 3, len(self.vocabulary)) for name in scheme_class(self.spec.scheme).needs
            },
            max_length=getattr(self._config, "max_position_embeddings", None),
            **self.scheme_options(),
        )

    def inputs(self, class_name: str, rows: Sequence[int] | slice = slice(None)) -> dict[str, Tensor]:
        """A padded batch of some of the cells."""
        cells = self.cells[rows]
        encoded = dict(self.tokenizer(cells, padding=True, return_tensors="pt"))
        return {**encoded, **self.further_inputs(class_name, cells, encoded)}

    @cached_property
    def _config(self) -> CellConfig:
        return self.spec.load_config_class()(**self.spec.tiny)

    @property
    def _n_tokens(self) -> int:
        return self._config.vocab_size

    @property
    def _n_genes(self) -> int:
        return self._n_tokens - len(self._special_ids)

    @property
    def _special_ids(self) -> dict[str, int]:
        roles = ("pad", "mask", "cls", "eos", "bos", "sep", "unk")
        ids = {role: getattr(self._config, f"{role}_token_id", None) for role in roles}
        return {role: token_id for role, token_id in ids.items() if isinstance(token_id, int)}


@dataclass(frozen=True)
class Case:
    """One class of one family."""

    example: FamilyExample
    class_name: str

    @property
    def spec(self) -> FamilySpec:
        return self.example.spec

    @property
    def model_class(self) -> type[PreTrainedModel]:
        return self.spec.load_class(self.class_name)

    @property
    def base_class(self) -> type[PreTrainedModel]:
        """The encoder's class."""
        return self.spec.load_class(self.spec.classes_of("AutoModel")[0])

    @property
    def is_base(self) -> bool:
        return self.class_name == self.base_class.__name__

    @property
    def takes(self) -> Mapping[str, Any]:
        """Parameters of ``forward``."""
        return forward_parameters(self.model_class)

    def config(self, **options: Any) -> CellConfig:
        return self.example.config(self.class_name, **options)

    def model(self, seed: int = 0, **options: Any) -> PreTrainedModel:
        """A model in evaluation mode whose parameters are all different from their initial values."""
        torch.manual_seed(seed)
        model = self.model_class(self.config(**options))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        fill_side_tables(model)
        return model.eval()

    def inputs(self, rows: Sequence[int] | slice = slice(None)) -> dict[str, Tensor]:
        """A padded batch, without labels."""
        return self.example.inputs(self.class_name, rows)

    def labelled(self, rows: Sequence[int] | slice = slice(None)) -> dict[str, Tensor]:
        """A padded batch with what the class needs to give a loss."""
        inputs = self.inputs(rows)
        return {**inputs, **self.example.labels(self.class_name, self.config(), inputs)}

    @property
    def gives_loss(self) -> bool:
        return self.labelled([0]).keys() > self.inputs([0]).keys()


@cache
def example_of(name: str) -> FamilyExample:
    """The example of a family: its own, if its tests have one."""
    own = Path(__file__).parent / name / "example.py"
    made = importlib.import_module(f"models.{name}.example").Example if own.exists() else FamilyExample
    return made(families()[name])


def every_class() -> list[Case]:
    """One case a class of every family."""
    return [Case(example_of(name), class_name) for name, spec in families().items() for class_name in spec.class_names]


@cache
def forward_parameters(model_class: type[PreTrainedModel]) -> Mapping[str, Any]:
    import inspect

    return inspect.signature(model_class.forward).parameters


def fill_side_tables(model: torch.nn.Module) -> None:
    """Give the tables beside a model's weights seeded rows."""
    for table in (module for module in model.modules() if isinstance(module, SideTable)):
        if not table.is_filled:
            table.set_rows(np.random.default_rng(2).normal(size=(table.n_rows, table.n_columns)).astype(np.float32))


def tensors(output: ModelOutput) -> dict[str, Tensor]:
    """The tensors of an output by field; those in tuples are numbered."""
    found: dict[str, Tensor] = {}
    for name, value in output.items():
        parts = {f"{name}.{i}": part for i, part in enumerate(value)} if isinstance(value, tuple) else {name: value}
        found.update({key: part for key, part in parts.items() if isinstance(part, torch.Tensor)})
    return found


@torch.no_grad()
def results(model: torch.nn.Module, inputs: Mapping[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """What a model gives."""
    return tensors(model(**inputs, **options))


def loss_of(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The model's loss; of an encoder without one, a fixed random projection of what it gives."""
    output = model(**batch)
    if output.get("loss") is not None:
        return output["loss"]
    generator = torch.Generator().manual_seed(3)
    floats = [value for value in tensors(output).values() if value.is_floating_point()]
    return sum((value * torch.randn(value.shape, generator=generator)).sum() for value in floats)


def save_memory(model: PreTrainedModel) -> None:
    """Turn gradient checkpointing on, by the name that the installed transformers has for it."""
    (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()


def largest_difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Largest absolute difference over all tensors, which must have the same names and shapes."""
    assert one.keys() == other.keys()
    differences = [0.0]
    for name, value in one.items():
        assert value.shape == other[name].shape, name
        assert not (value.isnan() != other[name].isnan()).any(), f"{name}: not a number in one of them"
        if value.numel():
            differences.append((value.double() - other[name].double()).abs().nan_to_num().max().item())
    return max(differences)
