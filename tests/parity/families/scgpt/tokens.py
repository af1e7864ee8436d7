"""scGPT's tokens in the original's way: order of the file, repeated columns kept, shared random streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.tokenization import Ragged
from scfm_hf.tokenization.binned_tokens import BinnedTokens
from scfm_hf.tokenization.draws import SharedDraws
from scfm_hf.training.masking import mask_each, mask_share, split_for_generation

if TYPE_CHECKING:
    from collections.abc import Mapping

    import anndata
    from numpy.typing import NDArray

    from parity.context import Context

    Array = NDArray[Any]


def steps(context: Context, part: str | None = None) -> dict[str, Mapping[str, Any]]:
    """The steps of ``preprocess`` by name, those of a part where there are several."""
    described = context.golden.description["preprocess"]
    return {entry["step"]: entry for entry in described if entry.get("part", part) == part}


def kept_cells(context: Context, part: str | None = None) -> anndata.AnnData:
    """The cells with the genes that the original kept, in the order of the file."""
    adata, description, done = context.adata(), context.golden.description, steps(context, part)
    listed = description.get(done["keep_genes"]["list"])
    if "result" in done.get("filter_genes", {}) and not is_collated(context):
        listed = description[done["filter_genes"]["result"]]
    if isinstance(listed, list):
        column = context.case.gene_column
        names = adata.var_names if column == "var_names" else adata.var[column]
        prefix = done["keep_genes"].get("strip_prefix", "")
        adata = adata[:, [f"{prefix}{name}" in set(listed) for name in names]].copy()
        if prefix:
            adata.var_names = [f"{prefix}{name}" for name in adata.var_names]
    return adata


def is_collated(context: Context) -> bool:
    """Whether the array comes from the collator of the pretraining, which starts from raw counts."""
    return "sampling" in context.options


def streams(context: Context) -> tuple[SharedDraws, SharedDraws]:
    """The original's streams for the bins and for the choice of genes."""
    seeds = {**context.golden.description["seeds"], **context.array.seeds}
    own = {draw.partition("_")[0]: seed for draw, seed in context.array.seeds.items() if "mask" not in draw}
    if is_collated(context) or "torch" in seeds:
        torch_seed = own.get("torch", seeds.get("torch", 0))
        numpy_seed = own.get("numpy", 0) if is_collated(context) else seeds["numpy"]
        return SharedDraws(numpy_seed), SharedDraws(torch_seed, choice_by="torch")
    return SharedDraws(seeds["numpy"]), SharedDraws(own.get("numpy", 0))


def encode(
    context: Context, draws: SharedDraws, choice: SharedDraws, part: str | None = None, **other: Any
) -> BinnedTokens:
    """All cells by the tokenizer in the original's way: order of the file, repeated columns kept, shared streams."""
    done, options = steps(context, part), {**context.case.options, **context.options}
    collated = is_collated(context)
    encoded = context.tokenizer().encode_cells(
        kept_cells(context, part),
        gene_column=None if "strip_prefix" in done["keep_genes"] else context.case.gene_column,
        exact_names=True,
        min_overlap=0.0,
        duplicates="keep",
        gene_order="file",
        n_bins=other.get("n_bins", done["bin"]["n_bins"]),
        ties={"random": "random", "upper end": "upper"}[done["bin"]["ties"]],
        draws=draws,
        selection="random" if options.get("sampling", True) else "first",
        selection_draws=choice,
        max_length=options.get("max_len") or ("split" not in done and options.get("max_length")) or 1_000_000,
        target_sum=None if collated else done.get("normalize_total", {}).get("target_sum"),
        log1p=not collated and "log1p" in done,
        cls_value=done["prepend"]["value"] if "prepend" in done else (options["pad_value"] if collated else 0.0),
        include_zero_genes=options.get("include_zero_gene", False),
    )
    return BinnedTokens(encoded.columns["input_ids"], encoded.columns["values"])


def padded(context: Context, tokens: BinnedTokens) -> dict[str, Array]:
    """Columns of a padded batch of all cells."""
    pad_value = context.case.options.get("pad_value", context.golden.description["model"].get("pad_value"))
    mask = Ragged(np.ones(len(tokens.values.values), np.int64), tokens.values.offsets)
    return {
        "input_ids": tokens.input_ids.to_padded(context.tokenizer().pad_token_id),
        "values": tokens.values.to_padded(pad_value),
        "attention_mask": mask.to_padded(0),
    }


def tokens(context: Context) -> Array:
    """Ids, values or mask, by the path that the steps of ``preprocess`` describe."""
    done = {entry["step"] for entry in context.golden.description["preprocess"]}
    if context.weights is None and context.golden.weights:
        context = context.using(next(iter(context.golden.weights)))
    if "split" in done:
        return generative_tokens(context)[list(context.cells)]
    if "concatenate" in done:
        return multiomic_tokens(context)[list(context.cells)]
    return plain_tokens(context) if "bin" in done else perturbation_values(context)


def plain_tokens(context: Context) -> Array:
    """A column of the tokenizer; ``values`` are masked where the array has the seed of a mask."""
    options = {**context.case.options, **context.options}
    draws, choice = streams(context)
    batch = padded(context, encode(context, draws, choice))
    batch["target_values"] = values = batch["values"]
    seeds = context.golden.description["seeds"] if "mask_value" in context.options else context.array.seeds
    mask_seed = next((seed for draw, seed in seeds.items() if "mask" in draw), None)
    if is_collated(context) and context.name.endswith("masked_values"):
        batch["masked_values"] = mask_each(
            values,
            values != options["pad_value"],
            probability=options["mlm_probability"],
            draws=choice,
            cell_ids=range(len(values)),
        )
    elif mask_seed is not None:
        values = mask_values(context, values, mask_seed)
        if "mask_value" in context.options:
            # Values that are embedded as categories have a category each for masked ones and for padding.
            values = np.where(batch["attention_mask"] == 0, options["pad_value"], values)
            values = np.where(values == -1, options["mask_value"], values)
        batch["values"] = batch["masked_values"] = values
    return batch[context.name.rpartition(".")[2]][list(context.cells)]


def mask_values(context: Context, values: Array, seed: int) -> Array:
    """The fine-tuning's mask; it may hit ``<cls>``, whose value is not that of padding."""
    options = {"mask_ratio": 0.4, **context.case.options}
    share = context.options.get("mask_ratio", options["mask_ratio"])
    maskable = values != options["pad_value"]
    draws = SharedDraws(seed)
    return mask_share(values, maskable, share=share, draws=draws, cell_ids=range(len(values)))


def binned_genes(context: Context) -> Array:
    """Bins of every kept gene, those without a count too."""
    return by_gene(context, encode(context, *streams(context)))


def by_gene(context: Context, tokens: BinnedTokens) -> Array:
    """Values in the columns of the genes that name the array, 0 where a cell has no token for one."""
    batch = padded(context, tokens)
    ids, values = (batch[name][list(context.cells)] for name in ("input_ids", "values"))
    place = {token: number for number, token in enumerate(context.tokenizer().vocabulary.ids(context.array.names))}
    found = np.zeros((len(ids), len(place)))
    for line, gene in np.argwhere(np.isin(ids, list(place))):
        found[line, place[ids[line, gene]]] = values[line, gene]
    return found


def generative_tokens(context: Context) -> Array:
    """The collator of the generative pretraining: both sides of the split, or the masked style."""
    options = {**context.case.options, **context.options}
    draws = SharedDraws(options["numpy_seed"], options["torch_seed"], choice_by="torch")
    everything = encode(context, draws, draws)
    cells = range(len(everything))
    shares, limit = options["mlm_probability"], options["max_length"]
    name = context.name.rpartition(".")[2]
    if options.get("data_style") != "pcpt":
        split = split_for_generation(everything, max_length=limit, draws=draws, cell_ids=cells, shares=shares)
        side = padded(context, split.generated if name.startswith("gen_") else split.perceived)
        return side[{"target_values": "values"}.get(column := name.removeprefix("gen_"), column)]
    rows = [
        np.append(0, 1 + draws.choice(length - 1, limit - 1)) if length > limit else np.arange(length)
        for length in everything.input_ids.lengths.tolist()
    ]
    kept = Ragged.from_rows(
        [start + row for start, row in zip(everything.input_ids.offsets, rows, strict=False)], np.int64
    )
    columns = (Ragged(part.values[kept.values], kept.offsets) for part in (everything.input_ids, everything.values))
    batch = padded(context, BinnedTokens(*columns))
    # This branch leaves <cls> out, and then the first of what is left: the first gene is never masked.
    maskable = batch["attention_mask"][:, 1:] == 1
    maskable[:, 0] = False
    masked = mask_each(batch["values"][:, 1:], maskable, probability=shares, draws=draws, cell_ids=cells)
    batch["masked_values"] = np.concatenate([batch["values"][:, :1], masked], axis=1)
    return batch[name]


def multiomic_tokens(context: Context) -> Array:
    """RNA, then proteins, each binned on its own from one stream; ``<cls>`` stands once."""
    golden = context.golden
    draws, choice = streams(context)
    parts = next(entry["parts"] for entry in golden.description["preprocess"] if entry["step"] == "concatenate")
    encoded = [encode(context, draws, choice, part) for part in parts]
    joined = [
        Ragged.from_rows(list(rows), kind)
        for rows, kind in ((rows_of(encoded, "input_ids"), np.int64), (rows_of(encoded, "values"), np.float32))
    ]
    batch = padded(context, BinnedTokens(*joined))
    batch["target_values"] = batch["values"]
    if "numpy_mask" in context.array.seeds:
        batch["values"] = mask_values(context, batch["values"], context.array.seeds["numpy_mask"])
    return batch[context.name]


def rows_of(parts: list[BinnedTokens], column: str) -> list[Array]:
    """Values of each cell, the first token of the first part alone."""
    columns = [getattr(part, column) for part in parts]
    return [
        np.concatenate([column.row(cell)[number > 0 :] for number, column in enumerate(columns)])
        for cell in range(len(columns[0]))
    ]


def modality_ids(context: Context) -> Array:
    """Modality of each token; those of the special tokens stand behind the names in alphabetical order."""
    parts = next(e["parts"] for e in context.golden.description["preprocess"] if e["step"] == "concatenate")
    draws, choice = streams(context)
    lengths = np.stack([encode(context, draws, choice, part).input_ids.lengths for part in parts]) - 1
    places = {part: place for place, part in enumerate(sorted(parts))}
    found = np.full((lengths.shape[1], 1 + int(lengths.sum(0).max())), len(parts))
    found[:, 0] = len(parts) + 1
    for line, of_parts in zip(found, lengths.T, strict=True):
        line[1 : 1 + of_parts.sum()] = np.repeat([places[part] for part in parts], of_parts)
    return found[list(context.cells)]


def perturbation_ids(context: Context) -> Array:
    """Id of each gene of the data; those that the vocabulary lacks have that of padding."""
    tokenizer = context.tokenizer()
    ids = tokenizer.vocabulary.ids(context.array.names)
    return np.where(ids < 0, tokenizer.pad_token_id, ids)


def perturbation_values(context: Context) -> Array:
    """Log-normalised expression, as the user of a perturbation model brings it: over all genes of the file."""
    done = steps(context)
    adata = context.adata()
    counts = np.asarray(adata.X.todense(), np.float32)
    scaled = counts / (counts.sum(1, keepdims=True) / np.float32(done["normalize_total"]["target_sum"]))
    kept = np.isin(adata.var_names, context.golden.description[done["keep_genes"]["list"]])
    return np.log1p(scaled)[list(context.cells)][:, kept]


def log_normalised(context: Context) -> Array:
    """Log-normalised expression before binning."""
    draws, choice = streams(context)
    encoded = encode(context, draws, choice, n_bins=None)
    return by_gene(context, encoded)
