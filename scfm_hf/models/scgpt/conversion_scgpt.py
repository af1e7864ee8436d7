"""From scGPT's own files: args.json, vocab.json and weights in any of their spellings.

args.json is that of the pretraining script, whatever was done afterwards; what it does not say is read off the tensors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules, strip_prefix
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.scgpt.configuration_scgpt import ScGPTConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

_WEIGHTS = ("best_model.pt", "*.pt", "pytorch_model.bin", "model.safetensors", "*.safetensors")
_ARGUMENTS = ("args.json", "config.json")
_SPECIAL_TOKENS = {"pad": "<pad>", "cls": "<cls>", "eoc": "<eoc>"}

#: Names of the sizes in args.json, in the configuration of the hub branch, and in that of the copy in TDC.
_SIZES = {
    "hidden_size": ("embsize", "n_embd", "d_model", "hidden_size"),
    "num_attention_heads": ("nheads", "n_head", "nhead", "num_attention_heads"),
    "intermediate_size": ("d_hid", "n_inner", "intermediate_size"),
    "num_hidden_layers": ("nlayers", "n_layer", "num_hidden_layers"),
}

_LAYER = r"(?:transformer_encoder|transformer)\.layers\.(\d+)"
_PERCEPTRON = r"(\d)\.(weight|bias)"
_BODY_RULES: tuple[Rename | Drop, ...] = (
    Rename(r"(?:encoder|gene_encoder)\.embedding\.weight", "scgpt.gene_encoder.embedding.weight"),
    Rename(r"(?:encoder|gene_encoder)\.enc_norm\.(weight|bias)", r"scgpt.gene_encoder.norm.\1"),
    Rename(r"value_encoder\.(linear[12]|norm)\.(weight|bias)", r"scgpt.value_encoder.\1.\2"),
    Rename(r"value_encoder\.embedding\.weight", "scgpt.value_encoder.embedding.weight"),
    Rename(r"value_encoder\.enc_norm\.(weight|bias)", r"scgpt.value_encoder.norm.\1"),
    Rename(r"flag_encoder\.weight", "scgpt.flag_embedding.weight"),
    Rename(r"pert_encoder\.weight", "scgpt.perturbation_embedding.weight"),
    Rename(r"dsbn\.bns\.(\d+)\.(\w+)", r"scgpt.batch_norm.norms.\1.\2"),
    Rename(r"bn\.(\w+)", r"scgpt.batch_norm.norms.0.\1"),
    Rename(_LAYER + r"\.self_attn\.(?:_impl\.)?Wqkv\.(weight|bias)", r"scgpt.layers.\1.self_attn.qkv.\2"),
    Rename(_LAYER + r"\.self_attn\.in_proj_(weight|bias)", r"scgpt.layers.\1.self_attn.qkv.\2"),
    Rename(_LAYER + r"\.self_attn\.(?:_impl\.)?out_proj\.(weight|bias)", r"scgpt.layers.\1.self_attn.out_proj.\2"),
    Rename(_LAYER + r"\.((?:linear|norm)[12])\.(weight|bias)", r"scgpt.layers.\1.\2.\3"),
)
_HEAD_RULES: tuple[Rename | Drop, ...] = (
    Rename(r"(?:batch_encoder)\.embedding\.weight", "batch_encoder.embedding.weight"),
    Rename(r"batch_encoder\.enc_norm\.(weight|bias)", r"batch_encoder.norm.\1"),
    Rename(r"mod_encoder\.embedding\.weight", "modality_encoder.embedding.weight"),
    Rename(r"mod_encoder\.enc_norm\.(weight|bias)", r"modality_encoder.norm.\1"),
    Rename(r"(?:decoder|expr_decoder)\.fc\." + _PERCEPTRON, r"decoder.value.\1.\2"),
    Rename(r"decoder\.zero_logit\." + _PERCEPTRON, r"decoder.expressed.\1.\2"),
    Rename(r"decoder\.coeff_decoder\.fc\." + _PERCEPTRON, r"decoder.coefficient.value.\1.\2"),
    Rename(r"decoder\.coeff_decoder\.zero_logit\." + _PERCEPTRON, r"decoder.coefficient.expressed.\1.\2"),
    Rename(r"decoder\.bias_decoder\.fc\." + _PERCEPTRON, r"decoder.bias.value.\1.\2"),
    Drop(r"decoder\.bias_decoder\.zero_logit\..*", "the probability of being expressed comes from the coefficient"),
    Rename(r"mvc_decoder\.gene2query\.(weight|bias)", r"mvc_decoder.gene_query.\1"),
    Rename(r"mvc_decoder\.W\.weight", "mvc_decoder.weight.weight"),
    Rename(r"mvc_decoder\.W_zero_logit\.(weight|bias)", r"mvc_decoder.expressed_weight.\1"),
    Rename(r"mvc_decoder\.fc1\.(weight|bias)", r"mvc_decoder.hidden.\1"),
    Rename(r"mvc_decoder\.hidden_activation\.weight", "mvc_decoder.activation.weight"),
    Rename(r"mvc_decoder\.fc2\.(weight|bias)", r"mvc_decoder.out_proj.\1"),
    *(
        rule
        for theirs, ours in (("cls_decoder", "classifier"), ("grad_reverse_discriminator", "discriminator"))
        for rule in (
            Rename(theirs + r"\.out_layer\.(weight|bias)", ours + r".out_proj.\1"),
            Rename(theirs + r"\._decoder\.(\d+)\.(weight|bias)", ours + r"._decoder.\1.\2"),
        )
    ),
)


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like an scGPT: args.json, or config.json of a copy, and the vocabulary beside it."""
    arguments, vocabulary = source.find(*_ARGUMENTS), source.find("vocab.json")
    home = source.home.absolute()
    if arguments is None or vocabulary is None or arguments.parent != home or vocabulary.parent != home:
        return False
    options = source.json(arguments)
    if arguments.name == "config.json":
        return options.get("model_type") == "scgpt"
    return "embsize" in options and not _is_spatial(source, options)


def _is_spatial(source: SourceFolder, options: dict[str, Any]) -> bool:
    """Whether these are the files of scGPT-spatial, a family of its own: they have the same names.

    Its args.json may be the same too; then the experts of its decoder, or the decoder of its neighbours, tell.
    """
    if "impute_k" in options or (source.home / "all_dict_mean_std.csv").exists():
        return True
    try:
        names = source.tensors(source.weights(*_WEIGHTS), "model_state_dict", "state_dict")
    except CheckpointError:
        return False
    return any(name.removeprefix("module.").startswith(("impute_mvc_decoder.", "decoder.moe.")) for name in names)


def convert(source: SourceFolder, *, num_attention_heads: int | None = None) -> ConvertedCheckpoint:
    """Convert an scGPT of any layout.

    Parameters
    ----------
    source
        Its files. Roles: ``vocabulary`` (vocab.json), ``arguments`` (args.json), ``modalities`` (vocab_mod.json of a
        multi-omic model).
    num_attention_heads
        Needed only without args.json.
    """
    weights = source.weights(*_WEIGHTS)
    tensors = source.tensors(weights, "model_state_dict", "state_dict")
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    arguments = source.find(*_ARGUMENTS, role="arguments")
    published = source.json(arguments) if arguments is not None else {}
    tokenizer = _tokenizer(source, published, tensors)
    modalities = source.find("vocab_mod.json", role="modalities") if "mod_encoder.embedding.weight" in tensors else None
    renamed, records = apply_rules(tensors, (*_BODY_RULES, *_HEAD_RULES), where=weights.name)
    # Linear layers and layer norms stand at 0, 2, 3, 5 ... of one list there, in two lists here.
    targets = {name: _of_classifier(name) for name in renamed}
    renamed = {targets[name]: tensor for name, tensor in renamed.items()}
    records = [type(r)(r.source, r.target and targets[r.target], r.note) for r in records]
    config = _config(renamed, published, tokenizer, num_attention_heads)
    config.modality_names = None if modalities is None else _tokens(source, modalities)
    architecture = "ScGPTForPreTraining"
    if config.num_perturbation_flags:
        architecture = "ScGPTForPerturbation"
    elif not any(name.startswith("decoder.") for name in renamed):
        architecture = "ScGPTModel"
        renamed, records = strip_prefix(renamed, records, "scgpt.")
    return ConvertedCheckpoint(
        config=config, architecture=architecture, tensors=renamed, records=records, tokenizer=tokenizer
    )


def _of_classifier(name: str) -> str:
    """``classifier._decoder.3.weight`` -> ``classifier.linears.1.weight``; other names stay."""
    found = re.fullmatch(r"(\w+)\._decoder\.(\d+)\.(weight|bias)", name)
    if found is None:
        return name
    block, place = divmod(int(found[2]), 3)
    return f"{found[1]}.{'linears' if place == 0 else 'norms'}.{block}.{found[3]}"


def _config(
    tensors: dict[str, Tensor], published: dict[str, Any], tokenizer: CellTokenizer, num_attention_heads: int | None
) -> ScGPTConfig:
    """Our configuration, from the published arguments and the tensors."""

    def rows(name: str) -> int:
        return tensors[name].shape[0] if name in tensors else 0

    sizes = {
        ours: next((published[name] for name in names if name in published), None) for ours, names in _SIZES.items()
    }
    embedding = tensors.get("scgpt.gene_encoder.embedding.weight")
    if embedding is None:
        raise CheckpointError("The checkpoint has no gene embedding (encoder.embedding.weight); it is no scGPT.")
    layers = {int(name.split(".")[2]) for name in tensors if name.startswith("scgpt.layers.")}
    # The tensors are right where args.json and they differ; only the number of heads is in neither shape.
    sizes["hidden_size"], sizes["num_hidden_layers"] = embedding.shape[1], len(layers)
    sizes["intermediate_size"] = rows("scgpt.layers.0.linear1.weight") or sizes["intermediate_size"]
    sizes["num_attention_heads"] = num_attention_heads or sizes["num_attention_heads"]
    if sizes["num_attention_heads"] is None:
        raise CheckpointError(
            "args.json is missing and the number of attention heads with it; give num_attention_heads=."
        )
    domains = len({name.split(".")[3] for name in tensors if name.startswith("scgpt.batch_norm.norms.")})
    affine = "scgpt.batch_norm.norms.0.weight" in tensors
    perturbation = rows("scgpt.perturbation_embedding.weight")
    labels = rows("classifier.out_proj.weight")
    depths = [
        1 + sum(name.startswith(f"{head}.linears.") and name.endswith("weight") for name in tensors)
        for head in ("classifier", "discriminator")
    ]
    dropout = published.get("dropout", 0.2)
    style = "continuous" if "scgpt.value_encoder.linear1.weight" in tensors else "scaling"
    style = "category" if "scgpt.value_encoder.embedding.weight" in tensors else style
    bins = published.get("n_bins", 51)
    return ScGPTConfig(
        **sizes,
        vocab_size=embedding.shape[0],
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        value_style=style,
        num_bins=bins,
        pad_value=bins if style == "category" else published.get("pad_value", -2),
        mask_value=bins + 1 if style == "category" else published.get("mask_value", -1),
        num_domains=0 if affine else domains,
        plain_batch_norm=affine,
        generative=rows("scgpt.flag_embedding.weight") > 0,
        num_perturbation_flags=perturbation,
        normalize_embedding=not perturbation,
        num_batch_labels=rows("batch_encoder.embedding.weight"),
        num_modalities=rows("modality_encoder.embedding.weight"),
        explicit_zero_probability=any(".expressed." in name for name in tensors),
        decoder_style="affine" if rows("decoder.coefficient.value.0.weight") else "plain",
        mvc_style=_mvc_style(tensors),
        pretraining_classifier=labels > 0,
        classifier_layers=max(depths) if max(depths) > 1 else 3,
        num_adversarial_labels=rows("discriminator.out_proj.weight"),
        **({"num_labels": labels} if labels else {}),
    )


def _mvc_style(tensors: dict[str, Tensor]) -> str | None:
    if "mvc_decoder.weight.weight" in tensors:
        return "inner product"
    if "mvc_decoder.hidden.weight" not in tensors:
        return None
    # The concatenated query is 64 wide; the summed one has the cell's width.
    wide = tensors["mvc_decoder.hidden.weight"].shape[1]
    query = tensors["mvc_decoder.gene_query.weight"].shape[0]
    return "sum query" if wide == query else "concat query"


def _tokenizer(source: SourceFolder, published: dict[str, Any], tensors: dict[str, Tensor]) -> CellTokenizer:
    """The bin tokenizer of vocab.json, with the values that the weights are used to."""
    path = source.need(
        "vocab.json", role="vocabulary", what="the vocabulary, in the same folder as the authors' weights"
    )
    tokens = _tokens(source, path)
    # The original's loader appends missing special tokens in this order.
    tokens += [token for token in _SPECIAL_TOKENS.values() if token not in tokens]
    if "pert_encoder.weight" in tensors:
        # Log-normalised expression of all genes, and no <cls>.
        options = {"n_bins": None, "target_sum": 1e4, "log1p": True, "include_zero_genes": True}
        return _bin_tokenizer(tokens, cls_value=None, pad_value=0.0, max_length=1536, **options)
    bins = published.get("n_bins", 51)
    pad_value = bins if "value_encoder.embedding.weight" in tensors else published.get("pad_value", -2)
    max_length = published.get("max_seq_len", 1200)
    return _bin_tokenizer(tokens, n_bins=bins, pad_value=float(pad_value), max_length=max_length)


def _tokens(source: SourceFolder, path: Path) -> list[str]:
    """The tokens of a file that numbers them, in the order of their numbers."""
    numbers = source.json(path)
    if not isinstance(numbers, dict) or sorted(numbers.values()) != list(range(len(numbers))):
        raise CheckpointError(
            f"{path} does not number its tokens 0, 1, 2 ...; it is damaged or no vocabulary of scGPT."
        )
    return sorted(numbers, key=numbers.__getitem__)


def _bin_tokenizer(tokens: Sequence[str], *, max_length: int = 1200, **options: Any) -> CellTokenizer:
    vocabulary = GeneVocabulary(tokens, special_tokens=_SPECIAL_TOKENS, id_kind="symbol", species=("human",))
    return CellTokenizer.from_vocabulary(vocabulary, scheme="bin", max_length=max_length, **options)


def released(vocabularies: Path) -> dict[str, tuple[CellTokenizer, dict[str, str]]]:
    """The tokenizer of all published models but old ones; called by ``scripts/build_released_tokenizers.py``."""
    path = vocabularies / "scgpt" / "vocabulary.tsv.gz"
    table = pd.read_csv(path, sep="\t", quoting=3, keep_default_na=False, dtype=str)
    source = {"source": "github.com/bowang-lab/scGPT, default_census_vocab.json", "release": "0.2.5", "licence": "MIT"}
    return {"scgpt-whole-human": (_bin_tokenizer(table["token"].tolist()), source)}
