"""What an objective is, and which there are: each says so itself, in a file of this folder.

A module here that defines ``OBJECTIVE``, a subclass of :class:`Objective`, is an objective of the module's name;
nothing else needs to know it.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from scfm_hf.models.registry import families

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from scfm_hf.models.configuration import CellConfig
    from scfm_hf.tokenization.draws import Draws
    from scfm_hf.training.objectives.cell_batch import CellBatch
    from scfm_hf.training.objectives.heads import EncoderShape


class Prepared(NamedTuple):
    """What an objective makes of a batch.

    Parameters
    ----------
    inputs
        What the encoder sees, by the names of its arguments; None: the whole cells.
    targets
        What the loss compares with, by name.
    """

    inputs: Mapping[str, Tensor] | None
    targets: Mapping[str, Tensor]


class Seen(NamedTuple):
    """What a head may look at.

    Parameters
    ----------
    outputs
        Of the encoder: ``last_hidden_state``, ``cell_embedding``.
    inputs
        What the encoder was given.
    embedding
        Weight of the encoder's gene embedding, (vocab_size, width), for heads that share it; None where it has none.
    training
        Whether the model trains; in evaluation the same batch must give the same loss.
    """

    outputs: ModelOutput
    inputs: Mapping[str, Tensor]
    embedding: Tensor | None
    training: bool


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """Base of the objectives; a frozen dataclass whose fields are its options.

    Parameters
    ----------
    weight
        Factor of the loss in a mixture.
    own_head
        Use the family's own head and loss where the family was pretrained with this objective.
    """

    #: Another objective whose heads it trains; None: its own.
    heads_of: ClassVar[str | None] = None
    #: Whether a loss compares the cells of a batch, so that it is not a mean over cells.
    compares_cells: ClassVar[bool] = False

    weight: float = 1.0
    own_head: bool = True

    @property
    def name(self) -> str:
        """Its name, which is that of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def annotations(self) -> tuple[str, ...]:
        """Annotations of cells that it needs, by column."""
        return ()

    @property
    def source(self) -> str | None:
        """Another objective of the mixture whose pass through the encoder it looks at; None: one of its own."""
        return None

    def own_class(self, family: str, config: CellConfig) -> str | None:
        """Name of the family's class whose head and loss are used; None: the general head."""
        return families()[family].own_objectives.get(self.heads_of or self.name) if self.own_head else None

    @abstractmethod
    def prepare(self, cells: CellBatch, draws: Draws) -> Prepared:
        """Inputs and targets of a batch.

        Parameters
        ----------
        cells
            The batch.
        draws
            Where all that is random is drawn from, by cell: each cell's result depends on that cell alone.
        """

    @abstractmethod
    def head(self, shape: EncoderShape) -> nn.Module:
        """The general head, for encoders of any family."""

    @abstractmethod
    def loss(self, head: Any, seen: Seen, targets: Mapping[str, Tensor]) -> Tensor:
        """The loss with the general head, scalar."""

    def own_loss(
        self, model: PreTrainedModel, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> tuple[ModelOutput, Tensor]:
        """Output and loss of the family's own class, which runs the encoder itself."""
        outputs = model(**inputs, **targets)
        return outputs, outputs["loss"]

    def check(self) -> None:
        """Raise ValueError if an option has a value that it cannot have; objectives extend it."""
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight} of {type(self).__name__}: a weight is 0 or more.")

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of its options."""
        return tuple(field.name for field in fields(cls))


@cache
def objective_classes() -> Mapping[str, type[Objective]]:
    """All objectives by name, in alphabetical order."""
    package = importlib.import_module(__package__ or "scfm_hf.training.objectives")
    found: dict[str, type[Objective]] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        made = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "OBJECTIVE", None)
        if made is not None:
            found[module.name] = made
    return MappingProxyType(found)


def objective_names() -> tuple[str, ...]:
    """Names of all objectives, in alphabetical order."""
    return tuple(objective_classes())


def make_objective(name: str, options: Mapping[str, Any]) -> Objective:
    """An objective with its options.

    Raises
    ------
    ValueError
        If there is no objective of that name, it has no such option, or an option has a value that it cannot have.
    """
    known = objective_classes()
    if name not in known:
        raise ValueError(f"There is no objective {name!r}. There are: {', '.join(known)}.")
    unknown = sorted(set(options) - set(known[name].option_names()))
    if unknown:
        raise ValueError(
            f"The objective {name} has no option {', '.join(map(repr, unknown))}. It has: "
            f"{', '.join(known[name].option_names())}."
        )
    try:
        made = known[name](**options)
        made.check()
    except TypeError as error:  # such as a text in the place of a number
        raise ValueError(f"The objective {name} cannot be made with {dict(options)}: {error}.") from error
    return made
