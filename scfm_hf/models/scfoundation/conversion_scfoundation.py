"""From scFoundation's own files: models.ckpt with three models, and the list of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.released import released_tokenizer, released_tokenizers
from scfm_hf.models.scfoundation.configuration_scfoundation import ScFoundationConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

_WEIGHTS = ("models.ckpt", "models/models.ckpt", "*.ckpt")
_GENES = ("OS_scRNA_gene_index.*.tsv", "model/OS_scRNA_gene_index.*.tsv")
_KEYS = ("cell", "gene", "rde")
_RELEASED = "scfoundation"
_SPECIAL_TOKENS = {"target_depth": "<target_depth>", "source_depth": "<source_depth>", "pad": "<pad>"}

_WB = r"(weight|bias)"
_ENCODER = r"encoder\.transformer_encoder\.(\d+)\."
_DECODER = r"decoder\.performer\.net\.layers\.(\d+)\."
_LAYER, _DECODER_LAYER = r"scfoundation.layers.\1.", r"decoder.layers.\1."


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1)


_RULES: tuple[Rename | Drop, ...] = (
    Rename(rf"token_emb\.mlp\.{_WB}", r"scfoundation.value_embedding.expand.\1"),
    Rename(rf"token_emb\.mlp2\.{_WB}", r"scfoundation.value_embedding.mix.\1"),
    Rename(r"token_emb\.emb\.weight", "scfoundation.value_embedding.bins.weight"),
    Rename(r"token_emb\.emb_mask\.weight", "scfoundation.value_embedding.mask", _flat),
    Rename(r"token_emb\.emb_pad\.weight", "scfoundation.value_embedding.padding", _flat),
    Rename(r"pos_emb\.weight", "scfoundation.gene_embedding.weight"),
    Rename(rf"{_ENCODER}self_attn\.in_proj_{_WB}", rf"{_LAYER}self_attn.qkv.\2"),
    Rename(rf"{_ENCODER}self_attn\.out_proj\.{_WB}", rf"{_LAYER}self_attn.out_proj.\2"),
    Rename(rf"{_ENCODER}((?:linear|norm)[12])\.{_WB}", rf"{_LAYER}\2.\3"),
    Rename(rf"encoder\.norm\.{_WB}", r"scfoundation.norm.\1"),
    Rename(rf"decoder_embed\.{_WB}", r"decoder.input_proj.\1"),
    Drop(r"decoder\.performer\.calls_since_last_redraw", "a counter of the pretraining"),
    Rename(rf"{_DECODER}0\.norm\.{_WB}", rf"{_DECODER_LAYER}norm1.\2"),
    Rename(rf"{_DECODER}0\.fn\.fast_attention\.projection_matrix", rf"{_DECODER_LAYER}self_attn.projection"),
    *(
        Rename(rf"{_DECODER}0\.fn\.to_{theirs}\.{_WB}", rf"{_DECODER_LAYER}self_attn.{ours}.\2")
        for theirs, ours in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out_proj"))
    ),
    Rename(rf"{_DECODER}1\.norm\.{_WB}", rf"{_DECODER_LAYER}norm2.\2"),
    Rename(rf"{_DECODER}1\.fn\.fn\.w([12])\.{_WB}", rf"{_DECODER_LAYER}linear\2.\3"),
    Rename(rf"decoder\.norm\.{_WB}", r"decoder.norm.\1"),
    Rename(rf"norm\.{_WB}", r"decoder.final_norm.\1"),
    Rename(rf"to_final\.{_WB}", r"decoder.out_proj.\1"),
)


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like scFoundation: models.ckpt, or another checkpoint, with the authors' list of genes."""
    home = source.home
    if any((folder / "models.ckpt").is_file() for folder in (home, home / "models")):
        return True
    return any(home.glob("*.ckpt")) and source.find(*_GENES, role="genes") is not None


def convert(source: SourceFolder, *, key: Literal["cell", "gene", "rde"] = "cell") -> ConvertedCheckpoint:
    """Convert one of the three models of models.ckpt.

    Parameters
    ----------
    source
        Its files. Roles: ``genes`` (``OS_scRNA_gene_index.19264.tsv``); the released list is known without.
    key
        ``cell`` for cell embeddings (the authors' default), ``rde`` for enhanced read depth and mapping, ``gene`` for
        gene embeddings, predicted expression, perturbation and fine-tuning.
    """
    weights = source.weights(*_WEIGHTS)
    content, notes = _one_model(source.checkpoint(weights), key, weights)
    tensors = {name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()}
    options = _options(content["config"], weights)
    table = tensors.get("pos_emb.weight")
    if table is None:
        raise CheckpointError(f"{weights} holds no embedding of genes (pos_emb.weight): it is no scFoundation.")
    tokenizer = _tokenizer(source, len(table) - len(_SPECIAL_TOKENS))
    renamed, records = apply_rules(tensors, _RULES, where=weights.name)
    return ConvertedCheckpoint(
        config=_config(tensors, options, tokenizer),
        architecture="ScFoundationForExpressionPrediction",
        tensors=renamed,
        records=records,
        tokenizer=tokenizer,
        notes=notes,
    )


def _one_model(content: Any, key: str, weights: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Configuration and tensors of the model that is asked for, and what is to be said about the others."""
    if key not in _KEYS:
        raise CheckpointError(f"key={key!r} is none of the models of {weights.name}: {', '.join(_KEYS)}.")
    if isinstance(content, dict) and isinstance(content.get(key), dict):
        others = [name for name in _KEYS if name != key and name in content]
        chosen = content[key]
        notes = (f"{weights.name} also holds {' and '.join(others)}; key= chooses one.",) if others else ()
    else:
        chosen, notes = content, ()
    if not isinstance(chosen, dict) or not isinstance(chosen.get("state_dict"), dict) or "config" not in chosen:
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{weights} holds no model {key!r} with its config and state_dict, as the authors' models.ckpt does. It "
            f"holds: {held}."
        )
    return chosen, notes


def _options(config: Mapping[str, Any], weights: Path) -> dict[str, Any]:
    """The flat configuration that the authors' loader makes."""
    kind = config.get("model")
    if kind != "mae_autobin":
        raise CheckpointError(f"{weights} holds a model of the kind {kind!r}; only 'mae_autobin' was ever released.")
    return {**config["model_config"][kind], **config["dataset_config"]["rnaseq"]}


def _config(tensors: Mapping[str, Tensor], options: Mapping[str, Any], tokenizer: CellTokenizer) -> ScFoundationConfig:
    """Our configuration: sizes from the tensors, the rest as published."""
    encoder, decoder = options["encoder"], options["decoder"]
    for name, side, kind in (("encoder", encoder, "transformer"), ("decoder", decoder, "performer")):
        if side["module_type"] != kind or side.get("norm_first"):
            raise CheckpointError(f"The {name} is a {side['module_type']!r}, norm_first={side.get('norm_first')}.")

    def n_layers(prefix: str) -> int:
        return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix))

    layer = "decoder.performer.net.layers.0."
    projection = tensors[f"{layer}0.fn.fast_attention.projection_matrix"]
    special = {f"{role}_token_id": tokenizer.convert_tokens_to_ids(token) for role, token in _SPECIAL_TOKENS.items()}
    return ScFoundationConfig(
        **special,
        vocab_size=len(tokenizer),
        hidden_size=tensors["pos_emb.weight"].shape[1],
        num_hidden_layers=n_layers("encoder.transformer_encoder."),
        num_attention_heads=encoder["heads"],
        intermediate_size=tensors["encoder.transformer_encoder.0.linear1.weight"].shape[0],
        num_bins=len(tensors["token_emb.emb.weight"]),
        bin_alpha=options["bin_alpha"],
        mask_value=options["mask_token_id"],
        pad_value=options["pad_token_id"],
        decoder_hidden_size=tensors["decoder_embed.weight"].shape[0],
        decoder_num_layers=n_layers("decoder.performer.net.layers."),
        decoder_num_heads=decoder["heads"],
        decoder_head_size=projection.shape[1],
        decoder_intermediate_size=tensors[f"{layer}1.fn.fn.w1.weight"].shape[0],
        decoder_dropout_prob=options.get("ff_dropout", 0.0),
        num_random_features=len(projection),
        value_mask_rate=options["value_mask_prob"],
        zero_mask_rate=options["zero_mask_prob"],
    )


def _tokenizer(source: SourceFolder, n_genes: int) -> CellTokenizer:
    """The tokenizer of the list of genes; that of the released list is known without."""
    if source.find(*_GENES, role="genes") is None and _RELEASED in released_tokenizers():
        known = released_tokenizer(_RELEASED)
        if len(known) == n_genes + len(_SPECIAL_TOKENS):
            return known
    path = source.need(
        *_GENES,
        role="genes",
        what=f"the list of its {n_genes:,} genes, in the folder model/ of github.com/biomap-research/scFoundation",
    )
    table = source.table(path, keep_default_na=False, quoting=3, dtype={"gene_name": str})
    if not {"gene_name", "index"} <= set(table.columns):
        raise CheckpointError(f"{path} has no columns gene_name and index; it is no list of scFoundation's genes.")
    if table["index"].tolist() != list(range(n_genes)):
        raise CheckpointError(
            f"{path} lists {len(table):,} genes, or does not number them in order; the model has {n_genes:,}."
        )
    return _of_genes(table["gene_name"].tolist())


def _of_genes(genes: Sequence[str]) -> CellTokenizer:
    if len(set(genes)) != len(genes):
        raise CheckpointError("The list of genes names some of them twice; it is damaged.")
    vocabulary = GeneVocabulary(
        [*genes, *_SPECIAL_TOKENS.values()], special_tokens=_SPECIAL_TOKENS, id_kind="symbol", species=("human",)
    )
    return CellTokenizer.from_vocabulary(vocabulary, scheme="scfoundation")


def released(vocabularies: Path) -> dict[str, tuple[CellTokenizer, dict[str, str]]]:
    """The tokenizer of the published models; called by ``scripts/build_released_tokenizers.py``."""
    path = vocabularies / "scfoundation" / "gene_order.tsv.gz"
    table = pd.read_csv(path, sep="\t", quoting=3, keep_default_na=False, dtype=str)
    source = {
        "source": "github.com/biomap-research/scFoundation, OS_scRNA_gene_index.19264.tsv",
        "release": "commit d09626a5c1bc30b9c6227378677b61e0b987fe8b",
        "licence": "Apache-2.0",
    }
    return {_RELEASED: (_of_genes(table["symbol"].tolist()), source)}
