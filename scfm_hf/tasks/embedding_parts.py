"""Embeddings kept on disk part by part while they are made: ranks share the work, and a run that was killed goes on."""

from __future__ import annotations

import json
import shutil
import uuid
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from scfm_hf.errors import CorpusError
from scfm_hf.tasks.forward import embedded_batches
from scfm_hf.tasks.ranks import ranks_together
from scfm_hf.tokenization.ragged import Ragged

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from scfm_hf.tasks.loading import LoadedModel
    from scfm_hf.tokenization.encoding import EncodedCells

#: Cells a part, at least: few enough that little is lost with a run that is killed.
_CELLS_A_PART = 1024


def embed_in_parts(
    encoded: EncodedCells,
    loaded: LoadedModel,
    batches: Iterable[NDArray[np.int64]],
    folder: str | os.PathLike[str],
    *,
    pooling: str | None = None,
    embedding_layer: int | None = None,
    progress: bool = False,
) -> NDArray[np.float32] | None:
    """Embed batches of cells; the ranks of torchrun take turns by parts.

    Every part is computed in the same batches whatever the ranks, so that the result is the same bit for bit (with as
    many threads).

    Parameters
    ----------
    encoded, loaded
        Cells and model, the same on every rank.
    batches
        Rows of each batch; together every row once.
    folder
        Where parts are kept, on a file system that all ranks see. Parts that an earlier run left are used; the folder
        is removed in the end.
    pooling, embedding_layer
        As in :func:`scfm_hf.embed`.
    progress
        Show a progress bar on the first rank.

    Returns
    -------
    float32, (n_cells, hidden_size), on the first rank; None on the others.

    Raises
    ------
    CorpusError
        If the folder holds parts of other cells, of another model or recipe.
    """
    recipe: dict[str, Any] = {"pooling": pooling, "embedding_layer": embedding_layer}
    parts = list(_parts(batches))
    with ranks_together() as ranks:
        kept = KeptParts(folder, description=_description(encoded, loaded, parts, recipe))
        ranks.meet()
        missing = [number for number in range(len(parts)) if number not in kept]
        ranks.meet()  # no part appears before all have looked
        mine = missing[ranks.rank :: ranks.world_size]
        shown = progress and ranks.rank == 0
        bar = tqdm(total=sum(_n_cells(parts[number]) for number in mine), unit="cell", desc="embed", disable=not shown)
        with bar:
            for number in mine:
                made = list(embedded_batches(encoded, loaded, parts[number], **recipe))
                kept.write(number, np.concatenate([vectors for _, vectors in made]))
                bar.update(_n_cells(parts[number]))
        ranks.meet()
        vectors = kept.together(parts, len(encoded)) if ranks.rank == 0 else None
        if ranks.rank == 0:
            kept.remove()
        return vectors


class KeptParts:
    """Parts of an embedding in a folder, each a ``.npy`` file that appears whole or not at all.

    Parameters
    ----------
    folder
        Made if it is not there.
    description
        What the parts are of, in plain values; parts of anything else are refused.
    """

    def __init__(self, folder: str | os.PathLike[str], *, description: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        listing = self.folder / "embedding.json"
        if not listing.exists():
            if any(self.folder.glob("[!.]*")) and not listing.exists():
                raise CorpusError(f"{folder} is not empty, and holds no parts of an embedding. Name another folder.")
            self._write(listing, json.dumps(dict(description), indent=1).encode())
        found = json.loads(listing.read_text(encoding="utf-8"))
        different = [name for name, value in description.items() if found.get(name) != value]
        if different:
            raise CorpusError(
                f"{folder} holds parts of another embedding ({', '.join(different)} differ). Remove it, or name "
                "another folder."
            )

    def __contains__(self, number: int) -> bool:
        return self._path(number).exists()

    def write(self, number: int, vectors: NDArray[np.float32]) -> None:
        """Keep a part."""
        from io import BytesIO

        written = BytesIO()
        np.save(written, vectors, allow_pickle=False)
        self._write(self._path(number), written.getvalue())

    def together(self, parts: list[list[NDArray[np.int64]]], n_cells: int) -> NDArray[np.float32]:
        """All parts in the order of the cells, float32, (n_cells, hidden_size)."""
        result: NDArray[np.float32] | None = None
        for number, rows in enumerate(parts):
            vectors = np.load(self._path(number), allow_pickle=False)
            if result is None:
                result = np.empty((n_cells, vectors.shape[1]), np.float32)
            result[np.concatenate(rows)] = vectors
        if result is None:
            raise ValueError("There is no cell to embed.")
        return result

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npy"

    def _write(self, path: Path, content: bytes) -> None:
        """Write a file beside its place and move it there; ranks may do so at once."""
        new = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        try:
            new.write_bytes(content)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def _parts(batches: Iterable[NDArray[np.int64]]) -> Iterator[list[NDArray[np.int64]]]:
    """Batches that come one after the other, joined to parts."""
    part: list[NDArray[np.int64]] = []
    for rows in batches:
        part.append(rows)
        if _n_cells(part) >= _CELLS_A_PART:
            yield part
            part = []
    if part:
        yield part


def _n_cells(part: list[NDArray[np.int64]]) -> int:
    return sum(map(len, part))


def _description(
    encoded: EncodedCells, loaded: LoadedModel, parts: list[list[NDArray[np.int64]]], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides on the numbers: cells as encoded, weights, recipe, and how cells are joined to batches and parts."""
    cells, model, cut = blake2b(digest_size=16), blake2b(digest_size=16), blake2b(digest_size=16)
    cells.update("\n".join(map(str, encoded.cell_ids)).encode())
    for name, column in encoded.columns.items():
        cells.update(name.encode())
        for array in (column.values, column.offsets) if isinstance(column, Ragged) else (column,):
            cells.update(np.ascontiguousarray(array).view(np.uint8).data)
    for name, tensor in loaded.model.state_dict().items():
        model.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        model.update(_bytes_of(tensor))
    for part in parts:
        for rows in part:
            cut.update(f"{len(rows)} ".encode())
        cut.update(b"\n")
    return {
        "n_cells": len(encoded),
        "cells": cells.hexdigest(),
        "model": model.hexdigest(),
        "batches": cut.hexdigest(),
        **recipe,
    }


def _bytes_of(tensor: Any) -> Any:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
