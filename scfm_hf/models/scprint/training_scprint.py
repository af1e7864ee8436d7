"""A step of scPRINT's pretraining: passes over the same cells, hidden, thinned and generated from themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scfm_hf.models.scprint.losses_scprint import contrast_of_passes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scfm_hf.models.scprint.pretraining_scprint import ScPrintForPreTraining, ScPrintPreTrainingOutput
    from scfm_hf.tokenization.draws import Draws

#: Thinning takes a little more than it is asked for.
_EXCESS = 1.1


@dataclass(frozen=True)
class Pass:
    """Another pass over the cells of a step.

    Parameters
    ----------
    name
        Stands before the names of its terms.
    values
        Counts that the model sees, (n_cells, n_genes); None: those of the step.
    masked
        True where expression is hidden, bool, (n_cells, n_genes).
    predicts_input
        The counts that are seen are also those to predict, and give depth and total.
    """

    name: str
    values: Tensor | None = None
    masked: Tensor | None = None
    predicts_input: bool = False


def pretraining_step(
    model: ScPrintForPreTraining,
    batch: Mapping[str, Tensor],
    passes: Sequence[Pass] = (),
    *,
    generate: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a step, to be differentiated.

    The first pass sees the cells as they are: labels, adversarial terms and counts from the cell embedding are its, the
    expression is not. The other passes and the generation from the first pass's cell tokens add expression,
    dissimilarity and similarity; in the end the passes are contrasted.

    Parameters
    ----------
    model
        In training mode or not.
    batch
        ``input_ids``, ``values``, ``attention_mask``, ``depth``, ``class_ids``, ``batch_ids`` and the like: inputs of
        :meth:`ScPrintForPreTraining.forward`.
    passes
        See :func:`drawn_passes`.
    generate
        Generate the cells from their tokens.

    Returns
    -------
    Scalar loss, and its terms without weights, by ``<pass>.<term>``.
    """
    given = dict(batch)
    of_cells = {name: given.pop(name) for name in ("class_ids", "batch_ids") if name in given}
    values = given["values"]
    real = given.get("attention_mask")
    total = (values if real is None else values * real).sum(1)
    given.setdefault("depth", total)
    full = model(**given, **of_cells, labels=values)
    counted = {name: term for name, term in full.terms.items() if name != "expression"}
    terms = {f"full.{name}": term for name, term in counted.items()}
    loss = model.total_loss(counted)
    outputs = [full]

    def add(name: str, output: ScPrintPreTrainingOutput) -> Tensor:
        kept = {one: term for one, term in (output.terms or {}).items() if one != "cell_expression"}
        terms.update({f"{name}.{one}": term for one, term in kept.items()})
        outputs.append(output)
        return model.total_loss(kept)

    for one in passes:
        seen = values if one.values is None else one.values
        target, sums = (seen, seen.sum(1)) if one.predicts_input else (values, total)
        depth = sums if one.predicts_input else given["depth"]
        changed = {**given, "values": seen, "depth": depth, "masked": one.masked, "total": sums, "labels": target}
        loss = loss + add(one.name, model(**changed))
    if generate:
        changed = {**given, "values": None, "cell_states": full.cell_states, "total": total, "labels": values}
        loss = loss + add("generation", model(**changed))
    config = model.config
    embeddings = [output.cell_states.mean(1) for output in outputs if output.cell_states is not None]
    if config.contrastive_weight and len(embeddings) > 1:
        contrast = contrast_of_passes(
            embeddings, config.contrastive_temperature, first_version=config.first_version_contrast
        )
        terms["contrast"] = contrast
        loss = loss + model.total_loss({"contrast": contrast})
    return loss, terms


def drawn_passes(
    values: Tensor,
    *,
    draws: Draws,
    cell_ids: Sequence[str | int],
    masked: float | None = 0.3,
    thinned: float | None = 0.6,
    weights: Tensor | None = None,
) -> list[Pass]:
    """The passes of a step, drawn anew: one with hidden genes, one with thinned counts.

    Parameters
    ----------
    values
        Counts, (n_cells, n_genes).
    draws, cell_ids
        Streams, and the cells that they are for.
    masked, thinned
        Share of the genes to hide, and of the counts to take away; None leaves the pass out.
    weights
        How likely each gene is hidden relative to the others, (n_cells, n_genes): of transcription factors 20, say.
    """
    streams = [draws.cell(cell_id) for cell_id in cell_ids]
    passes = []
    if masked is not None:
        hidden = np.zeros(values.shape, bool)
        for row, stream in enumerate(streams):
            chances = None
            if weights is not None:
                chances = weights[row].double().numpy()
                chances = chances / chances.sum()
            hidden[row, stream.choice(values.shape[1], round(masked * values.shape[1]), weights=chances)] = True
        passes.append(Pass("mask", masked=torch.from_numpy(hidden).to(values.device)))
    if thinned is not None:
        counts = values.cpu().numpy()
        drawn = []
        for row, stream in enumerate(streams):
            half = _EXCESS * thinned / 2
            left = counts[row] - stream.numpy.poisson(counts[row] * half)
            drawn.append(np.maximum(left, 0) * (stream.uniform(values.shape[1]) >= half))
        passes.append(Pass("denoise", values=torch.from_numpy(np.stack(drawn)).to(values)))
    return passes
