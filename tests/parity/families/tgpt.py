"""Which public call gives which array of tGPT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import DataCollatorForLanguageModeling

from parity.rules import Rule, RuleTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from parity.context import Context

    Array = NDArray[Any]

HEAD = "AutoModelForCausalLM"


def tokens(context: Context) -> Array:
    """A column of the tokenizer, from the cells as the original's text was made of them."""
    length = context.golden.description["tokenizer"]["max_length"]
    if not from_cells(context):
        return of_text(context, max_length=length, padding=True)[context.array.stem]
    encoded = context.tokens(
        exact_names=True,
        min_overlap=0.0,
        max_length=length,
        gene_order="file",
        duplicates="keep",
        return_columns=("token_type_ids",),
    )
    return encoded[context.array.stem]


def from_cells(context: Context) -> bool:
    """Whether the original's text is all genes that it knows; unknown or cut ones are in the stored text alone."""
    rank = next(step for step in context.golden.description["preprocess"] if step["step"] == "rank")
    return rank["outside_vocabulary"] != "kept" and not any(rank["cut"])


def of_text(context: Context, **options: Any) -> dict[str, Array]:
    """What the tokenizer makes of the stored text, lines of this array's cells; types are zeros."""
    lines = [context.golden.description["lines"][cell] for cell in context.cells]
    encoded = dict(context.tokenizer()(lines, truncation=True, return_tensors="np", **options))
    return {**encoded, "token_type_ids": np.zeros_like(encoded["input_ids"])}


def collated(context: Context) -> Array:
    """What transformers' own collator of causal models makes of the tokens."""
    name = context.array.name.removeprefix("train.")
    encoded = of_text(context, **context.options)
    rows = [
        {"input_ids": ids, "attention_mask": mask}
        for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    ]
    collator = DataCollatorForLanguageModeling(context.tokenizer(), mlm=False)
    return collator(rows)[name].numpy()


def encoder(context: Context, **call: Any) -> dict[str, Any]:
    """The encoder; without token types it must not add the embedding of padding by itself."""
    without = "token_type_ids" in (context.array.inputs or {}) and context.array.inputs["token_type_ids"] is None
    return context.outputs("AutoModel", load={"add_pad_embedding": False} if without else None, **call)


def last_hidden_state(context: Context) -> Array:
    return encoder(context)["last_hidden_state"]


def hidden_states(context: Context) -> Array:
    return encoder(context, output_hidden_states=True)["hidden_states"][int(context.parts["layer"])]


def attentions(context: Context) -> Array:
    return encoder(context, output_attentions=True)["attentions"][int(context.parts["layer"])]


def cell_embedding(context: Context) -> Array:
    return encoder(context)["cell_embedding"]


def of_logits(how: Callable[[Array], Array]) -> Callable[[Context], Array]:
    """A function of the logits."""
    return lambda context: how(context.outputs(HEAD)["logits"])


def log_sum_exp(logits: Array) -> Array:
    highest = logits.max(-1)
    return highest + np.log(np.exp(logits - highest[..., None]).sum(-1))


def loss(context: Context) -> Array:
    return np.atleast_1d(context.outputs(HEAD)["loss"])


TABLE = RuleTable(
    family="tgpt",
    rules=(
        Rule(("input_ids", "attention_mask", "token_type_ids"), tokens, section="tokens"),
        Rule(("train.input_ids", "train.attention_mask", "train.labels"), collated, section="tokens"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("*last_hidden_state", last_hidden_state, section="hidden states"),
        Rule("attentions.{layer}", attentions, section="attention"),
        Rule("cell_embedding", cell_embedding, section="cell embedding"),
        Rule("logits", of_logits(lambda logits: logits), section="next gene"),
        Rule("logits_logsumexp", of_logits(log_sum_exp), section="next gene"),
        Rule("logits_argmax", of_logits(lambda logits: logits.argmax(-1)), section="next gene"),
        Rule(("train.loss", "train.loss_per_cell"), loss, section="next gene"),
        Rule("train.perplexity", lambda context: np.exp(loss(context)), section="next gene"),
    ),
)
