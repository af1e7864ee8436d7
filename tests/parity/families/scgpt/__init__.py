"""Which public call gives which array of scGPT."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.families.scgpt.tokens import (
    binned_genes,
    log_normalised,
    modality_ids,
    perturbation_ids,
    tokens,
)
from parity.rules import Rule, RuleTable
from scfm_hf.nn.losses import elastic_cell_similarity, masked_relative_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.golden import Golden, GoldenArray

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
    options, array = context.options, context.array
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
    return lambda context: heads(context, draw_zeros=True)[name]


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


# ---------------------------------------------------------------------------------------------- training, gradients


def gradient(context: Context) -> Array:
    """Gradient of the total loss by a tensor, named as in the original."""
    class_name, options = (RESPONSE, {"prepare": for_every_cell}) if of_perturbation(context.array) else (HEADS, {})
    rename = {"target_values": "labels"} if of_perturbation(context.array) else LABELS
    found = context.training_pass(class_name, load=configuration(context), rename=rename, **options)
    return found.gradients[context.tensor_name(context.name.partition("grad.")[2])]


def mvc_only(output: Any) -> Tensor:
    return output.losses["cell_expression"]


def mvc_gradient(context: Context) -> Array:
    found = context.training_pass(HEADS, mvc_only, load=configuration(context), rename=LABELS)
    return found.gradients[context.tensor_name(context.name.partition("grad.")[2])]


def running_statistics(context: Context) -> Array:
    found = context.training_pass(HEADS, load=configuration(context), rename=LABELS)
    return found.state[context.tensor_name(context.name.removeprefix("train."))]


def trained(context: Context) -> Any:
    """The model after one step of Adam over the training batch, with the gradient's norm cut."""
    golden = context.golden
    step = next(array for array in golden.arrays.values() if "optimizer" in array.options)
    options = step.options

    def take_a_step() -> Any:
        training = type(context)(context._variant, step, context.weights, {})
        model = copy.deepcopy(context.model(HEADS, **configuration(training))).train()
        model(**training.batch(rename=LABELS)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_grad_norm"])
        getattr(torch.optim, options["optimizer"])(model.parameters(), lr=options["lr"], eps=options["eps"]).step()
        return model.eval()

    return context.cached("after one step", take_a_step)


def trained_tensor(context: Context) -> Array:
    name = context.tensor_name(context.name.removeprefix("trained."))
    return trained(context).state_dict()[name].numpy()


def validation_loss(context: Context) -> Array:
    with torch.no_grad():
        return trained(context)(**context.batch(rename=LABELS)).losses["expression"].numpy()


# --------------------------------------------------------------------------------------------------------------- files


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """The checkpoint, or the smallest model around the vocabulary where only the tokenizer is stored."""
    assert golden.checkpoint is not None
    if (golden.checkpoint / "args.json").exists():
        return {"source": golden.checkpoint, **({"weights": golden.weights[weights]} if weights is not None else {})}
    scratch.mkdir()
    vocabulary = json.loads((golden.checkpoint / "vocab.json").read_text(encoding="utf-8"))
    (scratch / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (scratch / "args.json").write_text(json.dumps({"embsize": 2, "nheads": 1, "d_hid": 2, "nlayers": 1}))
    layer = "transformer_encoder.layers.0."
    square = ("value_encoder.linear2", f"{layer}self_attn.out_proj", f"{layer}linear1", f"{layer}linear2")
    norms = ("encoder.enc_norm", "value_encoder.norm", f"{layer}norm1", f"{layer}norm2")
    shapes = {
        "encoder.embedding.weight": (len(vocabulary), 2),
        "value_encoder.linear1.weight": (2, 1),
        "value_encoder.linear1.bias": (2,),
        f"{layer}self_attn.in_proj_weight": (6, 2),
        f"{layer}self_attn.in_proj_bias": (6,),
        **{f"{name}.weight": (2, 2) for name in square},
        **{f"{name}.weight": (2,) for name in norms},
        **{f"{name}.bias": (2,) for name in (*square, *norms)},
    }
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, scratch / "best_model.pt")
    return {"source": scratch}


NETWORK = "gene networks belong to the tasks"
MAPPING = "mapping to a reference belongs to the tasks"

TABLE = RuleTable(
    family="scgpt",
    inputs=("input_ids", "values", "attention_mask"),
    renames={
        "batch_labels": "batch_index",
        "gen_input_ids": "generated_ids",
        "gen_attention_mask": "generated_mask",
        "input_cell_emb": "cell_prompt",
        "pert_flags": "perturbation_flags",
        "gene_ids": "input_ids",
    },
    conversion=conversion,
    rules=(
        Rule("grad.*", gradient, section="gradients", when=lambda array: "dab_at" not in array.name),
        Rule("*.grad.*", mvc_gradient, section="gradients"),
        Rule("train.*.bns.*", running_statistics, section="running statistics"),
        Rule("trained.*", trained_tensor, section="trained weights"),
        Rule("generate.*", generated, section="generated expression"),
        Rule(("*input_ids", "*attention_mask", "*values"), tokens, section="tokens"),
        Rule("token_type_ids", modality_ids, section="tokens"),
        Rule("gene_ids", perturbation_ids, section="tokens"),
        Rule("log1p", log_normalised, section="tokens"),
        Rule("binned", binned_genes, section="tokens"),
        Rule("*hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("attentions.{layer}", attentions, section="attention"),
        Rule("gene_embedding", gene_embedding, section="gene embedding"),
        Rule("*cell_embedding*", cell_embedding, section="cell embedding"),
        Rule("*predictions", predicted_response, section="perturbation", when=of_perturbation),
        Rule("adaptive.sampled_logits", response("predicted_values", draw_zeros=True), section="perturbation"),
        Rule("*mvc_logits", response("cell_predicted_values"), section="perturbation", when=of_perturbation),
        Rule("*logits_classification", response("logits"), section="perturbation", when=of_perturbation),
        Rule("*logits", response("predicted_values"), section="perturbation", when=of_perturbation),
        Rule("*zero_probs", response("expressed_probability"), section="perturbation", when=of_perturbation),
        Rule("train.loss", response("loss"), section="perturbation", when=of_perturbation),
        Rule("sampled.mvc_logits", drawn("cell_predicted_values"), section="expression from the cell embedding"),
        Rule("sampled.logits", drawn("predicted_values"), section="expression"),
        Rule("*mvc_logits", field("cell_predicted_values"), section="expression from the cell embedding"),
        Rule("*mvc_zero_probs", field("cell_expressed_probability"), section="expression from the cell embedding"),
        Rule("*loss_mvc", loss("cell_expression"), section="expression from the cell embedding"),
        Rule("*loss_mvc_zero", loss("cell_expression_zero"), section="expression from the cell embedding"),
        Rule("*zero_probs", field("expressed_probability"), section="expression"),
        Rule("*loss_gep", loss("expression"), section="expression"),
        Rule("*loss_gep_zero", loss("expression_zero"), section="expression"),
        Rule("*metric_mre", relative_error, section="expression"),
        Rule("valid.loss", validation_loss, section="expression"),
        Rule("*gen_logits", field("generated_values"), section="generated expression"),
        Rule("loss_gen", loss("expression"), section="generated expression"),
        Rule("loss_prompted", loss("expression"), section="generated expression"),
        Rule("*logits_classification", class_logits, section="classifier"),
        Rule("predictions", predictions, section="classifier"),
        Rule("train.loss_cls", loss("class"), section="classifier"),
        Rule("loss_cls", class_loss, section="classifier"),
        Rule("*dab_logits", field("batch_logits"), section="adversarial batches"),
        Rule("*loss_dab", loss("batch"), section="adversarial batches"),
        Rule("*loss_ecs", similarity_loss, section="cell similarity"),
        Rule("loss_cce", contrastive_loss, section="contrast"),
        Rule("*loss", field("loss"), section="total loss"),
        Rule("*logits", field("predicted_values"), section="expression"),
    ),
    left_out={
        "reference.*": MAPPING,
        "*similarity": NETWORK,
        "network_edges.*": NETWORK,
        "mean_vector": NETWORK,
        "metagene_scores": NETWORK,
        "attention_rank.*": NETWORK,
        "attention_row_rank": NETWORK,
        "stable.*": NETWORK,
        "condition_mean.*": NETWORK,
        "top_scores.*": NETWORK,
    },
)
