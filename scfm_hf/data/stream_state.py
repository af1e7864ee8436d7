"""What the state of a stream says of its order and files, and which states belong to another corpus."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from scfm_hf.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from scfm_hf.data.corpus_file import CorpusFile
    from scfm_hf.data.order import CorpusOrder


def describe_order(
    order: CorpusOrder, weights: NDArray[np.float64] | None, keep: NDArray[np.bool_] | None = None
) -> dict[str, Any]:
    """All that decides an order beside the epoch, in plain values."""
    described: dict[str, Any] = {
        "seed": order.seed,
        "block_size": order.block_size,
        "window_size": order.window_size,
        "weights": None if weights is None else sha256(weights.tobytes()).hexdigest()[:16],
    }
    if len(order) < order.n_cells.sum():
        described["cells"] = sha256(order.cells.tobytes()).hexdigest()[:16]
    if keep is not None:
        described["keep"] = sha256(keep.tobytes()).hexdigest()[:16]
    if order.buckets is not None:
        described["buckets"] = {
            "batch_size": order.buckets.batch_size,
            "bucket_batches": order.buckets.bucket_batches,
            "longest": int(order.buckets.lengths.max(initial=0)),
        }
    return described


def refuse_other_order(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CorpusError unless a state is of this order."""
    different = sorted(name for name in {*now, *saved} if saved.get(name) != now.get(name))
    if different:
        raise CorpusError(
            f"The state belongs to another order: {', '.join(different)} differ. Load the corpus with the options of "
            "the run that is to go on."
        )


def refuse_other_files(saved: Sequence[Sequence[str]], files: Sequence[CorpusFile]) -> None:
    """Raise CorpusError unless a state, which has place and digest of each file, is of these files."""
    if len(saved) != len(files):
        now = {file.digest for file in files}
        gone = [place for place, digest in saved if digest not in now]
        raise CorpusError(
            f"The state belongs to a corpus of {len(saved)} files, this one has {len(files)}. "
            f"Missing or changed: {', '.join(gone[:3]) or 'none'}. Give the files of the run that is to go on."
        )
    changed = [file.place for file, (_, digest) in zip(files, saved, strict=True) if file.digest != digest]
    if changed:
        raise CorpusError(
            f"{len(changed)} of {len(saved)} files are not those of the state (first: {', '.join(changed[:3])}): "
            "they were changed, or their order is another. Put the old ones back, or start the epoch anew."
        )
