"""Which public call gives which array of Geneformer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from transformers import BertConfig, BertForMaskedLM

from parity.compare import Keyed
from parity.rules import Rule, RuleTable
from scfm_hf.conversion.pickles import read_dictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import anndata
    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context
    from parity.golden import Golden, GoldenArray

    Array = NDArray[Any]

# -------------------------------------------------------------------------------------------------------------- tokens

#: Columns of the tokenizer by their names in the goldens, where ``values`` are the scores that were ranked.
COLUMNS = {"input_ids": "input_ids", "attention_mask": "attention_mask", "values": "scores", "counts": "counts"}


def tokens(context: Context) -> Array:
    """A column of the tokenizer, with the original's rules for names and repeated columns."""
    column = COLUMNS[context.array.stem.rpartition(".")[2]]
    options = context.case.options
    if context.weights is None and not Path(context.golden.checkpoint or "", "config.json").exists():
        context = context.using(options["model_version"])
    encoded = context.tokens(
        adata=cells(context),
        key=context.case.name,
        gene_column=None if "gene_ids" in options else context.case.gene_column,
        max_length=options.get("model_input_size"),
        exact_names=True,
        duplicates="sum_if_merged",
        min_overlap=0.0,
        empty_cells="keep",
        return_columns=("scores", "counts"),
    )
    return encoded[column]


def cells(context: Context) -> anndata.AnnData:
    """The cells of a case, with the gene names that the case puts in."""
    adata, options = context.adata(), context.case.options
    if "gene_ids" in options:
        adata.var_names = context.golden.description["ensembl_ids"][options["gene_ids"]]
        adata.var = adata.var[[]]
    if "substitutions" in options:
        names = adata.var[context.case.gene_column].astype(str)
        names.update(pd.Series(options["substitutions"]))
        adata.var[context.case.gene_column] = names
    if options.get("dense"):
        adata.X = adata.X.toarray()
    for row in options.get("zero_cells", ()):
        counts = adata.X.tolil()
        counts[row] = 0
        adata.X = counts.tocsr()
    return adata


# ------------------------------------------------------------------------------------------------- states, embeddings


def masked_lm(context: Context, **call: Any) -> dict[str, Any]:
    """The masked language model with all its states."""
    return context.outputs("AutoModelForMaskedLM", output_hidden_states=True, **call)


def hidden_states(context: Context) -> Array:
    return masked_lm(context)["hidden_states"][int(context.parts["layer"])]


def attentions(context: Context) -> Array:
    return context.outputs("AutoModel", output_attentions=True)["attentions"][int(context.parts["layer"])]


def cell_embedding(context: Context) -> Array:
    """``emb_layer`` counts from the last layer: 0 is the last, -1 the one before it."""
    pooling = {"cls": "cls", "cell": "mean"}[context.options["emb_mode"]]
    load = {"pooling": pooling, "embedding_layer": context.options["emb_layer"] - 1}
    return context.outputs("AutoModel", load=load)["cell_embedding"]


def gene_embedding(context: Context) -> Keyed:
    """Mean state of a gene over the cells that express it."""
    states = masked_lm(context)["hidden_states"][context.options["emb_layer"] - 1]
    given = context.inputs()
    real = given["attention_mask"] == 1
    ids = given["input_ids"][real]
    genes = np.unique(ids)
    return Keyed(np.stack([states[real][ids == gene].mean(0) for gene in genes]), genes)


def summary(context: Context) -> Array:
    """Mean or median over the cells; torch's exact median of an even number is the lower one in the middle."""
    embeddings = cell_embedding(context)
    known = {
        "exact_mean": embeddings.mean(0),
        "exact_median": np.sort(embeddings, axis=0)[(len(embeddings) - 1) // 2],
        "tdigest_mean": embeddings.mean(0),
        "tdigest_median": np.median(embeddings, axis=0),
    }
    return known[context.options["summary"]][None]


def state_embedding(context: Context) -> Array:
    pooling = context.model("AutoModel").config.pooling
    load = {"pooling": pooling, "embedding_layer": context.options["emb_layer"] - 1}
    return context.outputs("AutoModel", load=load)["cell_embedding"].mean(0)


# --------------------------------------------------------------------------------------------------------------- heads

CELLS, GENES = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"


def field(class_name: str, name: str) -> Callable[[Context], Array]:
    """A field of the output of a class."""
    return lambda context: context.outputs(class_name)[name]


def predicted(context: Context) -> Array:
    return context.outputs(CELLS)["logits"].argmax(-1)


def labelled_logits(context: Context) -> Array:
    """One line for each gene with a label, cell after cell."""
    logits = context.outputs(GENES)["logits"]
    return logits[context.stored(context.array.keys[0]) != -100]


def metrics(context: Context) -> Array:
    """Macro F1, accuracy and area under the curve over the genes with a label."""
    labels = context.inputs()["labels"]
    scores = context.outputs(GENES, rename={"labels": None})["logits"][labels != -100]
    truth, found = labels[labels != -100], scores.argmax(-1)
    probability = np.exp(scores[:, 1]) / np.exp(scores).sum(-1)
    known = {
        "macro_f1": f1_score(truth, found, average="macro"),
        "accuracy": accuracy_score(truth, found),
        "roc_auc": roc_auc_score(truth, probability),
    }
    return np.array([known[name] for name in context.array.names or ()])


def stack_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """``labels.0``, ``labels.1`` ... as the columns of one ``labels``."""
    tasks = sorted(name for name in batch if name.startswith("labels."))
    labels = {"labels": torch.stack([batch[name] for name in tasks], dim=1)} if tasks else {}
    return {**{name: values for name, values in batch.items() if name not in tasks}, **labels}


def multitask(context: Context) -> dict[str, Any]:
    """The multi-task classifier; padding is pooled in a batch, as in the original."""
    described = context.golden.description["model"][context.weights]
    load = {"pool_padding": context.array.batch is not None, "task_weights": described["task_weights"]}
    return context.outputs(CELLS, load=load, prepare=stack_labels, per_call=("task_losses",))


def task_logits(context: Context) -> Array:
    return multitask(context)["logits"][int(context.parts["task"])]


# --------------------------------------------------------------------------------------------------------------- files


def conversion(golden: Golden, weights: str | None, scratch: Path) -> Mapping[str, Any]:
    """Folder of a model, or the smallest model around a version's dictionaries where the tokenizer alone is stored."""
    checkpoint = Path(golden.checkpoint or "")
    if weights in golden.weights:
        return {"source": Path(checkpoint, golden.weights[weights]).parent}
    if weights is None:
        return {"source": checkpoint}
    dictionaries = read_dictionaries(golden, weights)
    scratch.mkdir()
    for name, content in dictionaries.items():
        with (scratch / f"{name}_gc.pkl").open("wb") as file:
            pickle.dump(content, file)
    sizes = {"vocab_size": len(dictionaries["token_dictionary"]), "max_position_embeddings": 4096}
    small = {"hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2}
    BertForMaskedLM(BertConfig(**sizes, **small)).save_pretrained(scratch)
    return {"source": scratch}


def read_dictionaries(golden: Golden, version: str) -> dict[str, dict[str, Any]]:
    """Dictionaries of a version by kind; where a case says so, V1's with other special tokens and shifted ids."""
    described = golden.description.get("cases", {}).get(version, {}).get("dictionaries_from")
    if described is not None:
        read = read_dictionaries(golden, described["case"])
        shift, special = described["token_id_shift"], described["specials"]
        shifted = {name: token + shift for name, token in read["token_dictionary"].items() if name not in special}
        return {**read, "token_dictionary": {**special, **shifted}}
    folder = Path(golden.checkpoint or "", (golden.files.get("dictionaries") or {}).get(version, ""))
    pattern = "*" if folder != golden.checkpoint else "**/*"
    kinds = ("token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict")
    return {kind: plain(read_dictionary(next(folder.glob(f"{pattern}{kind}_gc*.pkl")))) for kind in kinds}


def plain(dictionary: dict[str, Any]) -> dict[str, Any]:
    """The same with Python's own numbers."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in dictionary.items()}


def of_multitask(array: GoldenArray) -> bool:
    return "labels.0" in (array.inputs or {}) or "mtl" in (array.weights or "")


PERTURBATION = "in-silico perturbation belongs to the tasks"

TABLE = RuleTable(
    family="geneformer",
    inputs=("input_ids", "attention_mask"),
    conversion=conversion,
    rules=(
        Rule(("input_ids", "attention_mask", "values", "counts"), tokens, section="tokens"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("attentions.{layer}", attentions, section="attention"),
        Rule("logits", field("AutoModelForMaskedLM", "logits"), section="masked language model"),
        Rule("mlm.loss", field("AutoModelForMaskedLM", "loss"), section="masked language model"),
        Rule("*cell_embedding*", cell_embedding, section="cell embedding"),
        Rule("gene_embedding", gene_embedding, section="gene embedding"),
        Rule("summary.*", summary, section="cell embedding"),
        Rule("state_embedding.*", state_embedding, section="cell embedding"),
        Rule("*logits_classification.{task}", task_logits, section="multi-task classifier"),
        Rule("*.loss", lambda context: multitask(context)["loss"], section="multi-task classifier", when=of_multitask),
        Rule("*.task_losses", lambda context: multitask(context)["task_losses"], section="multi-task classifier"),
        Rule("*cell_classifier.logits_classification", field(CELLS, "logits"), section="cell classifier"),
        Rule("*cell_classifier.*loss", field(CELLS, "loss"), section="cell classifier"),
        Rule("*cell_classifier.predicted", predicted, section="cell classifier"),
        Rule("*gene_classifier.logits_classification", field(GENES, "logits"), section="gene classifier"),
        Rule("*gene_classifier.loss", field(GENES, "loss"), section="gene classifier"),
        Rule("*gene_classifier.logits_flat", labelled_logits, section="gene classifier"),
        Rule("*gene_classifier.metrics", metrics, section="gene classifier"),
    ),
    left_out={"*.shift": PERTURBATION},
)
