"""A corpus on Ray Data: the same code on a laptop and on a cluster, reading by blocks of rows of files."""

from __future__ import annotations

import os
import pickle
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_hf.data.interchange import arrow_schema, arrow_table
from scfm_hf.data.order import Window
from scfm_hf.errors import MissingExtraError, ScfmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa
    import ray

    from scfm_hf.data.stream import CellStream

#: Rows that a task reads, and hands on, at a time.
_ROWS_A_TABLE = 512


def to_ray(stream: CellStream, *, rows_per_task: int = 4096) -> ray.data.Dataset:
    """See :meth:`scfm_hf.data.stream.CellStream.to_ray`."""
    start_ray()
    import ray
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    schema, shared = arrow_schema(stream), ray.put(stream)
    blocks = stream.stored_blocks
    size = max(1, rows_per_task // int(blocks.sizes.max()))

    class StoredCells(Datasource):
        """The blocks of rows of a corpus."""

        def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
            return [self._task(first, min(first + size, len(blocks))) for first in range(0, len(blocks), size)]

        def _task(self, first: int, last: int) -> ReadTask:
            rows = int(blocks[slice(first, last)].sizes.sum())
            metadata = BlockMetadata(num_rows=rows, size_bytes=None, exec_stats=None, input_files=None)
            return ReadTask(lambda: _tables(shared, schema, first, last), metadata, schema=schema)

        def estimate_inmemory_data_size(self) -> int | None:
            return None

    return ray.data.read_datasource(StoredCells(), override_num_blocks=-(-len(blocks) // size))


def map_on_ray(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """What a function gives for each of some items, in tasks of Ray Data, as they are done.

    Parameters
    ----------
    function
        Goes to the machines of the cluster once; everything that it holds must pickle.
    items
        Plain values.

    Raises
    ------
    ScfmError
        What the function raised of this kind, as it raised it; other errors come as those of Ray.
    """
    with ray_session():
        import ray

        shared, items = ray.put(function), list(items)

        def call(row: dict[str, Any]) -> dict[str, bytes]:
            try:
                return {"pickled": pickle.dumps(ray.get(shared)(row["item"]))}
            except ScfmError as error:  # Ray would hand it on as text
                return {"pickled": pickle.dumps(error)}

        made = ray.data.from_items([{"item": item} for item in items], override_num_blocks=max(1, len(items))).map(call)
        for row in made.iter_rows():
            result = pickle.loads(row["pickled"])
            if isinstance(result, ScfmError):
                raise result
            yield result


def start_ray() -> bool:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine; whether it did not run before.

    What is started here has no dashboard, and reports nothing to anyone.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    ray.init(**({} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}))
    return True


@contextmanager
def ray_session() -> Iterator[None]:
    """Have Ray run meanwhile; it is stopped in the end if it did not run before."""
    started = start_ray()
    try:
        yield
    finally:
        if started:
            import ray

            ray.shutdown()


def _tables(shared: Any, schema: pa.Schema, first: int, last: int) -> Iterator[pa.Table]:
    import ray

    stream: CellStream = ray.get(shared)
    size = max(1, _ROWS_A_TABLE // int(stream.stored_blocks.sizes.max()))
    for start in range(first, last, size):
        blocks = stream.stored_blocks[slice(start, min(start + size, last))]
        yield arrow_table(stream.read(Window(blocks, 0, np.arange(blocks.sizes.sum()))), schema)
