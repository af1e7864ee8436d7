"""From scPRINT's Lightning checkpoints of versions 1.x and 2.x: sizes from ``hyper_parameters`` and the tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, TensorRecord, apply_rules
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.scprint.configuration_scprint import N_CELL_LAYERS, ScPrintConfig
from scfm_hf.models.scprint.genes_scprint import squeeze
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_WEIGHTS = "*.ckpt"
#: Keys of ``hyper_parameters`` that no other family has together.
_OWN_KEYS = frozenset({"genes", "organisms", "gene_pos_enc", "labels_hierarchy"})
PAD_TOKEN = "<pad>"
#: Genes a cell in the authors' own embedding.
CONTEXT = 2000
#: Classes whose tokens make the authors' own embedding, where the checkpoint does not say.
_POOLED = tuple(f"{name}_ontology_term_id" for name in ("cell_type", "disease", "self_reported_ethnicity", "sex"))
_SPECIES = {"NCBITaxon:9606": "human", "NCBITaxon:10090": "mouse"}

_GENES = r"gene_encoder\.(?:0\.)?embeddings?\.weight"
_POSITIONS = r"pos_encoder\.pe"
_BODY = "scprint."
_WB = r"\.(weight|bias)"
_LAYER = r"(cell_)?transformer\.blocks\.(\d+)\."
_TO = rf"{_BODY}\1layers.\2."
RULES: tuple[Rename | Drop, ...] = (
    Rename(_GENES, "genes"),
    Rename(_POSITIONS, "positions"),
    Rename(r"expr_encoder\.encoder\.(\d+)" + _WB, rf"{_BODY}value_encoder.\1.\2"),
    Rename(r"depth_encoder\.encoder\.(\d+)" + _WB, rf"{_BODY}depth_encoder.\1.\2"),
    Rename(r"class_encoder\.embedding\.weight", f"{_BODY}class_encoder.weight"),
    Rename(r"metacell_encoder\.embedding\.weight", f"{_BODY}metacell_encoder.weight"),
    Rename(_LAYER + r"mixer\.Wqkv" + _WB, _TO + r"attention.qkv.\3"),
    Rename(_LAYER + r"mixer\.Wq" + _WB, _TO + r"attention.q.\3"),
    Rename(_LAYER + r"mixer\.Wkv" + _WB, _TO + r"attention.kv.\3"),
    Rename(_LAYER + r"mixer\.out_proj" + _WB, _TO + r"attention.out_proj.\3"),
    Rename(_LAYER + r"(norm[12])" + _WB, _TO + r"\3.\4"),
    Rename(_LAYER + r"mlp\.fc([12])" + _WB, _TO + r"linear\3.\4"),
    Rename(r"(cell_)?transformer\.norm" + _WB, rf"{_BODY}\1norm.\2"),
    Rename(r"bottleneck_mlps\.(\w+)\.(project_in|project_out)" + _WB, rf"{_BODY}bottlenecks.\1.\2.\3"),
    Rename(r"expr_decoder\.fc\.(\d+)" + _WB, r"count_decoder.layers.\1.\2"),
    Rename(r"expr_decoder\.pred_var_zero" + _WB, r"count_decoder.output.\1"),
    Rename(r"mvc_decoder\.gene2query" + _WB, r"cell_decoder.gene_query.\1"),
    Rename(r"mvc_decoder\.norm" + _WB, r"cell_decoder.norm.\1"),
    Rename(r"mvc_decoder\.pred_var_zero\.weight", "cell_decoder.output.weight"),
    Rename(r"cls_decoders\.(\w+)\.decoder\.(\d+)" + _WB, r"class_decoders.of_class.\1.layers.\2.\3"),
    Rename(r"cls_decoders\.(\w+)\.out_layer" + _WB, r"class_decoders.of_class.\1.output.\2"),
    Rename(r"grad_reverse_discriminator_loss\.decoder\.(\d+)" + _WB, r"batch_discriminator.layers.\1.\2"),
    Rename(r"grad_reverse_discriminator_loss\.out_layer" + _WB, r"batch_discriminator.output.\1"),
)


def recognise(source: SourceFolder) -> bool:
    """Whether a folder holds an scPRINT's Lightning checkpoint."""
    if not any(source.home.glob(_WEIGHTS)):
        return False
    content = source.checkpoint(source.weights(_WEIGHTS))
    published = content.get("hyper_parameters") if isinstance(content, dict) else None
    return isinstance(published, dict) and published.keys() >= _OWN_KEYS


def convert(source: SourceFolder) -> ConvertedCheckpoint:
    """Convert an scPRINT of version 1.x or 2.x.

    Parameters
    ----------
    source
        Its checkpoint. Roles: ``gene_embeddings`` (a parquet of protein vectors by gene, to check those of the
        checkpoint against).
    """
    weights = source.weights(_WEIGHTS)
    content = source.checkpoint(weights)
    published = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(published, dict) or not published.keys() >= _OWN_KEYS:
        raise CheckpointError(
            f"{weights} is no scPRINT: its hyper_parameters do not have {', '.join(sorted(_OWN_KEYS))}. Take one of "
            "the checkpoints of huggingface.co/jkobject/scPRINT, such as medium-v1.5.ckpt."
        )
    tensors, records = apply_rules(content["state_dict"], RULES, where=weights.name)
    genes = _table(tensors, "genes", "gene_encoder", published["genes"])
    positions = _table(tensors, "positions", "pos_encoder", published["genes"])
    _check_vectors(source, published["genes"], genes)
    tokenizer = make_tokenizer(published["genes"], published["organisms"])
    return ConvertedCheckpoint(
        config=_config(tensors, published, width=genes.shape[1]),
        architecture="ScPrintForPreTraining",
        tensors=tensors,
        records=[_beside(record) for record in records],
        tokenizer=tokenizer,
        side_tables={f"{_BODY}genes.vectors": _padded(genes), f"{_BODY}genes.positions": _padded(positions)},
    )


def make_tokenizer(genes: Sequence[str], organisms: Sequence[str]) -> CellTokenizer:
    """The tokenizer of genes that are given organism by organism, as a checkpoint lists them."""
    taxa = np.append(organism_of(genes, organisms), np.nan)
    species = tuple(_SPECIES.get(organism, organism) for organism in organisms)
    vocabulary = GeneVocabulary(
        [*genes, PAD_TOKEN], special_tokens={"pad": PAD_TOKEN}, id_kind="ensembl_id", species=species
    )
    return CellTokenizer.from_vocabulary(vocabulary, scheme="scprint", statistics={"taxon": taxa}, max_length=CONTEXT)


def organism_of(genes: Sequence[str], organisms: Sequence[str]) -> NDArray[np.float64]:
    """Taxon number of each gene, from the prefix of its Ensembl id; the prefixes come in the order of the organisms.

    Raises
    ------
    CheckpointError
        If there are not as many prefixes as organisms.
    """
    prefixes = [gene.rstrip("0123456789") for gene in genes]
    distinct = list(dict.fromkeys(prefixes))
    known = {"ENSG": "NCBITaxon:9606", "ENSMUSG": "NCBITaxon:10090"}
    rest = [organism for organism in organisms if organism not in known.values()]
    unknown = [prefix for prefix in distinct if prefix not in known]
    if len(unknown) > len(rest):
        raise CheckpointError(
            f"The genes have the prefixes {', '.join(distinct)}, the organisms are {', '.join(organisms)}: they do not "
            "belong together."
        )
    known |= dict(zip(unknown, rest, strict=False))
    return np.array([float(known[prefix].rpartition(":")[2]) for prefix in prefixes])


def _beside(record: TensorRecord) -> TensorRecord:
    """The record of a tensor that lies beside the weights."""
    if record.target in ("genes", "positions"):
        return TensorRecord(record.source, None, "frozen: a table beside the weights")
    return record


def _table(tensors: dict[str, Tensor], name: str, original: str, genes: Sequence[str]) -> Tensor:
    """Take a table out of the tensors: (n_genes, hidden_size), a middle axis of 1 removed."""
    if name not in tensors:
        raise CheckpointError(f"The checkpoint has no {original}: it is damaged or of another version.")
    table = tensors.pop(name).flatten(1).float()
    if len(table) != len(genes):
        raise CheckpointError(
            f"The checkpoint lists {len(genes):,} genes, but {original} has {len(table):,} rows: they do not belong "
            "together."
        )
    return table


def _padded(table: Tensor) -> NDArray[np.float32]:
    """The table with a row of zeros for padding."""
    return torch.cat([table, torch.zeros(1, table.shape[1])]).numpy()


def _check_vectors(source: SourceFolder, genes: Sequence[str], table: Tensor) -> None:
    """Refuse protein vectors that are given and are not those of the checkpoint."""
    path = source.find(role="gene_embeddings")
    if path is None:
        return
    given = source.table(path, index_col=0)
    absent = [gene for gene in genes if gene not in given.index]
    if absent:
        raise CheckpointError(f"{path} has no vector of {len(absent)} genes of the model (first: {absent[:5]}).")
    squeezed = squeeze(torch.from_numpy(given.loc[list(genes)].to_numpy(np.float32)), table.shape[1])
    if not torch.allclose(squeezed, table, atol=1e-4):
        raise CheckpointError(f"{path} holds other protein vectors than the checkpoint: they do not belong together.")


def _config(tensors: Mapping[str, Tensor], published: Mapping[str, Any], *, width: int) -> ScPrintConfig:
    """Our configuration; sizes are read off the tensors, what they do not tell off the options."""
    # Version 2 may write the names alone here, and the sizes beside them.
    classes = published["classes"]
    class_sizes = dict(classes) if isinstance(classes, dict) else {k: published["label_counts"][k] for k in classes}
    # Only version 2 knows this option.
    first = "use_metacell_token" not in published
    apart = bool(published.get("cell_specific_blocks"))
    blocks = {name.split(".")[2] for name in tensors if name.startswith(f"{_BODY}layers.")}
    cell_blocks = {name.split(".")[2] for name in tensors if name.startswith(f"{_BODY}cell_layers.")}
    if len(cell_blocks) != (2 * N_CELL_LAYERS if apart else 0):
        raise CheckpointError(
            f"cell_specific_blocks={apart}, but the checkpoint has {len(cell_blocks)} blocks of cells."
        )
    batches = tensors.get("batch_discriminator.output.bias")
    return ScPrintConfig(
        vocab_size=len(published["genes"]) + 1,
        pad_token_id=len(published["genes"]),
        hidden_size=width,
        num_hidden_layers=len(blocks) // (2 if apart else 1),
        num_attention_heads=published["nhead"],
        num_key_value_heads=published.get("num_heads_kv"),
        intermediate_size=tensors[f"{_BODY}layers.0.linear1.weight"].shape[0],
        hidden_dropout_prob=published.get("dropout", 0.1),
        class_names=list(class_sizes),
        class_sizes=list(class_sizes.values()),
        class_hidden_sizes=list(published["layers_cls"]),
        class_bottlenecks=dict(published.get("compress_class_dim") or {}) or None,
        label_hierarchy=_text_keys(published["labels_hierarchy"]),
        label_names=_text_keys(published.get("label_decoders") or {}),
        pooled_classes=list(published.get("pred_embedding") or [name for name in _POOLED if name in class_sizes])
        or None,
        normalization=published["normalization"],
        value_encoder_layers=sum(
            tensor.ndim == 2 for name, tensor in tensors.items() if name.startswith(f"{_BODY}value_encoder.")
        ),
        depth_token=f"{_BODY}depth_encoder.0.weight" in tensors,
        base_first=first,
        metacell=f"{_BODY}metacell_encoder.weight" in tensors,
        cell_blocks=apart,
        cell_values="cell_decoder.output.weight" in tensors,
        zero_inflated=bool(published.get("zinb", True)),
        num_batches=0 if batches is None else len(batches),
        **(_FIRST_WEIGHTS if first else {}),
    )


#: Weights of the terms of the loss in version 1.
_FIRST_WEIGHTS: dict[str, Any] = {
    "class_weight": 0.4,
    "dissimilarity_weight": 0.2,
    "similarity_weight": 0.05,
    "similarity_threshold": 0.3,
    "contrastive_weight": 0.002,
    "first_version_losses": True,
}


def _text_keys(by_class: Mapping[str, Mapping[int, Any]]) -> dict[str, dict[str, Any]]:
    """The same with numbers as text, as JSON wants keys."""
    return {name: {str(number): value for number, value in entries.items()} for name, entries in by_class.items()}
