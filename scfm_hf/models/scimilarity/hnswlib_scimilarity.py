"""Vectors out of an index file of hnswlib, without hnswlib; its graph is not needed where search is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

#: Beginning of the file: offset of the links, capacity, elements, bytes an element, offsets of label and vector.
_HEADER = np.dtype([(name, "<u8") for name in ("links", "capacity", "elements", "size", "label", "vector")])
#: All of it, with the shape of the graph.
_HEADER_SIZE = 96


def read_hnswlib(path: Path) -> NDArray[np.float32]:
    """Read the vectors of an index.

    Parameters
    ----------
    path
        File that ``hnswlib.Index.save_index`` wrote, of float32 vectors numbered 0, 1, 2 ...

    Returns
    -------
    float32, (n_elements, n_dimensions), in the order of their numbers; of unit length in an index of cosine distance.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, or no such index.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file. The authors' download holds it in annotation/ or cellsearch/.")
    available = path.stat().st_size - _HEADER_SIZE
    header = np.fromfile(path, _HEADER, count=1)
    fields = {name: int(header[name][0]) for name in _HEADER.names or ()} if available > 0 else {}
    n_elements, size = fields.get("elements", 0), fields.get("size", 0)
    width = (fields.get("label", 0) - fields.get("vector", 0)) // 4
    if width < 1 or size != fields["label"] + 8 or n_elements > fields["capacity"]:
        raise CheckpointError(f"{path} is no index file of hnswlib with float32 vectors.")
    if n_elements * size > available:
        raise CheckpointError(
            f"{path} promises {n_elements} cells and holds {available // size}: it is truncated. Fetch it again."
        )
    element = np.dtype(
        {
            "names": ["vector", "label"],
            "formats": [("<f4", (width,)), "<u8"],
            "offsets": [fields["vector"], fields["label"]],
            "itemsize": size,
        }
    )
    elements = np.memmap(path, element, mode="r", offset=_HEADER_SIZE, shape=(n_elements,))
    labels = np.asarray(elements["label"], np.int64)
    if not np.array_equal(np.sort(labels), np.arange(n_elements)):
        raise CheckpointError(f"{path} does not number its cells 0, 1, 2 ...: which metadata are whose is not known.")
    vectors = np.empty((n_elements, width), np.float32)
    vectors[labels] = elements["vector"]
    return vectors
