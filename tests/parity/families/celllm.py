"""Which public call gives which array of CellLM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.rules import Rule, RuleTable
from scfm_hf.models.celllm.drugs_celllm import pad_drugs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.golden import Golden

    Array = NDArray[Any]

ENCODER, MASKED, CLASSIFIER = "AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"
RESPONSE = "CellLMForDrugResponse"


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """The authors give the order of the genes in a data set of their own; here it is a list."""
    scratch.mkdir(parents=True, exist_ok=True)
    genes = scratch / "genes.json"
    genes.write_text(json.dumps(golden.description["genes"]))
    files = {"config": golden.files["config"], "genes": str(genes)}
    return {"source": golden.checkpoint, "weights": golden.weights[weights or "default"], "files": files}


# -------------------------------------------------------------------------------------------------------------- tokens


def encoded(context: Context) -> dict[str, Array]:
    """Tokens at the full context; every column of a gene that the list names is its own in these cells."""
    return context.tokens(
        exact_names=True, min_overlap=0.0, empty_cells="keep", return_columns=("expression",), **normalisation(context)
    )


def normalisation(context: Context) -> dict[str, Any]:
    """The scheme's options for the golden's own preprocessing."""
    steps = {step["step"]: step for step in context.golden.description["preprocess"]}
    logarithm = steps.get("log1p")
    base = None if logarithm is None else "2" if logarithm.get("base") == 2 else "e"
    return {"target_sum": steps.get("normalize_total", {}).get("target_sum"), "log_base": base}


def column(name: str) -> Callable[[Context], Array]:
    """A column of the tokenizer, padded to the original's width."""

    def compute(context: Context) -> Array:
        found = encoded(context)
        filling = 0 if name == "attention_mask" else context.case.options.get("pad_token_id", 7)
        if name == "input_ids":
            filling = context.tokenizer().pad_token_id
        short = context.array.shape[1] - found[name].shape[1]
        return np.pad(found[name], ((0, 0), (0, short)), constant_values=filling)

    return compute


def expression(context: Context) -> Array:
    """What entered the original: a value a gene. Tokens of a cell that is cut hold the first genes alone."""
    whole = context.tokens(
        key="whole",
        exact_names=True,
        min_overlap=0.0,
        empty_cells="keep",
        return_columns=("expression",),
        max_length=context.array.shape[1] + 1,
        **normalisation(context),
    )
    values = np.zeros((len(context.cells), context.array.shape[1] + 2), np.float32)
    np.put_along_axis(values, whole["input_ids"], whole["expression"], 1)
    return values[:, :-2]


# -------------------------------------------------------------------------------------------------------------- models


def cells(context: Context) -> dict[str, Tensor]:
    """The stored tokens of this array's cells: the original makes them inside its forward."""
    names = {"input_ids": "position_ids", "values": "input_ids", "attention_mask": "attention_mask"}
    return {ours: torch.from_numpy(context.stored(theirs)) for ours, theirs in names.items()}


def options(context: Context) -> dict[str, Any]:
    """What the call differs in: all cells in one batch have one maximum, and attentions come in their own way."""
    chosen: dict[str, Any] = {}
    if context.name.startswith("batched."):
        chosen["key_maximum"] = "batch"
    if context.options.get("output_attentions"):
        chosen["attentions_as_original"] = True
    return chosen


def run(context: Context, class_name: str, **call: Any) -> Mapping[str, Any]:
    """The model over this array's cells, together: a cell does not depend on the others unless it is asked to."""

    def compute() -> dict[str, Any]:
        batch, model = cells(context), context.model(class_name, **options(context))
        with torch.no_grad():
            return dict(model(**batch, **call))

    key = ("run", class_name, repr((options(context), call)), context.cells)
    return context.cached(key, compute)


def field(class_name: str, name: str) -> Callable[[Context], Array]:
    return lambda context: run(context, class_name)[name].numpy()


def hidden_states(context: Context) -> Array:
    """States of all layers before the norm; ours of the last layer are behind it."""
    model, layer = context.model(ENCODER), int(context.parts["layer"])
    if layer < model.config.num_hidden_layers:
        return run(context, ENCODER, output_hidden_states=True)["hidden_states"][layer].numpy()
    seen: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(**cells(context))
    hook.remove()
    return seen[0].numpy()


def last_hidden_state(context: Context) -> Array:
    asked = {"output_attentions": True} if context.options.get("output_attentions") else {}
    return run(context, ENCODER, **asked)["last_hidden_state"].numpy()


def attentions_mean(context: Context) -> Array:
    """Mean over layers and heads."""
    attentions = torch.stack(run(context, ENCODER, output_attentions=True)["attentions"])
    return attentions.mean((0, 2))[:, None].numpy()


def token_scores(context: Context) -> Array:
    """One number a token, before it goes to its place."""
    scores = context.model(CLASSIFIER).classifier.scores
    with torch.no_grad():
        return scores.linear(run(context, ENCODER)["last_hidden_state"]).squeeze(-1).numpy()


def prediction(context: Context) -> Array:
    return run(context, CLASSIFIER)["logits"].argmax(1).numpy()


def losses(context: Context) -> Array:
    """Loss of each cell alone."""
    model, batch = context.model(CLASSIFIER), cells(context)
    labels = torch.from_numpy(context.stored("labels"))
    with torch.no_grad():
        return np.array(
            [
                float(model(**{name: given[[row]] for name, given in batch.items()}, labels=labels[[row]]).loss)
                for row in range(len(labels))
            ]
        )


# --------------------------------------------------------------------------------------------------------------- drugs


def drugs(context: Context) -> list[tuple[Array, Array]]:
    """Atoms and bonds of each drug."""
    features, ends, owner = (context.golden.values(f"drug.{name}") for name in ("x", "edge_index", "batch"))
    found = []
    for drug in range(owner.max() + 1):
        own = owner == drug
        found.append((features[own], (ends[:, own[ends[0]]] - np.flatnonzero(own)[0]).T))
    return found


def response(context: Context) -> dict[str, Array]:
    """The model over the stored pairs."""

    def compute() -> dict[str, Array]:
        pairs, of_drugs = context.golden.values("pairs"), drugs(context)
        names = {"input_ids": "position_ids", "values": "input_ids", "attention_mask": "attention_mask"}
        batch = {ours: torch.from_numpy(context.golden.values(theirs)[pairs[:, 1]]) for ours, theirs in names.items()}
        batch |= pad_drugs([of_drugs[drug] for drug in pairs[:, 0]])
        batch["labels"] = torch.from_numpy(context.golden.values("target"))
        with torch.no_grad():
            output = context.model(RESPONSE, **options(context))(**batch)
        return {name: output[name].numpy() for name in ("logits", "loss")}

    return context.cached(("response", repr(options(context))), compute)


def drug_embedding(context: Context) -> Tensor:
    padded = pad_drugs(drugs(context))
    with torch.no_grad():
        return context.model(RESPONSE).drug_response.embed_drugs(**padded)


def drug_branch(context: Context) -> Array:
    with torch.no_grad():
        return context.model(RESPONSE).drug_response.drug_branch(drug_embedding(context)).numpy()


def cell_branch(context: Context) -> Array:
    states, batch = run(context, ENCODER)["last_hidden_state"], cells(context)
    head = context.model(RESPONSE).drug_response
    part = head.scores if context.name == "cell_encoder_output" else head.cell_branch
    with torch.no_grad():
        return part(states, batch["input_ids"], batch["attention_mask"]).numpy()


INTERNAL = ("output", "quirk", "internal")

TABLE = RuleTable(
    family="celllm",
    conversion=conversion,
    rules=(
        Rule("values", expression, section="tokens"),
        Rule("input_ids", column("values"), section="tokens"),
        Rule("position_ids", column("input_ids"), section="tokens"),
        Rule("attention_mask", column("attention_mask"), section="tokens"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("*last_hidden_state", last_hidden_state, section="hidden states"),
        Rule("attentions_mean", attentions_mean, section="attention"),
        Rule("cell_embedding", field(ENCODER, "cell_embedding"), section="cell embedding"),
        Rule(("logits", "batched.logits"), field(MASKED, "logits"), section="masked values"),
        Rule("*logits_classification", field(CLASSIFIER, "logits"), section="classifier"),
        Rule("head.conv1", token_scores, section="classifier", roles=INTERNAL),
        Rule("predictions", prediction, section="classifier"),
        Rule("loss", losses, section="classifier"),
        Rule("*prediction", lambda context: response(context)["logits"], section="drug response"),
        Rule("loss_regression", lambda context: np.atleast_1d(response(context)["loss"]), section="drug response"),
        Rule(
            "drug.graph_embedding",
            lambda context: drug_embedding(context).numpy(),
            section="drug response",
            roles=INTERNAL,
        ),
        Rule("drug_branch", drug_branch, section="drug response", roles=INTERNAL),
        Rule(("cell_encoder_output", "cell_branch"), cell_branch, section="drug response", roles=INTERNAL),
    ),
)
