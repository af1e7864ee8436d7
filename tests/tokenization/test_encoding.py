"""The way of cells through a tokenizer, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scfm_hf.tokenization.bin_scheme import BinScheme

if TYPE_CHECKING:
    from collections.abc import Iterable

    import anndata

    from scfm_hf.tokenization import CellTokenizer
    from scfm_hf.tokenization.profiles import ProfileBlock


class Counting(BinScheme):
    """Counts the cells of the file before it encodes any."""

    looks_ahead = True

    def look_ahead(self, blocks: Iterable[ProfileBlock]) -> None:
        self.seen = [block.n_cells for block in blocks]

    def encode(self, block: ProfileBlock, *, max_length: int) -> dict[str, Any]:
        return {**super().encode(block, max_length=max_length), "n_cells": np.full(block.n_cells, sum(self.seen))}


def test_a_scheme_may_see_the_whole_file_before_it_encodes(
    tokenizer: CellTokenizer, cells: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "scheme", lambda **options: Counting(tokenizer.vocabulary, {}, **options))
    encoded = tokenizer.encode_cells(cells, return_columns=("n_cells",), block_size=5)
    assert encoded.columns["n_cells"].tolist() == [cells.n_obs] * cells.n_obs


@pytest.mark.parametrize("max_length", [0, -1])
def test_a_context_without_a_place_for_genes_is_refused(
    tokenizer: CellTokenizer, cells: anndata.AnnData, max_length: int
) -> None:
    with pytest.raises(ValueError, match=f"max_length={max_length} leaves no place for genes"):
        tokenizer(cells, max_length=max_length)
