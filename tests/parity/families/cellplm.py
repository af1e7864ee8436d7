"""CellPLM's numbers: states, latents, decoders, losses; the set of cells is always the one that the array names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import torch

from parity.rules import Rule, RuleTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.variant import Pass

    Array = NDArray[Any]

ENCODER = "AutoModel"
#: The original's evaluation of the denoising head gives no loss, and its training passes have no dropout.
AS_THE_ORIGINAL = {"evaluate_denoising": False}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def genes_of(context: Context) -> list[str] | None:
    """The genes that the original fed, where it did not feed all that the model knows."""
    golden, chosen = context.golden, None
    for step in golden.description["preprocess"]:
        source = golden.files.get(step.get("list", ""))
        if step["step"] == "keep_genes" and step.get("for") != "fit" and isinstance(source, str):
            chosen = json.loads((golden.checkpoint / source).read_text())["gene_list"]
    return chosen


def imputes(context: Context) -> bool:
    return context.model(ENCODER).config.objective == "imputation"


def prepared_cells(context: Context) -> anndata.AnnData:
    """The cells as the original fed them: known genes, the first of each; absent ones as zeros unless it imputes."""
    cells = context.adata()
    column = context.case.gene_column
    names = cells.var_names if column == "var_names" else cells.var[column].astype(str)
    frame = pd.DataFrame(cells.X.toarray(), columns=pd.Index(names)).astype(np.float32)
    frame = frame.loc[:, ~frame.columns.duplicated()]
    known = context.tokenizer().vocabulary.gene_tokens
    chosen = genes_of(context) or known
    kept = frame.columns[frame.columns.isin(set(known) & set(chosen))]
    frame = frame[kept] if imputes(context) else frame.reindex(columns=list(known), fill_value=0.0)
    if not imputes(context):
        frame.loc[:, ~frame.columns.isin(kept)] = 0.0
    for step in context.golden.description["preprocess"]:
        if step["step"] == "set_zero":
            frame.loc[:, frame.columns.isin(context.golden.description[step["genes"]])] = 0.0
    return anndata.AnnData(frame.to_numpy(), obs=cells.obs, var=pd.DataFrame(index=frame.columns))


def tokens(context: Context) -> dict[str, Tensor]:
    """Tokens of this array's cells, genes without a count among them, in the original's order."""
    encoded = context.tokens(
        adata=context.cached(("cells", context.case.name), lambda: prepared_cells(context)),
        key="prepared",
        gene_column="var_names",
        include_zero_genes=True,
        gene_order="file",
        exact_names=True,
        min_overlap=0.0,
        empty_cells="keep",
    )
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in encoded.items()}


def sets(context: Context) -> Tensor:
    """Number of each cell's set: the cells that went through the original together."""
    numbers = np.empty(len(context.cells), np.int64)
    whole = [list(range(len(context.cells)))]
    # Gradients and sums before the encoder name no batch: they are of all cells.
    groups = context.groups() if context.array.batch is not None else whole
    for number, lines in enumerate(groups):
        numbers[lines] = number
    return torch.from_numpy(numbers)


def call(context: Context, class_name: str, *, labelled: bool = False) -> Callable[[dict[str, Tensor]], Any]:
    """Complete the stored inputs to those of the model."""

    def prepare(stored: dict[str, Tensor]) -> dict[str, Tensor]:
        gene_mask, loss_mask = stored.pop("gene_mask", None), stored.pop("loss_mask", None)
        batch = {**tokens(context), "cell_sets": sets(context), **stored}
        labels = batch.pop("labels", None)
        if class_name == ENCODER:
            batch.pop("dataset_index", None)
        if not labelled:
            return batch
        if labels is None:
            # The loss of the latent alone was stored: any label will do.
            of_cells = class_name.endswith("Classification")
            labels = torch.zeros(len(batch["values"]), dtype=torch.long) if of_cells else batch["values"].clone()
        if labels.shape[0] == 1:
            labels = labels.expand(len(batch["values"]))
        if gene_mask is not None:
            labels[:, gene_mask == 0] = -100
        batch["labels"] = labels if loss_mask is None else labels.masked_fill(loss_mask == 0, -100)
        return batch

    return prepare


def options(context: Context) -> dict[str, Any]:
    """Fields of the configuration that the original's call had."""
    chosen: dict[str, Any] = dict(AS_THE_ORIGINAL)
    if context.array.mode == "train" or context.name.startswith("grad."):
        chosen |= NO_DROPOUT
    if "kl_weight" in context.options:
        chosen["kl_weight"] = context.options["kl_weight"]
    if context.name.startswith("patched_pe"):
        chosen["use_positional_encoding"] = True
    return chosen


def with_head(context: Context) -> str:
    """Class of the converted checkpoint."""
    return json.loads((context.folder / "config.json").read_text())["architectures"][0]


def run(context: Context, class_name: str, *, labelled: bool = False, **further: Any) -> Mapping[str, Any]:
    key = ("outputs", class_name, labelled, repr(further), repr(options(context)), str(context.array.inputs))
    key += (context.array.mode, str(context.array.batch), str(context.options), context.cells)
    return context.cached(
        key,
        lambda: context.outputs(
            class_name,
            load=options(context),
            prepare=call(context, class_name, labelled=labelled),
            together=True,
            **further,
        ),
    )


def encoded(name: str) -> Callable[[Context], Array]:
    """A field of the encoder."""
    return lambda context: run(context, ENCODER)[name]


def hidden_state(context: Context) -> Array:
    """States before the last layer's norm: the golden's last one has none."""
    outputs = run(context, ENCODER, output_hidden_states=True)
    layer = int(context.parts["layer"])
    last = layer == len(outputs["hidden_states"]) - 1
    return outputs["encoder_output"] if last else outputs["hidden_states"][layer]


def summed(context: Context) -> Array:
    batch = tokens(context)
    with torch.no_grad():
        return context.model(ENCODER).embedder.sum_genes(batch["input_ids"], batch["values"].log1p(), None).numpy()


def predicted(name: str) -> Callable[[Context], Array]:
    """A field of the model with its head."""

    def compute(context: Context) -> Array:
        further = {"output_dispersions": True} if name == "dispersions" else {}
        values = run(context, with_head(context), **further)[name]
        # One line for a set of cells, whose cells all have the same.
        return values[:1] if context.array.axis[0] == "sequence" else values

    return compute


def prediction(context: Context) -> Array:
    """The likeliest class."""
    return predicted("logits")(context).argmax(-1)


def imputed_targets(context: Context) -> Array:
    """Predictions for genes by name."""
    ids = context.tokenizer().vocabulary.ids(context.array.names)
    wanted = torch.from_numpy(np.tile(ids, (len(context.cells), 1)))
    return run(context, with_head(context), target_ids=wanted)["predicted_values"]


def loss(part: str | None) -> Callable[[Context], Array]:
    """The loss, or a part of it."""

    def compute(context: Context) -> Array:
        outputs = run(context, with_head(context), labelled=True)
        return np.atleast_1d(outputs["loss"] if part is None else outputs["losses"][part])

    return compute


def gradient(context: Context) -> Array:
    """Gradient of the loss by a tensor of the checkpoint; the row of padding is ours."""
    name = with_head(context)
    made: Pass = context.cached(
        ("pass", str(context.array.inputs), context.array.mode),
        lambda: context.training_pass(name, load=options(context), prepare=call(context, name, labelled=True)),
    )
    found = made.gradients[context.tensor_name(context.name.split("grad.", 1)[1])]
    return found[: context.array.shape[0]]


def position(context: Context) -> Array:
    module = context.using(context.weights).model(ENCODER).embedder.position
    with torch.no_grad():
        if context.array.inputs is None:
            return module.missing.numpy()[None]
        return module(torch.from_numpy(context.stored(context.array.inputs["coord"]))).numpy()


TABLE = RuleTable(
    family="cellplm",
    inputs=(),
    renames={
        "noise.gumbel_uniform": "cluster_draws",
        "noise.gaussian": "latent_noise",
        "batch_label": "batch_index",
        "dataset_label": "dataset_index",
        "coord": "coordinates",
        "label": "labels",
    },
    rules=(
        Rule("gene_embedding_sum", summed, section="hidden states"),
        Rule("*hidden_states.{layer}", hidden_state, section="hidden states"),
        Rule("encoder_output", encoded("encoder_output"), section="hidden states"),
        Rule("last_hidden_state", encoded("last_hidden_state"), section="hidden states"),
        Rule("*cluster_logits", encoded("cluster_logits"), section="cell embedding"),
        Rule(("latent", "*.latent"), encoded("latent"), section="cell embedding"),
        Rule("*cell_embedding", encoded("cell_embedding"), section="cell embedding"),
        Rule(("*decoder.mean", "*decoder.recon"), predicted("means"), section="decoder"),
        Rule("*decoder.disp", predicted("dispersions"), section="decoder"),
        Rule(("*imputed", "train.pred"), predicted("predicted_values"), section="decoder"),
        Rule("imputed_targets", imputed_targets, section="decoder"),
        Rule("logits_classification", predicted("logits"), section="classifier"),
        Rule(("pred", "prediction"), prediction, section="classifier", when=lambda array: array.dtype == "int64"),
        Rule("pred", predicted("predicted_values"), section="decoder"),
        Rule("*latent_loss", loss("latent"), section="losses"),
        Rule(("loss", "*.loss"), loss(None), section="losses"),
        Rule("*grad.*", gradient, section="losses"),
        Rule(("pe.sinusoidal", "pe.missing"), position, section="hidden states"),
    ),
    left_out={"score": "scores of annotation and imputation belong to the tasks"},
)
