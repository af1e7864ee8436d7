"""Which public call gives which array of scFoundation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import torch

from parity.rules import Rule, RuleTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.golden import Golden

    Array = NDArray[Any]

ENCODER, DECODER, CLASSIFIER = "AutoModel", "AutoModelForExpressionPrediction", "AutoModelForSequenceClassification"
#: Which of the three models an array without options comes from.
DEFAULT_KEY = "cell"


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """One of the three models of the file; the file has one name, "default", so that the weights name the model."""
    del scratch
    arguments = {"source": golden.checkpoint, "weights": golden.weights["default"], "files": golden.files}
    return {**arguments, "key": DEFAULT_KEY if weights in (None, "default") else weights}


def options(context: Context) -> Mapping[str, Any]:
    """Options of the original's script; an array without any is of the same run as another."""
    name, arrays = context.array.name, context.golden.arrays
    if name.startswith("depth_tokens."):
        run = name.removeprefix("depth_tokens.")
        return arrays["cell_embedding" if run == "t4" else f"cell_embedding.{run}"].options
    return context.options or (arrays["batched.gene_embedding"].options if name.startswith("batched.") else {})


def of_key(context: Context) -> Context:
    """The same with the model that the array comes from."""
    return context.using(options(context).get("key", DEFAULT_KEY))


# -------------------------------------------------------------------------------------------------------------- tokens


def log_normalised(context: Context) -> anndata.AnnData:
    """What the original was given as normalised already, with the totals that it was given beside."""
    counts = aligned(context)
    totals = counts.sum(1, keepdims=True)
    obs = pd.DataFrame({"total": totals[:, 0]}, index=context.adata().obs_names)
    genes = list(context.tokenizer().vocabulary.gene_tokens)
    return anndata.AnnData(np.log1p(counts / totals * 1e4), obs=obs, var=pd.DataFrame(index=genes))


def aligned(context: Context) -> Array:
    """Counts of all genes of the list, (n_cells, n_genes)."""
    encoded = context.tokens(exact_names=True, min_overlap=0.0, return_columns=("counts",))
    n_genes = len(context.tokenizer().vocabulary.gene_tokens)
    counts = np.zeros((len(encoded["input_ids"]), len(context.tokenizer())))
    np.put_along_axis(counts, encoded["input_ids"], encoded["counts"], 1)
    return counts[:, :n_genes]


def tokens(context: Context) -> dict[str, Array]:
    """The tokenizer's columns, for the cells of the array."""
    context = of_key(context)
    asked = options(context)
    chosen: dict[str, Any] = {"exact_names": True, "min_overlap": 0.0}
    if "tgthighres" in asked:
        chosen["target_depth"] = asked["tgthighres"]
    if "highres" in asked:
        chosen["target_depth"] = f"a{asked['highres']}"
    if asked.get("tokens") == "without T and S":
        chosen["depth_tokens"] = False
    chosen["bulk"] = asked.get("input_type") == "bulk"
    given = asked.get("pre_normalized", "F")
    if chosen["bulk"] and given == "T":
        # The original was given counts, as if they were normalised.
        chosen["normalized"] = True
    elif chosen["bulk"]:
        chosen["target_sum"] = float(np.median(aligned(context).sum(1)))
    elif given != "F":
        chosen |= {"normalized": True, "gene_column": "var_names", "adata": log_normalised(whole(context))}
        chosen |= {"key": "log-normalised", "total_counts": "total" if given == "A" else None}
    return context.tokens(**chosen)


def whole(context: Context) -> Context:
    """The same for all cells of the case."""
    every = context.using(context.weights)
    every.cells = tuple(range(len(every.case.rows)))
    return every


def batch(context: Context) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in tokens(context).items()}


def column(context: Context) -> Array:
    """A column of the tokenizer; the golden may store padding of longer cells."""
    found = tokens(context)[context.array.stem.removeprefix("batched.")]
    return np.pad(found, ((0, 0), (0, max(context.array.shape[1] - found.shape[1], 0))))


def depths(context: Context) -> Array:
    encoded = tokens(context)
    last = encoded["attention_mask"].sum(1)
    return np.stack([encoded["values"][np.arange(len(last)), last - 2 + place] for place in range(2)], 1)


def n_tokens(context: Context) -> Array:
    return tokens(context)["attention_mask"].sum(1)


# --------------------------------------------------------------------------------------------------------- the encoder


def encoder(context: Context, **call: Any) -> dict[str, Any]:
    """The encoder over all cells of the array, or of the batch that the original had."""
    asked = options(context)
    load: dict[str, Any] = {"pooling": asked.get("pool_type", "all")}
    if asked.get("input_type") == "bulk" and asked.get("pre_normalized") == "T":
        load["mark_by_value"] = True
    model = of_key(context).model(ENCODER, **load)
    with torch.no_grad():
        return dict(model(**batch(context), **call))


def states(context: Context) -> Array:
    """States by layer; the golden's last ones have not passed the norm."""
    outputs = encoder(context, output_hidden_states=True)
    layer = int(context.parts["layer"])
    last = layer == len(outputs["hidden_states"]) - 1
    return (outputs["encoder_output"] if last else outputs["hidden_states"][layer]).numpy()


def field(name: str) -> Callable[[Context], Array]:
    return lambda context: encoder(context)[name].numpy()


def autobin(name: str) -> Callable[[Context], Array]:
    """The value embedding, on a grid with the values of mask and padding."""

    def compute(context: Context) -> Array:
        model = of_key(context).model(ENCODER)
        values, module, config = torch.from_numpy(context.stored("autobin.values")), model.value_embedding, model.config
        with torch.no_grad():
            if name == "weights":
                return module.weights(values).numpy()
            return module(values, values == config.mask_value, values == config.pad_value).numpy()

    return compute


# --------------------------------------------------------------------------------------------------------- the decoder


def decoder(context: Context, **call: Any) -> dict[str, Any]:
    """Encoder and decoder; in a batch of the original's, with its maximum over all keys of the batch."""
    load = {"key_maximum": "batch"} if context.array.batch == "all" else {}
    model = of_key(context).model(DECODER, **load)
    with torch.no_grad():
        return dict(model(**batch(context), **call))


def gene_embeddings(context: Context) -> Array:
    found = decoder(context, output_gene_embeddings=True)["gene_embeddings"].numpy()
    if "gene_subset" in context.golden.arrays:
        return found[:, context.golden.values("gene_subset")]
    return found


def predicted(context: Context) -> Array:
    return decoder(context)["predicted_values"].numpy()


def decoder_states(context: Context) -> Array:
    """States of the decoder by layer, of one cell."""
    kept = decoder(context, output_decoder_states=True)["decoder_hidden_states"]
    return kept[int(context.parts["layer"])][0].numpy()


def decoder_last(context: Context) -> Array:
    """What the first of the two norms behind the decoder gives."""
    kept = decoder(context, output_decoder_states=True)["decoder_hidden_states"]
    with torch.no_grad():
        return of_key(context).model(DECODER).decoder.norm(kept[-1])[0].numpy()


def decoder_attentions(context: Context) -> Array:
    """As the original: after the residual, divided by the number of heads; the first queries."""
    model = of_key(context).model(DECODER, attentions_after_residual=True)
    given = torch.from_numpy(context.stored("decoder_attentions.input"))[None]
    with torch.no_grad():
        _, _, attentions = model.decoder.run(given, keep_attentions=True)
    found = torch.stack(attentions)[:, 0, :, : context.array.shape[2]]
    return (found / model.config.decoder_num_heads).numpy()


def masked_batch(context: Context) -> dict[str, Tensor]:
    """The stored values as tokens: expressed positions alone, with the genes that are masked."""
    values = torch.from_numpy(context.stored("masked.values_full"))
    n_genes = of_key(context).model(DECODER).config.num_genes
    places = torch.nonzero(values[0] > 0).T
    masked = torch.from_numpy(context.stored("masked.mask"))[:, :n_genes]
    return {"input_ids": places, "values": values[:, places[0]], "masked_genes": masked}


def masked_logits(context: Context) -> Array:
    """Predictions at every position, the depths among them."""
    model = of_key(context).model(DECODER)
    with torch.no_grad():
        outputs = model(**masked_batch(context), output_decoder_states=True)
        head = model.decoder
        found = head.predict(head.final_norm(head.norm(outputs.decoder_hidden_states[-1])))
        assert torch.equal(found[:, : model.config.num_genes], outputs.predicted_values)
    return found.numpy()


def masked_tokens(context: Context) -> Array:
    """Positions that reach the encoder."""
    given = masked_batch(context)
    hidden = torch.from_numpy(context.stored("masked.mask")).bool()
    return given["input_ids"][~hidden.gather(1, given["input_ids"])][None].numpy()


# ------------------------------------------------------------------------------------------------------ the classifier


def class_scores(context: Context) -> Array:
    """The classifier with the golden's head; in a batch, with padding in the maximum."""
    stored = {name.removeprefix("head."): context.golden.values(name) for name in context.array.inputs}
    together = context.array.batch == "all"
    load = {"num_labels": len(stored["fc1.2.bias"]), "pool_padding": together}
    model = of_key(context).model(CLASSIFIER, **load)
    names = {"fc1.0": "linear", "fc1.2": "out_proj", "norm": "norm"}
    head = {
        f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": torch.from_numpy(np.array(values))
        for name, values in stored.items()
    }
    head["norm.num_batches_tracked"] = torch.tensor(0)
    model.classifier.load_state_dict(head)
    given = batch(context)
    if together:
        # There the gene that stands at padding is one of the list.
        padding_id = int(context.golden.description["tokenizer"]["pad_token_id"])
        given["input_ids"] = given["input_ids"].masked_fill(given["attention_mask"] == 0, padding_id)
    with torch.no_grad():
        return model(**given).logits.numpy()


TABLE = RuleTable(
    family="scfoundation",
    inputs=("input_ids", "values", "attention_mask"),
    conversion=conversion,
    rules=(
        Rule(("input_ids", "values", "batched.values"), column, section="tokens", real_tokens=True),
        Rule(("attention_mask", "batched.input_ids", "batched.attention_mask"), column, section="tokens"),
        Rule("depth_tokens.*", depths, section="tokens"),
        Rule("*num_tokens", n_tokens, section="tokens", roles=("aux",)),
        Rule("masked.encoder_input_ids", masked_tokens, section="tokens"),
        Rule("autobin.{part}", lambda context: autobin(context.parts["part"])(context), section="value embedding"),
        Rule("hidden_states.{layer}", states, section="hidden states"),
        Rule("decoder_last_hidden_state", decoder_last, section="decoder"),
        Rule("*last_hidden_state", field("last_hidden_state"), section="hidden states"),
        Rule("*cell_embedding*", field("cell_embedding"), section="cell embedding"),
        Rule("decoder_hidden_states.{layer}", decoder_states, section="decoder"),
        Rule("decoder_attentions", decoder_attentions, section="decoder"),
        Rule("*gene_embedding*", gene_embeddings, section="gene embeddings"),
        Rule("logits", predicted, section="predicted expression"),
        Rule("masked.logits", masked_logits, section="predicted expression"),
        Rule("*logits_classification", class_scores, section="classifier"),
    ),
)
