"""What a rule has at hand: the array's description, the cells, the converted model, the original's way of batching."""

from __future__ import annotations

import copy
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from parity.batches import Input, as_arrays, join, make_batch, reorder
from parity.variant import Pass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import anndata
    from numpy.typing import NDArray

    from parity.golden import Case, Golden, GoldenArray
    from parity.variant import Variant


class Context:
    """What a rule computes an array from.

    Parameters
    ----------
    variant
        Where the array belongs.
    array
        What is to be computed.
    weights
        Key of the weights to use.
    parts
        Parts of the array's name that the rule's pattern names.
    """

    def __init__(self, variant: Variant, array: GoldenArray, weights: str | None, parts: Mapping[str, str]) -> None:
        self._variant = variant
        self.golden: Golden = variant.golden
        self.array, self.weights, self.parts = array, weights, parts
        self.name, self.options = array.name, array.options
        self.case: Case = self.golden.case(array.case)
        #: Positions into the rows of the case, one a line of the array.
        self.cells: tuple[int, ...] = self.golden.cells_of(array)

    # ------------------------------------------------------------------------------------------------ what is stored

    def stored(self, name: str) -> NDArray[Any]:
        """A stored array, cut to this array's cells."""
        return self.golden.lines(name, self.cells)

    def adata(self) -> anndata.AnnData:
        """All cells of the case, a copy."""
        return self.case.cells()

    def seed(self, generator: str) -> int:
        """Seed of the first draw whose name starts with a generator's name (``numpy``, ``torch``)."""
        return next(seed for draw, seed in self.array.seeds.items() if draw.startswith(generator))

    # ----------------------------------------------------------------------------------------------- what is loaded

    def using(self, weights: str | None) -> Self:
        """The same with other weights: a key of ``weights``, or one that the table's ``conversion`` knows."""
        return type(self)(self._variant, self.array, weights, self.parts)

    @property
    def folder(self) -> Path:
        """Folder of the converted model."""
        return self._variant.cached(("folder", self.weights), lambda: self._variant.convert(self.weights))

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """Something that several arrays of the variant need, made once a key."""
        return self._variant.cached(("rule", key), make)

    def tokenizer(self) -> Any:
        """The converted tokenizer, by AutoTokenizer."""
        from transformers import AutoTokenizer

        folder = self.folder
        return self._variant.cached(("tokenizer", folder), lambda: AutoTokenizer.from_pretrained(folder))

    def tokens(
        self, *, adata: anndata.AnnData | None = None, key: Any = None, **options: Any
    ) -> dict[str, NDArray[Any]]:
        """What the tokenizer gives for all cells of the case, padded, as arrays; lines of this array's cells alone.

        Parameters
        ----------
        adata
            The cells, where they are not those of the file; give a ``key`` that tells them apart.
        key
            Beside the options, what tells this call from others of the case.
        **options
            Options of the call; ``gene_column`` is the case's if left out.
        """
        options = {"gene_column": self.case.gene_column, **options}

        def encode() -> dict[str, NDArray[Any]]:
            cells = adata if adata is not None else self.adata()
            return dict(self.tokenizer()(cells, padding=True, return_tensors="np", **options))

        encoded = self._variant.cached(
            ("tokens", self.folder, self.case.name, key, repr(sorted(options.items()))), encode
        )
        return {name: values[list(self.cells)] for name, values in encoded.items()}

    def model(self, class_name: str, **options: Any) -> nn.Module:
        """A model by an Auto class (transformers' or ours) or by a class of the family, in evaluation mode.

        ``options`` go to ``from_pretrained``; fields of the configuration are replaced so. The model is shared: do not
        change it.
        """
        folder = self.folder

        def load() -> nn.Module:
            return self._class(class_name).from_pretrained(folder, **options).eval()

        return self._variant.cached(("model", folder, class_name, repr(sorted(options.items()))), load)

    def _class(self, name: str) -> Any:
        from scfm_hf.models.auto import auto_class
        from scfm_hf.models.registry import families

        return auto_class(name) if name.startswith("Auto") else families()[self.golden.family].load_class(name)

    def tensor_name(self, original: str) -> str:
        """Name of a tensor in the converted model, from its name in the original's checkpoint."""
        report = self._variant.cached(
            ("report", self.folder), lambda: json.loads((self.folder / "conversion_report.json").read_text())
        )
        names = {record["source"].removeprefix("module."): record["target"] for record in report["tensors"]}
        return names[original]

    # --------------------------------------------------------------------------------------------- what is computed

    def inputs(self, *, rename: Mapping[str, str | None] | None = None) -> dict[str, NDArray[Any]]:
        """The stored inputs of the call, lines for this array's cells: those that ``inputs`` names, else the plain
        ones of its case.

        ``rename`` maps arguments in the goldens' words to those of ``forward`` (None drops one); the family's
        ``renames`` hold too.
        """
        return {name: given.values for name, given in self._inputs(rename).items()}

    def batch(self, *, rename: Mapping[str, str | None] | None = None) -> dict[str, Tensor]:
        """The same as tensors, all lines in one padded batch."""
        return make_batch(self._inputs(rename), list(range(len(self.cells))), trim=True)

    def _inputs(self, rename: Mapping[str, str | None] | None) -> dict[str, Input]:
        renames = {**self._variant.table.renames, **(rename or {})}
        found: dict[str, Input] = {}
        for argument, source in self._sources().items():
            target = renames.get(argument, argument)
            if target is None or source is None:
                continue
            described = self.golden.arrays[source.removeprefix("~")]
            values = self._token_mask(described.name) if source.startswith("~") else self.stored(source)
            found[target] = Input(argument, values, described.has_cells, (described.axis or ())[1:2] == ("token",))
        return found

    def _sources(self) -> dict[str, str | None]:
        """Argument -> stored array; ``~x`` stands for the mask of the real tokens in ``x``."""
        plain = self._variant.table.inputs
        if self.array.inputs is not None:
            named = dict(self.array.inputs)
        else:
            prefix = f"{self.array.case}." if self.array.case else ""
            named = {name: f"{prefix}{name}" for name in plain if f"{prefix}{name}" in self.golden.arrays}
        if named.get("input_ids") and "attention_mask" in plain and "attention_mask" not in named:
            named["attention_mask"] = f"~{named['input_ids']}"
        return named

    def _token_mask(self, name: str) -> NDArray[np.int64]:
        return (self.stored(name) != self.tokenizer().pad_token_id).astype(np.int64)

    def groups(self) -> list[list[int]]:
        """Lines that went through the original together, by ``batch``: positions into ``cells``."""
        lines = list(range(len(self.cells)))
        batch = self.array.batch
        if batch == "all":
            return [lines]
        if batch == "obs_batch":
            names = np.asarray(self.golden.names(self.options["obs_batch"]))[list(self.cells)]
            return [np.flatnonzero(names == name).tolist() for name in np.unique(names)]
        size = 1 if batch is None else int(batch)
        return [lines[start : start + size] for start in range(0, len(lines), size)]

    def outputs(
        self,
        class_name: str,
        *,
        load: Mapping[str, Any] | None = None,
        rename: Mapping[str, str | None] | None = None,
        method: str = "forward",
        trim: bool = True,
        prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        per_call: Sequence[str] = (),
        together: bool = False,
        **call: Any,
    ) -> dict[str, Any]:
        """Fields of the model's output for this array's cells, run in the groups of the original.

        Parameters
        ----------
        class_name, load
            Class of the model and options of loading, see :meth:`model`.
        rename
            See :meth:`inputs`.
        method
            Method to call in place of ``forward``.
        trim
            Cut each group to its longest cell, as the original did; what is cut comes back as NaN.
        prepare
            Last change to the batch of a group before the call; a function of the table's module.
        per_call
            Fields without cell axis: they come with one line a group. Numbers always do.
        together
            Run all cells in one batch, whatever the array says: for draws that the original made for the batch.
        **call
            Further arguments of the call.

        Returns
        -------
        Arrays by field, the groups joined along the cells; a number for the call comes as one number a group. An array
        with seeds
        runs with torch and NumPy seeded as the original, one in train mode on a model of its own.
        """
        load = dict(load or {})
        inputs = self._inputs(rename)
        alone = self.array.mode == "train" or bool(self.array.seeds)

        def run(lines: Sequence[int]) -> Any:
            batch = make_batch(inputs, lines, trim=trim)
            batch = prepare(batch) if prepare is not None else batch
            model = self.model(class_name, **load)
            if self.array.mode == "train":
                model = copy.deepcopy(model).train()
            with torch.no_grad():
                return as_arrays(
                    getattr(model, method)(**batch, **call) if method != "forward" else model(**batch, **call)
                )

        key = (
            "run",
            self.folder,
            class_name,
            method,
            trim,
            prepare,
            repr((load, call)),
            str(self._sources()),
            str(rename),
        )
        groups = [list(range(len(self.cells)))] if together else self.groups()
        if alone:
            seeds = (self.array.mode, str(self.array.seeds), str(groups), self.cells)

            def run_all() -> list[Any]:
                with self.seeded():
                    return [run(lines) for lines in groups]

            results = self._variant.cached((*key, seeds), run_all)
        else:
            results = [
                self._variant.cached(
                    (*key, self.array.case, tuple(self.cells[line] for line in lines)), lambda lines=lines: run(lines)
                )
                for lines in groups
            ]
        joined, order = join(results, per_call), np.concatenate(groups)
        return joined if (order == np.sort(order)).all() else reorder(joined, np.argsort(order))

    def training_pass(
        self,
        class_name: str,
        loss: Callable[[Any], Tensor] | None = None,
        *,
        load: Mapping[str, Any] | None = None,
        rename: Mapping[str, str | None] | None = None,
        prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        **call: Any,
    ) -> Pass:
        """One forward and backward pass over all of this array's cells, in its mode, on a model of its own.

        Parameters
        ----------
        class_name, load, rename, prepare, call
            See :meth:`outputs`.
        loss
            What is differentiated, from the model's output: a function of the table's module; the field ``loss`` if
            left out.
        """
        load = dict(load or {})

        def run() -> Pass:
            model = copy.deepcopy(self.model(class_name, **load)).train(self.array.mode == "train")
            batch = make_batch(self._inputs(rename), list(range(len(self.cells))), trim=True)
            batch = prepare(batch) if prepare is not None else batch
            with self.seeded():
                found = model(**batch, **call)
            (found.loss if loss is None else loss(found)).backward()
            gradients = {
                name: (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).numpy()
                for name, parameter in model.named_parameters()
            }
            state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
            return Pass(as_arrays(found), gradients, state)

        call_key = (self.folder, class_name, loss, prepare, repr((load, call)), str(self._sources()), str(rename))
        return self._variant.cached(("pass", *call_key, self.cells, self.array.mode, str(self.array.seeds)), run)

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Global generators of torch and NumPy seeded as the array's ``seeds`` say; put back afterwards."""
        numpy_state = np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            for draw, seed in self.array.seeds.items():
                if draw.startswith("torch"):
                    torch.manual_seed(seed)
                elif draw.startswith("numpy"):
                    np.random.seed(seed)
            try:
                yield
            finally:
                np.random.set_state(numpy_state)
