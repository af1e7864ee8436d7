"""From CellPLM's own files: ``<name>.config.json`` with the gene list, and ``<name>.best.ckpt``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules, strip_prefix
from scfm_hf.conversion.renaming import Split
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.cellplm.configuration_cellplm import CellPLMConfig
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

_WEIGHTS = ("*.best.ckpt", "*.ckpt")
#: Keys of the configuration that no other family has.
_OWN_KEYS = frozenset({"enc_mod", "latent_mod", "gene_list"})
_UNUSED = "the original never uses it"


def _with_padding(table: Tensor) -> Tensor:
    """The gene embedding with a row of zeros for padding behind it."""
    return torch.cat([table, table.new_zeros(1, table.shape[1])])


_BODY = "cellplm."
_LAYER = r"encoder\.layers\.(\d+)\."
_TO = rf"{_BODY}layers.\1."
_WB = r"\.(weight|bias)"
_BODY_RULES: tuple[Rename | Split | Drop, ...] = (
    Rename(r"embedder\.feat_enc\.emb", f"{_BODY}embedder.genes.weight", _with_padding),
    Rename(r"embedder\.extra_linear\.0" + _WB, rf"{_BODY}embedder.linear.\1"),
    Rename(r"embedder\.extra_linear\.3\.(\w+)", rf"{_BODY}embedder.norm.norm.\1"),
    Rename(r"embedder\.cov_enc\.weight", f"{_BODY}embedder.batch.weight"),
    Rename(r"embedder\.pe_enc\.missing_pe", f"{_BODY}embedder.position.missing"),
    Drop(r"embedder\.pe_enc\.pe_enc\.weight", "a fixed table, which is computed"),
    Drop(r"embedder\.norm0\..*", _UNUSED),
    # Flowformer and cosFormer.
    Rename(_LAYER + r"self_attn\.(query|key|value)_projection" + _WB, _TO + r"self_attn.\2.\3"),
    Rename(_LAYER + r"self_attn\.out_projection" + _WB, _TO + r"self_attn.out_proj.\2"),
    Rename(_LAYER + r"self_attn\.q_proj" + _WB, _TO + r"self_attn.query.\2"),
    Rename(_LAYER + r"self_attn\.k_proj" + _WB, _TO + r"self_attn.key.\2"),
    Rename(_LAYER + r"self_attn\.v_proj" + _WB, _TO + r"self_attn.value.\2"),
    Rename(_LAYER + r"self_attn\.out_proj" + _WB, _TO + r"self_attn.out_proj.\2"),
    Rename(_LAYER + r"_ff_block\.0" + _WB, _TO + r"linear1.\2"),
    Rename(_LAYER + r"_ff_block\.3" + _WB, _TO + r"linear2.\2"),
    Rename(_LAYER + r"(norm[12])" + _WB, _TO + r"\2.\3"),
    # Performer.
    Rename(_LAYER + r"self_attn\.to_q\.weight", _TO + r"self_attn.query.weight"),
    Rename(_LAYER + r"self_attn\.to_k\.weight", _TO + r"self_attn.key.weight"),
    Rename(_LAYER + r"self_attn\.to_v\.weight", _TO + r"self_attn.value.weight"),
    Rename(_LAYER + r"self_attn\.to_out" + _WB, _TO + r"self_attn.out_proj.\2"),
    Rename(_LAYER + r"self_attn\.fast_attention\.projection_matrix", _TO + r"self_attn.projection"),
    # Transformer.
    Split(
        _LAYER + r"layer\.self_attn\.in_proj_(weight|bias)",
        tuple(_TO + f"self_attn.{part}." + r"\2" for part in ("query", "key", "value")),
    ),
    Rename(_LAYER + r"layer\.self_attn\.out_proj" + _WB, _TO + r"self_attn.out_proj.\2"),
    Drop(_LAYER + r"layer\.linear[12]\.spectral_norm", "a value of the last training step, which nothing reads"),
    Rename(_LAYER + r"layer\.(linear[12])\.(weight|bias|sigma|u)", _TO + r"\2.\3"),
    Rename(_LAYER + r"layer\.(norm[12])\.weight", _TO + r"\2.weight"),
    # Perceptron.
    Rename(_LAYER + r"0" + _WB, _TO + r"block.linear.\2"),
    Rename(_LAYER + r"1\.weight", _TO + r"block.activation.weight"),
    Rename(_LAYER + r"3\.(\w+)", _TO + r"block.norm.norm.\2"),
    Rename(r"pre_latent_norm\.norm\.bns\.(\d+)\.(\w+)", rf"{_BODY}norm.norms.\1.\2"),
    Rename(r"pre_latent_norm\.norm" + _WB, rf"{_BODY}norm.\1"),
    Rename(r"latent\.layers\.\d+\.inference\.inference_qyx\.0\.logits" + _WB, rf"{_BODY}latent.cluster.\1"),
    Rename(r"latent\.layers\.\d+\.inference\.inference_qzyx\.0" + _WB, rf"{_BODY}latent.hidden.\1"),
    Rename(r"latent\.layers\.\d+\.inference\.inference_qzyx\.2\.mu" + _WB, rf"{_BODY}latent.mean.\1"),
    Rename(r"latent\.layers\.\d+\.inference\.inference_qzyx\.2\.var" + _WB, rf"{_BODY}latent.variance.\1"),
    Rename(r"latent\.layers\.\d+\.inference\.y_mu" + _WB, rf"{_BODY}latent.prior_mean.\1"),
    Rename(r"latent\.layers\.\d+\.inference\.y_var" + _WB, rf"{_BODY}latent.prior_variance.\1"),
    Rename(r"latent\.layers\.\d+\.hid_2mu" + _WB, rf"{_BODY}latent.mean.\1"),
    Rename(r"latent\.layers\.\d+\.hid_2sigma" + _WB, rf"{_BODY}latent.log_variance.\1"),
    Rename(r"latent\.layers\.\d+\.hid_2cont\.0" + _WB, rf"{_BODY}latent.continuous.\1"),
    Rename(r"latent\.layers\.\d+\.hid_2cat\.0" + _WB, rf"{_BODY}latent.categorical.\1"),
    Rename(r"latent\.layers\.\d+\.lat_2lat\.0" + _WB, rf"{_BODY}latent.linear.\1"),
)
_BLOCK = r"decoder\.layers\.(\d+)\."
_COVARIATE = r"decoder\.covariate_layers\.(\d+)\.{}\."
_DECODER_RULES: tuple[Rename | Split | Drop, ...] = (
    Rename(_BLOCK + r"0" + _WB, r"decoder.blocks.\1.linear.\2"),
    Rename(_BLOCK + r"1\.weight", r"decoder.blocks.\1.activation.weight"),
    Rename(_BLOCK + r"3\.(\w+)", r"decoder.blocks.\1.norm.norm.\2"),
    *(
        rule
        for number, name in enumerate(("batch", "dataset", "platform"))
        for rule in (
            Rename(_COVARIATE.format(name) + r"0\.weight", rf"decoder.covariates.\1.{number}.embedding.weight"),
            Rename(_COVARIATE.format(name) + r"1\.weight", rf"decoder.covariates.\1.{number}.activation.weight"),
            Rename(_COVARIATE.format(name) + r"2\.(\w+)", rf"decoder.covariates.\1.{number}.norm.norm.\2"),
        )
    ),
    Rename(r"decoder\.out_layer\.dec_1" + _WB, r"decoder.hidden.\1"),
    Rename(r"decoder\.out_layer\.dec_mean\.0" + _WB, r"decoder.mean.\1"),
    Rename(r"decoder\.out_layer\.dec_disp", "decoder.dispersion"),
    Rename(r"decoder\.batch_emb\.weight", "decoder.batch_embedding.weight"),
)
_OF_RESMLP: tuple[Rename | Split | Drop, ...] = (
    Rename(r"decoder\.layer_norm" + _WB, r"decoder.batch_norm.\1"),
    Rename(r"decoder\.out_layer\.0" + _WB, r"decoder.out_proj.\1"),
    Rename(r"decoder\.out_layer\.1\.weight", "decoder.activation.weight"),
)
_OF_MLP: tuple[Rename | Split | Drop, ...] = (
    Drop(r"decoder\.layer_norm\..*", _UNUSED),
    Rename(r"decoder\.out_layer\.0" + _WB, r"decoder.out_proj.\1"),
)

#: Head of the original -> the class that has it, and the name of the head there.
_HEADS = {
    "annotation": ("CellPLMForSequenceClassification", "classifier"),
    "patient_classification": ("CellPLMForSequenceClassification", "classifier"),
    "denoising": ("CellPLMForExpressionPrediction", "decoder"),
    "imputation": ("CellPLMForExpressionPrediction", "decoder"),
    "perturbation_prediction": ("CellPLMForPerturbation", "decoder"),
}


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like a CellPLM: a ``*.config.json`` that names encoder, latent and genes."""
    path = _config_file(source)
    if path is None or path.parent.absolute() != source.home.absolute():
        return False
    published = source.json(path)
    return isinstance(published, dict) and published.keys() >= _OWN_KEYS


def convert(source: SourceFolder, *, num_attention_heads: int | None = None) -> ConvertedCheckpoint:
    """Convert a CellPLM.

    Parameters
    ----------
    source
        Its files. Roles: ``config`` (``<name>.config.json``), ``classes`` (a JSON file with ``classes``, the labels of
        an annotation model in order; the original keeps them in memory only).
    num_attention_heads
        Heads of the encoder, where the configuration does not say; 8 as in the original's code if not given.
    """
    weights = source.weights(*_WEIGHTS)
    path = _config_file(source)
    if path is None:
        raise CheckpointError(
            f"*.config.json is missing beside {weights}: CellPLM's configuration with its gene list, published with "
            "the weights. Put it into that folder or name it with files={'config': ...}."
        )
    published = source.json(path)
    tensors = source.tensors(weights, "model_state_dict", "state_dict")
    tokenizer = _tokenizer(published["gene_list"])
    head = published.get("head_type") if any(name.startswith("head.") for name in tensors) else None
    resmlp = "decoder.batch_emb.weight" in tensors or published.get("dec_mod") == "resmlp"
    rules = (*_BODY_RULES, *_head_rules(tensors, head), *_DECODER_RULES, *(_OF_RESMLP if resmlp else _OF_MLP))
    renamed, records = apply_rules(tensors, rules, where=weights.name)
    config = _config(renamed, published, head, num_attention_heads)
    if head is not None:
        architecture = _HEADS[head][0]
    elif any(name.startswith("decoder.") for name in renamed):
        imputes = config.objective == "imputation"
        architecture = "CellPLMForExpressionPrediction" if imputes else "CellPLMForPreTraining"
    else:
        architecture = "CellPLMModel"
        renamed, records = strip_prefix(renamed, records, _BODY)
    if head == "annotation":
        _name_labels(source, config)
    return ConvertedCheckpoint(
        config=config, architecture=architecture, tensors=renamed, records=records, tokenizer=tokenizer
    )


def _config_file(source: SourceFolder) -> Path | None:
    """The configuration of the weights file; where there is only one, that one."""
    weights = source._weights
    own = [f"{weights.name.removesuffix('.ckpt').removesuffix('.best')}.config.json"] if weights else []
    return source.find(*own, "*.config.json", role="config")


def _head_rules(tensors: Mapping[str, Tensor], head: str | None) -> list[Rename | Split | Drop]:
    """Rules for a head; its linear layers have other numbers where the model was built without dropout."""
    if head is None:
        return []
    if head not in _HEADS:
        raise CheckpointError(f"The configuration names head_type {head!r}; known are {', '.join(_HEADS)}.")
    ours = _HEADS[head][1]
    if head == "patient_classification":
        return [Drop(r"head\.cls", _UNUSED), Rename(r"head\.output_layer" + _WB, ours + r".linears.0.\1")]
    places = sorted({int(name.split(".")[2]) for name in tensors if name.startswith("head.mlp.")})
    return [Rename(rf"head\.mlp\.{place}" + _WB, rf"{ours}.linears.{number}.\1") for number, place in enumerate(places)]


def _config(
    tensors: Mapping[str, Tensor], published: Mapping[str, Any], head: str | None, num_attention_heads: int | None
) -> CellPLMConfig:
    """Our configuration; sizes are read off the tensors, options off the published configuration."""

    def rows(name: str) -> int:
        return tensors[name].shape[0] if name in tensors else 0

    def columns(name: str) -> int:
        return tensors[name].shape[1] if name in tensors else 0

    embedding = tensors.get(f"{_BODY}embedder.genes.weight")
    if embedding is None:
        raise CheckpointError("The checkpoint has no gene embedding (embedder.feat_enc.emb); it is no CellPLM.")
    n_genes = embedding.shape[0] - 1
    if n_genes != len(published["gene_list"]):
        raise CheckpointError(
            f"The gene list has {len(published['gene_list']):,} genes, the gene embedding {n_genes:,} rows: they do "
            "not belong together."
        )
    options: dict[str, Any] = {}
    if head in ("annotation", "patient_classification"):
        last = max((name for name in tensors if name.startswith("classifier.linears.")), default="")
        options["num_labels"] = rows(last)
        options["classifier_layers"] = 1 + int(last.split(".")[2])
        options["classifier_hidden_size"] = rows("classifier.linears.0.weight")
        options["label_sets"] = head == "patient_classification"
    decoder = "perceptron" if head in ("denoising", "imputation") else published.get("dec_mod", "nbmlp")
    objective = "denoising" if head == "denoising" else published.get("objective") or "nb"
    if decoder in ("mlp", "resmlp"):
        objective = "recon"
    latent = published["latent_mod"]
    vectors = {"ae": "linear", "split": "linear"}.get(latent, "mean")
    dropout = published.get("model_dropout", 0.2)
    return CellPLMConfig(
        vocab_size=n_genes + 1,
        num_genes=n_genes,
        pad_token_id=n_genes,
        hidden_size=embedding.shape[1],
        num_hidden_layers=published["enc_layers"],
        num_attention_heads=num_attention_heads or published.get("enc_head", 8),
        intermediate_size=rows(f"{_BODY}layers.0.linear1.weight") or 2 * embedding.shape[1],
        encoder_type=published["enc_mod"],
        norm_type=_norm(published.get("norm", "layernorm")),
        hidden_dropout_prob=dropout,
        latent_type=latent,
        latent_size=rows(f"{_BODY}latent.{vectors}.weight") or embedding.shape[1],
        latent_hidden_size=rows(f"{_BODY}latent.hidden.weight") or 512,
        num_clusters=published.get("num_clusters", 16),
        continuous_size=rows(f"{_BODY}latent.continuous.weight") or 10,
        categorical_size=rows(f"{_BODY}latent.categorical.weight") or 6,
        free_bits=published.get("lamda", 0.5),
        likelihood_weight=published.get("w_li", 1.0),
        entropy_weight=published.get("w_en", 1.0),
        decoder_type=decoder,
        decoder_hidden_size=published["dec_hid"],
        decoder_layers=published["dec_layers"],
        num_batches=published.get("batch_num", 0),
        num_datasets=published.get("dataset_num", 0),
        num_platforms=published.get("platform_num", 0),
        objective=objective,
        denoise=bool(published.get("dae", True)),
        mask_cell_rate=published.get("mask_node_rate", 0.0),
        mask_gene_rate=published.get("mask_feature_rate", 0.0),
        mask_by_cell=bool(published.get("mask_beta", False)),
        position_type="sinusoidal" if f"{_BODY}embedder.position.missing" in tensors else None,
        add_batch_to_input=bool(rows(f"{_BODY}embedder.batch.weight")),
        num_batch_norms=len({name.split(".")[3] for name in tensors if name.startswith(f"{_BODY}norm.norms.")}),
        **options,
    )


def _norm(name: str) -> str:
    return name if name in ("groupnorm", "layernorm", "batchnorm", "rmsnorm") else "none"


def _name_labels(source: SourceFolder, config: CellPLMConfig) -> None:
    """Give the classes their names, where a file has them."""
    path = source.find("labels*.json", role="classes")
    if path is None or path.parent.absolute() != source.home.absolute():
        return
    classes = source.json(path).get("classes")
    if isinstance(classes, list) and len(classes) == config.num_labels:
        config.id2label = dict(enumerate(map(str, classes)))
        config.label2id = {name: number for number, name in config.id2label.items()}


def _tokenizer(genes: Sequence[str]) -> CellTokenizer:
    """The tokenizer of a gene list; padding stands behind it."""
    vocabulary = GeneVocabulary(
        [*map(str, genes), "<pad>"], special_tokens={"pad": "<pad>"}, id_kind="ensembl_id", species=("human",)
    )
    return CellTokenizer.from_vocabulary(vocabulary, scheme="cellplm")


def released(vocabularies: Path) -> dict[str, tuple[CellTokenizer, dict[str, str]]]:
    """The tokenizer of the released models; called by ``scripts/build_released_tokenizers.py``."""
    table = pd.read_csv(vocabularies / "cellplm" / "gene_list.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
    source = {
        "source": "github.com/OmicsML/CellPLM, 20230926_85M.config.json",
        "release": "20230926_85M",
        "licence": "BSD-2-Clause",
    }
    return {"cellplm-85m": (_tokenizer(table["ensembl_id"].tolist()), source)}
