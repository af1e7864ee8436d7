"""pretrain: train an encoder on a corpus, from scratch or further, as a configuration says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_hf.errors import CheckpointError, ConfigurationError
from scfm_hf.folders import refuse_taken, whole_file, whole_folder
from scfm_hf.tasks.pretraining_config import PretrainingConfig, differences, to_yaml

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from transformers import PreTrainedModel, TrainingArguments

    from scfm_hf.data.stream import CellStream
    from scfm_hf.tokenization import CellTokenizer
    from scfm_hf.training.trainer import CellTrainer

#: Options of TrainingArguments that differ from transformers' own where the configuration is silent.
DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 32,
    "learning_rate": 1e-3,
    "warmup_steps": 0.05,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.01,
    "logging_first_step": True,
    "logging_steps": 50,
    "save_steps": 500,
    "save_total_limit": 2,
    "report_to": "none",
}


@dataclass(frozen=True)
class PretrainingResult:
    """A pretrained model.

    Parameters
    ----------
    model, tokenizer
        The encoder with the heads of its objectives, and its tokenizer.
    metrics
        Losses on the held-out cells, if there are any.
    log
        What Trainer logged, one entry a line.
    output
        Folder of the model, which the Auto classes open.
    """

    model: PreTrainedModel
    tokenizer: CellTokenizer
    metrics: dict[str, float]
    log: list[dict[str, Any]]
    output: Path

    def __str__(self) -> str:
        losses = [entry["loss"] for entry in self.log if "loss" in entry]
        text = f"Trained to step {self.log[-1]['step']:,}"
        text += f"; loss {losses[0]:.4g} at first, {losses[-1]:.4g} at last." if losses else "."
        if "eval_loss" in self.metrics:
            text += f" On held-out cells: {self.metrics['eval_loss']:.4g}."
        return f"{text} Saved in {self.output}."


def pretrain(
    config: str | os.PathLike[str] | Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> PretrainingResult:
    """Pretrain a model.

    Runs under ``torchrun`` and ``accelerate launch`` as it does alone. Checkpoints, the tokenizer and the configuration
    lie in ``<output>-run``; the finished model, with its card and the curve of its loss, appears in ``output`` whole or
    not at all.

    Parameters
    ----------
    config
        A YAML file or a dictionary, see :class:`~scfm_hf.tasks.pretraining_config.PretrainingConfig` and
        ``docs/pretraining.md``. Paths in it are relative to the working directory.
    resume
        Go on with an interrupted run; one that has no checkpoint yet begins.
    overwrite
        Replace an earlier result.

    Raises
    ------
    ConfigurationError
        If the configuration cannot be used, or is not that of the run to go on with.
    FileExistsError
        If ``output`` is there, or an interrupted run is and ``resume`` is not asked for.
    CorpusError
        If a file cannot be used.
    TrainingError
        If a loss or gradient is not finite.
    """
    from transformers import set_seed

    from scfm_hf.tasks import pretraining_parts as parts
    from scfm_hf.training.objectives import make_objectives

    described = config if isinstance(config, PretrainingConfig) else PretrainingConfig.read(config)
    refuse_taken(described.output, replaceable=("config.json",) if overwrite else ())
    arguments = _arguments(described)
    with arguments.main_process_first(desc="tokenizer"):
        if arguments.process_index == 0:
            _begin_run(described, resume=resume)
    tokenizer = _tokenizer_of(described.run_folder)
    train, held_out = parts.make_streams(described, tokenizer, batch_size=arguments.train_batch_size)
    set_seed(described.seed)  # fresh weights and heads are drawn
    encoder = parts.make_encoder(described, tokenizer)
    classes = {name: list(column.names or ()) for name, column in train.annotation.items()}
    if "metadata_tokens" in described.objectives:
        parts.add_tokens_of_metadata(described, tokenizer, encoder, classes)
    objectives = make_objectives(described.objectives, tokenizer=tokenizer, columns=classes, seed=described.seed)
    trainer = _trainer(objectives, encoder, tokenizer, arguments, train, held_out)
    trainer.train(resume_from_checkpoint=_checkpoint_to_resume(described.run_folder))
    result = PretrainingResult(
        trainer.model, tokenizer, _last_evaluation(trainer), list(trainer.state.log_history), Path(described.output)
    )
    # With FSDP every rank has a part of the weights.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if arguments.process_index == 0:
        _save(result, described, trainer, train, weights=weights, overwrite=overwrite)
    trainer.accelerator.wait_for_everyone()
    return result


def _arguments(config: PretrainingConfig) -> TrainingArguments:
    """TrainingArguments of a run.

    Raises
    ------
    ConfigurationError
        If one has a value that it cannot have.
    """
    import torch
    from transformers import TrainingArguments

    options: dict[str, Any] = {"seed": config.seed, **DEFAULTS, **config.training}
    options.setdefault("per_device_eval_batch_size", options["per_device_train_batch_size"])
    options.setdefault("dataloader_pin_memory", torch.cuda.is_available())
    # Each rank reads its own cells; batches of different lengths could not be sent from one to the others.
    options.setdefault("accelerator_config", {"dispatch_batches": False})
    if config.corpus.get("validation") or config.corpus.get("validation_share"):
        options.setdefault("eval_strategy", "steps")
        options.setdefault("eval_steps", options["save_steps"])
    try:
        return TrainingArguments(output_dir=str(config.run_folder), remove_unused_columns=False, **options)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"training: {error}") from error


def _begin_run(config: PretrainingConfig, *, resume: bool) -> None:
    """Make the folder of a run with its tokenizer and configuration, or check that the one there is the same run.

    Raises
    ------
    FileExistsError
        If there is a run that is not to go on.
    ConfigurationError
        If the configuration of the run to go on with is another.
    """
    from scfm_hf.tasks.pretraining_parts import make_tokenizer

    folder = config.run_folder
    written = folder / "pretraining.json"
    if not written.is_file():
        refuse_taken(folder)
        tokenizer = make_tokenizer(config)
        with whole_folder(folder) as new:
            tokenizer.save_pretrained(new / "tokenizer")
            (new / written.name).write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
        return
    if not resume:
        raise FileExistsError(
            f"{folder} holds an interrupted run. Go on with it (resume=True, or --resume), or remove it."
        )
    before = json.loads(written.read_text(encoding="utf-8"))
    changed = differences(before, json.loads(json.dumps(config.to_dict())))
    if changed:
        raise ConfigurationError(
            f"{folder} is a run of another configuration: {', '.join(changed)} differ. Only training may change on the "
            "way. Give the configuration of the run (pretraining.json there), or another output."
        )


def _tokenizer_of(folder: Path) -> CellTokenizer:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def _checkpoint_to_resume(folder: Path) -> bool | None:
    """True if there is a checkpoint to go on from.

    Raises
    ------
    CheckpointError
        If there are checkpoints, all of them damaged.
    """
    from scfm_hf.training.whole_checkpoints import last_whole_checkpoint

    found, damaged = last_whole_checkpoint(folder)
    if found is None and damaged:
        what = "; ".join(f"{path.name}: {reason}" for path, reason in list(damaged.items())[:3])
        raise CheckpointError(f"All checkpoints of {folder} are damaged ({what}). Remove them to begin anew.")
    return True if found is not None else None


def _trainer(
    objectives: Any,
    encoder: PreTrainedModel,
    tokenizer: CellTokenizer,
    arguments: TrainingArguments,
    train: CellStream,
    held_out: CellStream | None,
) -> CellTrainer:
    from scfm_hf.training.trainer import CellTrainer

    return CellTrainer(
        objectives.model(encoder),
        arguments,
        objectives.collator,
        train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[objectives.callback],
    )


def _last_evaluation(trainer: CellTrainer) -> dict[str, float]:
    """Losses on the held-out cells after the last step; empty if none are held out."""
    if trainer.eval_dataset is None:
        return {}
    last = next((entry for entry in reversed(trainer.state.log_history) if "eval_loss" in entry), None)
    return dict(last) if last and last["step"] == trainer.state.global_step else trainer.evaluate()


def _save(
    result: PretrainingResult,
    config: PretrainingConfig,
    trainer: CellTrainer,
    train: CellStream,
    *,
    weights: dict[str, Any] | None,
    overwrite: bool,
) -> None:
    """Write the finished model with all that tells how it came about, whole or not at all."""
    from scfm_hf.tasks.pretraining_card import write_card
    from scfm_hf.training.loss_curve import plot_losses

    with whole_folder(config.output, replace=overwrite) as folder:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder, state_dict=weights)
        result.tokenizer.save_pretrained(folder)
        (folder / "pretraining.yaml").write_text(to_yaml(config.to_dict()), encoding="utf-8")
        with whole_file(folder / "training_log.json") as file:
            file.write_text(json.dumps(result.log, indent=1) + "\n", encoding="utf-8")
        picture = plot_losses(result.log, folder / "losses.png")
        write_card(folder, config, trainer, train, metrics=result.metrics, picture=picture)
