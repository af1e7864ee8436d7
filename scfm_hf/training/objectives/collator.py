"""From the cells of a batch to what each objective gives the encoder, and what it compares with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from scfm_hf.tokenization.draws import CellDraws
from scfm_hf.training.objectives.cell_batch import CellBatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import TrainerControl, TrainerState, TrainingArguments

    from scfm_hf.models.configuration import CellConfig
    from scfm_hf.tokenization import CellTokenizer
    from scfm_hf.training.objectives.objective import Objective

#: Pass through the encoder that sees the cells as they are.
WHOLE = "whole"


class ObjectiveCollator:
    """Makes the batches of a mixture of objectives; works in the workers of a loader.

    What is hidden in a cell depends on the seed, the epoch and the cell's ``cell_id`` (what it holds, where it has
    none), and on nothing else: not on its batch, the worker, or what was drawn before.

    Parameters
    ----------
    objectives
        By name.
    tokenizer
        Encodes counts. Trainer saves it with its checkpoints.
    classes
        Classes of each annotation.
    seed
        Of all draws.
    """

    def __init__(
        self,
        objectives: Mapping[str, Objective],
        *,
        tokenizer: CellTokenizer,
        classes: Mapping[str, Sequence[str]],
        seed: int = 0,
    ) -> None:
        self.objectives, self.tokenizer, self.classes, self.seed = dict(objectives), tokenizer, dict(classes), seed
        self._encoder: tuple[str, CellConfig, Mapping[str, str | None]] | None = None
        # Workers that live on from one epoch to the next see it too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Epoch that is drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew for another epoch; :class:`EpochOfDraws` calls it."""
        self._epoch.fill_(int(epoch))

    def bind(self, family: str, config: CellConfig, own_classes: Mapping[str, str | None]) -> None:
        """Say for which encoder batches are made; ``Objectives.model`` calls it."""
        self._encoder = family, config, dict(own_classes)

    def __call__(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Make a batch.

        Parameters
        ----------
        cells
            See :class:`scfm_hf.training.objectives.cell_batch.CellBatch`.

        Returns
        -------
        ``inputs``: by pass through the encoder (an objective's name, or ``whole``), its arguments; ``labels``: by
        objective, what its loss compares with.

        Raises
        ------
        ValueError
            If there is no model yet, or the cells lack what an objective needs.
        """
        if self._encoder is None:
            raise ValueError("Make the model first, with objectives.model(encoder): batches depend on its family.")
        family, config, own_classes = self._encoder
        inputs: dict[str, Any] = {}
        labels: dict[str, Any] = {}
        batch = CellBatch(cells, tokenizer=self.tokenizer, classes=self.classes, config=config, family=family)
        for name, objective in self.objectives.items():
            batch.own_class = own_classes[name]
            draws = CellDraws(self.seed, step=f"{name}/{self.epoch}")
            made = objective.prepare(batch, draws)
            labels[name] = dict(made.targets)
            if made.inputs is not None:
                inputs[name] = dict(made.inputs)
            elif objective.source is None and WHOLE not in inputs:
                inputs[WHOLE] = batch.pad(batch.whole)
        return {"inputs": inputs, "labels": labels}


class EpochOfDraws(TrainerCallback):
    """Tells the collator the epoch, so that each epoch hides something else, and a resumed run goes on as it would.

    It also keeps Trainer from removing the columns that objectives read.
    """

    def __init__(self, collator: ObjectiveCollator) -> None:
        self.collator = collator

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep all columns."""
        args.remove_unused_columns = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the epoch, which Trainer counts as a fraction."""
        self.collator.set_epoch(int((state.epoch or 0) + 1e-6))
