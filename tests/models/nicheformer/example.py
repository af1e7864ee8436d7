"""What Nicheformer's classes need beside the specification."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from models.examples import FamilyExample

from scfm_hf.models.nicheformer.context_nicheformer import SPECIAL_TOKENS
from scfm_hf.tokenization import CellTokenizer


class Example(FamilyExample):
    """Thirty special tokens stand before the genes, whose means have a name a technology."""

    @property
    def _special_ids(self) -> dict[str, int]:
        return {token.strip("<>"): number for number, token in enumerate(SPECIAL_TOKENS)}

    @cached_property
    def tokenizer(self) -> CellTokenizer:
        random = np.random.default_rng(1)
        return CellTokenizer.from_vocabulary(
            self.vocabulary,
            scheme=self.spec.scheme,
            statistics={"dissociated_mean": random.uniform(0.5, 9, len(self.vocabulary))},
            max_length=self._config.max_position_embeddings,
            assay="10x 3' v3",
        )
