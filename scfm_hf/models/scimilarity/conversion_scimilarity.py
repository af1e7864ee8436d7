"""From SCimilarity's own folder: ``encoder.ckpt``, ``decoder.ckpt``, and the lists of genes and labels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from scfm_hf.conversion import ConvertedCheckpoint, Rename, SourceFolder, TensorRecord, apply_rules, strip_prefix
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.scimilarity.configuration_scimilarity import SCimilarityConfig
from scfm_hf.models.scimilarity.ontology_scimilarity import CellOntology
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

_ENCODER, _DECODER = "encoder.ckpt", "decoder.ckpt"
_BODY = "scimilarity."
_WB = r"\.(weight|bias)"
_NORM = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"
#: Columns of the authors' table from Ensembl ids to symbols.
_ID, _SYMBOL = "Gene stable ID", "Gene name"
#: Our names of the training options -> the original's.
_FIELDS = {
    "hidden_dropout_prob": "dropout",
    "input_dropout_prob": "input_dropout",
    "triplet_margin": "margin",
    "triplet_loss_weight": "triplet_loss_weight",
    "negative_selection": "negative_selection",
    "across_studies": "sample_across_studies",
}


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like a SCimilarity: an encoder, and the sizes of its tensors or the order of its genes."""
    home = source.home
    return (home / _ENCODER).is_file() and (
        (home / "layer_sizes.json").is_file() or (home / "gene_order.tsv").is_file()
    )


def convert(source: SourceFolder) -> ConvertedCheckpoint:
    """Convert a SCimilarity.

    Parameters
    ----------
    source
        Its files. Roles: ``genes`` (gene_order.tsv), ``decoder`` (decoder.ckpt; without it the encoder alone is
        converted), ``hyperparameters``, ``label_ints``; and of one's own ``ontology`` (an obo file, by whose relations
        labels are no negatives of each other) and ``id2symbol`` (the authors' table from Ensembl ids to symbols).
    """
    weights = source.weights(_ENCODER)
    encoder = source.tensors(weights, "state_dict")
    n_layers = _number_of_layers(encoder, weights.name)
    renamed, records = apply_rules(encoder, _encoder_rules(n_layers), where=weights.name)
    architecture, notes = "SCimilarityModel", _further_files(source)
    decoder = _beside(source, _DECODER, role="decoder")
    if decoder is not None:
        of_decoder = source.tensors(decoder, "state_dict")
        more, more_records = apply_rules(of_decoder, _decoder_rules(n_layers), where=decoder.name)
        renamed |= more
        records += [TensorRecord(f"decoder.{one.source}", one.target, one.note) for one in more_records]
        architecture = "SCimilarityForPreTraining"
    else:
        renamed, records = strip_prefix(renamed, records, _BODY)
        notes += ("There is no decoder.ckpt: the encoder alone was converted.",)
    tokenizer = _tokenizer(source)
    return ConvertedCheckpoint(
        config=_config(source, encoder, n_layers, len(tokenizer.vocabulary.gene_tokens)),
        architecture=architecture,
        tensors=renamed,
        records=records,
        tokenizer=tokenizer,
        notes=notes,
    )


def _number_of_layers(tensors: dict[str, Tensor], where: str) -> int:
    """Hidden layers: the last linear layer stands behind them, without a layer of its own."""
    last = [int(match.group(1)) for name in tensors if (match := re.fullmatch(r"network\.(\d+)\.weight", name))]
    if len(last) != 1 or last[0] < 1:
        raise CheckpointError(
            f"{where} has no last layer network.<n>.weight behind hidden ones; it is no encoder of SCimilarity."
        )
    return last[0]


def _with_padding(weight: Tensor) -> Tensor:
    """The first linear layer as a table with a line a gene, and one of zeros for padding behind them."""
    return torch.cat([weight.T, weight.new_zeros(1, len(weight))])


def _encoder_rules(n_layers: int) -> tuple[Rename, ...]:
    layer = rf"{_BODY}layers.\1"
    return (
        Rename(r"network\.0\.1\.weight", f"{_BODY}embedder.genes.weight", _with_padding),
        Rename(r"network\.0\.1\.bias", f"{_BODY}embedder.bias"),
        Rename(r"network\.(\d+)\.1" + _WB, rf"{layer}.dense.linear.\2"),
        Rename(r"network\.(\d+)\.2" + _NORM, rf"{layer}.norm.\2"),
        Rename(r"network\.(\d+)\.3\.weight", rf"{layer}.activation.weight"),
        Rename(rf"network\.{n_layers}" + _WB, rf"{_BODY}projection.\1"),
    )


def _decoder_rules(n_layers: int) -> tuple[Rename, ...]:
    layer = r"decoder.layers.\1"
    return (
        Rename(r"network\.(0)\.0" + _WB, rf"{layer}.dense.linear.\2"),
        Rename(r"network\.(0)\.1" + _NORM, rf"{layer}.norm.\2"),
        Rename(r"network\.(0)\.2\.weight", rf"{layer}.activation.weight"),
        Rename(r"network\.(\d+)\.1" + _WB, rf"{layer}.dense.linear.\2"),
        Rename(r"network\.(\d+)\.2" + _NORM, rf"{layer}.norm.\2"),
        Rename(r"network\.(\d+)\.3\.weight", rf"{layer}.activation.weight"),
        Rename(rf"network\.{n_layers}" + _WB, r"decoder.projection.\1"),
    )


def _config(source: SourceFolder, encoder: dict[str, Tensor], n_layers: int, n_genes: int) -> SCimilarityConfig:
    """Sizes off the tensors, training options off the file that the authors' training writes."""
    width, found = encoder["network.0.1.weight"].shape
    if found != n_genes:
        raise CheckpointError(
            f"The gene list has {n_genes} genes, the first layer of the encoder {found} inputs. They are of two models."
        )
    options: dict[str, Any] = {}
    path = _beside(source, "hyperparameters.json", role="hyperparameters")
    if path is not None:
        published = source.json(path)
        options = {ours: published[theirs] for ours, theirs in _FIELDS.items() if theirs in published}
    labels = _labels(source)
    ontology = source.find(role="ontology")
    ancestors = None
    if ontology is not None:
        ancestors = CellOntology.from_obo(source.text(ontology)).label_ancestors(labels)
    inner = [len(encoder[f"network.{number}.1.weight"]) for number in range(1, n_layers)]
    return SCimilarityConfig(
        vocab_size=n_genes + 1,
        num_genes=n_genes,
        pad_token_id=n_genes,
        hidden_sizes=[width, *inner],
        latent_size=len(encoder[f"network.{n_layers}.weight"]),
        label_ancestors=ancestors,
        **({"id2label": dict(enumerate(labels))} if labels else {}),
        **options,
    )


def _labels(source: SourceFolder) -> list[str]:
    """Names of the labels by their numbers; none where there is no list."""
    path = _beside(source, "label_ints.csv", role="label_ints")
    if path is None:
        return []
    table = source.table(path, index_col=0, dtype=str, keep_default_na=False)
    numbers = table.index.astype(int).tolist()
    if numbers != list(range(len(numbers))):
        raise CheckpointError(f"{path} does not number its labels 0, 1, 2 ...; it is damaged.")
    return table["0"].tolist()


def _tokenizer(source: SourceFolder) -> CellTokenizer:
    path = source.need("gene_order.tsv", role="genes", what="the genes that the model reads, in the model's own folder")
    genes = [line.strip() for line in source.text(path).splitlines() if line.strip()]
    table = source.find(role="id2symbol")
    identifiers: dict[str, str] = {}
    if table is not None:
        given, known = source.table(table, dtype=str, keep_default_na=False), set(genes)
        pairs = zip(given[_ID].str.strip("'\""), given[_SYMBOL].str.strip("'\""), strict=True)
        identifiers = {identifier: symbol for identifier, symbol in pairs if symbol in known}
    return _tokenizer_of(genes, identifiers)


def _tokenizer_of(genes: Sequence[str], identifiers: dict[str, str] | None = None) -> CellTokenizer:
    repeated = pd.Index(genes)[pd.Index(genes).duplicated()].tolist()
    if repeated:
        raise CheckpointError(f"The gene list holds {', '.join(repeated[:5])} more than once; it is damaged.")
    vocabulary = GeneVocabulary(
        [*genes, "<pad>"], special_tokens={"pad": "<pad>"}, id_kind="symbol", species=("human",)
    )
    return CellTokenizer.from_vocabulary(vocabulary, scheme="scimilarity", identifiers=identifiers)


def _beside(source: SourceFolder, name: str, *, role: str) -> Path | None:
    """A file that was named, or lies beside the weights: one of a folder above may be another model's."""
    found = source.find(name, role=role)
    above = found is not None and found == source.find(name) and found.parent != source.home.absolute()
    return None if above else found


def _further_files(source: SourceFolder) -> tuple[str, ...]:
    """What of the folder is no part of the model."""
    found = [name for name in ("annotation", "cellsearch") if (source.home / name).is_dir()]
    if not found:
        return ()
    where = " and ".join(f"{name}/" for name in found)
    return (f"{where} hold reference cells, no weights: CellReference.from_hnswlib reads them, see the model card.",)


def released(vocabularies: Path) -> dict[str, tuple[CellTokenizer, dict[str, str]]]:
    """The tokenizer of the released model; called by ``scripts/build_released_tokenizers.py``."""
    table = pd.read_csv(vocabularies / "scimilarity" / "gene_order.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
    source = {
        "source": "github.com/Genentech/scimilarity, tests/data/gene_order.tsv",
        "release": "0.4.1",
        "licence": "Apache-2.0",
    }
    return {"scimilarity": (_tokenizer_of(table["symbol"].tolist()), source)}
