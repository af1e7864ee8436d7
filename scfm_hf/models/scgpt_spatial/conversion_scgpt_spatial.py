"""From scGPT-spatial's own files: best_model.pt, args.json, vocab.json and the means of genes beside them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules, strip_prefix
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.released import released_tokenizer, released_tokenizers
from scfm_hf.models.scgpt_spatial.configuration_scgpt_spatial import ScGPTSpatialConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

_WEIGHTS = ("best_model.pt", "*.pt", "model.safetensors", "*.safetensors")
_MEANS, _RELEASED = "all_dict_mean_std.csv", "scgpt-spatial-v1"
#: Tensors that scGPT does not have.
_OWN = ("impute_mvc_decoder.", "decoder.moe.")
_SPECIAL_TOKENS = {"pad": "<pad>", "cls": "<cls>", "eoc": "<eoc>"}

_BODY = "scgpt_spatial."
_LAYER, _OUR_LAYER = r"transformer_encoder\.layers\.(\d+)\.", _BODY + r"layers.\1."
_WB, _STEP = r"(weight|bias)", r"(\d)\.(weight|bias)"
_RULES: tuple[Rename | Drop, ...] = (
    Rename(r"encoder\.embedding\.weight", _BODY + "gene_encoder.embedding.weight"),
    Rename(rf"encoder\.enc_norm\.{_WB}", _BODY + r"gene_encoder.norm.\1"),
    Rename(rf"value_encoder\.(\w+)\.{_WB}", _BODY + r"value_encoder.\1.\2"),
    Rename(r"flag_encoder\.weight", _BODY + "flag_embedding.weight"),
    Rename(_LAYER + rf"self_attn\.(?:Wqkv\.|in_proj_){_WB}", _OUR_LAYER + r"self_attn.qkv.\2"),
    Rename(_LAYER + rf"(self_attn\.out_proj|linear[12]|norm[12])\.{_WB}", _OUR_LAYER + r"\2.\3"),
    Rename(r"batch_encoder\.embedding\.weight", "batch_encoder.embedding.weight"),
    Rename(rf"batch_encoder\.enc_norm\.{_WB}", r"batch_encoder.norm.\1"),
    Rename(rf"decoder\.moe\.gate\.gate\.{_WB}", r"decoder.gate.\1"),
    Rename(rf"decoder\.moe\.experts\.(\d+)\.fc\.{_STEP}", r"decoder.experts.\1.value.\2.\3"),
    Rename(rf"decoder\.fc\.{_STEP}", r"decoder.value.\1.\2"),
    Rename(rf"decoder\.zero_logit\.{_STEP}", r"decoder.expressed.\1.\2"),
    *(
        rule
        for theirs, ours in (("mvc_decoder", "cell_decoder"), ("impute_mvc_decoder", "neighbour_decoder"))
        for rule in (
            Rename(rf"{theirs}\.gene2query\.{_WB}", ours + r".gene_query.\1"),
            Rename(rf"{theirs}\.W\.weight", ours + ".weight.weight"),
            Rename(rf"{theirs}\.W_zero_logit\.{_WB}", ours + r".expressed_weight.\1"),
        )
    ),
    # Linear layers and layer norms stand at 0, 2, 3, 5 ... of one list there, in two lists here.
    *(
        rule
        for theirs, ours in (("cls_decoder", "classifier"), ("grad_reverse_discriminator", "discriminator"))
        for rule in (
            Rename(rf"{theirs}\.out_layer\.{_WB}", ours + r".out_proj.\1"),
            *(
                Rename(rf"{theirs}\._decoder\.{3 * block + place}\.{_WB}", rf"{ours}.{part}.{block}.\1")
                for block in range(8)
                for part, place in (("linears", 0), ("norms", 2))
            ),
        )
    ),
)


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like an scGPT-spatial: scGPT's files, with gene means, experts or a neighbour decoder."""
    home = source.home.absolute()
    arguments, vocabulary = home / "args.json", home / "vocab.json"
    if not arguments.is_file() or not vocabulary.is_file():
        return False
    options = source.json(arguments)
    if not isinstance(options, dict) or "embsize" not in options:
        return False
    if "impute_k" in options or (home / _MEANS).exists():
        return True
    try:
        names = _tensors(source, source.weights(*_WEIGHTS))
    except CheckpointError:
        return False
    return any(name.startswith(_OWN) for name in names)


def convert(
    source: SourceFolder,
    *,
    num_attention_heads: int | None = None,
    num_experts_per_token: int = 2,
    means_of_slide: bool = False,
) -> ConvertedCheckpoint:
    """Convert an scGPT-spatial.

    Parameters
    ----------
    source
        Its files. Roles: ``vocabulary`` (vocab.json), ``arguments`` (args.json), ``gene_means``
        (all_dict_mean_std.csv), ``batch_mapping`` (batch_mapping_dict.json).
    num_attention_heads
        Needed only without args.json.
    num_experts_per_token
        Experts that a gene goes through: no file says it, and the original's code has 2.
    means_of_slide
        Take the mean of every gene from the cells given, where there are no gene means beside the weights: for models
        that were trained without.
    """
    weights = source.weights(*_WEIGHTS)
    tensors = _tensors(source, weights)
    if "encoder.embedding.weight" not in tensors:
        raise CheckpointError(f"{weights} has no gene embedding (encoder.embedding.weight): it is no scGPT-spatial.")
    if any("decoder." in name for name in tensors) and not any(name.startswith(_OWN) for name in tensors):
        raise CheckpointError(
            f"{weights} has neither experts (decoder.moe) nor a decoder of neighbours (impute_mvc_decoder): it is no "
            "scGPT-spatial. An scGPT is converted with family='scgpt'."
        )
    arguments = source.find("args.json", role="arguments")
    published = source.json(arguments) if arguments is not None else {}
    tokenizer, notes = _tokenizer(source, published, len(tensors["encoder.embedding.weight"]), means_of_slide)
    renamed, records = apply_rules(tensors, _RULES, where=weights.name)
    config = _config(renamed, published, tokenizer, num_attention_heads, num_experts_per_token)
    config.batch_names = _batch_names(source, config.num_batch_labels)
    architecture = "ScGPTSpatialForPreTraining"
    if not any(name.startswith("decoder.") for name in renamed):
        architecture = "ScGPTSpatialModel"
        renamed, records = strip_prefix(renamed, records, _BODY)
    return ConvertedCheckpoint(
        config=config, architecture=architecture, tensors=renamed, records=records, tokenizer=tokenizer, notes=notes
    )


def _tensors(source: SourceFolder, weights: Path) -> dict[str, Tensor]:
    tensors = source.tensors(weights, "model_state_dict", "state_dict")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _config(
    tensors: dict[str, Tensor],
    published: dict[str, Any],
    tokenizer: CellTokenizer,
    heads: int | None,
    num_experts_per_token: int,
) -> ScGPTSpatialConfig:
    """Our configuration: sizes and heads are read off the tensors, what they do not tell off the arguments."""

    def rows(name: str) -> int:
        return tensors[name].shape[0] if name in tensors else 0

    def numbered(pattern: str) -> int:
        return len({found[1] for name in tensors if (found := re.match(pattern, name))})

    heads = heads or published.get("nheads")
    if heads is None:
        raise CheckpointError(
            "args.json is missing and the number of attention heads with it; give num_attention_heads=."
        )
    n_tokens, size = tensors[f"{_BODY}gene_encoder.embedding.weight"].shape
    labels, dropout = rows("classifier.out_proj.weight"), published.get("dropout", 0.2)
    depth = 1 + max(numbered(rf"{head}\.linears\.(\d+)") for head in ("classifier", "discriminator"))
    experts = numbered(r"decoder\.experts\.(\d+)")
    return ScGPTSpatialConfig(
        vocab_size=n_tokens,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        hidden_size=size,
        num_hidden_layers=numbered(rf"{_BODY}layers\.(\d+)"),
        num_attention_heads=heads,
        intermediate_size=rows(f"{_BODY}layers.0.linear1.weight"),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_value=published.get("pad_value", -2),
        mask_value=published.get("mask_value", -1),
        generative=f"{_BODY}flag_embedding.weight" in tensors,
        decoder_style="dense" if "decoder.value.0.weight" in tensors else "experts",
        **({"num_experts": experts, "num_experts_per_token": num_experts_per_token} if experts else {}),
        explicit_zero_probability="decoder.expressed.0.weight" in tensors,
        cell_decoder="cell_decoder.weight.weight" in tensors,
        neighbour_decoder="neighbour_decoder.weight.weight" in tensors,
        num_neighbours=published.get("impute_k") or 6,
        # The loader of the original drops what is wider for batch labels; here it stays.
        num_batch_labels=rows("batch_encoder.embedding.weight"),
        pretraining_classifier=labels > 0,
        classifier_layers=depth if depth > 1 else 3,
        num_adversarial_labels=rows("discriminator.out_proj.weight"),
        **({"num_labels": labels} if labels else {}),
    )


def _batch_names(source: SourceFolder, n_batches: int) -> list[str] | None:
    """What the numbers of the batches mean, where a file says it."""
    path = source.find("batch_mapping_dict.json", role="batch_mapping") if n_batches else None
    if path is None:
        return None
    numbers = source.json(path)
    if not isinstance(numbers, dict) or sorted(numbers.values()) != list(range(n_batches)):
        raise CheckpointError(f"{path} does not number {n_batches} batches 0, 1 ..., as many as the weights know.")
    return sorted(numbers, key=numbers.__getitem__)


def _tokenizer(
    source: SourceFolder, published: dict[str, Any], n_tokens: int, means_of_slide: bool
) -> tuple[CellTokenizer, tuple[str, ...]]:
    """The tokenizer of vocab.json and the gene means, and what is to be said of it."""
    what = "the vocabulary, in the folder scGPT_spatial_v1 of the authors' weights (figshare 28356068)"
    path = source.need("vocab.json", role="vocabulary", what=what)
    numbers = source.json(path)
    if not isinstance(numbers, dict) or sorted(numbers.values()) != list(range(len(numbers))):
        raise CheckpointError(f"{path} does not number its tokens 0, 1, 2 ...; it is damaged or no vocabulary.")
    tokens = sorted(numbers, key=numbers.__getitem__)
    # The original's loader appends missing special tokens in this order.
    tokens += [token for token in _SPECIAL_TOKENS.values() if token not in numbers]
    if len(tokens) != n_tokens:
        raise CheckpointError(
            f"{path} has {len(tokens):,} tokens, the weights {n_tokens:,}: they do not belong together."
        )
    means, notes = _gene_means(source, tokens, means_of_slide)
    options = {"pad_value": float(published.get("pad_value", -2)), "cls_value": float(published.get("pad_value", -2))}
    # args.json has the length of pretraining; the authors embed cells with this one.
    return _make_tokenizer(tokens, means, max_length=1200, n_bins=published.get("n_bins", 51), **options), notes


def _gene_means(
    source: SourceFolder, tokens: list[str], means_of_slide: bool
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Mean of each token, NaN where the file has none; None if the slide is to give all."""
    path = source.find(_MEANS, role="gene_means")
    if path is not None:
        table = source.table(path, index_col=0)
        if "mean" not in table or not np.issubdtype(table.index.dtype, np.integer):
            raise CheckpointError(f"{path} must have the ids of genes first, and a column 'mean'.")
        outside = (table.index < 0) | (table.index >= len(tokens))
        if outside.any() or table.index.has_duplicates:
            raise CheckpointError(
                f"{path} names ids twice, or ids beyond the {len(tokens):,} tokens of the vocabulary."
            )
        if not (table["mean"] > 0).all():
            raise CheckpointError(f"{path} has means that are not above 0: they cannot be divided by.")
        means = np.full(len(tokens), np.nan)
        means[table.index] = table["mean"].to_numpy(np.float64)
        return means, ()
    if means_of_slide:
        return None, ("There are no gene means: the tokenizer takes the mean of every gene from the cells given.",)
    if _RELEASED in released_tokenizers():
        released = released_tokenizer(_RELEASED)
        if list(released.vocabulary.tokens) == tokens:
            note = f"No {_MEANS} is at hand: the gene means are those of the released model."
            return released.statistics["gene_mean"], (note,)
    source.need(
        _MEANS,
        role="gene_means",
        what="the mean of each gene, in the folder scGPT_spatial_v1 of the authors' weights (figshare 28356068); for a "
        "model that was trained without, give means_of_slide=True",
    )
    raise AssertionError("need() raises")


def _make_tokenizer(tokens: Sequence[str], means: NDArray[np.float64] | None, **options: Any) -> CellTokenizer:
    vocabulary = GeneVocabulary(tokens, special_tokens=_SPECIAL_TOKENS, id_kind="symbol", species=("human",))
    statistics = {} if means is None else {"gene_mean": means}
    return CellTokenizer.from_vocabulary(vocabulary, scheme="scgpt_spatial", statistics=statistics, **options)


def released(vocabularies: Path) -> dict[str, tuple[CellTokenizer, dict[str, str]]]:
    """The tokenizer of the released model; called by ``scripts/build_released_tokenizers.py``."""
    read: dict[str, Any] = {"sep": "\t", "quoting": 3, "keep_default_na": False}
    table = pd.read_csv(vocabularies / "scgpt" / "vocabulary.tsv.gz", dtype=str, **read)
    known = pd.read_csv(vocabularies / "scgpt_spatial" / "gene_means.tsv.gz", dtype={"token": str}, **read)
    means = np.full(len(table), np.nan)
    means[known["token_id"]] = known["mean"]
    source = {
        "source": "vocab.json and all_dict_mean_std.csv of scGPT_spatial_v1, from github.com/KrissiHub/scGPT-spatial, "
        "a copy of github.com/bowang-lab/scGPT-spatial",
        "release": "v1",
        "licence": "MIT",
    }
    return {_RELEASED: (_make_tokenizer(table["token"].tolist(), means, max_length=1200), source)}
