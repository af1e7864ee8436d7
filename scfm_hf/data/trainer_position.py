"""Lets the stock Trainer go on exactly where a run stopped in a corpus, without reading what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from scfm_hf.data.stream import CellStream
from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class StreamPosition(TrainerCallback, ExportableState):
    """Keeps the position of a :class:`scfm_hf.data.stream.CellStream` in Trainer's checkpoints.

    ::

        corpus = load_corpus("corpus/", tokenizer=tokenizer, batch_size=32)
        trainer = Trainer(model, arguments, train_dataset=corpus, callbacks=[StreamPosition()], ...)
        trainer.train(resume_from_checkpoint=True)

    By itself Trainer reads all that was seen of an epoch again to get past it. With this callback it goes to the
    position at once, and refuses to go on with files that were changed. It turns ``ignore_data_skip`` on.

    On one process the losses are then those of a run that was never stopped, bit for bit, as long as the collator draws
    no random numbers of its own, or draws them by cell.
    """

    def __init__(self) -> None:
        self.position: dict[str, Any] | None = None
        self._stream: CellStream | None = None
        self._steps_an_epoch = self._cells_a_step = 1

    def state(self) -> dict[str, Any]:
        """What Trainer writes into a checkpoint."""
        return {"args": {}, "attributes": {"position": self.position}}

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep Trainer from skipping what the stream will not give."""
        args.ignore_data_skip = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go to the position of the checkpoint, if there is one.

        Raises
        ------
        CorpusError
            If the training data is no stream, its files were changed, or the steps of an epoch cannot be counted.
        """
        loader = kwargs["train_dataloader"]
        dataset = getattr(loader.dataset, "dataset", loader.dataset)
        if not isinstance(dataset, CellStream):
            raise CorpusError(f"StreamPosition needs a stream of load_corpus as train_dataset, not {type(dataset)}.")
        self._stream = dataset
        accumulated = args.gradient_accumulation_steps
        self._steps_an_epoch = max(1, -(-len(loader) // accumulated))
        self._cells_a_step = args.train_batch_size * args.world_size * accumulated
        # The loader draws a seed from this generator and not from the one that dropout draws from.
        getattr(loader, "base_dataloader", loader).generator = self._generator = torch.Generator()
        if state.global_step:
            # Trainer itself restores callbacks only on request; what they saved is in its state in any case.
            saved: Any = state.stateful_callbacks or {}
            self.position = saved.get(type(self).__name__, {}).get("attributes", {}).get("position")
            self._go_on(state.global_step, evenly=len(loader) % accumulated == 0)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the workers of each epoch seeds of their own."""
        self._generator.manual_seed(args.seed + state.global_step // self._steps_an_epoch)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the position."""
        if self._stream is not None:
            epoch, step = divmod(state.global_step, self._steps_an_epoch)
            # Trainer counts from where the stream goes on.
            state.epoch = state.global_step / self._steps_an_epoch
            self.position = self._stream.state_dict(taken=step * self._cells_a_step) | {"epoch": epoch}

    def _go_on(self, global_step: int, *, evenly: bool) -> None:
        assert self._stream is not None
        epoch, step = divmod(global_step, self._steps_an_epoch)
        offset = step * self._cells_a_step
        if step and not evenly:
            raise CorpusError(
                "Trainer cannot go on in the middle of an epoch whose batches do not divide by "
                "gradient_accumulation_steps. Set dataloader_drop_last=True or another batch size from the start."
            )
        if self.position is None:
            raise CorpusError(
                "The checkpoint was written without StreamPosition: its position in the corpus is unknown. Leave the "
                "callback out, and Trainer reads again what was seen."
            )
        if (self.position["epoch"], self.position["offset"]) != (epoch, offset):
            raise CorpusError(
                f"The checkpoint stopped at cell {self.position['offset']:,} of epoch {self.position['epoch']}; with "
                f"this batch size step {global_step} is cell {offset:,} of epoch {epoch}. Use the batch size, the "
                "accumulation and the number of ranks of the run that is to go on."
            )
        self._stream.load_state_dict(self.position)
