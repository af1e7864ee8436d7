"""Which public call gives which array of scBERT; what the original calls ``input_ids`` are the values here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.rules import Rule, RuleTable
from scfm_hf import annotate
from scfm_hf.models.scbert.masking_scbert import masked_accuracy, predicted_values

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata
    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context

    Array = NDArray[Any]

BASE, MASKED, CLASSIFIER = "AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"

# -------------------------------------------------------------------------------------------------------------- tokens


def cells(context: Context) -> anndata.AnnData:
    """The cells with the first column of each gene, as the original's preprocessing takes them."""
    adata, column = context.adata(), context.case.gene_column
    names = adata.var_names if column == "var_names" else adata.var[column].astype(str)
    return adata[:, ~np.asarray(names.duplicated(keep="first"))].copy()


def tokens(column: str) -> Callable[[Context], Array]:
    def compute(context: Context) -> Array:
        return context.tokens(
            adata=cells(context),
            key="one column a gene",
            exact_names=True,
            min_overlap=0.0,
            empty_cells="keep",
            return_columns=("expression",),
        )[column]

    return compute


# -------------------------------------------------------------------------------------------------------------- models


def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """All genes in the order of the vocabulary."""
    places = torch.arange(batch["values"].shape[1])
    return {**batch, "input_ids": places.expand_as(batch["values"])}


def labelled(context: Context) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The same, with labels as transformers wants them: the original gives its number of the mask to the others."""
    ignored = context.case.options["mask_token_id"]

    def complete(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if batch.get("labels") is not None and batch["labels"].ndim == 2:
            batch["labels"] = batch["labels"].masked_fill(batch["labels"] == ignored, -100)
        return prepare(batch)

    return context.cached("labelled", lambda: complete)


def run(context: Context, class_name: str, **call: Any) -> dict[str, Any]:
    """A cell alone, or the whole batch with the original's maximum over it."""
    together = {"key_maximum": "batch"} if context.array.batch == "all" else None
    return context.outputs(class_name, load=together, prepare=labelled(context), **call)


def of(class_name: str, name: str, **call: Any) -> Callable[[Context], Array]:
    return lambda context: np.atleast_1d(run(context, class_name, **call)[name])


def hidden_states(context: Context) -> Array:
    """Those of the original have not passed the final layer norm; the last ones here have."""
    states, layer = run(context, BASE, output_hidden_states=True)["hidden_states"], int(context.parts["layer"])
    if layer < len(states) - 1:
        return states[layer]
    with torch.no_grad():
        return context.model(BASE).layers[-1](torch.from_numpy(states[layer - 1])).numpy()


def of_first_layer(how: Callable[[Any, Tensor], Tensor]) -> Callable[[Context], Array]:
    """Something of the first layer's attention, from the embeddings that it sees."""

    def compute(context: Context) -> Array:
        layer = context.model(BASE).layers[0]
        embedded = torch.from_numpy(run(context, BASE, output_hidden_states=True)["hidden_states"][0])
        with torch.no_grad():
            found = how(layer.self_attn, layer.norm1(embedded))
        return found[:, context.options.get("heads", slice(None))].numpy()

    return compute


def attended(attention: Any, states: Tensor) -> Tensor:
    """What a head gives, before the heads are joined."""
    value = attention.value(states).unflatten(-1, (attention.num_attention_heads, attention.head_size)).transpose(1, 2)
    return attention.probabilities(states) @ value


def attention_map(context: Context) -> Array:
    """Mean over layers and heads, from the states that the original looks at."""
    load = {"attentions_after_residual": True}
    found = context.outputs(BASE, load=load, prepare=prepare, output_attentions=True)["attentions"]
    return np.mean(found, 0).mean(1, keepdims=True)


def attention_sum(context: Context) -> Array:
    model = context.model(BASE, attentions_after_residual=True)
    batch = prepare({"values": torch.from_numpy(context.stored("input_ids"))})
    return model.received_attention(**batch).numpy()


def gradient(context: Context) -> Array:
    name = context.tensor_name(context.name.removeprefix("grad."))
    return context.training_pass(MASKED, prepare=labelled(context)).gradients[name]


# ---------------------------------------------------------------------------------------------------------- predictions


def prediction(context: Context) -> Array:
    return predicted_values(torch.from_numpy(run(context, MASKED)["logits"])).numpy()


def accuracy(context: Context) -> Array:
    labels, ignored = torch.from_numpy(context.stored("mlm.labels")), context.case.options["mask_token_id"]
    logits = torch.from_numpy(run(context, MASKED)["logits"])
    return np.atleast_1d(masked_accuracy(logits, labels.masked_fill(labels == ignored, -100)).numpy())


def convolution(context: Context) -> Array:
    """The classifier's one number a token."""
    states = torch.from_numpy(run(context, BASE)["last_hidden_state"])
    with torch.no_grad():
        return context.model(CLASSIFIER).classifier.convolution(states).squeeze(-1).numpy()


def probabilities(context: Context) -> Array:
    return torch.from_numpy(run(context, CLASSIFIER)["logits"]).softmax(-1).numpy()


def unknown(context: Context) -> Array:
    """Which cells the task leaves without a class, from the counts on."""
    labelled = annotate(
        cells(context),
        str(context.folder),
        unknown_below=context.options["threshold"],
        gene_column=context.case.gene_column,
        exact_names=True,
        min_overlap=0.0,
        progress=False,
    )
    return (labelled.obs["cell_type_predicted"] == "unknown").to_numpy().astype(int)[list(context.cells)]


TABLE = RuleTable(
    family="scbert",
    inputs=("input_ids",),
    renames={"input_ids": "values"},
    rules=(
        Rule("values", lambda context: tokens("expression")(context)[:, :-1], section="tokens"),
        Rule(("input_ids", "input_ids_all"), tokens("values"), section="tokens"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("*last_hidden_state", of(BASE, "last_hidden_state"), section="hidden states"),
        Rule("layer0.query_features", of_first_layer(lambda it, states: it.features(states)[0]), section="attention"),
        Rule("layer0.key_features", of_first_layer(lambda it, states: it.features(states)[1]), section="attention"),
        Rule("layer0.attention_output", of_first_layer(attended), section="attention"),
        Rule("attentions_mean", attention_map, section="attention"),
        Rule("attention_sum", attention_sum, section="attention"),
        Rule("logits_with_attentions", of(MASKED, "logits", output_attentions=True), section="masked values"),
        Rule("*logits_classification", of(CLASSIFIER, "logits"), section="classifier"),
        Rule("*logits", of(MASKED, "logits"), section="masked values"),
        Rule("*mlm.loss", of(MASKED, "loss"), section="masked values"),
        Rule("mlm.prediction", prediction, section="masked values"),
        Rule("mlm.accuracy", accuracy, section="masked values"),
        Rule("grad.*", gradient, section="masked values"),
        Rule("head.conv1", convolution, section="classifier"),
        Rule("probabilities", probabilities, section="classifier"),
        Rule("predictions", lambda context: run(context, CLASSIFIER)["logits"].argmax(1), section="classifier"),
        Rule("novel", unknown, section="classifier"),
        Rule("loss", of(CLASSIFIER, "loss"), section="classifier"),
    ),
)
