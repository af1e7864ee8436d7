"""SCimilarity's profiles: log counts per 10,000 of the genes that the model knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from scfm_hf.errors import ExpressionError
from scfm_hf.models.released import released_tokenizer

if TYPE_CHECKING:
    import anndata

    from scfm_hf.tokenization import CellTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> CellTokenizer:
    return released_tokenizer("scimilarity")


def row(tokenizer: CellTokenizer, cells: anndata.AnnData, number: int, **options: str) -> dict[str, float]:
    """Value of each expressed gene of a cell."""
    encoded = tokenizer.encode_cells(cells, **options).columns
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"].row(number))
    return dict(zip(names, encoded["values"].row(number).tolist(), strict=True))


@pytest.mark.parametrize("total_over", ["model_genes", "all_genes"])
def test_values_are_log_counts_per_ten_thousand(
    tokenizer: CellTokenizer, human_pbmc: anndata.AnnData, total_over: str
) -> None:
    cells = human_pbmc[:4, ~human_pbmc.var_names.duplicated(keep=False)].copy()
    found = row(tokenizer, cells, 2, total_over=total_over, exact_names=True)
    counts = dict(zip(cells.var_names, cells.X[2].toarray().ravel().astype(float), strict=True))
    known = {gene: count for gene, count in counts.items() if count and gene in tokenizer.vocabulary}
    total = sum(known.values()) if total_over == "model_genes" else sum(counts.values())
    assert found == pytest.approx({gene: np.log1p(count / total * 1e4) for gene, count in known.items()}, rel=1e-6)
    assert len(known) < sum(count > 0 for count in counts.values())


def test_the_model_knows_28231_genes_in_order(tokenizer: CellTokenizer) -> None:
    genes = tokenizer.vocabulary.gene_tokens
    assert len(genes) == 28_231
    assert list(genes[:3]) == ["A1BG", "A1BG-AS1", "A1CF"]
    assert tokenizer.pad_token_id == 28_231


def test_cells_may_be_named_by_ensembl_ids(tokenizer: CellTokenizer, human_lines: anndata.AnnData) -> None:
    report = tokenizer.encode_cells(human_lines, gene_column="var_names").report
    assert report.id_kind == "ensembl_id"
    assert report.n_matched > 10_000


def test_columns_of_one_gene_are_summed(tokenizer: CellTokenizer, human_pbmc: anndata.AnnData) -> None:
    cells = human_pbmc[:3].copy()
    names = np.array(cells.var_names, object)
    first, second = (cells.var_names.get_loc(gene) for gene in ("CD74", "B2M"))
    names[second] = "CD74"
    cells.var["gene"] = names
    separate, summed = row(tokenizer, human_pbmc[:3], 1), row(tokenizer, cells, 1, gene_column="gene")
    counts = cells.X[1].toarray().ravel()
    assert counts[first] and counts[second]
    expected = np.expm1(separate["CD74"]) + np.expm1(separate["B2M"])
    assert np.expm1(summed["CD74"]) == pytest.approx(expected, rel=1e-5)
    assert "B2M" not in summed


def test_logarithms_are_refused(tokenizer: CellTokenizer, human_pbmc: anndata.AnnData) -> None:
    cells = human_pbmc[:3].copy()
    cells.X = cells.X.log1p()
    with pytest.raises(ExpressionError, match="counts"):
        tokenizer(cells)


def test_a_profile_is_not_cut(tokenizer: CellTokenizer, human_pbmc: anndata.AnnData) -> None:
    with pytest.raises(ValueError, match="max_length=50.*whole profiles"):
        tokenizer(human_pbmc[:2], max_length=50)
    with pytest.raises(ValueError, match="total_over='nothing'"):
        tokenizer(human_pbmc[:2], total_over="nothing")
