"""Which public call gives which array of scPRINT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import torch

from parity.rules import Rule, RuleTable
from scfm_hf.cells import CellMatrix
from scfm_hf.genes import GeneMapper, GeneVocabulary
from scfm_hf.models.scprint.network_scprint import GeneNetwork
from scfm_hf.models.scprint.training_scprint import Pass, pretraining_step
from scfm_hf.tokenization.draws import SharedDraws
from scfm_hf.tokenization.profiles import GeneProjection

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context

    Array = NDArray[Any]

BASE, WHOLE = "AutoModel", "AutoModelForPreTraining"
SELECTIONS = {"most expr": "most_expressed", "random expr": "random", "some": "all"}
TERMS = {
    "expr": "expression",
    "expr_mvc": "cell_expression",
    "cls": "class",
    "adv_cls": "adversarial",
    "adv_batch": "batch",
    "ecs": "similarity",
    "class_emb_sim": "dissimilarity",
    "emb_independence": "dissimilarity",
}
PASSES = {"full_forward": "full", "mask_30%": "mask", "denoise_60%": "denoise", "gen": "generation"}


# -------------------------------------------------------------------------------------------------------------- tokens


def aligned(context: Context) -> anndata.AnnData:
    """The cells over all genes of the organism, as the original's preprocessing leaves them; 0 where one is absent."""

    def align() -> anndata.AnnData:
        (step,) = (one for one in context.golden.description["preprocess"] if one["step"] == "align")
        table = np.loadtxt(context.golden.checkpoint / step["to"], dtype=str, delimiter=",", skiprows=1)
        genes = table[table[:, 2] == step["organism"], 0]
        vocabulary = GeneVocabulary(genes.tolist(), special_tokens={}, id_kind="ensembl_id", species=())
        matrix = CellMatrix(context.adata(), gene_column=context.case.gene_column)
        mapping = GeneMapper(vocabulary, strip_versions=False, use_tables=False).map(matrix.gene_names.tolist())
        project = GeneProjection(mapping.indices)
        (block,) = matrix.blocks(matrix.n_cells)
        counts = np.zeros((matrix.n_cells, len(genes)), np.float32)
        counts[:, project.gene_ids] = project(block.counts).toarray()
        cells = anndata.AnnData(counts)
        cells.obs_names, cells.var_names = matrix.cell_ids, genes
        return cells

    return context.cached("aligned cells", align)


def aligned_counts(context: Context) -> Array:
    return aligned(context).X[list(context.cells)]


def encoded(context: Context, **options: Any) -> dict[str, Array]:
    """What the tokenizer gives; the original draws for all cells from one stream, cells in order."""
    return context.tokens(
        adata=aligned(context), gene_column="var_names", exact_names=True, min_overlap=0.0, key="aligned", **options
    )


def plain(name: str) -> Callable[[Context], Array]:
    """The highest counts."""

    def compute(context: Context) -> Array:
        longest = context.golden.description["tokenizer"]["max_len"]
        return with_ties(context, encoded(context, selection="most_expressed", max_length=longest), name)

    return compute


def with_ties(context: Context, found: Mapping[str, Array], name: str) -> Array:
    """Where several genes have a count, any of them may stand; those of the original must have that count, too."""
    if name != "input_ids":
        return found[name]
    ids, values = found["input_ids"].astype(float), found["values"]
    vocabulary = context.tokenizer().vocabulary
    stored = context.stored(context.name)
    for row, cell in enumerate(context.cells):
        profile = dict(zip(vocabulary.ids(aligned(context).var_names), aligned(context).X[cell], strict=True))
        counts = np.array(list(profile.values()))
        distinct = len(set(stored[row].tolist())) == len(stored[row])
        for place in range(ids.shape[1]):
            tied = values[row, place] > 0 and (counts == values[row, place]).sum() > 1
            if tied and distinct and profile.get(stored[row, place]) == values[row, place]:
                ids[row, place] = stored[row, place]
    return ids


def collation(context: Context) -> Array:
    """Tokens of a collation, which its name tells."""
    name, column = context.parts["collation"], context.name.rpartition(".")[2]
    told = context.golden.description["tokenizer"]
    options = told["collations"][name]
    if options["how"] == "some":
        return encoded(context, genes=told["grn_genes"])[column]
    draws = SharedDraws(options["numpy_seed"])
    adata = aligned(context)
    found = context.tokenizer()(
        adata, padding=True, return_tensors="np", gene_column="var_names", exact_names=True, min_overlap=0.0,
        selection=SELECTIONS[options["how"]], added_genes=options.get("add_zero_genes", 0),
        max_length=options["max_len"], shuffle="jan2025" in context.name, draws=draws,
    )  # fmt: skip
    found = {name: values[list(context.cells)] for name, values in found.items()}
    return with_ties(context, found, column) if options["how"] == "most expr" else found[column]


# -------------------------------------------------------------------------------------------------------------- models


def prepared(context: Context) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Whole numbers as such, and the flags of metacells, which the descriptions do not name as inputs."""

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        for name in ("input_ids", "class_ids", "batch_ids", "is_metacell"):
            if name in batch:
                batch[name] = batch[name].long()
        return batch

    return context.cached("prepare", lambda: prepare)


def run(context: Context, class_name: str = WHOLE, **call: Any) -> dict[str, Any]:
    return context.outputs(class_name, prepare=prepared(context), **call)


def field(name: str) -> Callable[[Context], Array]:
    return lambda context: run(context)[name]


def with_cells(context: Context, of_cells: Array, of_genes: Array) -> Array:
    """Tokens of the cell before those of its genes, where they go through the layers together."""
    return of_genes if apart(context) else np.concatenate([of_cells, of_genes], 1)


def apart(context: Context) -> bool:
    return context.model(BASE).config.cell_blocks


def inner(context: Context) -> dict[str, Any]:
    """What modules of the encoder get and give while it runs over the stored cells."""

    def record() -> dict[str, Any]:
        model, found = context.model(BASE), {}
        handles = [
            module.register_forward_pre_hook(lambda _, given, name=name: found.update({name: given[0]}))
            for name, module in model.named_modules()
            if name in ("norm", "cell_norm") or name.endswith(".attention")
        ]
        names = [name for name in ("input_ids", "values", "depth", "metacell") if name in context.golden.arrays]
        batch = {{"metacell": "is_metacell"}.get(name, name): torch.from_numpy(context.stored(name)) for name in names}
        with torch.no_grad():
            model(**prepared(context)(batch))
            for name, module in model.named_modules():
                if name.endswith(".attention") and not module.crossed:
                    found[f"{name}.qkv"] = torch.stack(module.project(found[name]), 2)
        for handle in handles:
            handle.remove()
        return {name: value.numpy() for name, value in found.items()}

    return context.cached(("inner", context.cells), record)


def hidden_states(context: Context) -> Array:
    """The last one is what the last norm gets."""
    layer = int(context.parts["layer"]) // (2 if apart(context) else 1)
    if layer == context.model(BASE).config.num_hidden_layers:
        return inner(context)["norm"]
    found = run(context, BASE, output_hidden_states=True)
    of_cells = found["cell_hidden_states"]
    return with_cells(context, of_cells[min(layer, len(of_cells) - 1)], found["hidden_states"][layer])


def cell_hidden_states(context: Context) -> Array:
    layer = int(context.parts["layer"])
    found = run(context, BASE, output_hidden_states=True)["cell_hidden_states"]
    return inner(context)["cell_norm"] if layer == len(found) - 1 else found[layer]


def queries_keys_values(context: Context) -> Array:
    """(n_cells, n_heads, 3, n_tokens, head_size) in the original's order of axes."""
    found = inner(context)[f"layers.{context.parts['layer']}.attention.qkv"]
    return found.transpose(0, 3, 2, 1, 4)


def last_hidden_state(context: Context) -> Array:
    found = run(context, BASE)
    if context.model(BASE).bottlenecks:
        # The original's are those before the bottlenecks.
        norm = context.model(BASE).norm
        with torch.no_grad():
            return norm(torch.from_numpy(inner(context)["norm"])).numpy()
    return with_cells(context, found["cell_states"], found["last_hidden_state"])


def cell_mean(context: Context) -> Array:
    """The mean over all cell tokens."""
    return context.outputs(BASE, load={"pooling": "mean"}, prepare=prepared(context))["cell_embedding"]


def class_logits(context: Context) -> Array:
    config = context.model(WHOLE).config
    return run(context)["class_logits"][config.class_names.index(context.options["class"])]


def classes(found: Mapping[str, Any]) -> Array:
    return np.stack([scores.argmax(1) for scores in found["class_logits"]], 1)


def predicted(how: Callable[..., dict[str, Any]]) -> Callable[[Context], Array]:
    """An array of a prediction: its embedding, labels, or counts."""
    names = {"embs": "cell_embedding", "mean": "mean", "disp": "dispersion", "zero_logits": "zero_logits"}

    def compute(context: Context) -> Array:
        part = context.name.rpartition(".")[2]
        found = how(context)
        return classes(found) if part == "class" else found[names[part]]

    return compute


def deeper(context: Context) -> dict[str, Any]:
    """Denoised: as if the cell had been read so many times deeper."""
    times = context.options["depth_mult"]

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        total = batch["values"].sum(1)
        return {**prepared(context)(batch), "depth": batch["depth"] * times, "total": total * times}

    return context.outputs(WHOLE, prepare=context.cached(("deeper", times), lambda: prepare))


def generated(context: Context) -> dict[str, Any]:
    """Counts from the tokens of the cell; the embedding is that of the cell itself."""
    first = run(context)

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        states = torch.from_numpy(first["cell_states"])
        total = batch.pop("values").sum(1)
        return {**prepared(context)(batch), "cell_states": states, "total": total}

    model = context.model(WHOLE)
    with torch.no_grad():
        found = model(**prepare({name: torch.from_numpy(value) for name, value in context.inputs().items()}))
    return {
        **{name: getattr(found, name).numpy() for name in ("mean", "dispersion", "zero_logits")},
        "class_logits": [scores.numpy() for scores in found.class_logits],
        "cell_embedding": first["cell_embedding"],
    }


# -------------------------------------------------------------------------------------------------------------- losses


def labelled(context: Context) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The counts are what is to be predicted."""

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return prepared(context)({**batch, "labels": batch["values"]})

    return context.cached("labelled", lambda: prepare)


def losses(context: Context) -> dict[str, Any]:
    """Terms and their sum; version 2 of the original cannot run the term of batches."""
    plain_sum = context.name == "loss.plain_total"
    load = {"profile_error": context.name in ("loss", "loss.expr")}
    if plain_sum:
        load |= {"similarity_weight": 0.0, "adversarial_weight": 0.0}
    if context.name == "loss.nb":
        load["zero_inflated"] = False
    first = context.model(BASE).config.base_first and not plain_sum
    rename = {} if first else {"batch": None}
    return context.outputs(WHOLE, load=load, rename=rename, prepare=labelled(context))


def term(context: Context) -> Array:
    return losses(context)["terms"][TERMS[context.name.removeprefix("loss.").removeprefix("plain_")]]


def class_loss(context: Context) -> Array:
    """The term of one class: of the others nothing is known."""
    place = context.model(BASE).config.class_names.index(context.options["class"])

    def prepare(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        known = torch.full_like(batch["class_ids"], -1)
        known[:, place] = batch["class_ids"][:, place]
        return prepared(context)({**batch, "class_ids": known})

    found = context.outputs(WHOLE, rename={"batch": None}, prepare=context.cached(("class", place), lambda: prepare))
    return found["terms"]["class"]


def step(context: Context) -> tuple[Array, dict[str, Array]]:
    """A step of pretraining on the recorded draws."""

    def train() -> tuple[Array, dict[str, Array]]:
        first = context.model(BASE).config.base_first
        model = context.model(WHOLE, first_version_contrast=first, contrastive_temperature=0.5)
        given = {name: torch.from_numpy(value) for name, value in context.inputs().items()}
        noisy = [given.pop(name) for name in sorted(given) if name.startswith("noisy")]
        (masked,) = (given.pop(name).bool() for name in sorted(given) if name.startswith("mask."))
        batch = prepared(context)(given)
        if not first:
            del batch["batch_ids"]
        hidden = Pass("mask", None if first else noisy[0], masked, predicts_input=not first)
        with torch.no_grad():
            loss, terms = pretraining_step(model, batch, [hidden, Pass("denoise", noisy[-1])])
        return loss.numpy(), {name: value.numpy() for name, value in terms.items()}

    return context.cached("step", train)


def step_term(context: Context) -> Array:
    name = context.name.removeprefix("train.loss.")
    if name == "cce":
        return step(context)[1]["contrast"]
    place, _, _ = next((theirs, ours, None) for theirs, ours in PASSES.items() if name.startswith(f"{theirs}_"))
    made = f"{PASSES[place]}.{TERMS[name.removeprefix(f'{place}_')]}"
    # The first pass has no term of the expression.
    return np.zeros(1) if made == "full.expression" else step(context)[1][made]


# --------------------------------------------------------------------------------------------------------- whole tasks


def task(context: Context, times: float = 1) -> dict[str, Any]:
    """The chosen genes of all cells, as the original's tasks run them."""

    def compute() -> dict[str, Any]:
        model, tokens = context.model(WHOLE), context.golden.description["tokenizer"]
        found = encoded(context, genes=tokens["grn_genes"])
        batch = {name: torch.from_numpy(value) for name, value in found.items()}
        total = batch["values"].sum(1) * times
        with torch.no_grad():
            made = model(**{**batch, "depth": batch["depth"] * times}, total=total)
        logits = [scores.numpy() for scores in made.class_logits]
        return {**{k: v.numpy() for k, v in made.items() if hasattr(v, "numpy")}, "class_logits": logits}

    return context.cached(("task", times, context.cells), compute)


def denoised(name: str) -> Callable[[Context], Array]:
    return lambda context: task(context, context.options["depth_mult"])[name]


def network(context: Context) -> Array:
    """A network over the cells and genes of the original."""
    options = context.options
    layers = options.get("layer")
    if layers is None and apart(context):
        # The original counts blocks, two a layer, and reads the first half alone.
        layers = range(context.model(BASE).config.num_hidden_layers // 2)

    def collect() -> GeneNetwork:
        collected = GeneNetwork(context.model(BASE), layers=layers)
        chosen = encoded(context, genes=context.golden.description["tokenizer"]["grn_genes"])
        collected.update(**{name: torch.from_numpy(value) for name, value in chosen.items()})
        return collected

    collected = context.cached(("network", str(layers)), collect)
    if options["preprocess"] == "sinkhorn":
        # The original cuts the cell tokens from an axis too many, and repeats the result along another.
        cut = collected.weights("sinkhorn").mean(0)[collected.n_cell_tokens :].numpy()
        return np.broadcast_to(cut, (len(cut), *cut.shape))
    return collected.network(
        weighting=options["preprocess"],
        heads=options["head_agg"],
        symmetric=options.get("symmetrize", False),
        threshold=options.get("filtration") == "thresh",
        top=options.get("k") if options.get("filtration") == "top-k" else None,
    ).numpy()


TABLE = RuleTable(
    family="scprint",
    inputs=("input_ids", "values", "depth", "metacell"),
    renames={"mask": "masked", "metacell": "is_metacell", "class": "class_ids", "batch": "batch_ids"},
    rules=(
        Rule("aligned_counts", aligned_counts, section="tokens"),
        Rule("input_ids", plain("input_ids"), section="tokens"),
        Rule("values", plain("values"), section="tokens"),
        Rule("depth", plain("depth"), section="tokens"),
        Rule("collate.{collation}.*", collation, section="tokens"),
        Rule("hidden_states.{layer}", hidden_states, section="hidden states"),
        Rule("cell_hidden_states.{layer}", cell_hidden_states, section="hidden states"),
        Rule("qkv.{layer}", queries_keys_values, section="queries, keys, values"),
        Rule("last_hidden_state", last_hidden_state, section="hidden states"),
        Rule("gene_embedding", lambda context: run(context, BASE)["last_hidden_state"], section="hidden states"),
        Rule(("cell_embs", "masked.cell_embs"), field("cell_states"), section="cell embedding"),
        Rule("cell_emb", cell_mean, section="cell embedding"),
        Rule("cell_embedding", field("cell_embedding"), section="cell embedding"),
        Rule(("logits.mean", "masked.mean"), field("mean"), section="counts"),
        Rule("logits.disp", field("dispersion"), section="counts"),
        Rule("logits.zero_logits", field("zero_logits"), section="counts"),
        Rule("mvc_mean", field("cell_mean"), section="counts from the cell"),
        Rule("mvc_disp", field("cell_dispersion"), section="counts from the cell"),
        Rule("mvc_zero_logits", field("cell_zero_logits"), section="counts from the cell"),
        Rule("cls_output_*", class_logits, section="classes"),
        Rule("predict.*", predicted(run), section="prediction"),
        Rule("denoise.*", predicted(deeper), section="denoising"),
        Rule("generate.*", predicted(generated), section="generation"),
        Rule(("loss", "loss.plain_total"), lambda context: losses(context)["loss"], section="losses"),
        Rule("loss.nb", lambda context: losses(context)["terms"]["expression"], section="losses"),
        Rule("loss.classification.*", class_loss, section="losses"),
        Rule("loss.*", term, section="losses"),
        Rule("train.total", lambda context: step(context)[0], section="training step"),
        Rule("train.loss.*", step_term, section="training step"),
        Rule("embedder.scprint_emb", lambda context: task(context)["cell_embedding"], section="cell embedding"),
        Rule("embedder.pred", lambda context: classes(task(context)), section="classes"),
        Rule("denoiser.scprint_mu", denoised("mean"), section="denoising"),
        Rule("denoiser.scprint_theta", denoised("dispersion"), section="denoising"),
        Rule("denoiser.scprint_pi", denoised("zero_logits"), section="denoising"),
        Rule("grn.*", network, section="gene network"),
    ),
)
