"""Mixtures of objectives: from a description to a collator and a model for Trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from scfm_hf.errors import CheckpointError, CompatibilityError
from scfm_hf.models.base import HEADS_OF_OBJECTIVES
from scfm_hf.models.registry import family_of
from scfm_hf.training.objectives.collator import EpochOfDraws, ObjectiveCollator
from scfm_hf.training.objectives.heads import measure
from scfm_hf.training.objectives.model import OBJECTIVES_FILE, EncoderWithObjectives
from scfm_hf.training.objectives.objective import Objective, make_objective

if TYPE_CHECKING:
    import os

    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedModel

    from scfm_hf.tokenization import CellTokenizer

logger = logging.get_logger(__name__)


def make_objectives(
    objectives: Mapping[str, Mapping[str, Any]] | Sequence[str],
    *,
    tokenizer: CellTokenizer,
    columns: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Objectives:
    """Make a mixture of objectives.

    ::

        objectives = make_objectives({"masked_gene": {"share": 0.15}}, tokenizer=tokenizer)
        model = objectives.model(AutoModel.from_pretrained("..."))
        trainer = Trainer(
            model, arguments, train_dataset=corpus, data_collator=objectives.collator, callbacks=[objectives.callback]
        )

    Parameters
    ----------
    objectives
        Name -> options, among them ``weight``; or names alone.
    tokenizer
        Of the encoder.
    columns
        Annotations of cells and their classes, in order, for the objectives that read some.
    seed
        Of all that is drawn.

    Raises
    ------
    ValueError
        If there is no such objective, option or column.
    """
    described = objectives if isinstance(objectives, Mapping) else dict.fromkeys(objectives, {})
    if not described:
        raise ValueError("Name at least one objective.")
    made = {name: make_objective(name, options or {}) for name, options in described.items()}
    classes = {name: tuple(map(str, of_column)) for name, of_column in (columns or {}).items()}
    for name, objective in made.items():
        lacking = [column for column in objective.annotations if column not in classes]
        if lacking:
            raise ValueError(
                f"The objective {name} reads {', '.join(map(repr, lacking))}: say which classes there are, with "
                f"columns={{{lacking[0]!r}: [...]}}. Named: {', '.join(map(repr, classes)) or 'none'}."
            )
        if objective.source is not None and (objective.source not in made or made[objective.source].source is not None):
            raise ValueError(
                f"The objective {name} looks at the pass of {objective.source!r}, which is no objective of this "
                "mixture with a pass of its own."
            )
    return Objectives(made, tokenizer=tokenizer, classes=classes, seed=seed)


def load_objectives(folder: str | os.PathLike[str], *, tokenizer: CellTokenizer | None = None) -> Objectives:
    """The mixture that a checkpoint was trained with; ``objectives.from_pretrained(folder)`` then gives its model.

    Raises
    ------
    CheckpointError
        If the folder does not say.
    """
    path = Path(folder) / OBJECTIVES_FILE
    if not path.exists():
        raise CheckpointError(f"{folder} has no {OBJECTIVES_FILE}: it was not trained with objectives.")
    described = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer is None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
    return make_objectives(
        described["objectives"], tokenizer=tokenizer, columns=described["columns"], seed=described["seed"]
    )


class Objectives:
    """A mixture of objectives; made by :func:`make_objectives`.

    Parameters
    ----------
    objectives
        By name.
    tokenizer
        Of the encoder.
    classes
        Classes of each annotation.
    seed
        Of all that is drawn.
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
        #: For ``Trainer(data_collator=...)``.
        self.collator = ObjectiveCollator(objectives, tokenizer=tokenizer, classes=classes, seed=seed)
        #: For ``Trainer(callbacks=[...])``: tells the collator the epoch.
        self.callback = EpochOfDraws(self.collator)

    @property
    def columns(self) -> tuple[str, ...]:
        """Annotations that cells must carry."""
        return tuple(dict.fromkeys(name for objective in self.objectives.values() for name in objective.annotations))

    def describe(self) -> dict[str, Any]:
        """All options, in plain types."""
        return {
            "objectives": {name: asdict(objective) for name, objective in self.objectives.items()},
            "columns": {name: list(classes) for name, classes in self.classes.items()},
            "seed": self.seed,
        }

    def model(self, encoder: PreTrainedModel) -> EncoderWithObjectives:
        """An encoder with the heads of the objectives.

        Parameters
        ----------
        encoder
            An encoder (``AutoModel``) of any family, or a family's own pretraining model, whose head then goes on.

        Raises
        ------
        CompatibilityError
            If the model is of no family of this library, or of another vocabulary than the tokenizer.
        """
        spec = family_of(encoder)
        prefix = encoder.base_model_prefix
        body = getattr(encoder, prefix, encoder)
        self._refuse_other_vocabulary(body)
        own_models: dict[str, PreTrainedModel] = {}
        by_class: dict[str, PreTrainedModel] = {} if body is encoder else {type(encoder).__name__: encoder}
        for name, objective in self.objectives.items():
            class_name = objective.own_class(spec.name, body.config)
            if class_name is None:
                continue
            if class_name not in by_class:
                own = spec.load_class(class_name)(body.config)
                setattr(own, prefix, body)
                own.tie_weights()
                by_class[class_name] = own.to(device=body.device, dtype=body.dtype)
            own_models[name] = by_class[class_name]
        self._refuse_clashes(own_models)
        self.collator.bind(spec.name, body.config, {name: _class_of(own_models.get(name)) for name in self.objectives})
        shape = measure(body, self.tokenizer, spec.name, self.classes)
        made = EncoderWithObjectives(body, self.objectives, shape, own_models, self.describe())
        made.heads.to(device=body.device, dtype=body.dtype)
        return made.train(encoder.training)

    def from_pretrained(self, folder: str | os.PathLike[str]) -> EncoderWithObjectives:
        """Go on with a checkpoint: the encoder, and the heads that it has; new ones start fresh.

        Raises
        ------
        CheckpointError
            If a head of the checkpoint has another shape.
        """
        from safetensors.torch import load_file
        from transformers import AutoModel

        model = self.model(AutoModel.from_pretrained(folder))
        found: dict[str, Tensor] = {}
        for path in sorted(Path(folder).glob("model*.safetensors")):
            found |= load_file(path)
        state = model.state_dict()
        other = [name for name in found if name in state and found[name].shape != state[name].shape]
        if other:
            raise CheckpointError(
                f"{folder} was trained with other heads: {other[0]} has the shape {tuple(found[other[0]].shape)} "
                f"there, {tuple(state[other[0]].shape)} here ({len(other)} in all). Use its options "
                "(load_objectives(folder))."
            )
        missing, _ = model.load_state_dict({name: one for name, one in found.items() if name in state}, strict=False)
        tied = set(model.all_tied_weights_keys)
        fresh = sorted({_head_of(name) for name in missing if name not in tied and _is_head(name, model)})
        if fresh:
            logger.warning(f"{', '.join(fresh)} not in {folder}: it starts fresh.")
        return model

    def compute_metrics(self, predicted: EvalPrediction) -> dict[str, float]:
        """Mean loss of each objective, for ``Trainer(compute_metrics=...)``: Trainer itself reports the sum alone."""
        losses = predicted.predictions
        losses = losses[-1] if isinstance(losses, tuple) else losses
        return {f"{name}_loss": float(np.mean(one)) for name, one in losses.items()}

    def _refuse_other_vocabulary(self, body: PreTrainedModel) -> None:
        digest = getattr(body.config, "vocabulary_digest", None)
        if digest is not None and digest != self.tokenizer.vocabulary_digest:
            raise CompatibilityError(
                f"The model was built for another vocabulary (digest {digest[:12]}) than the tokenizer's "
                f"({self.tokenizer.vocabulary_digest[:12]}). Take the tokenizer of its folder."
            )

    def _refuse_clashes(self, own_models: Mapping[str, PreTrainedModel]) -> None:
        heads: dict[str, tuple[str, Any]] = {}
        for name, own in own_models.items():
            for child, module in own.named_children():
                other, known = heads.setdefault(child, (name, module))
                if known is not module:
                    raise CompatibilityError(
                        f"The objectives {other} and {name} train two heads of one name ({child}). Take the general "
                        f"head for one of them: {name}: {{own_head: false}}."
                    )


def _class_of(model: PreTrainedModel | None) -> str | None:
    return None if model is None else type(model).__name__


def _is_head(name: str, model: EncoderWithObjectives) -> bool:
    return not name.startswith(f"{model.base_model_prefix}.")


def _head_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == HEADS_OF_OBJECTIVES else parts[0]
