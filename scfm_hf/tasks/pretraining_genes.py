"""Genes of a corpus that the model to go on from does not know yet."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData
    from transformers import PreTrainedModel

    from scfm_hf.data.stream import CellStream
    from scfm_hf.tasks.pretraining_config import PretrainingConfig
    from scfm_hf.tokenization import CellTokenizer

#: Arguments of load_corpus that say how files are read.
READING = ("layer", "use_raw", "gene_column", "on_error", "seed")
#: Cells that express a gene at least, for it to be added, unless the configuration says otherwise.
_MIN_CELLS = 10
#: Cells in which neighbours of new genes are looked for.
_CELLS_FOR_NEIGHBOURS = 2000


def counts_of_corpus(config: PretrainingConfig) -> CellStream:
    """The cells to train on as counts of all genes of their files."""
    from scfm_hf.data.corpus import load_corpus

    reading = {name: value for name, value in config.corpus_options.items() if name in READING}
    return load_corpus(config.files, **reading)


def with_new_genes(config: PretrainingConfig, tokenizer: CellTokenizer) -> CellTokenizer:
    """The tokenizer of a model, with the genes of the corpus that it does not know and that enough cells express."""
    from scfm_hf.tasks.pretraining_parts import gene_statistics
    from scfm_hf.tokenization.scheme import scheme_class
    from scfm_hf.training.vocabulary import extended_tokenizer

    options = tokenizer.init_kwargs["cell_options"]
    wants_medians = "median" in scheme_class(options["scheme"]).needs
    corpus = counts_of_corpus(config)
    names = list(corpus.vocabulary.tokens)
    n_cells, medians = gene_statistics(
        corpus, medians=wants_medians, target_sum=float(options.get("options", {}).get("target_sum", 10_000.0))
    )
    unknown = tokenizer.mapper.map(names).indices < 0
    new = np.flatnonzero(unknown & (n_cells >= _described(config).get("min_cells", _MIN_CELLS)))
    if not len(new):
        return tokenizer
    statistics = {"median": {names[gene]: float(medians[gene]) for gene in new}} if wants_medians else {}
    return extended_tokenizer(tokenizer, [names[gene] for gene in new], statistics=statistics)


def grow(config: PretrainingConfig, model: PreTrainedModel, tokenizer: CellTokenizer) -> None:
    """Give the model to go on from the rows of the genes that its tokenizer got."""
    from transformers import AutoTokenizer

    from scfm_hf.training.vocabulary import grow_embedding

    revision = {"revision": config.model["revision"]} if config.model.get("revision") else {}
    known: CellTokenizer = AutoTokenizer.from_pretrained(config.model["from"], **revision)
    if known.vocabulary_digest == tokenizer.vocabulary_digest:
        return
    init = _described(config).get("init", "mean")
    cells = _some_cells(counts_of_corpus(config)) if init == "neighbours" else None
    grow_embedding(model, known, tokenizer, init=init, cells=cells, seed=config.seed)


def _described(config: PretrainingConfig) -> dict[str, Any]:
    described = config.model["new_genes"]
    return {"init": described} if isinstance(described, str) else dict(described)


def _some_cells(corpus: CellStream) -> AnnData:
    """The first cells in the order of the corpus, which come from all of its files."""
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    cells = list(islice(corpus, _CELLS_FOR_NEIGHBOURS))
    offsets = np.concatenate([[0], np.cumsum([len(cell["counts"]) for cell in cells])])
    values, columns = (np.concatenate([cell[name] for cell in cells]) for name in ("counts", "gene_ids"))
    made = AnnData(csr_matrix((values, columns, offsets), (len(cells), len(corpus.vocabulary))))
    made.var_names = list(corpus.vocabulary.tokens)
    return made
