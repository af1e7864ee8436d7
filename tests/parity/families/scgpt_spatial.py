"""Which public call gives which array of scGPT-spatial."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.rules import Rule, RuleTable
from scfm_hf.models.scgpt_spatial.domains_scgpt_spatial import refine_labels, spot_distance
from scfm_hf.nn.losses import elastic_cell_similarity, masked_bernoulli, masked_relative_error
from scfm_hf.tokenization import Ragged
from scfm_hf.tokenization.bin import BinnedValues, bin_values
from scfm_hf.tokenization.draws import SharedDraws
from scfm_hf.training.masking import mask_each, mask_share

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.golden import Golden
    from scfm_hf.tokenization.encoding import EncodedCells

    Array = NDArray[Any]

BASE, HEADS = "AutoModel", "AutoModelForPreTraining"
POOLINGS = {"cls": "cls", "avg-pool": "mean"}
LABELS = {"target_values": "labels"}
NOT_OF_THE_ENCODER = dict.fromkeys(("coordinates", "batch_labels", "target_values"))


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """The model with other options was trained without gene means."""
    del scratch
    found: dict[str, Any] = {"source": golden.checkpoint, "weights": golden.weights[weights or "default"]}
    return found if "gene_mean" in golden.files else {**found, "means_of_slide": True}


# -------------------------------------------------------------------------------------------------------------- tokens


def streams(golden: Golden, draw: str = "numpy") -> dict[str, Any]:
    """The original's streams for the bins and for the choice of genes."""
    choice = SharedDraws(choice_by="torch")
    if "sampling.generator_state" in golden.arrays:
        choice.torch.set_state(torch.from_numpy(golden.values("sampling.generator_state")))
    return {"draws": SharedDraws(golden.description.get("seeds", {}).get(draw, 0)), "selection_draws": choice}


def encode(context: Context, draw: str = "numpy", **options: Any) -> EncodedCells:
    """All cells in the original's way: order of the file, repeated columns kept, shared streams."""
    golden = context.golden
    way = {"exact_names": True, "min_overlap": 0.0, "duplicates": "keep", "gene_order": "file"}
    chance = {"ties": "random", "selection": "random", **streams(golden, draw)}
    length = golden.description["tokenizer"].get("max_length", 1200)
    return context.tokenizer().encode_cells(
        context.adata(), gene_column=context.case.gene_column, **{"max_length": length, **way, **chance, **options}
    )


def padded(context: Context, encoded: EncodedCells) -> dict[str, Array]:
    """A padded batch of all cells: the draws are of all of them."""
    columns = context.tokenizer().scheme().columns
    return dict(encoded.to_batch(columns, length=int(encoded.lengths.max()), return_tensors="np"))


def lines(how: Callable[[Context], Array]) -> Callable[[Context], Array]:
    """Of what is made for all cells, the lines of this array's."""
    return lambda context: how(context)[list(context.cells)]


def tokens(context: Context) -> Array:
    """A column of the tokenizer; of the variant with other options, counts of all genes as they are."""
    options: dict[str, Any] = {}
    if any(step["step"] == "clip" for step in context.golden.description["preprocess"]):
        options = {"normalise": False, "n_bins": None, "include_zero_genes": True, "cls_value": 0.0}
    batch = padded(context, encode(context, **options))
    highest = next((step["max"] for step in context.golden.description["preprocess"] if step["step"] == "clip"), None)
    return np.clip(batch[name], None, highest) if (name := context.name.rpartition(".")[2]) == "values" else batch[name]


def masked_values(context: Context) -> Array:
    """Each gene hidden with probability 0.4, ``<cls>`` and by the original's slip the gene behind it never."""
    values = context.stored("values")
    maskable = context.stored("attention_mask")[:, 1:] == 1
    maskable[:, 0] = False
    draws = SharedDraws(context.golden.description["seeds"]["torch_masked_values"])
    masked = mask_each(values[:, 1:], maskable, probability=0.4, draws=draws, cell_ids=range(len(values)))
    return np.concatenate([values[:, :1], masked], axis=1)


def slide_mean(context: Context) -> Array:
    return np.unique(encode(context, return_columns=("slide_mean",)).columns["slide_mean"])


def relative(context: Context) -> Ragged:
    """Values before they are binned, ``<cls>`` left out."""
    encoded = encode(context, n_bins=None, cls_value=None, max_length=10_000)
    return Ragged(encoded.columns["values"].values, encoded.columns["values"].offsets)


def binned(context: Context) -> BinnedValues:
    values = relative(context)
    draws = streams(context.golden)["draws"]
    return bin_values(values, ties="random", draws=draws, cell_ids=range(len(values)))


def binning(context: Context) -> Array:
    """What the bins are made of; the lower and upper end of a bin are the original's right and left."""
    name = context.name.partition(".")[2]
    if name == "values":
        return relative(context).to_padded(0)
    found = binned(context)
    ours = {"edges": found.edges, "left": found.upper, "right": found.lower, "bin": found.bins}[name]
    return ours.to_padded(0) if isinstance(ours, Ragged) else ours


def preprocessed(context: Context) -> Array:
    """Every kept gene, those without a count too: normalised, and binned from a stream of its own."""
    options = {} if context.name.endswith("binned") else {"n_bins": None}
    encoded = encode(
        context, "numpy_preprocessor", include_zero_genes=True, cls_value=None, max_length=10_000, **options
    )
    return encoded.columns["values"].to_padded(0)


def fine_tuning_tokens(context: Context) -> Array:
    """Tokens of the preprocessed cells, ``<cls>`` with the value 0."""
    batch = padded(context, encode(context, "numpy_preprocessor", cls_value=0.0, max_length=10_000))
    values = batch["values"]
    if context.name.endswith("masked"):
        maskable = values != context.golden.description["model"]["pad_value"]
        draws = SharedDraws(context.golden.description["seeds"]["numpy_tokenize_and_pad"])
        return mask_share(values, maskable, share=0.4, draws=draws, cell_ids=range(len(values)))
    return batch["input_ids"] if context.name.endswith("genes") else values


# -------------------------------------------------------------------------------------------------------------- models


def configuration(context: Context) -> dict[str, Any]:
    """Fields of the configuration that an array's options ask for."""
    options = context.options
    fields: dict[str, Any] = {"normalize_embedding": options.get("normalise", False)}
    if "neighbours" in options or "coordinates" in (context.array.inputs or {}):
        fields["num_neighbours"] = context.golden.arrays["impute_pred"].options["neighbours"]
    if "dropout" in options:
        fields |= {"hidden_dropout_prob": options["dropout"], "attention_probs_dropout_prob": options["dropout"]}
    if options.get("pre_norm"):
        fields["norm_position"] = "residual"
    if "cell_emb_style" in options:
        fields |= {"pooling": POOLINGS[options["cell_emb_style"]], "pool_padding": "states"}
    return fields


@cache
def parted(n_given: int, prompt: float | None) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Columns behind the first ones are to be generated; the cell embedding may take the place of ``<cls>``."""

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        given = {name: batch[name][:, :n_given] for name in ("input_ids", "values", "attention_mask")}
        further = {"generated_ids": batch["input_ids"][:, n_given:]}
        further |= {"coordinates": batch["coordinates"]} if "coordinates" in batch else {}
        return {**given, **further, **({} if prompt is None else {"cell_prompt": prompt * batch["cell_prompt"]})}

    return prepare


def without_padding(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A cell of a batch of its own, which the file holds padded."""
    n_tokens = int((batch["values"] != -2).sum()) + 1
    return {name: tensor[:, :n_tokens] for name, tensor in batch.items()}


def run(context: Context, class_name: str = HEADS, **call: Any) -> dict[str, Any]:
    """The model's outputs for an array."""
    rename: dict[str, str | None] = dict(LABELS if class_name == HEADS else NOT_OF_THE_ENCODER)
    if context.weights == "expr_decoder":
        rename["batch_labels"] = None
    split = context.options.get("split")
    if split is not None:
        call |= {"prepare": parted(split, context.options.get("input_cell_emb_factor")), "trim": False}
    elif "attention_mask" in (context.array.inputs or {}) and context.array.inputs["attention_mask"] is None:
        call |= {"prepare": without_padding}
    return context.outputs(class_name, load=configuration(context), rename=rename, **call)


def field(name: str) -> Callable[[Context], Array]:
    """A field of the output of the pretraining heads."""
    return lambda context: run(context)[name]


def loss(name: str) -> Callable[[Context], Array]:
    """One of the losses of the pretraining heads."""
    return lambda context: run(context)["losses"][name]


def hidden_states(context: Context) -> Array:
    return run(context, BASE, output_hidden_states=True)["hidden_states"][int(context.parts["layer"])]


def last_hidden_state(context: Context) -> Array:
    """Of all tokens, of the given ones, or of those to be generated."""
    states, split = run(context, BASE)["last_hidden_state"], context.options.get("split")
    return states if split is None else states[:, split:] if "gen_hidden" in context.name else states[:, :split]


def cell_embedding(context: Context) -> Array:
    return run(context, BASE)["cell_embedding"]


def gene_embedding(context: Context) -> Array:
    with torch.no_grad():
        return context.model(BASE).gene_encoder(torch.from_numpy(context.stored("input_ids"))).numpy()


def experts(context: Context) -> Array:
    """The gate's probabilities, and what each expert says of each gene."""
    decoder = context.model(HEADS).decoder
    part = decoder.gate_probabilities if context.name.endswith("gate") else decoder.expert_values
    states = torch.from_numpy(np.nan_to_num(run(context, BASE, trim=False)["last_hidden_state"]))
    with torch.no_grad():
        return part(states).numpy()


def batch_embedding(context: Context) -> Array:
    with torch.no_grad():
        return context.model(HEADS).batch_encoder(torch.from_numpy(context.stored("batch_labels"))).numpy()


def similarity_loss(context: Context) -> Array:
    """Elastic cell similarity of the cells of the call."""
    threshold = context.options.get("ecs_threshold", context.model(BASE).config.ecs_threshold)
    return elastic_cell_similarity(torch.from_numpy(run(context, BASE)["cell_embedding"]), threshold).numpy()


def relative_error(context: Context) -> Array:
    given = context.inputs(rename=LABELS)
    arrays = (run(context)["predicted_values"], given["labels"], given["values"] == -1)
    return masked_relative_error(*map(torch.from_numpy, arrays)).numpy()


def zero_loss(context: Context) -> Array:
    values = torch.from_numpy(context.inputs()["values"])
    return masked_bernoulli(torch.from_numpy(run(context)["expressed_probability"]), values, values >= 0).numpy()


def gradient(context: Context) -> Array:
    """Gradient of the sum of the losses by a tensor, named as in the original."""
    found = context.training_pass(HEADS, load=configuration(context), rename=LABELS)
    return found.gradients[context.tensor_name(context.name.partition("grad.")[2])]


def to_be_generated(context: Context) -> Array:
    """1 at genes that were to be generated, 0 at the padding behind them."""
    return context.inputs()["attention_mask"][:, context.options["split"] :]


# ------------------------------------------------------------------------------------------------------------- domains


def refined(context: Context) -> Array:
    return refine_labels(context.stored("refine.labels"), context.stored("coordinates"), shape=context.options["shape"])


TABLE = RuleTable(
    family="scgpt_spatial",
    inputs=("input_ids", "values", "attention_mask"),
    renames={"batch_labels": "batch_index", "input_cell_emb": "cell_prompt"},
    conversion=conversion,
    rules=(
        Rule("slide_mean", slide_mean, section="tokens"),
        Rule("binning.*", lines(binning), section="tokens"),
        Rule("preprocessor.X_*", lines(preprocessed), section="tokens"),
        Rule("tokenize_and_pad.*", lines(fine_tuning_tokens), section="tokens"),
        Rule("masked_values", masked_values, section="tokens", roles=("input",)),
        Rule(("*input_ids", "attention_mask", "*values"), lines(tokens), section="tokens"),
        Rule("grad.*", gradient, section="gradients"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("generative.gen_hidden", last_hidden_state, section="hidden states", real_tokens=to_be_generated),
        Rule(("*pcpt_hidden", "*last_hidden_state"), last_hidden_state, section="hidden states"),
        Rule("gene_embedding", gene_embedding, section="gene embedding"),
        Rule(("*cell_embedding", "*cell_emb", "encode_batch.cls"), cell_embedding, section="cell embedding"),
        Rule("moe.*", experts, section="experts", real_tokens=True),
        Rule("batch_embedding", batch_embedding, section="batch embedding"),
        Rule("generative*gen_preds", field("generated_values"), section="expression", real_tokens=to_be_generated),
        Rule(("*logits", "*pcpt_preds"), field("predicted_values"), section="expression"),
        Rule("*mvc_output", field("cell_predicted_values"), section="expression from the cell"),
        Rule("*impute_pred", field("neighbour_predicted_values"), section="expression from neighbours"),
        Rule("*mvc_zero_probs", field("cell_expressed_probability"), section="expression from the cell"),
        Rule("*zero_probs", field("expressed_probability"), section="expression"),
        Rule("*loss_zero", zero_loss, section="losses"),
        Rule("logits_classification", field("logits"), section="classifier"),
        Rule("dab_output", field("batch_logits"), section="adversarial batches"),
        Rule("loss_ecs", similarity_loss, section="losses"),
        Rule("loss.mlm", loss("expression"), section="losses"),
        Rule("loss.mvc", loss("cell_expression"), section="losses"),
        Rule("loss.impute", loss("neighbour_expression"), section="losses"),
        Rule("loss.relative_error", relative_error, section="losses"),
        Rule("loss.sum", field("loss"), section="losses"),
        Rule("refine.{shape}", refined, section="spatial domains"),
        Rule(
            "min_spot_distance", lambda context: spot_distance(context.stored("coordinates")), section="spatial domains"
        ),
    ),
)
