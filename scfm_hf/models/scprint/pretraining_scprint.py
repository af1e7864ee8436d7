"""scPRINT with its pretraining heads: counts from genes, counts from the cell, labels of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.outputs import CellExpressionOutput
from scfm_hf.models.scprint.decoders_scprint import (
    CellCountDecoder,
    ClassDecoders,
    CountDecoder,
    CountDistribution,
    LabelDecoder,
)
from scfm_hf.models.scprint.losses_scprint import dissimilarity_loss, hierarchical_loss, profile_error
from scfm_hf.models.scprint.modeling_scprint import ScPrintModel, ScPrintPreTrainedModel, cell_depth
from scfm_hf.nn.classifiers import reverse_gradient
from scfm_hf.nn.count_distributions import (
    expected_count,
    negative_binomial_nll,
    zero_inflated_negative_binomial_nll,
)
from scfm_hf.nn.losses import elastic_cell_similarity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_hf.models.scprint.configuration_scprint import ScPrintConfig

#: The term of batches has this part of the weight of classes.
_BATCH_SHARE = 1 / 16


@dataclass
class ScPrintPreTrainingOutput(CellExpressionOutput):
    """Output of all heads.

    Parameters
    ----------
    loss
        Weighted sum of ``terms``, scalar; only with ``labels`` or ``class_ids``.
    mean, dispersion, zero_logits
        Of each gene's count, (n_cells, n_genes); ``predicted_values`` is the mean with the additional zeros.
    cell_mean, cell_dispersion, cell_zero_logits
        The same, predicted from the cell embedding.
    class_logits
        Scores of the leaf labels of each class, in the order of ``config.class_names``, each (n_cells, n_labels).
    cell_states
        States of the cell tokens, (n_cells, n_cell_tokens, hidden_size).
    terms
        What the loss is made of, scalars by name.
    """

    mean: Tensor | None = None
    dispersion: Tensor | None = None
    zero_logits: Tensor | None = None
    cell_mean: Tensor | None = None
    cell_dispersion: Tensor | None = None
    cell_zero_logits: Tensor | None = None
    class_logits: tuple[Tensor, ...] | None = None
    cell_states: Tensor | None = None
    terms: dict[str, Tensor] | None = None


class ScPrintForPreTraining(ScPrintPreTrainedModel):
    """The encoder with the heads of its pretraining: denoises, imputes, generates and labels cells."""

    def __init__(self, config: ScPrintConfig) -> None:
        super().__init__(config)
        size, dropout = config.hidden_size, float(config.hidden_dropout_prob)
        self.scprint = ScPrintModel(config)
        self.count_decoder = CountDecoder(size, dropout=dropout, takes_depth=not config.depth_token)
        self.cell_decoder = CellCountDecoder(size) if config.cell_values else None
        hidden = config.class_hidden_sizes or []
        self.class_decoders = (
            ClassDecoders(size, hidden, config.labels_of_classes, dropout=dropout) if config.class_names else None
        )
        self.batch_discriminator = (
            LabelDecoder(size, [size, size], config.num_batches, dropout=None, activation=nn.LeakyReLU)
            if config.num_batches
            else None
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        depth: Tensor | None = None,
        masked: Tensor | None = None,
        is_metacell: Tensor | None = None,
        cell_states: Tensor | None = None,
        total: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        class_ids: Tensor | None = None,
        batch_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ScPrintPreTrainingOutput:
        """Encode cells and predict counts and labels.

        Parameters
        ----------
        input_ids, values, attention_mask, depth, masked, is_metacell, cell_states, inputs_embeds
            As of :class:`ScPrintModel`. A larger ``depth``, with a ``total`` larger by the same factor, denoises:
            it asks for the cell as if it had been read deeper. ``cell_states`` of an earlier call, without ``values``,
            generate counts from the cell. From ``inputs_embeds`` nothing is predicted out of the cell embedding.
        total
            What a cell's predicted means add up to, (n_cells,); None: the sum of ``values``.
        labels
            Counts to be predicted, (n_cells, n_genes).
        class_ids
            Label of each class, -1 unknown; numbers behind the leaves are groups of ``config.label_hierarchy``, int64,
            (n_cells, n_classes).
        batch_ids
            Data set of each cell, int64, (n_cells,); for models with ``num_batches``.
        output_attentions, output_hidden_states
            As of :class:`ScPrintModel`.

        Raises
        ------
        ValueError
            If there is neither ``values`` nor ``total``.
        """
        encoded = self.scprint(
            input_ids, values, attention_mask, depth, masked, is_metacell, cell_states, inputs_embeds,
            output_attentions, output_hidden_states,
            return_dict=True,
        )  # fmt: skip
        genes, cells = encoded.last_hidden_state, encoded.cell_states
        if total is None:
            if values is None:
                raise ValueError("Without values=, say with total= what the predicted counts of each cell add up to.")
            total = cell_depth(values, attention_mask, None)
        total = total.flatten()
        read = cell_depth(values, attention_mask, depth) if depth is not None or values is not None else total
        counts = CountDistribution.of_scores(self.count_decoder(genes, read), total, attention_mask)
        from_cell = None
        if self.cell_decoder is not None and input_ids is not None and cells is not None:
            proteins = self.scprint.genes.proteins(input_ids).to(genes.dtype)
            scores = self.cell_decoder(proteins, cells.mean(1))
            from_cell = CountDistribution.of_scores(scores, total, attention_mask)
        logits = None
        if self.class_decoders is not None and cells is not None:
            logits = self.class_decoders(cells[:, self.config.first_class :])
        terms: dict[str, Tensor] = {}
        if labels is not None:
            real = torch.ones_like(labels) if attention_mask is None else attention_mask
            terms |= self._expression_terms(labels, real, counts, from_cell)
        if class_ids is not None and logits is not None:
            terms |= self._class_terms(cells, logits, class_ids)
        if batch_ids is not None and self.batch_discriminator is not None and cells is not None:
            of_classes = reverse_gradient(cells[:, self.config.first_class :].mean(1))
            terms["batch"] = nn.functional.cross_entropy(self.batch_discriminator(of_classes), batch_ids.flatten())
        if terms and cells is not None:
            terms |= self._embedding_terms(cells)
        return ScPrintPreTrainingOutput(
            loss=self.total_loss(terms) if terms else None,
            predicted_values=expected_count(mean=counts.mean, zero_logits=counts.zero_logits),
            **vars(counts),
            **({} if from_cell is None else {f"cell_{name}": value for name, value in vars(from_cell).items()}),
            class_logits=logits,
            cell_states=cells,
            terms=terms or None,
            cell_embedding=encoded.cell_embedding,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term in the loss."""
        config = self.config
        return {
            "expression": 1.0,
            "cell_expression": config.cell_expression_weight,
            "class": config.class_weight,
            "adversarial": config.adversarial_weight,
            "batch": config.class_weight * _BATCH_SHARE if config.adversarial_weight else 0.0,
            "dissimilarity": config.dissimilarity_weight,
            "similarity": config.similarity_weight,
            "contrast": config.contrastive_weight,
        }

    def total_loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of terms, scalar."""
        weights = self.weights
        return torch.stack([weights[name] * term.float() for name, term in terms.items()]).sum()

    def predicted_labels(self, class_logits: tuple[Tensor, ...]) -> dict[str, list[str]]:
        """The best leaf label of each cell by class: ontology ids, or numbers where the checkpoint names none."""
        config, found = self.config, {}
        for name, scores in zip(config.class_names or (), class_logits, strict=True):
            names = (config.label_names or {}).get(name, {})
            found[name] = [names.get(str(number), str(number)) for number in scores.argmax(1).tolist()]
        return found

    # ------------------------------------------------------------------------------------------------------- losses

    def _expression_terms(
        self, labels: Tensor, real: Tensor, counts: CountDistribution, from_cell: CountDistribution | None
    ) -> dict[str, Tensor]:
        """Negative log likelihoods of the counts, means over the real genes."""
        config = self.config
        terms = {"expression": self.likelihood(labels, real, counts)}
        if config.profile_error:
            error = profile_error(labels, counts.mean, counts.zero_logits, real)
            terms["expression"] = terms["expression"] + error / (1 if config.first_version_losses else 10)
        if from_cell is not None and config.cell_expression_weight:
            terms["cell_expression"] = self.likelihood(labels, real, from_cell)
        return terms

    def likelihood(self, labels: Tensor, real: Tensor, counts: CountDistribution) -> Tensor:
        """Mean negative log likelihood over the real genes, scalar."""
        labels = labels.float()
        if self.config.zero_inflated:
            losses = zero_inflated_negative_binomial_nll(labels, **{k: v.float() for k, v in vars(counts).items()})
        else:
            losses = negative_binomial_nll(labels, mean=counts.mean.float(), dispersion=counts.dispersion.float())
        return (losses * real).sum() / real.sum().clamp(min=1)

    def _class_terms(self, cells: Tensor, logits: tuple[Tensor, ...], class_ids: Tensor) -> dict[str, Tensor]:
        """Sums over the classes: labels from their own tokens, and, adversarially, from those of the other classes."""
        terms = {"class": self._labels_loss(logits, class_ids)}
        tokens = cells[:, self.config.first_class :]
        if self.config.adversarial_weight and tokens.shape[1] > 1:
            assert self.class_decoders is not None
            others = (tokens.sum(1, keepdim=True) - tokens) / (tokens.shape[1] - 1)
            terms["adversarial"] = self._labels_loss(self.class_decoders(reverse_gradient(others)), class_ids)
        return terms

    def _labels_loss(self, logits: tuple[Tensor, ...], class_ids: Tensor) -> Tensor:
        """Sum of the hierarchical losses of all classes, scalar."""
        config = self.config
        groups = [(config.label_hierarchy or {}).get(name, {}) for name in config.class_names or ()]
        columns = zip(logits, class_ids.unbind(1), groups, strict=True)
        losses = [
            hierarchical_loss(scores.float(), classes, of_class, counts_groups=config.group_column_in_mean)
            for scores, classes, of_class in columns
        ]
        return torch.stack(losses).sum()

    def _embedding_terms(self, cells: Tensor) -> dict[str, Tensor]:
        """Terms on the cell tokens and on the cell embedding."""
        config, terms = self.config, {}
        if config.dissimilarity_weight:
            terms["dissimilarity"] = dissimilarity_loss(cells, first_version=config.first_version_losses)
        if config.similarity_weight:
            terms["similarity"] = elastic_cell_similarity(cells.mean(1), config.similarity_threshold)
        return terms
