"""From scPRINT's Lightning checkpoints of versions 1.x and 2.x: sizes from ``hyper_parameters`` and the tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_hf.conversion import Drop, Rename
from scfm_hf.errors import CheckpointError
from scfm_hf.models.scprint.configuration_scprint import ScPrintConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

#: Keys of ``hyper_parameters`` that no other family has together.
_OWN_KEYS = frozenset({"genes", "organisms", "gene_pos_enc", "labels_hierarchy"})


def _position_table(table: Tensor) -> Tensor:
    """(n_genes, 1, hidden_size) or (n_genes, hidden_size) -> the latter."""
    return table.flatten(1)


_BODY = "scprint."
_WB = r"\.(weight|bias)"
_LAYER = r"transformer\.blocks\.(\d+)\."
_TO = rf"{_BODY}layers.\1."
RULES: tuple[Rename | Drop, ...] = (
    Rename(r"gene_encoder\.(?:0\.)?embeddings?\.weight", f"{_BODY}gene_encoder.weight"),
    Rename(r"pos_encoder\.pe", f"{_BODY}position_encoder.weight", _position_table),
    Rename(r"expr_encoder\.encoder\.(\d+)" + _WB, rf"{_BODY}value_encoder.\1.\2"),
    Rename(r"depth_encoder\.encoder\.(\d+)" + _WB, rf"{_BODY}depth_encoder.\1.\2"),
    Rename(r"class_encoder\.embedding\.weight", f"{_BODY}class_encoder.weight"),
    Rename(r"metacell_encoder\.embedding\.weight", f"{_BODY}metacell_encoder.weight"),
    Rename(_LAYER + r"mixer\.Wqkv" + _WB, _TO + r"self_attn.qkv.\2"),
    Rename(_LAYER + r"mixer\.out_proj" + _WB, _TO + r"self_attn.out_proj.\2"),
    Rename(_LAYER + r"(norm[12])" + _WB, _TO + r"\2.\3"),
    Rename(_LAYER + r"mlp\.fc([12])" + _WB, _TO + r"linear\2.\3"),
    Rename(r"transformer\.norm" + _WB, rf"{_BODY}norm.\1"),
    Rename(r"expr_decoder\.fc\.(\d+)" + _WB, r"decoder.layers.\1.\2"),
    Rename(r"expr_decoder\.pred_var_zero" + _WB, r"decoder.out_proj.\1"),
    Rename(r"mvc_decoder\.gene2query" + _WB, r"cell_decoder.gene_query.\1"),
    Rename(r"mvc_decoder\.norm" + _WB, r"cell_decoder.norm.\1"),
    Rename(r"mvc_decoder\.pred_var_zero\.weight", "cell_decoder.out_proj.weight"),
    Rename(r"cls_decoders\.(\w+)\.decoder\.(\d+)" + _WB, r"class_decoders.\1.layers.\2.\3"),
    Rename(r"cls_decoders\.(\w+)\.out_layer" + _WB, r"class_decoders.\1.out_proj.\2"),
    Drop(r"grad_reverse_discriminator_loss\..*", "of the adversarial loss in training"),
)


def is_scprint(checkpoint: Any) -> bool:
    """Whether the content of a Lightning checkpoint is an scPRINT's."""
    published = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    return isinstance(published, dict) and published.keys() >= _OWN_KEYS


def config_of(tensors: Mapping[str, Tensor], published: Mapping[str, Any]) -> ScPrintConfig:
    """Our configuration.

    Parameters
    ----------
    tensors
        Named as here.
    published
        ``hyper_parameters`` of the checkpoint.

    Raises
    ------
    CheckpointError
        If the model has parts that are not supported, or its genes and its gene vectors differ in number.
    """
    for option in ("cell_specific_blocks", "compress_class_dim"):
        if published.get(option):
            raise CheckpointError(
                f"This scPRINT was trained with {option}={published[option]!r}, which is not supported. Take a "
                "checkpoint without it, such as medium-v1.5.ckpt."
            )
    n_genes, size = tensors[f"{_BODY}gene_encoder.weight"].shape
    if n_genes != len(published["genes"]):
        raise CheckpointError(
            f"The checkpoint lists {len(published['genes']):,} genes, but has {n_genes:,} gene vectors: they do not "
            "belong together."
        )
    # Version 2 may write the names alone here, and the sizes beside them.
    classes = published["classes"]
    class_sizes = dict(classes) if isinstance(classes, dict) else {k: published["label_counts"][k] for k in classes}
    value_layers = sum(
        tensor.ndim == 2 for name, tensor in tensors.items() if name.startswith(f"{_BODY}value_encoder.")
    )
    heads = published["nhead"]
    return ScPrintConfig(
        vocab_size=n_genes,
        hidden_size=size,
        num_hidden_layers=len({name.split(".")[2] for name in tensors if name.startswith(f"{_BODY}layers.")}),
        num_attention_heads=heads,
        num_key_value_heads=published.get("num_heads_kv") or heads,
        intermediate_size=tensors[f"{_BODY}layers.0.linear1.weight"].shape[0],
        hidden_dropout_prob=published.get("dropout", 0.1),
        class_sizes=class_sizes,
        class_hidden_sizes=list(published["layers_cls"]),
        label_hierarchy=_text_keys(published["labels_hierarchy"]),
        label_names=_text_keys(published.get("label_decoders") or {}),
        pooled_classes=list(published.get("pred_embedding") or ()) or None,
        normalization=published["normalization"],
        value_encoder_layers=value_layers,
        # Only version 2 knows this option.
        base_first="use_metacell_token" not in published,
        metacell=f"{_BODY}metacell_encoder.weight" in tensors,
        cell_values="cell_decoder.out_proj.weight" in tensors,
    )


def _text_keys(by_class: Mapping[str, Mapping[int, Any]]) -> dict[str, dict[str, Any]]:
    """The same with numbers as text, as JSON wants keys."""
    return {name: {str(number): value for number, value in entries.items()} for name, entries in by_class.items()}
