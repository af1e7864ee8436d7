"""Arrays of scGPT's models: states, embeddings, heads, losses, perturbation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scfm_hf.nn.losses import elastic_cell_similarity, masked_relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.golden import GoldenArray

    Array = NDArray[Any]

HEADS, CLASSES, RESPONSE = "AutoModelForPreTraining", "AutoModelForSequenceClassification", "AutoModelForPerturbation"

POOLINGS = {"cls": "cls", "avg-pool": "mean", "w-pool": "signed_weighted"}
#: Options of the original -> fields of the configuration.
FIELDS = {
    "mvc_decoder_style": "mvc_style",
    "ecs_threshold": "ecs_threshold",
    "ecs_weight": "ecs_weight",
    "dab_weight": "adversarial_weight",
    "decoder_adaptive_bias": "decoder_adaptive_bias",
    "temperature": "contrastive_temperature",
}
#: What the encoder alone is not given.
NOT_OF_THE_ENCODER = dict.fromkeys(("target_values", "labels", "token_type_ids", "gen_target_values"))


def configuration(context: Context) -> dict[str, Any]:
    """Fields of the configuration that an array's options ask for."""
    array, options = context.array, {**total_loss_options(context), **context.options}
    fields: dict[str, Any] = {FIELDS[name]: value for name, value in options.items() if name in FIELDS}
    fields["normalize_embedding"] = options.get("normalise", False)
    if "cell_emb_style" in options:
        fields["pooling"] = POOLINGS[options["cell_emb_style"]]
        if array.batch is not None:
            fields["pool_padding"] = "states" if options["gradients"] else "zeros"
    if "decoder_activation" in options:
        fields["decoder_activation"] = options["decoder_activation"].lower()
    if "dropout" in options:
        fields |= {"hidden_dropout_prob": options["dropout"], "attention_probs_dropout_prob": options["dropout"]}
    if options.get("pre_norm"):
        fields["norm_position"] = "residual"
    if array.role == "quirk" and "batch_labels" in (array.inputs or {}):
        fields["domain_of_first_cell"] = True
    return fields


def total_loss_options(context: Context) -> dict[str, Any]:
    """Of an array of a training pass: the options of its total loss, and the threshold that the model was made with."""
    array, golden = context.array, context.golden
    if array.mode != "train":
        return {}
    of_model = golden.description["model"]
    threshold = {"ecs_threshold": of_model["ecs_threshold"]} if "ecs_threshold" in of_model else {}
    total = golden.arrays.get("train.loss")
    return {**threshold, **(total.options if total is not None and total.inputs == array.inputs else {})}


# ------------------------------------------------------------------------------------------------- states, embeddings


def encoder(context: Context, **call: Any) -> dict[str, Any]:
    class_name = RESPONSE if of_perturbation(context.array) else "AutoModel"
    prepare = {"prepare": for_every_cell} if of_perturbation(context.array) else {}
    return context.outputs(
        class_name, load=configuration(context), rename=NOT_OF_THE_ENCODER, trim=not split(context), **prepare, **call
    )


def split(context: Context) -> bool:
    """Whether the call has genes to be generated, whose states stand behind the others."""
    return "gen_input_ids" in (context.array.inputs or {})


def hidden_states(context: Context) -> Array:
    states = encoder(context, output_hidden_states=True)["hidden_states"][int(context.parts["layer"])]
    if not split(context):
        return states
    n_given = context.inputs()["input_ids"].shape[1]
    return states[:, n_given:] if context.name.startswith("gen_") else states[:, :n_given]


def attentions(context: Context) -> Array:
    return encoder(context, output_attentions=True)["attentions"][int(context.parts["layer"])]


def cell_embedding(context: Context) -> Array:
    return encoder(context)["cell_embedding"]


def gene_embedding(context: Context) -> Array:
    ids = context.options.get("token_ids")
    if ids is None:
        ids = context.tokenizer().vocabulary.ids(context.array.names).tolist()
    with torch.no_grad():
        return context.model("AutoModel").gene_encoder(torch.tensor(ids)).numpy()


# --------------------------------------------------------------------------------------------------------------- heads

LABELS = {"target_values": "labels", "labels": "class_index", "gen_target_values": "labels"}


def heads(context: Context, **options: Any) -> dict[str, Any]:
    """All heads of the pretraining."""
    load = {**configuration(context), **options.pop("load", {})}
    return context.outputs(HEADS, load=load, rename=LABELS, trim=not split(context), **options)


def field(name: str) -> Callable[[Context], Array]:
    """A field of the output of the pretraining heads."""
    return lambda context: heads(context)[name]


def loss(name: str) -> Callable[[Context], Array]:
    """One of the losses of the pretraining heads."""
    return lambda context: heads(context)["losses"][name]


def drawn(name: str) -> Callable[[Context], Array]:
    """Values with zeros drawn from the probability of being expressed."""
    return lambda context: heads(context, draw_zeros=True, together=True)[name]


def given_as_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses on the embeddings need no labels; the model computes losses when it is given some."""
    return {**batch, "labels": batch["values"]}


def contrastive_loss(context: Context) -> Array:
    load = {"contrastive_weight": 1.0}
    return heads(context, load=load, prepare=given_as_labels)["losses"]["contrastive"]


def similarity_loss(context: Context) -> Array:
    """Elastic cell similarity of the cells of the call."""
    fields = configuration(context)
    threshold = fields.get("ecs_threshold", context.model("AutoModel").config.ecs_threshold)
    embedding = torch.from_numpy(encoder(context)["cell_embedding"])
    return elastic_cell_similarity(embedding, threshold).numpy() * fields.get("ecs_weight", 1)


def relative_error(context: Context) -> Array:
    """The metric at masked genes, or at the genes that were generated."""
    name, given = "generated_values" if split(context) else "predicted_values", context.inputs(rename=LABELS)
    mask = given["generated_mask"] if split(context) else given["values"] == context.model(HEADS).config.mask_value
    arrays = (heads(context)[name], given["labels"], mask)
    return masked_relative_error(*(torch.from_numpy(np.asarray(array)) for array in arrays)).numpy()


def class_logits(context: Context) -> Array:
    return context.outputs(CLASSES, load=configuration(context), rename={"target_values": None})["logits"]


def class_loss(context: Context) -> Array:
    return context.outputs(CLASSES, load=configuration(context), rename={"target_values": None})["loss"]


def predictions(context: Context) -> Array:
    return class_logits(context).argmax(-1)


def three_losses(context: Context) -> Array:
    """The total with the loss of the pass that the cell embedding prompts."""
    return heads(context, load={"prompted_weight": 1.0})["loss"]


def generated(context: Context) -> Array:
    return context.outputs(HEADS, method="generate_values", load=configuration(context))


# ------------------------------------------------------------------------------------------------------- perturbation


def of_perturbation(array: GoldenArray) -> bool:
    return "pert_flags" in (array.inputs or {})


def for_every_cell(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The list of genes for each cell."""
    return {**batch, "input_ids": batch["input_ids"].expand(len(batch["values"]), -1)}


def response(name: str, **call: Any) -> Callable[[Context], Array]:
    """A field of the output of the perturbation model."""
    return lambda context: context.outputs(
        RESPONSE,
        load=configuration(context),
        rename={"target_values": "labels"},
        prepare=for_every_cell,
        **call,
    )[name]


def predicted_response(context: Context) -> Array:
    asked = {"all": "all", "batch-wise": "expressed_in_batch"}[context.options["include_zero_gene"]]
    return context.outputs(RESPONSE, method="predict", genes=asked)
