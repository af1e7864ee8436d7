"""Which public call gives which array of Nicheformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.rules import Rule, RuleTable
from scfm_hf.models.nicheformer.masking_nicheformer import mask_tokens
from scfm_hf.models.nicheformer.niches_nicheformer import niche_compositions
from scfm_hf.tokenization.draws import SharedDraws

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import anndata
    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.golden import Golden

    Array = NDArray[Any]

BASE, MASKED, NICHES = "AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"
#: The original pools over padding.
PADDED = {"pooling": "padded_mean"}
MEANS = {"rounded": "rounded", "raw": "raw", None: "none"}


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """A fine-tuned checkpoint does not say how many heads it has."""
    del scratch
    heads = golden.description["model"].get("backbone", {}).get("nheads")
    arguments = {"source": golden.checkpoint, "weights": golden.weights[weights or "default"], "files": golden.files}
    return {**arguments, **({"num_attention_heads": heads} if heads else {})}


# -------------------------------------------------------------------------------------------------------------- tokens


def cells(context: Context) -> anndata.AnnData:
    """The cells with one column a gene, as the original's preprocessing leaves them."""
    adata, column = context.adata(), context.case.gene_column
    names = adata.var_names if column == "var_names" else adata.var[column].astype(str)
    steps = {step["step"]: step for step in context.golden.description["preprocess"]}
    first = steps["map_ids"]["repeated"] == "keep first"
    return adata[:, ~np.asarray(names.duplicated(keep="first" if first else False))].copy()


def on_the_hub(context: Context) -> bool:
    """Whether the variant is of the Hugging Face hub's layout, whose tokenizer differs."""
    return "vocab_file" in context.case.options


def encoded(context: Context, *, with_context: bool = True) -> dict[str, Array]:
    """Tokens as the original's tokenizer makes them."""
    described = context.case.options
    named = described.get("obs", described)
    tokens = context.tokenizer().vocabulary.tokens
    told = {kind: named[theirs] for kind, theirs in (("species", "specie"), ("assay", "assay"), ("modality",) * 2)}
    told = {kind: shown(tokens[name]) if isinstance(name, int) else name for kind, name in told.items()}
    return context.tokens(
        adata=cells(context),
        key="one column a gene",
        exact_names=True,
        min_overlap=0.0,
        empty_cells="keep",
        return_columns=("scores",),
        max_length=described.get("max_length") or described.get("max_seq_len"),
        technology=context.golden.files["technology_mean"].removesuffix("_mean_script.npy"),
        technology_mean=MEANS[context.options.get("technology_mean", None if on_the_hub(context) else "rounded")],
        log1p=on_the_hub(context),
        ties="numba",
        **(told if with_context else dict.fromkeys(told)),
    )


def shown(token: str) -> str:
    """Name of a context token as a user writes it."""
    name = token.strip("<>")
    return name.replace("-", " ") if name.startswith("10x") else name.replace("seq-v", "seq v")


def padded(context: Context, values: Array, filling: float) -> Array:
    """At the full width of the array, which the original always has."""
    return np.pad(values, ((0, 0), (0, context.array.shape[1] - values.shape[1])), constant_values=filling)


def input_ids(context: Context) -> Array:
    """Ids with the number that the original gives to padding."""
    found = encoded(context, with_context=context.options.get("context_tokens", True))
    pad = context.case.options["pad_token_id"]
    return padded(context, np.where(found["attention_mask"] == 1, found["input_ids"], pad), pad)


def attention_mask(context: Context) -> Array:
    return padded(context, encoded(context)["attention_mask"], 0)


def tokens(context: Context) -> Array:
    """The gene tokens alone; the original leaves 0 where there is none."""
    found = encoded(context, with_context=False)
    return padded(context, np.where(found["attention_mask"] == 1, found["input_ids"], 0), 0)


def token_scores(context: Context) -> Array:
    return padded(context, encoded(context, with_context=on_the_hub(context))["scores"], 0)


# -------------------------------------------------------------------------------------------------------------- models


def prepared(context: Context) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The original's mask, where none is stored, and its change of the padding's number."""
    pad = context.case.options["pad_token_id"]
    replaced = context.options.get("replace_pad")
    named = context.array.inputs or {"attention_mask": "attention_mask"}

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "tokens" in batch:
            told = [context.case.options[kind] for kind in context.case.options["context_order"]]
            genes = batch.pop("tokens").long()
            before = torch.tensor(told).expand(len(genes), -1)
            batch["input_ids"] = torch.cat([before, genes], 1)[:, : genes.shape[1]]
            batch["input_ids"] = torch.where(batch["input_ids"] == 0, pad, batch["input_ids"])
        if "attention_mask" not in named:
            batch["attention_mask"] = (batch["input_ids"] != pad).long()
        if replaced:
            batch["input_ids"] = torch.where(batch["input_ids"] == replaced[0], replaced[1], batch["input_ids"])
        return batch

    prepare.__qualname__ = f"prepare({pad}, {replaced}, {sorted(named)})"
    return prepare


def run(context: Context, class_name: str, load: Mapping[str, Any] = PADDED, **call: Any) -> dict[str, Any]:
    prepare = context.cached(("prepare", str(context.array.inputs), str(context.options)), lambda: prepared(context))
    return context.outputs(class_name, load=load, trim=False, prepare=prepare, **call)


def hidden_states(context: Context) -> Array:
    return run(context, BASE, output_hidden_states=True)["hidden_states"][int(context.parts["layer"])]


def last_hidden_state(context: Context) -> Array:
    return run(context, BASE)["last_hidden_state"]


def attentions(context: Context) -> Array:
    return np.stack(run(context, BASE, output_attentions=True)["attentions"], 1)


def cell_embedding(context: Context) -> Array:
    """Layers of the original are numbered without the embeddings."""
    layer = context.options["layer"]
    chosen = {"embedding_layer": layer + 1 if layer >= 0 else layer, "pool_context": context.options["with_context"]}
    return run(context, BASE, {**PADDED, **chosen})["cell_embedding"]


def masked(name: str) -> Callable[[Context], Array]:
    return lambda context: np.atleast_1d(run(context, MASKED)[name])


def hidden_tokens(number: int) -> Callable[[Context], Array]:
    """Ids with tokens hidden, or labels, by the original's draws; it never hides the token of dissociated cells."""

    def compute(context: Context) -> Array:
        ids = torch.from_numpy(context.stored("input_ids"))
        config = context.model(MASKED).config
        maskable = (ids != config.pad_token_id) & (ids != context.tokenizer().convert_tokens_to_ids("<dissociated>"))
        draws = SharedDraws(context.seed("torch"))
        drawn = mask_tokens(ids, maskable, config, draws=draws, cell_ids=range(len(ids)))
        return drawn[number].numpy()

    return compute


# ------------------------------------------------------------------------------------------------------------- niches


def niches(context: Context) -> dict[str, Any]:
    """The fine-tuned model as it was saved; its labels are softmaxes of counts."""
    return run(context, NICHES, {"label_distribution": "softmax"})


def prediction(context: Context) -> Array:
    """What the original's ``predict_step`` gives: classes, or the numbers themselves."""
    logits, task = niches(context)["logits"], context.golden.description["model"]["supervised_task"]
    return logits.argmax(1).reshape(len(logits), -1) if task.endswith("classification") else logits


def compositions(context: Context) -> Array:
    given = {name: context.golden.values(source) for name, source in (context.array.inputs or {}).items()}
    counts = niche_compositions(
        given["spatial"], given["cell_type"], sections=given["library"], radius=context.options["radius"]
    )
    return np.pad(counts, ((0, 0), (0, context.array.shape[1] - counts.shape[1])))


TABLE = RuleTable(
    family="nicheformer",
    renames={"label": "labels"},
    conversion=conversion,
    rules=(
        Rule("input_ids*", input_ids, section="tokens"),
        Rule("attention_mask", attention_mask, section="tokens"),
        Rule("tokens*", tokens, section="tokens"),
        Rule("token_scores", token_scores, section="tokens"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("last_hidden_state", last_hidden_state, section="hidden states"),
        Rule("attentions", attentions, section="attention"),
        Rule("*cell_embedding*", cell_embedding, section="cell embedding"),
        Rule("logits", masked("logits"), section="masked genes"),
        Rule(("mlm.*loss", "apply_masking.loss"), masked("loss"), section="masked genes"),
        Rule("mlm.{seed}.masked_ids", hidden_tokens(0), section="masked genes", roles=("input",)),
        Rule("mlm.{seed}.labels", hidden_tokens(1), section="masked genes", roles=("input",)),
        Rule("cls_prediction", lambda context: flat(niches(context)["logits"]), section="niche heads"),
        Rule("representation", lambda context: niches(context)["representation"], section="niche heads"),
        Rule("prediction", prediction, section="niche heads"),
        Rule("loss", lambda context: np.atleast_1d(niches(context)["loss"]), section="niche heads"),
        Rule("X_niche_*", compositions, section="niche compositions"),
    ),
)


def flat(logits: Array) -> Array:
    """One line of numbers a cell."""
    return logits.reshape(len(logits), -1)
