"""From CellLM's own files: the pretrained encoder, the fine-tuned classifiers, the drug-response model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.celllm.configuration_celllm import CellLMConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

_WEIGHTS = ("*.pth", "*.pt", "*.ckpt")
_GENES = ("zheng68k_hgnc.h5ad", "genes.txt", "genes.json")
_TABLE = "gene2vec_19379_512.npy"
#: Tokens of a cell in the released models.
_RELEASED_LENGTH = 6000

_FROM = r"(?:module\.)?(?:encoder\.|cell_encoder\.)?"
_LAYER = _FROM + r"performer\.net\.layers\.(\d+)\."
_TO = r"celllm.layers.\1."
_WB = r"\.(weight|bias)"


def _flat(kernel: Tensor) -> Tensor:
    """A convolution over the whole width is a linear layer with one output."""
    return kernel.reshape(1, -1)


_BODY_RULES: tuple[Rename | Drop, ...] = (
    Rename(_FROM + r"token_emb\.weight", "celllm.embeddings.values.weight"),
    Rename(_FROM + r"pos_emb\.emb\.weight", "celllm.embeddings.genes.weight"),
    Drop(_FROM + r"performer\.calls_since_last_redraw", "a counter of the training that made it"),
    Rename(_LAYER + r"0\.norm" + _WB, _TO + r"norm1.\2"),
    Rename(_LAYER + r"1\.norm" + _WB, _TO + r"norm2.\2"),
    Rename(_LAYER + r"0\.fn\.fast_attention\.projection_matrix", _TO + "self_attn.projection"),
    Rename(_LAYER + r"0\.fn\.to_q\.weight", _TO + "self_attn.query.weight"),
    Rename(_LAYER + r"0\.fn\.to_k\.weight", _TO + "self_attn.key.weight"),
    Rename(_LAYER + r"0\.fn\.to_v\.weight", _TO + "self_attn.value.weight"),
    Rename(_LAYER + r"0\.fn\.to_out" + _WB, _TO + r"self_attn.out_proj.\2"),
    Rename(_LAYER + r"1\.fn\.fn\.w([12])" + _WB, _TO + r"linear\2.\3"),
    Rename(_FROM + "norm" + _WB, r"celllm.norm.\1"),
)
_CLASSIFIER_RULES: tuple[Rename | Drop, ...] = (
    Rename(r"conv\.weight", "classifier.scores.linear.weight", _flat),
    Rename(r"conv\.bias", "classifier.scores.linear.bias"),
    Drop(r"encoder\.to_out\..*", "the head of masked values, of no use to a classifier"),
)
_RESPONSE_RULES: tuple[Rename | Drop, ...] = (
    Rename(r"cell_encoder\.to_out\.conv\.weight", "drug_response.scores.linear.weight", _flat),
    Rename(r"cell_encoder\.to_out\.conv\.bias", "drug_response.scores.linear.bias"),
    Rename(r"GNN_drug\.convs_drug\.(\d+)\.eps", r"drug_response.drug_layers.\1.eps"),
    Rename(r"GNN_drug\.convs_drug\.(\d+)\.nn\.0" + _WB, r"drug_response.drug_layers.\1.linear1.\2"),
    Rename(r"GNN_drug\.convs_drug\.(\d+)\.nn\.2" + _WB, r"drug_response.drug_layers.\1.linear2.\2"),
    Rename(r"GNN_drug\.bns_drug\.(\d+)\.(\w+)", r"drug_response.drug_layers.\1.norm.norms.0.\2"),
    Rename(r"drug_emb\.0" + _WB, r"drug_response.drug_linear.\1"),
    Rename(r"cell_emb\.0" + _WB, r"drug_response.cell_linears.0.\1"),
    Rename(r"cell_emb\.3" + _WB, r"drug_response.cell_linears.1.\1"),
    *(
        Rename(rf"regression\.{place}" + _WB, rf"drug_response.linears.{number}.\1")
        for number, place in enumerate((0, 3, 6))
    ),
)
_MASKED_RULES: tuple[Rename | Drop, ...] = (Rename(_FROM + "to_out" + _WB, r"value_head.\1"),)


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like a CellLM: its gene table, or a configuration that names it."""
    return (source.home / _TABLE).is_file() or bool(_published(source))


def convert(source: SourceFolder, *, max_length: int | None = None) -> ConvertedCheckpoint:
    """Convert a CellLM of any layout.

    Parameters
    ----------
    source
        Its files. Roles: ``genes``, the genes in the model's order (the var_names of the processed data set
        ``zheng68k_hgnc.h5ad``, or a list as text, one a line, or as JSON); ``config`` (``cellLM.json``).
    max_length
        Tokens of a cell, padding included, with which the model was trained, where no configuration says so; 6,000 as
        the released models if not given.
    """
    weights = source.weights(*_WEIGHTS)
    tensors = source.tensors(weights, "model_state_dict", "state_dict")
    architecture, rules = _layout(tensors)
    renamed, records = apply_rules(tensors, rules, where=weights.name)
    if "celllm.embeddings.genes.weight" not in renamed:
        raise CheckpointError(f"{weights} has no table of genes (pos_emb.emb.weight): it is no CellLM.")
    published = _published(source)
    length = max_length or published.get("max_seq_len")
    notes = () if length else (f"Nothing says how long the cells are; {_RELEASED_LENGTH:,} tokens as in the release.",)
    config = _config(renamed, published, int(length or _RELEASED_LENGTH))
    genes = _genes(source, config.num_genes)
    tokenizer = _tokenizer(genes, config)
    return ConvertedCheckpoint(
        config=config,
        architecture=architecture,
        tensors=renamed,
        records=records,
        tokenizer=tokenizer,
        notes=notes,
    )


def _layout(tensors: Mapping[str, Tensor]) -> tuple[str, tuple[Rename | Drop, ...]]:
    """Class of a checkpoint, and the rules for its tensors."""
    if any(name.startswith("GNN_drug.") for name in tensors):
        return "CellLMForDrugResponse", (*_RESPONSE_RULES, *_BODY_RULES)
    places = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("pred_head.")})
    if places:
        # The numbers count activations and dropouts too.
        linears = tuple(
            Rename(rf"pred_head\.{place}" + _WB, rf"classifier.linears.{number}.\1")
            for number, place in enumerate(places)
        )
        return "CellLMForSequenceClassification", (*_CLASSIFIER_RULES, *linears, *_BODY_RULES)
    return "CellLMForMaskedLM", (*_MASKED_RULES, *_BODY_RULES)


def _published(source: SourceFolder) -> dict[str, Any]:
    """The encoder's part of the published configuration; empty without one."""
    path = source.find("cellLM.json", "CellLM.json", "*.json", role="config")
    if path is None or (path.parent.absolute() != source.home.absolute() and "config" not in source._files):
        return {}
    content = source.json(path)
    network = content.get("network") if isinstance(content, dict) else None
    if not isinstance(network, dict):
        return {}
    named = (network.get("structure"), network.get("cell_encoder"))
    return next((part for part in named if isinstance(part, dict) and part.get("name") == "celllm"), {})


def _config(tensors: Mapping[str, Tensor], published: Mapping[str, Any], length: int) -> CellLMConfig:
    """Our configuration; sizes are read off the tensors."""

    def size(name: str, axis: int = 0) -> int:
        if name not in tensors:
            raise CheckpointError(f"The checkpoint lacks {name} (by our name): it is damaged, or no CellLM.")
        return tensors[name].shape[axis]

    layer = "celllm.layers.0."
    n_genes = size("celllm.embeddings.genes.weight") - 2
    n_values = size("celllm.embeddings.values.weight")
    features, head_size = (size(f"{layer}self_attn.projection", axis) for axis in range(2))
    options: dict[str, Any] = {}
    if "drug_response.drug_linear.weight" in tensors:
        options = {
            "atom_feature_size": size("drug_response.drug_layers.0.linear1.weight", 1),
            "drug_hidden_size": size("drug_response.drug_layers.0.linear1.weight"),
            "num_drug_layers": len({name.split(".")[2] for name in tensors if ".drug_layers." in name}),
            "response_cell_size": size("drug_response.cell_linears.0.weight"),
            "response_branch_size": size("drug_response.drug_linear.weight"),
            "response_hidden_size": size("drug_response.linears.0.weight"),
        }
    n_linears = len({name.split(".")[2] for name in tensors if name.startswith("classifier.linears.")})
    if n_linears:
        places = size("classifier.linears.0.weight", 1)
        if places not in (n_genes + 1, length):
            raise CheckpointError(
                f"The classifier has {places:,} places: neither one a gene and <cls> ({n_genes + 1:,}), nor "
                f"one a token ({length:,}). Say how long the cells are with max_length=."
            )
        sizes = [size(f"classifier.linears.{number}.weight") for number in range(n_linears)]
        options = {
            "classifier_type": "scatter" if places == n_genes + 1 else "positional",
            "classifier_hidden_sizes": sizes[:-1],
            "num_labels": sizes[-1],
        }
    return CellLMConfig(
        vocab_size=n_genes + 2,
        num_genes=n_genes,
        cls_token_id=n_genes,
        pad_token_id=n_genes + 1,
        num_values=n_values,
        cls_value_id=n_values - 2,
        pad_value_id=n_values - 1,
        mask_value_id=n_values - 1,
        hidden_size=size("celllm.embeddings.genes.weight", 1),
        num_hidden_layers=len({name.split(".")[2] for name in tensors if name.startswith("celllm.layers.")}),
        num_attention_heads=size(f"{layer}self_attn.query.weight") // head_size,
        head_dim=head_size,
        intermediate_size=size(f"{layer}linear1.weight"),
        num_random_features=features,
        max_position_embeddings=length,
        **options,
    )


def _genes(source: SourceFolder, n_genes: int) -> list[str]:
    """The genes in the model's order."""
    path = source.need(
        *_GENES,
        role="genes",
        what="the genes in the model's order, which the authors give as the columns of their processed data set "
        "zheng68k_hgnc.h5ad alone (its link is in the README of github.com/PharMolix/OpenBioMed, checkpoints/cell)",
    )
    genes = _read_genes(source, path)
    if len(genes) != n_genes:
        raise CheckpointError(
            f"{path} lists {len(genes):,} genes, the model has {n_genes:,}: it is the list of another model."
        )
    repeated = sorted({gene for gene in genes if genes.count(gene) > 1}) if len(set(genes)) < len(genes) else []
    if repeated:
        raise CheckpointError(f"{path} lists genes twice (first: {', '.join(repeated[:5])}): it is damaged.")
    return genes


def _read_genes(source: SourceFolder, path: Path) -> list[str]:
    """Names from a data set, a JSON list, or a text with one name a line."""
    if path.suffix == ".h5ad":
        return source.genes(path).index.astype(str).tolist()
    if path.suffix == ".json":
        content = source.json(path)
        if not isinstance(content, list):
            raise CheckpointError(f"{path} holds no list of genes.")
        return [str(gene) for gene in content]
    return [line.strip() for line in source.text(path).splitlines() if line.strip()]


def _tokenizer(genes: Sequence[str], config: CellLMConfig) -> CellTokenizer:
    """The tokenizer of a gene list; cls and padding stand behind it."""
    vocabulary = GeneVocabulary(
        [*genes, "<cls>", "<pad>"],
        special_tokens={"cls": "<cls>", "pad": "<pad>"},
        id_kind="symbol",
        species=("human",),
    )
    return CellTokenizer.from_vocabulary(
        vocabulary,
        scheme="celllm",
        max_length=config.max_position_embeddings,
        highest_value=config.cls_value_id - 1,
    )
