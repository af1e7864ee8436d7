"""From scBERT's own files: pretrained and fine-tuned ``.pth`` files, the gene order in an h5ad, the class names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.scbert.configuration_scbert import ScBertConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_WEIGHTS = ("panglao_pretrain.pth", "finetune_best.pth", "*.pth")
_GENES = "panglao_10000.h5ad"
_PRETRAINED = "panglao_pretrain.pth"

_LAYER = r"performer\.net\.layers\.(\d+)\."
_TO = r"scbert.layers.\1."
_WB = r"(weight|bias)"
_RULES: tuple[Rename | Drop, ...] = (
    Drop(r"performer\.(?:proj_updater\.)?calls_since_last_redraw", "a counter of training"),
    Rename(r"token_emb\.weight", "scbert.embeddings.value_embeddings.weight"),
    # Double precision in the original; padding gets a row of zeros.
    Rename(
        r"pos_emb\.emb\.weight",
        "scbert.embeddings.gene_embeddings.weight",
        lambda table: torch.cat([table, torch.zeros_like(table[:1])]).float(),
    ),
    Rename(_LAYER + rf"0\.norm\.{_WB}", _TO + r"norm1.\2"),
    Rename(_LAYER + r"0\.fn\.fast_attention\.projection_matrix", _TO + "self_attn.projection"),
    Rename(_LAYER + r"0\.fn\.to_q\.weight", _TO + "self_attn.query.weight"),
    Rename(_LAYER + r"0\.fn\.to_k\.weight", _TO + "self_attn.key.weight"),
    Rename(_LAYER + r"0\.fn\.to_v\.weight", _TO + "self_attn.value.weight"),
    Rename(_LAYER + rf"0\.fn\.to_out\.{_WB}", _TO + r"self_attn.out_proj.\2"),
    Rename(_LAYER + rf"1\.norm\.{_WB}", _TO + r"norm2.\2"),
    Rename(_LAYER + rf"1\.fn\.fn\.w([12])\.{_WB}", _TO + r"linear\2.\3"),
    Rename(rf"norm\.{_WB}", r"scbert.norm.\1"),
    Rename(rf"to_out\.{_WB}", r"value_head.\1"),
    # A convolution whose kernel is as wide as the states is a linear layer.
    Rename(r"to_out\.conv1\.weight", "classifier.convolution.weight", lambda kernel: kernel.flatten(0, 2)),
    Rename(r"to_out\.conv1\.bias", "classifier.convolution.bias"),
    Rename(rf"to_out\.fc([123])\.{_WB}", r"classifier.linear\1.\2"),
)


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like an scBERT: a ``.pth`` file beside the h5ad of the gene order, or the released one."""
    home = source.home
    return (home / _PRETRAINED).is_file() or ((home / _GENES).is_file() and any(home.glob("*.pth")))


def convert(source: SourceFolder) -> ConvertedCheckpoint:
    """Convert an scBERT, pretrained or fine-tuned.

    Parameters
    ----------
    source
        Its files. Roles: ``genes`` (``panglao_10000.h5ad``, or a text file with one symbol a line) and ``label_dict``
        (the class names of a fine-tuned model).
    """
    weights = source.weights(*_WEIGHTS)
    tensors = source.tensors(weights, "model_state_dict")
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    renamed, records = apply_rules(tensors, _RULES, where=weights.name)
    if "scbert.embeddings.value_embeddings.weight" not in renamed:
        raise CheckpointError(f"{weights} holds no embedding of binned values (token_emb.weight): it is no scBERT.")
    genes = _genes(source)
    _refuse_other_genes(genes, tensors, where=weights.name)
    fine_tuned = "classifier.linear3.weight" in renamed
    config = _config(renamed, len(genes))
    notes: tuple[str, ...] = ()
    if fine_tuned:
        names, notes = _class_names(source, config.num_labels)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in config.id2label.items()}
    if "scbert.embeddings.gene_embeddings.weight" not in renamed:
        renamed["scbert.embeddings.gene_embeddings.weight"] = torch.zeros(config.vocab_size, config.hidden_size)
        notes += ("The model was built without gene2vec: its gene embeddings are zeros, and genes of one bin alike.",)
    return ConvertedCheckpoint(
        config=config,
        architecture="ScBertForSequenceClassification" if fine_tuned else "ScBertForMaskedLM",
        tensors=renamed,
        records=records,
        tokenizer=_tokenizer(genes, config),
        notes=notes,
    )


def _genes(source: SourceFolder) -> list[str]:
    """The genes in the order of the model."""
    path = source.need(
        _GENES,
        role="genes",
        what="its var_names are the genes of the model, in order. The authors hand it out beside the weights, by the "
        "links in the README of github.com/TencentAILabHealthcare/scBERT; a text file with one symbol a line will do",
    )
    if path.suffix == ".h5ad":
        return source.genes(path).index.astype(str).tolist()
    return [line.strip() for line in source.text(path).splitlines() if line.strip()]


def _refuse_other_genes(genes: list[str], tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Raise CheckpointError unless the genes, and the token behind them, are as many as the checkpoint has places."""
    for name, axis in (("pos_emb.emb.weight", 0), ("to_out.fc1.weight", 1)):
        if name in tensors and tensors[name].shape[axis] != len(genes) + 1:
            raise CheckpointError(
                f"{where} is of a model of {tensors[name].shape[axis] - 1:,} genes ({name}), the list has "
                f"{len(genes):,}: they do not belong together. Name the right list with files={{'genes': ...}}."
            )


def _config(tensors: Mapping[str, Tensor], n_genes: int) -> ScBertConfig:
    """Our configuration, read off the tensors: the original stores none."""
    values = tensors["scbert.embeddings.value_embeddings.weight"]
    n_features, head_dim = tensors["scbert.layers.0.self_attn.projection"].shape
    head: dict[str, Any] = {}
    if "classifier.linear3.weight" in tensors:
        head = {
            "classifier_hidden_size": len(tensors["classifier.linear1.weight"]),
            "classifier_output_size": len(tensors["classifier.linear2.weight"]),
            "num_labels": len(tensors["classifier.linear3.weight"]),
        }
    return ScBertConfig(
        vocab_size=n_genes + 2,
        num_values=len(values),
        hidden_size=values.shape[1],
        num_hidden_layers=sum(name.endswith("self_attn.projection") for name in tensors),
        num_attention_heads=len(tensors["scbert.layers.0.self_attn.query.weight"]) // head_dim,
        head_dim=head_dim,
        intermediate_size=len(tensors["scbert.layers.0.linear1.weight"]),
        num_random_features=n_features,
        cls_token_id=n_genes,
        pad_token_id=n_genes + 1,
        num_classifier_tokens=n_genes + 1,
        **head,
    )


def _class_names(source: SourceFolder, n_classes: int) -> tuple[list[str], tuple[str, ...]]:
    """Names of the classes, and what is to be said of them."""
    path = source.find("label_dict", role="label_dict")
    if path is None:
        numbered = [f"LABEL_{number}" for number in range(n_classes)]
        return numbered, ("No label_dict is at hand: the classes have numbers for names.",)
    names = [str(name) for name in source.dictionary(path)]
    if len(names) != n_classes:
        raise CheckpointError(f"{path} names {len(names)} classes, the checkpoint has {n_classes}.")
    return names, ()


def _tokenizer(genes: list[str], config: ScBertConfig) -> CellTokenizer:
    """The tokenizer of some genes: behind them the original's last token, and padding, which it does not have."""
    vocabulary = GeneVocabulary(
        [*genes, "<cls>", "<pad>"],
        special_tokens={"cls": "<cls>", "pad": "<pad>"},
        id_kind="symbol",
        species=("human",),
    )
    return CellTokenizer.from_vocabulary(
        vocabulary, scheme="scbert", max_length=len(genes) + 1, n_bins=config.num_values - 2
    )
