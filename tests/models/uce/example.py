"""What UCE's classes need beside the specification."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from models.examples import FamilyExample

from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.uce.genes_uce import SPECIAL_TOKENS
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    from torch import Tensor

    from scfm_hf.models.configuration import CellConfig

#: Chromosomes, whose tokens stand behind the genes; so many that sentences differ in length by those that they hit.
N_CHROMOSOMES = 14
N_QUERIES = 6


class Example(FamilyExample):
    """Genes carry the name of their species; cells of a few genes give short sentences by a small context."""

    @property
    def _n_tokens(self) -> int:
        return self._config.table_size

    @property
    def _n_genes(self) -> int:
        return self._n_tokens - len(SPECIAL_TOKENS) - N_CHROMOSOMES

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        genes = np.random.default_rng(0).permutation(self.cells.var_names.to_numpy())[: self._n_genes]
        return GeneVocabulary(
            [
                *SPECIAL_TOKENS.values(),
                *(f"human:{gene}" for gene in genes),
                *(f"<chromosome:human_{number}>" for number in range(N_CHROMOSOMES)),
            ],
            special_tokens=SPECIAL_TOKENS,
            id_kind="symbol",
            species=("human",),
        )

    @cached_property
    def tokenizer(self) -> CellTokenizer:
        random = np.random.default_rng(1)
        n_other = len(SPECIAL_TOKENS)
        chromosome = np.full(len(self.vocabulary), np.nan)
        start = chromosome.copy()
        genes = slice(n_other, n_other + self._n_genes)
        chromosome[genes] = random.integers(len(self.vocabulary) - N_CHROMOSOMES, len(self.vocabulary), self._n_genes)
        start[genes] = random.permutation(self._n_genes)
        return CellTokenizer.from_vocabulary(
            self.vocabulary,
            scheme="uce",
            statistics={"chromosome": chromosome, "start": start},
            max_length=self._config.max_position_embeddings,
            case_sensitive=False,
            sample_size=24,
        )

    def further_inputs(
        self, class_name: str, cells: anndata.AnnData, encoded: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if class_name != "UceForPreTraining":
            return {}
        # Padding has the id 0.
        own = encoded["input_ids"].sum(1, keepdim=True)
        return {"query_ids": len(SPECIAL_TOKENS) + (own + 7 * torch.arange(N_QUERIES)) % self._n_genes}

    def labels(self, class_name: str, config: CellConfig, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if class_name != "UceForPreTraining":
            return super().labels(class_name, config, inputs)
        return {"labels": inputs["query_ids"] % 2}

    def unfit_for_mixin(self, class_name: str) -> dict[str, Any]:
        frozen = "a token is the frozen vector of a protein: there is no embedding to resize, tie or train"
        names = (
            "test_model_get_set_embeddings",
            "test_resize_(tokens_)?embeddings.*",
            "test_load_save_without_tied_weights",
            "test_enable_input_require_grads_with_gradient_checkpointing",
        )
        return dict.fromkeys(names, frozen)
