"""From Geneformer's own files: config.json, weights, and the pickled dictionaries that fit the vocabulary's size."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules, strip_prefix
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.geneformer.configuration_geneformer import GeneformerConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "*.safetensors")
#: Folders, relative to the weights or to a folder above, in which the originals keep the dictionaries.
_DICTIONARY_FOLDERS = ("geneformer/gene_dictionaries_30m", "geneformer", "gene_dictionaries_30m", ".")
_TOKEN_DICTIONARY = "token_dictionary_gc*.pkl"
_SPECIAL_TOKENS = {"pad": "<pad>", "mask": "<mask>", "cls": "<cls>", "eos": "<eos>"}

_POOLER = Drop(r"bert\.pooler\..*", "a pooler that this head does not use")
_RULES: tuple[Rename | Drop, ...] = (
    Drop(r"bert\.embeddings\.position_ids", "positions are counted, not stored"),
    Drop(r"cls\.predictions\.decoder\..*", "tied to the gene embedding and the bias"),
    Rename(r"(bert\.(?:embeddings|encoder)\..*)", r"\1"),
    Rename(r"(cls\.predictions\..*)", r"\1"),
)


class Dictionaries(NamedTuple):
    """Genes, medians and other identifiers of one version."""

    tokens: dict[str, int]
    medians: dict[str, Any]
    identifiers: dict[str, str]


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like a Geneformer: a BERT with its gene dictionaries at hand."""
    path = source.find("config.json")
    if path is None or path.parent != source.home.absolute():
        return False
    config = source.json(path)
    return config.get("model_type") == "bert" and any(
        source.find(f"{folder}/{_TOKEN_DICTIONARY}") for folder in _DICTIONARY_FOLDERS
    )


def convert(source: SourceFolder, *, version: str | None = None) -> ConvertedCheckpoint:
    """Convert a Geneformer of any layout.

    Parameters
    ----------
    source
        Its files. Role ``dictionaries`` may name the folder of the dictionaries.
    version
        ``V1`` or ``V2``; None takes that of the dictionary whose length is the model's vocabulary, and refuses to
        guess.
    """
    weights = source.weights(*_WEIGHTS)
    config_path = source.need("config.json", what="the configuration that every Geneformer has")
    published = source.json(config_path)
    tensors = source.tensors(weights)
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    dictionaries, found = _dictionaries(source, int(published["vocab_size"]), version)
    tokenizer = _tokenizer(dictionaries, found, int(published["max_position_embeddings"]))
    architecture, rules, extra = _head(tensors, published)
    config = _config(published, found, tokenizer, extra)
    renamed, records = apply_rules(tensors, (*rules, *_RULES), where=weights.name)
    if not any(name.startswith("bert.") for name in renamed):
        raise CheckpointError(f"{weights} holds no tensor of a BERT encoder (bert.*); it is no Geneformer.")
    if architecture == "GeneformerModel":
        renamed, records = strip_prefix(renamed, records, "bert.")
    return ConvertedCheckpoint(
        config=config, architecture=architecture, tensors=renamed, records=records, tokenizer=tokenizer
    )


def _head(
    tensors: dict[str, Tensor], published: dict[str, Any]
) -> tuple[str, tuple[Rename | Drop, ...], dict[str, Any]]:
    """Class, rules for its head, and fields of the configuration, all told by the tensors."""
    tasks = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("classification_heads.")})
    if tasks:
        attention = "attention_pool.attention_weights" in tensors
        sizes = {f"task_{task}": tensors[f"classification_heads.{task}.weight"].shape[0] for task in tasks}
        rules = (
            _POOLER,
            Rename(r"classification_heads\.(\d+)\.(weight|bias)", r"classifier.tasks.\1.\2"),
            Rename(
                r"attention_pool\.attention_weights",
                "classifier.attention.weight",
                lambda tensor: tensor.T.contiguous(),
            ),
        )
        extra = {"task_labels": sizes, "task_pooling": "attention" if attention else "cls"}
        return "GeneformerForMultiTaskClassification", rules, extra
    labels = {"id2label": published.get("id2label")}
    if "classifier.weight" in tensors:
        labels["id2label"] = labels["id2label"] or {
            i: f"LABEL_{i}" for i in range(tensors["classifier.weight"].shape[0])
        }
        if "bert.pooler.dense.weight" in tensors:
            pooled = (
                Rename(r"bert\.pooler\.dense\.(weight|bias)", r"classifier.dense.\1"),
                Rename(r"classifier\.(weight|bias)", r"classifier.out_proj.\1"),
            )
            return "GeneformerForSequenceClassification", pooled, labels
        return "GeneformerForTokenClassification", (Rename(r"(classifier\.(?:weight|bias))", r"\1"),), labels
    head = "GeneformerForMaskedLM" if any(name.startswith("cls.") for name in tensors) else "GeneformerModel"
    return head, (_POOLER,), {}


def _config(
    published: dict[str, Any], version: str, tokenizer: CellTokenizer, extra: dict[str, Any]
) -> GeneformerConfig:
    """Our configuration: the published sizes, and what config.json does not say."""
    own = {field.name for field in dataclasses.fields(GeneformerConfig)} - {
        "dtype",
        "architectures",
        "id2label",
        "label2id",
    }
    sizes = {name: value for name, value in published.items() if name in own}
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in _SPECIAL_TOKENS}
    id2label = extra.pop("id2label", None)
    if id2label:
        id2label = {int(number): name for number, name in id2label.items()}
        extra |= {"id2label": id2label, "label2id": {name: number for number, name in id2label.items()}}
    return GeneformerConfig(
        **{**sizes, **special, **extra}, version=version, pooling="cls" if version == "V2" else "mean"
    )


def _dictionaries(source: SourceFolder, vocab_size: int, version: str | None) -> tuple[Dictionaries, str]:
    """The dictionaries whose tokens are as many as the model's, and their version."""
    seen: dict[Path, int] = {}
    for path in _token_dictionaries(source):
        tokens = source.dictionary(path)
        found = "V2" if "<cls>" in tokens else "V1"
        seen[path] = len(tokens)
        if len(tokens) == vocab_size and version in (None, found):
            medians, mapping = (
                source.dictionary(_sibling(path, name)) for name in ("gene_median_dictionary", "ensembl_mapping_dict")
            )
            return Dictionaries(tokens, medians, mapping), found
    looked = "; ".join(f"{path} has {size:,}" for path, size in seen.items())
    raise CheckpointError(
        f"No {f'{version} ' if version else ''}token dictionary with {vocab_size:,} entries (token_dictionary_gc*.pkl) "
        f"is at hand{f' ({looked})' if seen else ''}. Put the folder geneformer/ of the authors' repository beside the "
        "weights. V1 has 25,426 entries, V2 20,275; the wrong one would give other genes without a word."
    )


def _token_dictionaries(source: SourceFolder) -> Iterator[Path]:
    """Token dictionaries that are at hand, those that the caller named first."""
    given = source.find(role="dictionaries")
    if given is not None:
        yield from sorted((given if given.is_dir() else given.parent).glob(_TOKEN_DICTIONARY))
    for folder in _DICTIONARY_FOLDERS:
        path = source.find(f"{folder}/{_TOKEN_DICTIONARY}")
        if path is not None:
            yield path


def _sibling(path: Path, name: str) -> Path:
    """The dictionary of another kind from the same release."""
    sibling = path.with_name(path.name.replace("token_dictionary", name))
    if not sibling.is_file():
        raise CheckpointError(f"{sibling} is missing; it lies beside {path.name} in the authors' repository.")
    return sibling


def _tokenizer(dictionaries: Dictionaries, version: str, context: int) -> CellTokenizer:
    """The rank tokenizer with these dictionaries."""
    tokens, medians, mapping = dictionaries
    ordered = sorted(tokens, key=tokens.__getitem__)
    if [int(tokens[token]) for token in ordered] != list(range(len(ordered))):
        raise CheckpointError("The token dictionary does not number its entries 0, 1, 2 ...; it is damaged.")
    special = {role: token for role, token in _SPECIAL_TOKENS.items() if token in tokens}
    genes = [token for token in ordered if token not in special.values()]
    unknown = [gene for gene in genes if gene not in medians]
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} genes have no median (first: {', '.join(unknown[:5])}): dictionaries of two releases?"
        )
    return CellTokenizer.from_vocabulary(
        GeneVocabulary(ordered, special_tokens=special, id_kind="ensembl_id", species=("human",)),
        scheme="rank",
        statistics={"median": np.array([float(medians[token]) if token in medians else np.nan for token in ordered])},
        # As the original: entries whose gene is no token are dropped first; those that map to themselves add nothing.
        identifiers={name: gene for name, gene in mapping.items() if gene in tokens and name != gene},
        max_length=min(4096 if version == "V2" else 2048, context),
        case_sensitive=False,
        surround=version == "V2",
    )


def released(vocabularies: Path) -> dict[str, tuple[CellTokenizer, dict[str, str]]]:
    """The tokenizers of the released models, from tables of their dictionaries.

    Parameters
    ----------
    vocabularies
        Folder with ``geneformer_v1`` and ``geneformer_v2``.
    """
    made = {}
    for version, context in (("V1", 2048), ("V2", 4096)):
        folder = vocabularies / f"geneformer_{version.lower()}"
        table = _read_table(folder / "vocabulary.tsv.gz")
        mapping = folder / "ensembl_mapping.tsv.gz"
        identifiers = _read_table(mapping).set_index("identifier")["ensembl_id"].to_dict() if mapping.exists() else {}
        medians = table[table["median"] != ""].set_index("token")["median"].map(float).to_dict()
        tokens = {token: number for number, token in enumerate(table["token"])}
        source = {
            "source": "ctheodoris/Geneformer on the Hugging Face hub, gene dictionaries",
            "release": "30M (June 2021)" if version == "V1" else "104M (2024)",
            "licence": "Apache-2.0",
        }
        made[f"geneformer-{version.lower()}"] = (
            _tokenizer(Dictionaries(tokens, medians, identifiers), version, context),
            source,
        )
    return made


def _read_table(path: Path) -> pd.DataFrame:
    """A table of texts; numbers are the shortest text of their float64."""
    return pd.read_csv(path, sep="\t", quoting=3, keep_default_na=False, dtype=str)
