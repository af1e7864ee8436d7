"""Which public call gives which array of GeneCompass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.rules import Rule, RuleTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context

    Array = NDArray[Any]

CELLS, GENES = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"


def tokens(context: Context) -> Array:
    """A column of the tokenizer; the original keeps the first of repeated columns and strips nothing."""
    encoded = context.tokens(exact_names=True, min_overlap=0.0, duplicates="keep")
    column = encoded[context.array.stem]
    # The golden stores a few columns of padding more.
    width = context.array.shape[1] - column.shape[1]
    return np.pad(column, ((0, 0), (0, max(width, 0))))


def collated(context: Context) -> Array:
    """The original's collator gives the same ids and mask as the tokenizer."""
    name = context.array.name.removeprefix("collated.")
    column = context.tokens(exact_names=True, min_overlap=0.0, duplicates="keep")[name]
    return np.pad(column, ((0, 0), (0, max(context.array.shape[1] - column.shape[1], 0))))


def prepared(batch: dict[str, Tensor], species: Any, columns: int | None) -> dict[str, Tensor]:
    """Species that the options name, and as many columns as the original's call had."""
    if species is not None:
        wanted = torch.as_tensor(species).reshape(-1)
        batch["species_ids"] = wanted.expand(len(batch["input_ids"])) if len(wanted) == 1 else wanted
    if columns is not None:
        short = columns - batch["input_ids"].shape[1]
        for name in ("input_ids", "values"):
            batch[name] = torch.nn.functional.pad(batch[name], (0, short))
    return batch


def encoder(context: Context, **call: Any) -> dict[str, Any]:
    """The encoder as the array was made: with what prior weight, species and number of columns."""
    options = context.options
    species, columns = options.get("species"), options.get("columns")

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return prepared(batch, species, columns)

    # Told apart by what it does, so that equal calls are made once.
    prepare.__qualname__ = f"prepare({species}, {columns})"
    return context.outputs("AutoModel", load=weight(context), trim=columns is None, prepare=prepare, **call)


def weight(context: Context) -> dict[str, float]:
    """Weight of the prior knowledge: the stored one of a call to the masked model, else 1."""
    stored = (context.array.inputs or {}).get("alpha")
    return {"prior_weight": float(context.stored(stored)[0])} if stored else {}


def last_hidden_state(context: Context) -> Array:
    return encoder(context)["last_hidden_state"]


def hidden_states(context: Context) -> Array:
    return encoder(context, output_hidden_states=True)["hidden_states"][int(context.parts["layer"])]


def attentions(context: Context) -> Array:
    # Uncut: the original's call had all columns, and the array has their keys.
    outputs = context.outputs("AutoModel", trim=False, output_attentions=True)
    return np.stack(outputs["attentions"], 1)


def cell_embedding(context: Context) -> Array:
    return encoder(context)["cell_embedding"]


def gene_mean(context: Context) -> Array:
    """Mean over all token positions, padding included."""
    states = last_hidden_state(context)
    return states[:, states.shape[1] - context.options["columns"] :].mean(1)


def homologs(context: Context) -> Array:
    return context.model("AutoModel").embeddings.homolog_ids.numpy()


def masked(name: str) -> Callable[[Context], Array]:
    """A field of the masked model."""
    return lambda context: context.outputs("AutoModelForMaskedLM", load=weight(context))[name]


def loss(name: str | None) -> Callable[[Context], Array]:
    """The masked model's loss, or a part of it; a model without values has no loss of values."""

    def compute(context: Context) -> Array:
        outputs = context.outputs("AutoModelForMaskedLM", load=weight(context))
        if name is None:
            return np.atleast_1d(outputs["loss"])
        return np.atleast_1d(outputs["losses"].get(name, np.zeros(1)))

    return compute


def classifier(name: str) -> Callable[[Context], Array]:
    """A field of the classifier of cells, or of that of genes: the weights know which."""

    def compute(context: Context) -> Array:
        of_genes = context.golden.description["model"]["class_name"].endswith("TokenClassification")
        return np.atleast_1d(context.outputs(GENES if of_genes else CELLS)[name])

    return compute


def pooler(context: Context) -> Array:
    """What stands between encoder and linear layer of the classifier of cells."""
    head = context.model(CELLS).classifier
    states = torch.from_numpy(context.outputs("AutoModel")["last_hidden_state"][:, 0]).float()
    with torch.no_grad():
        return torch.tanh(head.dense(states)).numpy()


TASKS = "in-silico perturbation and gene networks belong to the tasks"

TABLE = RuleTable(
    family="genecompass",
    inputs=("input_ids", "values", "attention_mask"),
    renames={"species": "species_ids", "labels_values": "target_values", "alpha": None},
    rules=(
        Rule(("input_ids", "values", "attention_mask"), tokens, section="tokens"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("attentions", attentions, section="attention"),
        Rule("*last_hidden_state", last_hidden_state, section="hidden states"),
        Rule("*gene_mean", gene_mean, section="cell embedding"),
        Rule("*cell_embedding", cell_embedding, section="cell embedding"),
        Rule("knowledge.homologous_index", homologs, section="tokens"),
        Rule("logits", masked("logits"), section="masked genes"),
        Rule("value_predictions", masked("predicted_values"), section="masked values"),
        Rule("*logits_classification", classifier("logits"), section="classifier"),
        Rule("collated.logits", classifier("logits"), section="classifier"),
        Rule(("loss", "collated.loss"), classifier("loss"), section="classifier"),
        Rule("pooler_output", pooler, section="classifier"),
        Rule(("collated.input_ids", "collated.attention_mask"), collated, section="tokens"),
        Rule("mlm.loss", loss(None), section="masked genes"),
        Rule("mlm.id_loss", loss("genes"), section="masked genes"),
        Rule("mlm.value_loss", loss("values"), section="masked values"),
    ),
    left_out={
        "perturb.*": TASKS,
        "grn.*": TASKS,
        "collated.values": "the original's collator cuts values to integers by mistake; no option does that",
    },
)
