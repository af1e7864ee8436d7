"""From GeneCompass's own files: config.json, weights with the prior knowledge in them, pickled dictionaries."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.genecompass.configuration_genecompass import GeneCompassConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS = ("pytorch_model.bin", "model.safetensors")
_TOKENS = ("prior_knowledge/human_mouse_tokens.pickle", "human_mouse_tokens.pickle")
_HOMOLOGS = ("prior_knowledge/homologous_hm_token.pickle", "homologous_hm_token.pickle")
_SPECIAL_TOKENS = {"pad": "<pad>", "mask": "<mask>"}
#: Our names of the kinds of prior knowledge -> the original's.
_PRIORS = {
    "promoter": "promoter",
    "co_expression": "co_exp",
    "gene_family": "gene_family",
    "regulation": "peca_grn",
}
_RULES: tuple[Rename | Drop, ...] = (
    Drop(r"bert\.embeddings\.position_ids", "positions are counted, not stored"),
    Drop(r"bert\.embeddings\.\w+_knowledge", "kept as a table beside the weights"),
    Drop(r"emb_warmup\.(alpha|steps)", "a counter of the pretraining; see prior_weight"),
    Drop(r"cls\.predictions\.decoder\..*", "tied to the gene embedding and the bias"),
    Drop(r"cls4value\.predictions\.bias", "the same numbers as the bias of the decoder"),
    Rename(r"bert\.embeddings\.homologous_index", "bert.embeddings.homolog_ids"),
    *(
        Rename(
            rf"bert\.embeddings\.{theirs}_embeddings\.linear1\.(weight|bias)", rf"bert.embeddings.projections.{ours}.\1"
        )
        for ours, theirs in _PRIORS.items()
    ),
    Rename(r"bert\.embeddings\.concat_embeddings\.cat_fc\.(\w+)", r"bert.embeddings.join.\1"),
    Rename(r"bert\.embeddings\.concat_embeddings\.cat_ln\.(\w+)", r"bert.embeddings.join_norm.\1"),
    Rename(r"bert\.embeddings\.concat_embeddings\.cat_proj\.(\w+)", r"bert.embeddings.join_projection.\1"),
    Rename(r"(bert\.(?:embeddings|encoder|cls_embedding)\..*)", r"\1"),
    Rename(r"(cls\.predictions\..*)", r"\1"),
    Rename(r"cls4value\.predictions\.((?:transform|decoder)\..*)", r"value_head.\1"),
)


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like a GeneCompass: a BERT whose configuration speaks of prior knowledge."""
    path = source.find("config.json")
    if path is None or path.parent != source.home.absolute():
        return False
    config = source.json(path)
    return config.get("model_type") == "bert" and "use_peca_grn" in config


def convert(source: SourceFolder) -> ConvertedCheckpoint:
    """Convert a GeneCompass.

    Parameters
    ----------
    source
        Its files. Roles: ``token_dictionary``, ``homologs``, ``gene_median`` (human or mouse; never released by the
        authors: without it every median is 1).
    """
    weights = source.weights(*_WEIGHTS)
    published = source.json(source.need("config.json", what="the configuration that every GeneCompass has"))
    tensors = source.tensors(weights)
    tokenizer, notes = _tokenizer(source, int(published["max_position_embeddings"]))
    tables = {
        ours: tensors[f"bert.embeddings.{theirs}_knowledge"].float().numpy()
        for ours, theirs in _PRIORS.items()
        if f"bert.embeddings.{theirs}_knowledge" in tensors
    }
    architecture, rules = _head(tensors)
    renamed, records = apply_rules(tensors, (*rules, *_RULES), where=weights.name)
    renamed.setdefault("bert.embeddings.homolog_ids", _no_homologs(len(tokenizer)))
    if architecture == "GeneCompassForMaskedLM" and not published.get("use_values"):
        renamed = {name: tensor for name, tensor in renamed.items() if not name.startswith("value_head.")}
        records = [
            dataclasses.replace(record, target=None, note="a model without values has no use for it")
            if (record.target or "").startswith("value_head.")
            else record
            for record in records
        ]
    config = _config(published, tokenizer, tables, tensors)
    if float(tensors.get("emb_warmup.alpha", np.float32(1))) < 1:
        stored = float(tensors["emb_warmup.alpha"])
        notes += (
            f"The checkpoint was saved while its prior knowledge still had the weight {stored:g}; set prior_weight.",
        )
    prefix = "bert.embeddings.tables."
    return ConvertedCheckpoint(
        config=config,
        architecture=architecture,
        tensors=renamed,
        records=records,
        tokenizer=tokenizer,
        side_tables={f"{prefix}{name}": rows for name, rows in tables.items()},
        notes=notes,
    )


def _no_homologs(size: int) -> Tensor:
    import torch

    return torch.arange(size)


def _head(tensors: dict[str, Tensor]) -> tuple[str, tuple[Rename | Drop, ...]]:
    """Class and rules of its head, told by the tensors."""
    if "classifier.weight" not in tensors:
        return "GeneCompassForMaskedLM", (Drop(r"bert\.pooler\..*", "a pooler that this head does not use"),)
    if "bert.pooler.dense.weight" in tensors:
        return "GeneCompassForSequenceClassification", (
            Rename(r"bert\.pooler\.dense\.(weight|bias)", r"classifier.dense.\1"),
            Rename(r"classifier\.(weight|bias)", r"classifier.out_proj.\1"),
        )
    return "GeneCompassForTokenClassification", (Rename(r"(classifier\.(?:weight|bias))", r"\1"),)


def _config(
    published: dict[str, Any], tokenizer: CellTokenizer, tables: dict[str, Any], tensors: dict[str, Tensor]
) -> GeneCompassConfig:
    """Our configuration: the published sizes, and those of the tables."""
    own = {field.name for field in dataclasses.fields(GeneCompassConfig)} - {
        "dtype",
        "architectures",
        "id2label",
        "label2id",
    }
    sizes = {name: value for name, value in published.items() if name in own}
    sizes |= {f"{name}_size": tables[name].shape[1] if name in tables else 0 for name in _PRIORS}
    sizes |= {"use_values": bool(published.get("use_values")), "use_cls_token": "bert.cls_embedding.weight" in tensors}
    labels = {}
    if "classifier.weight" in tensors:
        names = published.get("id2label") or {i: f"LABEL_{i}" for i in range(tensors["classifier.weight"].shape[0])}
        id2label = {int(number): name for number, name in names.items()}
        labels = {"id2label": id2label, "label2id": {name: number for number, name in id2label.items()}}
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in _SPECIAL_TOKENS}
    pooling = "cls" if sizes["use_cls_token"] else "mean"
    return GeneCompassConfig(**{**sizes, **special, **labels, "pooling": pooling})


def _tokenizer(source: SourceFolder, context: int) -> tuple[CellTokenizer, tuple[str, ...]]:
    """The tokenizer of the dictionaries, and what is to be said about them."""
    path = source.need(*_TOKENS, role="token_dictionary", what="the token dictionary of the authors' prior knowledge")
    tokens = {str(token): int(number) for token, number in source.dictionary(path).items()}
    ordered = sorted(tokens, key=tokens.__getitem__)
    if [tokens[token] for token in ordered] != list(range(len(ordered))):
        raise CheckpointError(f"{path} does not number its entries 0, 1, 2 ...; it is damaged.")
    statistics = {"median": np.ones(len(ordered))}
    found = source.find("*gene_median_after_filter.pickle", role="gene_median")
    notes: tuple[str, ...] = ()
    if found is None:
        notes = (
            "No gene medians are at hand (the authors never released them): every median is 1, which is not theirs.",
        )
    else:
        medians = {str(gene): float(value) for gene, value in source.dictionary(found).items()}
        statistics["median"] = np.array([medians.get(token, 1.0) for token in ordered])
    homologs = source.find(*_HOMOLOGS, role="homologs")
    if homologs is not None:
        statistics["homolog"] = np.full(len(ordered), np.nan)
        for mouse, human in source.dictionary(homologs).items():
            statistics["homolog"][int(mouse)] = int(human)
    mouse = found is not None and "mouse" in found.name
    special = {role: token for role, token in _SPECIAL_TOKENS.items() if token in tokens}
    vocabulary = GeneVocabulary(ordered, special_tokens=special, id_kind="ensembl_id", species=("human", "mouse"))
    options: dict[str, Any] = {"species": "mouse"} if mouse else {}
    tokenizer = CellTokenizer.from_vocabulary(
        vocabulary, scheme="genecompass", statistics=statistics, max_length=min(2048, context), **options
    )
    return tokenizer, notes
