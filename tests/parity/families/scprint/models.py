"""What scPRINT's encoder and heads give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from parity.families.scprint.tokens import encoded
from scfm_hf.models.scprint.network_scprint import GeneNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from parity.context import Context

    Array = NDArray[Any]

BASE, WHOLE = "AutoModel", "AutoModelForPreTraining"


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
