"""Which public call gives which array of UCE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.rules import Rule, RuleTable
from scfm_hf.models.uce.tokenization_uce import sampling_weights
from scfm_hf.tokenization.draws import SharedDraws

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import anndata
    from numpy.typing import NDArray

    from parity.context import Context
    from parity.golden import Golden

    Array = NDArray[Any]

BASE, EXPRESSION = "AutoModel", "UceForPreTraining"
#: Padding takes part in the attention.
LEGACY = {"padding_bias": "legacy"}


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """The checkpoint, with the files that the original was given; it does not say how many heads it has."""
    del weights, scratch
    return {
        "source": golden.checkpoint,
        "weights": golden.weights["model"],
        "files": {**golden.files, "tokens": golden.weights["tokens"]},
        "num_attention_heads": golden.description["model"]["nhead"],
    }


# -------------------------------------------------------------------------------------------------------------- tokens


def columns_kept(context: Context) -> Array:
    """Columns of the file that the original's filter of genes leaves, if it was on."""
    cells = context.adata()
    step = context.golden.description["preprocess"][0]
    seen = np.asarray((cells.X > 0).sum(0)).ravel()
    return np.flatnonzero(seen >= step.get("min_cells", 0))


def cells(context: Context) -> anndata.AnnData:
    """The cells over those columns."""
    return context.adata()[:, columns_kept(context)].copy()


def encoded(context: Context) -> dict[str, Array]:
    """Sentences of all cells by the original's draws: one stream, cells in order."""
    described = context.golden.description["tokenizer"]
    # A stream can be used once, so the sentences are made once; repr() of the stream would tell calls apart.
    return context.cached(
        ("all sentences", context.case.name),
        lambda: dict(
            context.tokenizer()(
                cells(context),
                padding=True,
                return_tensors="np",
                gene_column=context.case.gene_column,
                exact_names=True,
                min_overlap=0.0,
                sample_size=described["sample_size"],
                draws=SharedDraws(described["numpy_seed"]),
                gene_order="file",
                duplicates="keep",
                return_columns=("drawn_ids",),
            )
        ),
    )


def sentence(name: str) -> Callable[[Context], Array]:
    """A column of the sentences, as wide as the stored one."""
    return lambda context: encoded(context)[name][list(context.cells)][:, : context.array.shape[1]]


def genes(context: Context) -> tuple[Array, Array]:
    """Ids of the file's genes that the model knows, and the columns of the file that they stand in."""
    names = context.adata().var
    column = context.case.gene_column
    kept = columns_kept(context)
    symbols = np.asarray(names.index if column == "var_names" else names[column].astype(str))[kept]
    tokenizer = context.tokenizer()
    ids = tokenizer.mapper_of(tokenizer.scheme().gene_vocabulary, exact_names=True).map(symbols.tolist()).indices
    return ids[ids >= 0], kept[ids >= 0]


def chromosome_codes(context: Context) -> Array:
    """Numbers of the genes' chromosomes, counted from the first chromosome's token."""
    places = context.tokenizer().statistics["chromosome"]
    return places[genes(context)[0]] - context.golden.description["tokenizer"]["CHROM_TOKEN_OFFSET"]


def probabilities(context: Context) -> Array:
    """How likely each gene is to be drawn, the first cell."""
    counts = context.adata().X[context.cells[0]].toarray().ravel()
    return sampling_weights(counts[genes(context)[1]])


def choice(context: Context) -> Array:
    """The first cell's draws, as places among the known genes."""
    known = genes(context)[0].tolist()
    places = {gene: place for place, gene in enumerate(known)}
    drawn = encoded(context)["drawn_ids"][context.cells[0]]
    return np.array([places[gene] for gene in drawn[: context.array.shape[0]].tolist()])


def chromosome_order(context: Context) -> Array:
    """The chromosomes of the first sentence."""
    ids = encoded(context)["input_ids"][context.cells[0]]
    first = context.golden.description["tokenizer"]["CHROM_TOKEN_OFFSET"]
    return ids[ids >= first] - first


# -------------------------------------------------------------------------------------------------------------- models


def embedding(context: Context) -> Array:
    """Embeddings from sentences of our own: the stored ones are of the first cells alone."""
    made = encoded(context)
    legacy = context.array.role == "quirk"
    model = context.model(BASE, **(LEGACY if legacy else {}))
    found = []
    for lines in context.groups():
        rows = [context.cells[line] for line in lines]
        mask = torch.from_numpy(made["attention_mask"][rows])
        longest = int(mask.sum(1).max())
        with torch.no_grad():
            ids = torch.from_numpy(made["input_ids"][rows])
            found.append(model(ids[:, :longest], mask[:, :longest]).cell_embedding.numpy())
    return np.concatenate(found)


def hidden_states(context: Context) -> Array:
    return context.outputs(BASE, output_hidden_states=True)["hidden_states"][int(context.parts["layer"])]


def last_of_cls(context: Context) -> Array:
    """The first token's last state, padding attended to."""
    return context.outputs(BASE, load=LEGACY)["last_hidden_state"][:, 0]


def attentions(context: Context) -> Array:
    return context.outputs(BASE, output_attentions=True)["attentions"][int(context.parts["layer"])]


def attentions_of_a_batch(context: Context) -> Array:
    """Of one cell in the batch that it was in."""
    made, size = encoded(context), int(context.array.batch)
    cell = context.cells[0]
    rows = list(range(cell // size * size, min((cell // size + 1) * size, len(made["input_ids"]))))
    ids, mask = (torch.from_numpy(made[name][rows]) for name in ("input_ids", "attention_mask"))
    with torch.no_grad():
        found = context.model(BASE, **LEGACY)(ids, mask, output_attentions=True).attentions
    return found[int(context.parts["layer"])][[cell - rows[0]]].numpy()


def gene_output(context: Context) -> Array:
    """Every token decoded as the first one is."""
    states = torch.from_numpy(np.nan_to_num(context.outputs(BASE)["last_hidden_state"]))
    with torch.no_grad():
        return context.model(BASE).decode(states.float()).numpy()


def logits(context: Context) -> Array:
    """Genes in cells that are embedded already."""
    model = context.model(EXPRESSION, normalize_queries=context.options["normalise_tokens"])
    given = torch.from_numpy(context.stored("cell_embedding"))
    with torch.no_grad():
        return model.predict(given, torch.from_numpy(context.golden.values("decoder.token_ids")).long()).numpy()


def queries(context: Context) -> Array:
    """Proteins as the head sees them."""
    model = context.model(EXPRESSION)
    ids = torch.from_numpy(context.golden.values("decoder.token_ids")).long()
    with torch.no_grad():
        return model.expression.encode(model.get_input_embeddings()(ids)).numpy()


TABLE = RuleTable(
    family="uce",
    conversion=conversion,
    rules=(
        Rule("input_ids", sentence("input_ids"), section="tokens"),
        Rule("attention_mask", sentence("attention_mask"), section="tokens"),
        Rule("sampling.probabilities", probabilities, section="tokens"),
        Rule("sampling.choice", choice, section="tokens", roles=("input",)),
        Rule("sampling.chrom_order", chromosome_order, section="tokens", roles=("input",)),
        Rule("genes.token_id", lambda context: genes(context)[0], section="tokens"),
        Rule("genes.input_column", lambda context: genes(context)[1], section="tokens"),
        Rule("genes.chrom_code", chromosome_codes, section="tokens"),
        Rule(
            "genes.start",
            lambda context: context.tokenizer().statistics["start"][genes(context)[0]],
            section="tokens",
        ),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("batched.last_hidden_state.cls", last_of_cls, section="hidden states"),
        Rule("attentions.{layer}", attentions, section="attention"),
        Rule("batched.attentions.{layer}", attentions_of_a_batch, section="attention"),
        Rule(("cell_embedding", "batched.cell_embedding"), embedding, section="cell embedding"),
        Rule("gene_output", gene_output, section="gene output"),
        Rule("decoder.gene_embedding_projected", queries, section="expressed genes"),
        Rule("logits*", logits, section="expressed genes"),
    ),
)
