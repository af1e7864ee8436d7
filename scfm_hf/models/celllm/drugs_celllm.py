"""CellLM's drug-response model: a graph network over a drug's atoms beside the cell's encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from scfm_hf.models.celllm.modeling_celllm import CellLMModel, CellLMPreTrainedModel, TokenScores
from scfm_hf.nn.batch_norm import TokenBatchNorm
from scfm_hf.nn.classifiers import ClassifierLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfm_hf.models.celllm.configuration_celllm import CellLMConfig


@dataclass
class CellLMDrugResponseOutput(ModelOutput):
    """Output of the drug-response model; a line is a pair of a cell and a drug.

    Parameters
    ----------
    loss
        Mean squared error, or binary cross entropy; scalar, only with ``labels``.
    logits
        Predicted response, or the score of a sensitive cell, float, (n_pairs, 1).
    cell_embedding, hidden_states, attentions
        As of the encoder.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cell_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class GraphLayer(nn.Module):
    """Graph isomorphism layer: an atom and the sum of its neighbours through a perceptron, then batch norm.

    References
    ----------
    Xu et al. 2019, ICLR, "How Powerful are Graph Neural Networks?".
    """

    eps: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear1 = ClassifierLayer(input_size, hidden_size)
        self.linear2 = ClassifierLayer(hidden_size, hidden_size)
        self.register_buffer("eps", torch.zeros(1))
        self.norm = TokenBatchNorm(hidden_size, n_domains=1, affine=True, eps=1e-5)

    def initial_tensors(self) -> dict[str, Tensor]:
        """Values of a fresh model."""
        return {"eps": torch.zeros(1)}

    def forward(self, atoms: Tensor, bonds: Tensor, atom_mask: Tensor) -> Tensor:
        """(n_pairs, n_atoms, input_size) -> (n_pairs, n_atoms, hidden_size)."""
        source, target = (bonds[..., end].clamp(min=0)[..., None].expand(-1, -1, atoms.shape[-1]) for end in range(2))
        messages = atoms.gather(1, source) * (bonds[..., :1] >= 0).to(atoms.dtype)
        own = (1 + self.eps) * atoms
        # With autocast the atoms of a later layer have half precision, while eps has not.
        summed = own.scatter_add(1, target, messages.to(own.dtype))
        return self.norm(self.linear2(self.linear1(summed).relu()).relu(), atom_mask, None)


class DrugResponseHead(nn.Module):
    """Branches of the cell and of the drug, and the layers over both."""

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__()
        self.scores = TokenScores(config, "scatter")
        sizes = (self.scores.n_places, config.response_cell_size, config.response_branch_size)
        self.cell_linears = nn.ModuleList((ClassifierLayer(sizes[0], sizes[1]), ClassifierLayer(sizes[1], sizes[2])))
        width = config.drug_hidden_size
        self.drug_layers = nn.ModuleList(
            GraphLayer(width if number else config.atom_feature_size, width) for number in range(config.num_drug_layers)
        )
        self.drug_linear = ClassifierLayer(config.num_drug_layers * width, config.response_branch_size)
        joint = (2 * config.response_branch_size, config.response_hidden_size, config.response_hidden_size, 1)
        self.linears = nn.ModuleList(ClassifierLayer(*pair) for pair in zip(joint[:-1], joint[1:], strict=True))
        self.dropout = nn.Dropout(config.response_dropout)

    def forward(self, cells: Tensor, drugs: Tensor) -> Tensor:
        """Branches of cells and drugs, each (n_pairs, response_branch_size) -> (n_pairs, 1)."""
        vectors = torch.cat([drugs, cells], 1)
        for linear in self.linears[:-1]:
            vectors = self.dropout(nn.functional.elu(linear(vectors)))
        return self.linears[-1](vectors)

    def cell_branch(self, states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """(n_pairs, n_tokens, hidden_size) -> (n_pairs, response_branch_size)."""
        vectors = self.scores(states, input_ids, attention_mask)
        for linear in self.cell_linears:
            vectors = self.dropout(linear(vectors).relu())
        return vectors

    def drug_branch(self, drug_embedding: Tensor) -> Tensor:
        """(n_pairs, num_drug_layers * drug_hidden_size) -> (n_pairs, response_branch_size)."""
        return self.dropout(self.drug_linear(drug_embedding).relu())

    def embed_drugs(self, atom_features: Tensor, bonds: Tensor, atom_mask: Tensor) -> Tensor:
        """Highest state of the atoms in each layer, (n_pairs, num_drug_layers * drug_hidden_size)."""
        atoms, states = atom_features.to(self.drug_linear.weight.dtype), []
        for layer in self.drug_layers:
            atoms = layer(atoms, bonds, atom_mask)
            states.append(atoms)
        lowest = torch.finfo(atoms.dtype).min
        return torch.cat(states, -1).masked_fill(atom_mask[..., None] == 0, lowest).amax(1)


class CellLMForDrugResponse(CellLMPreTrainedModel):
    """Predicts how a cell or cell line responds to a drug."""

    def __init__(self, config: CellLMConfig) -> None:
        super().__init__(config)
        self.celllm = CellLMModel(config)
        self.drug_response = DrugResponseHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        atom_features: Tensor | None = None,
        bonds: Tensor | None = None,
        atom_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CellLMDrugResponseOutput:
        """Predict responses of pairs.

        Parameters
        ----------
        input_ids, values, attention_mask, inputs_embeds, output_attentions, output_hidden_states
            The cell of each pair, as of :meth:`CellLMModel.forward`.
        atom_features
            Atoms of the drug of each pair, (n_pairs, n_atoms, atom_feature_size); see :func:`pad_drugs`.
        bonds
            Atoms at both ends of each bond, in both directions, int64, (n_pairs, n_bonds, 2); -1 at padding.
        atom_mask
            1 = real atom, (n_pairs, n_atoms); None: all are.
        labels
            Responses, or 1 = sensitive, float, (n_pairs,).

        Raises
        ------
        ValueError
            If the drugs are missing.
        """
        if atom_features is None or bonds is None:
            raise ValueError("Give the drug of each pair as atom_features= and bonds=, see pad_drugs.")
        encoded = self.celllm(
            input_ids, values, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        head = self.drug_response
        if atom_mask is None:
            atom_mask = torch.ones(atom_features.shape[:2], dtype=torch.long, device=atom_features.device)
        drugs = head.drug_branch(head.embed_drugs(atom_features, bonds, atom_mask))
        cells = head.cell_branch(encoded.last_hidden_state, input_ids, attention_mask)
        logits = head(cells, drugs)
        loss = None
        if labels is not None:
            regresses = self.config.response_type == "regression"
            compare = nn.functional.mse_loss if regresses else nn.functional.binary_cross_entropy_with_logits
            loss = compare(logits[:, 0].float(), labels.float())
        return CellLMDrugResponseOutput(loss, logits, encoded.cell_embedding, encoded.hidden_states, encoded.attentions)


def pad_drugs(drugs: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> dict[str, Tensor]:
    """The drugs of some pairs as inputs of the model.

    Parameters
    ----------
    drugs
        Of each pair the features of the drug's atoms, (n_atoms, n_features), and the atoms at both ends of each bond,
        in both directions, (n_bonds, 2).

    Returns
    -------
    ``atom_features``, ``atom_mask`` and ``bonds``.
    """
    n_atoms = max(len(atoms) for atoms, _ in drugs)
    n_bonds = max(1, *(len(bonds) for _, bonds in drugs))
    features = np.zeros((len(drugs), n_atoms, drugs[0][0].shape[1]), np.float32)
    mask, ends = np.zeros((len(drugs), n_atoms), np.int64), np.full((len(drugs), n_bonds, 2), -1, np.int64)
    for row, (atoms, bonds) in enumerate(drugs):
        features[row, : len(atoms)], mask[row, : len(atoms)] = atoms, 1
        ends[row, : len(bonds)] = bonds
    named = {"atom_features": features, "atom_mask": mask, "bonds": ends}
    return {name: torch.from_numpy(values) for name, values in named.items()}
