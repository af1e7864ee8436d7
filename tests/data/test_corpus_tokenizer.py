"""A corpus gives a tokenizer of any scheme whose statistics counts can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
from transformers import AutoTokenizer

from scfm_hf.data.corpus_statistics import CorpusStatistics, corpus_statistics
from scfm_hf.data.corpus_tokenizer import tokenizer_from_corpus
from scfm_hf.data.shard_plan import tokenizer_digest
from scfm_hf.tokenization.statistics import rank_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

COUNTING = {"accuracy": None, "progress": False}


@pytest.fixture(scope="module")
def statistics(corpus_folder: Path) -> CorpusStatistics:
    """Of three files, one of which has Ensembl ids alone."""
    return corpus_statistics(corpus_folder, groups="cell_type", **COUNTING)


def test_the_rank_tokenizer_of_one_file_is_that_of_its_cells(corpus_cells: anndata.AnnData, tmp_path: Path) -> None:
    corpus_cells.write_h5ad(tmp_path / "cells.h5ad")
    counting = {**COUNTING, "gene_column": "var_names"}
    ours = tokenizer_from_corpus(tmp_path / "cells.h5ad", min_cells=3, counting=counting)
    direct = rank_tokenizer(corpus_cells, min_cells=3, gene_column="var_names")
    assert ours.vocabulary == direct.vocabulary
    np.testing.assert_allclose(ours.statistics["median"], direct.statistics["median"], rtol=1e-12)
    assert ours(corpus_cells)["input_ids"] == direct(corpus_cells)["input_ids"]


@pytest.mark.parametrize(
    ("scheme", "options", "columns"),
    [
        ("rank", {}, {"input_ids"}),
        ("genecompass", {}, {"input_ids", "values", "species_ids"}),
        ("nicheformer", {"species": None, "modality": None, "technology": "NK"}, {"input_ids"}),
        ("cellprofile", {}, {"input_ids", "values"}),
        ("bin", {}, {"input_ids", "values"}),
        ("bin", {"edges": "corpus", "target_sum": 1e4, "log1p": True}, {"input_ids", "values"}),
    ],
)
def test_every_such_scheme_tokenises_and_comes_back_from_disk(
    statistics: CorpusStatistics,
    corpus_cells: anndata.AnnData,
    tmp_path: Path,
    scheme: str,
    options: dict[str, Any],
    columns: set[str],
) -> None:
    tokenizer = tokenizer_from_corpus(statistics, scheme=scheme, min_cells=2, **options)
    encoded = tokenizer(corpus_cells)
    assert set(encoded) == columns | {"attention_mask"}
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer_digest(again) == tokenizer_digest(tokenizer)
    assert dict(again(corpus_cells)) == dict(encoded)


def test_nicheformer_divides_by_the_mean_of_expressing_cells_of_a_technology(statistics: CorpusStatistics) -> None:
    options = {"species": None, "modality": None, "technology": "NK"}
    tokenizer = tokenizer_from_corpus(statistics, scheme="nicheformer", min_cells=2, **options)
    sums = statistics.groups["NK"]
    gene = int(np.argmax(sums.n_expressing))
    place = tokenizer.vocabulary.token_to_id[statistics.vocabulary.tokens[gene]]
    mean = sums.scaled.values[gene] / sums.n_expressing[gene]
    assert tokenizer.statistics["NK_mean"][place] == mean
    assert len(tokenizer.statistics) == len(statistics.groups) == 9


def test_bins_of_the_corpus_are_equally_filled_over_all_cells(
    statistics: CorpusStatistics, corpus_cells: anndata.AnnData
) -> None:
    options = {"edges": "corpus", "target_sum": 1e4, "n_bins": 6, "cls_value": None}
    tokenizer = tokenizer_from_corpus(statistics, scheme="bin", min_cells=1, max_length=None, **options)
    values = np.concatenate(tokenizer(corpus_cells)["values"])
    shares = np.bincount(values.astype(int), minlength=6) / len(values)
    assert shares[0] == 0
    assert (abs(shares[1:] - 0.2) < 0.03).all()
    with pytest.raises(ValueError, match="goes with target_sum=10000"):
        tokenizer_from_corpus(statistics, scheme="bin", edges="corpus")


def test_genes_of_a_species_that_nobody_knows_keep_their_names(corpus_cells: anndata.AnnData, tmp_path: Path) -> None:
    cells = anndata.AnnData(corpus_cells.X.copy(), obs=corpus_cells.obs)
    cells.var_names = [f"AT1G{number:05d}" for number in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "cress.h5ad")
    tokenizer = tokenizer_from_corpus(tmp_path / "cress.h5ad", counting={**COUNTING, "gene_column": "var_names"})
    assert tokenizer.vocabulary.id_kind == "other"
    assert "AT1G00002" in tokenizer.vocabulary
    assert len(tokenizer(cells)["input_ids"]) == 72


def test_statistics_that_no_corpus_has_are_refused(statistics: CorpusStatistics) -> None:
    with pytest.raises(ValueError, match="'uce' needs chromosome, start of each gene, which no corpus of counts tells"):
        tokenizer_from_corpus(statistics, scheme="uce")
    with pytest.raises(ValueError, match="scaled to 10,000, not to 1,000,000"):
        tokenizer_from_corpus(statistics, scheme="rank", target_sum=1e6)
    with pytest.raises(ValueError, match="No gene is expressed by 1000 cells"):
        tokenizer_from_corpus(statistics, min_cells=1000)
    with pytest.raises(ValueError, match="which column of obs has the technology"):
        tokenizer_from_corpus("cells.h5ad", scheme="nicheformer")
