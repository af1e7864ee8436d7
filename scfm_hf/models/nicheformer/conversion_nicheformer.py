"""From Nicheformer's own files: Lightning checkpoints, fine-tuned ones, and the folder on the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, Split, apply_rules, strip_prefix
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary, map_orthologs
from scfm_hf.models.nicheformer.configuration_nicheformer import SUPERVISED_TASKS, NicheformerConfig
from scfm_hf.models.nicheformer.context_nicheformer import SPECIAL_TOKENS
from scfm_hf.models.released import released_tokenizer, released_tokenizers
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

_WEIGHTS = ("nicheformer*.ckpt", "model.safetensors", "*.ckpt")
_GENES, _MEANS = ("model.h5ad", "data/model_means/model.h5ad"), "*_mean_script.npy"
_RELEASED = "nicheformer"
_N_SPECIAL = len(SPECIAL_TOKENS)
#: Heads of the released model, whose checkpoint does not say how many there are once it is fine-tuned.
_RELEASED_SIZE, _RELEASED_HEADS = 512, 16

_BODY = r"(?:nicheformer\.|backbone\.)?"
_LAYER = _BODY + r"encoder\.layers\.(\d+)\."
_TO = r"nicheformer.encoder.layer.\1."
_WB = r"(weight|bias)"


class Genes(NamedTuple):
    """The genes of a checkpoint, in order, and the mean of each over every technology that is at hand."""

    ids: Sequence[str]
    means: Mapping[str, NDArray[np.float64]]


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like a Nicheformer: its config.json, or a checkpoint with the genes of model.h5ad."""
    path = source.find("config.json")
    if path is not None and path.parent == source.home.absolute():
        return source.json(path).get("model_type") == "nicheformer"
    home = source.home
    if not any(home.glob("*.ckpt")):
        return False
    return (home / "model.h5ad").is_file() or any(home.glob(_MEANS)) or any(home.glob("nicheformer*.ckpt"))


def convert(source: SourceFolder, *, num_attention_heads: int | None = None) -> ConvertedCheckpoint:
    """Convert a Nicheformer of any layout.

    Parameters
    ----------
    source
        Its files. Roles: ``genes`` (``model.h5ad``) and ``technology_mean`` (one ``<technology>_mean_script.npy``); for
        the released genes both are known without.
    num_attention_heads
        Heads of a fine-tuned model: its checkpoint does not say; that of the released width has 16.
    """
    weights = source.weights(*_WEIGHTS)
    content = source.checkpoint(weights)
    lightning = "state_dict" in content
    tensors = dict(content["state_dict"] if lightning else content)
    options = dict(content.get("hyper_parameters") or {}) if lightning else _published(source)
    name = next((name for name in tensors if name.endswith("embeddings.weight") and "position" not in name), None)
    if name is None:
        raise CheckpointError(f"{weights} holds no embedding of genes (embeddings.weight): it is no Nicheformer.")
    n_tokens = _n_tokens(tensors, options)
    tokenizer, notes = _tokenizer(source, n_tokens)
    fine_tuned = "linear_head.weight" in tensors
    architecture = "NicheformerForSequenceClassification" if fine_tuned else "NicheformerForMaskedLM"
    if not fine_tuned and not any(one.endswith("classifier_head.weight") for one in tensors):
        architecture = "NicheformerModel"
    config = _config(tensors, options, n_tokens, num_attention_heads, fine_tuned=fine_tuned)
    tokenizer.model_max_length = config.max_position_embeddings
    renamed, records = apply_rules(tensors, _rules(n_tokens, fine_tuned=fine_tuned), where=weights.name)
    if architecture == "NicheformerModel":
        renamed, records = strip_prefix(renamed, records, "nicheformer.")
    return ConvertedCheckpoint(
        config=config,
        architecture=architecture,
        tensors=renamed,
        records=records,
        tokenizer=tokenizer,
        notes=notes,
    )


def _rules(n_tokens: int, *, fine_tuned: bool) -> tuple[Rename | Split | Drop, ...]:
    """What becomes of each tensor."""

    def of_tokens(table: Tensor) -> Tensor:
        return table[:n_tokens]

    head: tuple[Rename | Drop, ...] = (
        Rename(rf"classifier_head\.{_WB}", r"lm_head.\1"),
        Drop(r"pooler_head\..*|cls_head\..*", "the original never uses it"),
    )
    if fine_tuned:
        head = (
            Rename(r"linear_head\.weight", "classifier.out_proj.weight"),
            Rename(rf"pooler_head\.{_WB}", r"classifier.dense.\1"),
            Drop(r"backbone\.classifier_head\..*", "the head of masked genes, of no use to a fine-tuned model"),
            Drop(r"backbone\.(pooler|cls)_head\..*", "the original never uses it"),
        )
    return (
        *head,
        Drop(_BODY + r"pos", "positions are counted, not stored"),
        Drop(_BODY + r"encoder_layer\..*", "a template of the layers, which the original never uses"),
        # The original has five rows more than tokens, which no id names.
        Rename(_BODY + r"embeddings\.weight", "nicheformer.embeddings.word_embeddings.weight", of_tokens),
        Rename(_BODY + r"positional_embedding\.weight", "nicheformer.embeddings.position_embeddings.weight"),
        Split(
            _LAYER + rf"self_attn\.in_proj_{_WB}",
            tuple(_TO + f"attention.self.{part}." + r"\2" for part in ("query", "key", "value")),
        ),
        Rename(_LAYER + rf"self_attn\.out_proj\.{_WB}", _TO + r"attention.output.dense.\2"),
        Rename(_LAYER + rf"norm1\.{_WB}", _TO + r"attention.output.LayerNorm.\2"),
        Rename(_LAYER + rf"linear1\.{_WB}", _TO + r"intermediate.dense.\2"),
        Rename(_LAYER + rf"linear2\.{_WB}", _TO + r"output.dense.\2"),
        Rename(_LAYER + rf"norm2\.{_WB}", _TO + r"output.LayerNorm.\2"),
    )


def _published(source: SourceFolder) -> dict[str, Any]:
    """Options of the layout on the Hugging Face hub, by the names of the Lightning checkpoint."""
    return dict(source.json(source.need("config.json", what="the configuration beside model.safetensors")))


def _n_tokens(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> int:
    """Tokens that have a logit; the embedding has five rows more."""
    if "n_tokens" in options:
        return int(options["n_tokens"])
    for name, tensor in tensors.items():
        if name.endswith("classifier_head.bias"):
            return len(tensor)
    raise CheckpointError("The checkpoint says nowhere how many tokens there are (n_tokens, classifier_head.bias).")


def _config(
    tensors: Mapping[str, Tensor],
    options: Mapping[str, Any],
    n_tokens: int,
    num_attention_heads: int | None,
    *,
    fine_tuned: bool,
) -> NicheformerConfig:
    """Our configuration; sizes are read off the tensors, what they do not tell off the options."""
    sizes = {name.removeprefix("nicheformer.").removeprefix("backbone."): value for name, value in tensors.items()}
    width = sizes["embeddings.weight"].shape[1]
    learned = "positional_embedding.weight" in sizes
    positions = sizes["positional_embedding.weight"] if learned else sizes.get("pos")
    context = len(positions) if positions is not None else int(options.get("context_length", 1500))
    heads = num_attention_heads or options.get("nheads") or (_RELEASED_HEADS if width == _RELEASED_SIZE else None)
    if heads is None:
        raise CheckpointError(
            "A fine-tuned Nicheformer does not say how many attention heads it has, and its width is not that of the "
            "released model (512, 16 heads). Give them with num_attention_heads=."
        )
    return NicheformerConfig(
        vocab_size=n_tokens,
        hidden_size=width,
        num_hidden_layers=len({name.split(".")[2] for name in sizes if name.startswith("encoder.layers.")}),
        num_attention_heads=int(heads),
        intermediate_size=sizes["encoder.layers.0.linear1.weight"].shape[0],
        hidden_dropout_prob=options.get("dropout", 0.0),
        attention_probs_dropout_prob=options.get("dropout", 0.0),
        max_position_embeddings=context,
        position_type="learned" if learned else "sinusoidal",
        **(_of_the_head(tensors, options) if fine_tuned else {}),
    )


def _of_the_head(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the configuration that describe the head of a fine-tuned model."""
    task = options["supervised_task"]
    if task not in SUPERVISED_TASKS:
        raise CheckpointError(f"supervised_task {task!r} cannot run in the original, or is none of its tasks.")
    n_classes, n_numbers = int(options["n_classes"]), int(options["dim_prediction"])
    labels = {"niche_regression": n_numbers, "density_regression": 1}.get(task, n_classes)
    return {
        "num_labels": labels,
        "supervised_task": task,
        "num_cell_types": n_numbers if task == "niche_multiclass_classification" else 1,
        "feature_layers": [int(layer) + 1 for layer in options["extract_layers"]],
        "feature_combination": options["function_layers"],
        "classifier_context": not options.get("without_context", True),
        "classifier_dense": "pooler_head.weight" in tensors,
        "regress_distribution": bool(options.get("regress_distribution")) and task == "niche_regression",
        "ignore_zeros": bool(options.get("ignore_zeros")),
        # The head was trained on means over padding too.
        "pooling": "padded_mean",
    }


def _tokenizer(source: SourceFolder, n_tokens: int) -> tuple[CellTokenizer, tuple[str, ...]]:
    """The tokenizer of the genes beside the weights, else that of the released genes, and what is to be said of it."""
    path = source.find(*_GENES, role="genes")
    released = released_tokenizer(_RELEASED) if _RELEASED in released_tokenizers() else None
    if path is None:
        if released is None or len(released) != n_tokens:
            source.need(
                *_GENES,
                role="genes",
                what=f"the genes of the model in order ({n_tokens - _N_SPECIAL:,} here), from data/model_means of the "
                "authors' repository",
            )
        assert released is not None
        return released, ("No model.h5ad is at hand: the genes and technology means are those of the released model.",)
    ids = source.genes(path).index.astype(str).tolist()
    if len(ids) + _N_SPECIAL != n_tokens:
        raise CheckpointError(
            f"{path} has {len(ids):,} genes, the checkpoint {n_tokens - _N_SPECIAL:,}: they do not belong together."
        )
    given = source.find(role="technology_mean")
    folders = {source.home.absolute(), path.parent.absolute()}
    places = [given] if given is not None else sorted(file for folder in folders for file in folder.glob(_MEANS))
    means = {place.name.removesuffix("_mean_script.npy"): source.array(place).ravel() for place in places}
    wrong = [f"{name} ({len(values):,})" for name, values in means.items() if len(values) != len(ids)]
    if wrong:
        raise CheckpointError(f"Technology means of another number of genes than {len(ids):,}: {', '.join(wrong)}.")
    if means:
        return _make_tokenizer(Genes(ids, means)), ()
    if released is not None and set(ids) <= set(released.vocabulary.gene_tokens):
        rows = released.vocabulary.ids(ids)
        known = {name.removesuffix("_mean"): values[rows] for name, values in released.statistics.items()}
        return _make_tokenizer(Genes(ids, known)), (
            f"No {_MEANS} is at hand: the technology means are those of the released model.",
        )
    note = (
        f'No {_MEANS} is at hand: cells can be tokenised with technology_mean="none" only, which is not the training.'
    )
    return _make_tokenizer(Genes(ids, {})), (note,)


def _make_tokenizer(genes: Genes) -> CellTokenizer:
    """The tokenizer of some genes; mouse genes with a human ortholog go by its name."""
    special = {token.strip("<>"): token for token in SPECIAL_TOKENS}
    vocabulary = GeneVocabulary(
        [*SPECIAL_TOKENS, *genes.ids], special_tokens=special, id_kind="ensembl_id", species=("human", "mouse")
    )
    padding = np.full(_N_SPECIAL, np.nan)
    human = [gene for gene in genes.ids if gene.startswith("ENSG")]
    orthologs, _ = map_orthologs(human, source="human", target="mouse")
    options: dict[str, Any] = {}
    if len(genes.means) == 1 and "dissociated" not in genes.means:
        options["technology"] = next(iter(genes.means))
    return CellTokenizer.from_vocabulary(
        vocabulary,
        scheme="nicheformer",
        statistics={f"{name}_mean": np.concatenate([padding, values]) for name, values in genes.means.items()},
        identifiers={mouse: gene for gene, mouse in orthologs.items()},
        max_length=1500,
        **options,
    )


def released(vocabularies: Path) -> dict[str, tuple[CellTokenizer, dict[str, str]]]:
    """The tokenizer of the released model; called by ``scripts/build_released_tokenizers.py``."""
    table = pd.read_csv(vocabularies / "nicheformer" / "vocabulary.tsv.gz", sep="\t", keep_default_na=True)
    if table["token_id"].tolist() != list(range(_N_SPECIAL, _N_SPECIAL + len(table))):
        raise CheckpointError("The table of the vocabulary does not number its genes from 30 on.")
    means = {name.removesuffix("_mean"): table[name].to_numpy(np.float64) for name in table if name.endswith("_mean")}
    source = {
        "source": "github.com/theislab/nicheformer, data/model_means",
        "release": "SpatialCorpus-110M (2024)",
        "licence": "BSD-3-Clause",
    }
    return {_RELEASED: (_make_tokenizer(Genes(table["ensembl_id"].tolist(), means)), source)}
