"""Lets the stock Trainer go on exactly where a run stopped in a corpus, without reading what was seen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from accelerate.data_loader import DataLoaderDispatcher, IterableDatasetShard
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

    On several ranks (torchrun, accelerate launch) it has each rank encode its share only, all ranks take as many steps,
    and every cell comes once an epoch, in the order of one process with the same cells a step.
    ``TrainingArguments(accelerator_config={"dispatch_batches": False})`` is needed then. If fewer cells than ranks are
    left for the last step, some come to several ranks.

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
            If the training data is no stream, its files were changed, or the steps of an epoch cannot be counted; or if
            ranks would not share the cells.
        """
        if args.world_size == 1 < int(os.environ.get("WORLD_SIZE", "1")):
            raise CorpusError(
                "Several processes were started, and Trainer takes each for the only one. Without accelerators it "
                'needs TrainingArguments(use_cpu=True, ddp_backend="gloo").'
            )
        loader = kwargs["train_dataloader"]
        self._stream = _share_of_this_rank(loader)
        accumulated = args.gradient_accumulation_steps
        self._steps_an_epoch = max(1, -(-len(loader) // accumulated))
        self._cells_a_step = loader.batch_size * self._stream.world_size * accumulated
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
        """Give the workers of each epoch and rank seeds of their own."""
        epoch = state.global_step // self._steps_an_epoch
        self._generator.manual_seed(args.seed + epoch * args.world_size + args.process_index)

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
                "gradient_accumulation_steps. Use another batch size or accumulation from the start."
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


def _share_of_this_rank(loader: Any) -> CellStream:
    """The stream that a loader of Trainer reads, which from now on is the share of this rank.

    accelerate by itself would have every rank encode all cells, keep its own, and fill the last batch up.
    """
    wrappers, stream = [], loader.dataset
    while not isinstance(stream, CellStream) and hasattr(stream, "dataset"):
        wrappers.append(stream)
        stream = stream.dataset
    if not isinstance(stream, CellStream):
        raise CorpusError(f"StreamPosition needs a stream of load_corpus as train_dataset, not {type(stream)}.")
    if isinstance(loader, DataLoaderDispatcher) and loader.state.num_processes > 1:
        raise CorpusError(
            "Trainer would read all cells on the first rank and send them to the others, which fails for batches of "
            'different lengths. Set TrainingArguments(accelerator_config={"dispatch_batches": False}): each rank then '
            "takes its own."
        )
    if loader.num_workers and loader.persistent_workers:
        raise CorpusError(
            "Workers that stay from epoch to epoch do not hear of the next epoch: leave dataloader_persistent_workers "
            "off."
        )
    stream.batch_size = loader.batch_size
    if wrappers and isinstance(shard := wrappers[0], IterableDatasetShard):
        stream = stream.shard(rank=shard.process_index, world_size=shard.num_processes, even_batches=True)
        wrappers[-1].dataset = stream
        # The wrapper passes on what it gets: one cell at a time, for one process.
        shard.batch_size, shard.split_batches, shard.num_processes, shard.process_index = 1, False, 1, 0
    return stream
