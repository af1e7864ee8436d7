"""Adapters with the right targets for each family, so that they train what they should and save all that they train."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from scfm_hf.models.registry import family_of

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

Method = Literal["lora", "dora", "ia3"]


def lora_config(
    model: PreTrainedModel,
    *,
    method: Method = "lora",
    r: int = 8,
    alpha: int | None = None,
    dropout: float = 0.0,
    target_modules: list[str] | None = None,
    modules_to_save: list[str] | None = None,
    **options: Any,
) -> PeftConfig:
    """Adapter configuration that fits a model of this library.

    Parameters
    ----------
    model
        The model that will be adapted.
    method
        ``lora``, ``dora`` (weight-decomposed LoRA), or ``ia3`` (learned scales).
    r, alpha, dropout
        Rank, scale (None: 2 r) and dropout of LoRA and DoRA.
    target_modules
        Modules to adapt; None: those that suit the family.
    modules_to_save
        Modules to train and save whole; None: a classification head, every head that the checkpoint did not have,
        and what the family needs beside them.
    **options
        Further fields of peft's configuration.

    Returns
    -------
    For ``peft.get_peft_model(model, ...)``.

    Raises
    ------
    CompatibilityError
        If the model is of no family of this library.
    ValueError
        If the method is unknown.
    """
    from peft import IA3Config, LoraConfig
    from transformers.pytorch_utils import Conv1D

    spec = family_of(model)
    present = dict(model.named_modules())
    if modules_to_save is None:
        wanted = dict.fromkeys((*spec.modules_to_save, "classifier", *getattr(model, "fresh_heads", ())))
        modules_to_save = [name for name in wanted if any(path.split(".")[-1] == name for path in present)]
    targets = list(spec.lora_targets) if target_modules is None else target_modules
    # The layers of GPT-2 hold their weights the other way round.
    transposed = any(isinstance(module, Conv1D) and path.endswith(tuple(targets)) for path, module in present.items())
    common = {
        "modules_to_save": modules_to_save or None,
        "task_type": _task_type(model),
        "fan_in_fan_out": transposed,
        **options,
    }
    if method == "ia3":
        feedforward = [name for name in spec.lora_feedforward if any(path.endswith(name) for path in present)]
        return IA3Config(
            target_modules=[*targets, *(name for name in feedforward if name not in targets)],
            feedforward_modules=feedforward,
            **common,
        )
    if method not in ("lora", "dora"):
        raise ValueError(f"method={method!r} is none of 'lora', 'dora', 'ia3'.")
    scale = 2 * r if alpha is None else alpha
    return LoraConfig(
        r=r, lora_alpha=scale, lora_dropout=dropout, use_dora=method == "dora", target_modules=targets, **common
    )


def _task_type(model: PreTrainedModel) -> str | None:
    """Task by which peft wraps the model, where its wrapper fits: it passes inputs that not every model takes."""
    passed = {"input_ids", "attention_mask", "inputs_embeds", "labels", "output_attentions", "output_hidden_states"}
    if not passed <= inspect.signature(type(model).forward).parameters.keys():
        return None
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "TOKEN_CLS" if name.endswith("ForTokenClassification") else None
