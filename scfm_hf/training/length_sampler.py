"""Batches of cells of like length from a map-style data set, in an order that is exact when a run goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

from scfm_hf.tokenization.draws import permutation
from scfm_hf.tokenization.length_buckets import bucket_by_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class LengthBucketSampler(Sampler[int]):
    """Numbers of cells, those of like length together; the order depends on the seed and the epoch alone.

    The sampler of transformers draws from the global generator when an epoch begins: a run that goes on in the middle
    of one would see some cells twice and others not at all.

    Parameters
    ----------
    lengths
        Tokens of each cell.
    batch_size
        Cells a batch.
    bucket_batches
        Batches whose cells are sorted together.
    seed
        Any whole number.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, bucket_batches: int = 50, seed: int = 0) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        self.batch_size, self.bucket_batches, self.seed = batch_size, bucket_batches, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        key = f"{self.seed}\x1f{self._epoch}"
        mixed = permutation(key, len(self.lengths))
        sizes = {"batch_size": self.batch_size, "bucket_batches": self.bucket_batches}
        yield from mixed[bucket_by_length(self.lengths[mixed], **sizes, key=key)].tolist()
