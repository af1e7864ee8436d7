"""Batches of cells of like length: less padding, in an order that a key alone decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfm_hf.tokenization.draws import permutation

if TYPE_CHECKING:
    from numpy.typing import NDArray


def bucket_by_length(
    lengths: NDArray[np.integer], *, batch_size: int, bucket_batches: int, key: str, first: int = 0
) -> NDArray[np.int64]:
    """Rearrange cells so that the batches cut from them hold cells of like length.

    Every ``bucket_batches`` batches in a row are a bucket: its cells are sorted by length, cut into batches, and the
    batches come in random order. A cell stays in its bucket, so that the mixing of the buckets is that of the order
    given.

    Parameters
    ----------
    lengths
        Tokens of the cells in the order in which they come, (n_cells,).
    batch_size
        Cells a batch.
    bucket_batches
        Batches a bucket: more of them leave less padding, and mix less.
    key
        Decides the order of the batches.
    first
        Place of the first cell among all; batches begin at the multiples of ``batch_size``. Cells of a batch that is
        not whole here stay where they are.

    Returns
    -------
    Which of the cells comes at each place, int64, (n_cells,).
    """
    order = np.arange(len(lengths))
    start = -first % batch_size
    n_batches = (len(lengths) - start) // batch_size
    for number, begin in enumerate(range(0, n_batches, bucket_batches)):
        size = min(bucket_batches, n_batches - begin)
        cells = order[start + begin * batch_size : start + (begin + size) * batch_size]
        by_length = cells[np.argsort(lengths[cells], kind="stable")].reshape(size, batch_size)
        cells[:] = by_length[permutation(f"{key}\x1fbucket\x1f{number}", size)].ravel()
    return order
