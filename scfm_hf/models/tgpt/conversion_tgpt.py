"""From tGPT's own files: config.json of a GPT-2, its weights or a training checkpoint, and the tokenizer's json."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, normalizers

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules, strip_prefix
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary, gene_table
from scfm_hf.models.tgpt.configuration_tgpt import TGPTConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

_WEIGHTS = ("pytorch_model.bin", "model.safetensors", "checkpoint.pth", "model_*.pth")
_TOKENIZER = ("tokenizer.json", "gpt2tokenizer/tokenizer.json")
_SPECIAL_TOKENS = {"pad": "<pad>", "bos": "</b>", "eos": "</s>", "unk": "<unk>"}
#: Our names of the sizes and options -> GPT-2's.
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "hidden_dropout_prob": "resid_pdrop",
    "attention_probs_dropout_prob": "attn_pdrop",
    "layer_norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "scale_attn_weights": "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx": "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn": "reorder_and_upcast_attn",
}
_RULES: tuple[Rename | Drop, ...] = (
    Drop(r"(?:transformer\.)?h\.\d+\.attn\.(?:bias|masked_bias)", "a causal mask, which is computed"),
    Rename(r"lm_head\.weight", "lm_head.weight"),
    Rename(r"(?:transformer\.)?((?:wte|wpe|h|ln_f)\..*)", r"transformer.\1"),
)
#: Symbols with more separators than this are matched only with one kind of separator throughout.
_MOST_SEPARATORS = 3


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like a tGPT: a GPT-2 with a word-level tokenizer whose start token is ``</b>``."""
    config, tokenizer = source.find("config.json"), source.find(*_TOKENIZER)
    home = source.home.absolute()
    if config is None or tokenizer is None or config.parent != home or not tokenizer.is_relative_to(home):
        return False
    if source.json(config).get("model_type") != "gpt2":
        return False
    described = source.json(tokenizer)
    return described["model"]["type"] == "WordLevel" and "</b>" in described["model"]["vocab"]


def convert(source: SourceFolder, *, trained_length: int = 64) -> ConvertedCheckpoint:
    """Convert a tGPT.

    Parameters
    ----------
    source
        Its files. Role: ``tokenizer`` (tokenizer.json).
    trained_length
        Tokens of the cells that it was trained on, which no file says: 64 of the published model.
    """
    weights = source.weights(*_WEIGHTS)
    published = source.json(source.need("config.json", what="the configuration that save_pretrained writes"))
    tensors = source.tensors(weights, "model", "model_state_dict")
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    tokenizer = _tokenizer(source, trained_length)
    renamed, records = apply_rules(tensors, _RULES, where=weights.name)
    architecture = "TGPTForCausalLM" if "lm_head.weight" in renamed else "TGPTModel"
    if architecture == "TGPTModel":
        renamed, records = strip_prefix(renamed, records, "transformer.")
    return ConvertedCheckpoint(
        config=_config(published, tokenizer, trained_length),
        architecture=architecture,
        tensors=renamed,
        records=records,
        tokenizer=tokenizer,
    )


def _config(published: dict[str, Any], tokenizer: CellTokenizer, trained_length: int) -> TGPTConfig:
    """Our configuration from GPT-2's."""
    values = {ours: published[theirs] for ours, theirs in _FIELDS.items() if theirs in published}
    values["intermediate_size"] = published.get("n_inner") or 4 * values["hidden_size"]
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in _SPECIAL_TOKENS}
    length = min(trained_length, values.get("max_position_embeddings", trained_length))
    return TGPTConfig(**values, **special, trained_length=length)


def _tokenizer(source: SourceFolder, trained_length: int) -> CellTokenizer:
    """The tokenizer with the original's words, which also cleans symbols in strings as the authors do."""
    path = source.need(*_TOKENIZER, role="tokenizer", what="the tokenizer of the authors' repository")
    words = source.json(path)["model"]["vocab"]
    ordered = sorted(words, key=words.__getitem__)
    if [words[word] for word in ordered] != list(range(len(ordered))):
        raise CheckpointError(f"{path} does not number its words 0, 1, 2 ...; it is damaged.")
    absent = [token for token in _SPECIAL_TOKENS.values() if token not in words]
    if absent:
        raise CheckpointError(f"{path} lacks the special tokens {', '.join(absent)}; it is not tGPT's.")
    tokenizer = CellTokenizer.from_vocabulary(
        GeneVocabulary(ordered, special_tokens=_SPECIAL_TOKENS, id_kind="symbol", species=("human",)),
        scheme="tgpt",
        identifiers=_identifiers(ordered),
        max_length=trained_length,
    )
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("[-.]"), "_")
    return tokenizer


def _identifiers(tokens: Sequence[str]) -> dict[str, str]:
    """Symbols and Ensembl ids of the genes in whose symbols the authors replaced hyphens and dots: name -> token."""
    genes = gene_table("human")
    ids, times = dict(zip(genes["symbol"], genes["ensembl_id"], strict=True)), Counter(genes["symbol"])
    identifiers: dict[str, str] = {}
    for token in tokens:
        if "_" in token.strip("_") and not re.fullmatch(r"extra_id_\d+", token):
            names = _spellings(token)
            identifiers |= dict.fromkeys(names, token)
            found = {ids[name] for name in names if times[name] == 1}
            if len(found) == 1:
                identifiers[found.pop()] = token
    return identifiers


def _spellings(token: str) -> list[str]:
    """What a token may have been: ``HLA_B`` -> ``HLA-B``, ``HLA.B``."""
    parts = token.split("_")
    n_separators = len(parts) - 1
    if n_separators <= _MOST_SEPARATORS:
        choices = list(itertools.product("-._", repeat=n_separators))
    else:
        choices = [(separator,) * n_separators for separator in "-._"]
    made = ("".join(itertools.chain(*itertools.zip_longest(parts, choice, fillvalue=""))) for choice in choices)
    return [name for name in made if name != token]
