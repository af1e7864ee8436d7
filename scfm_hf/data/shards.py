"""Tokenised corpora: numbered Parquet shards with a manifest, made once and read by ``datasets``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scfm_hf.data.shard_manifest import ShardManifest
from scfm_hf.data.shard_plan import RowOrder, ShardPlan
from scfm_hf.data.shard_writer import ShardWriter, write_shard

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from scfm_hf.data.shard_manifest import ShardRecord
    from scfm_hf.tokenization import CellTokenizer

__all__ = ["ShardManifest", "ShardPlan", "ShardWriter", "tokenize_corpus", "write_shard"]

#: Times that the plan goes to each worker; more would only cost, fewer could leave workers without work at the end.
_TASKS_A_WORKER = 8


def tokenize_corpus(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    tokenizer: CellTokenizer,
    output: str | os.PathLike[str],
    *,
    shard_size: int = 8192,
    workers: int = 1,
    order: RowOrder = "files",
    seed: int = 0,
    labels: str | None = None,
    columns: Sequence[str] = (),
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    min_overlap: float | None = None,
    max_length: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    licence: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    map_shards: Callable[[Callable[[int], ShardRecord], Sequence[int]], Iterator[ShardRecord]] | None = None,
    **options: Any,
) -> ShardManifest:
    """Tokenise a corpus into a folder of Parquet shards.

    The folder appears once all of it is there. If the run is stopped, however, the same call goes on with what it has:
    the shards are the same, byte by byte, as those of a run that was not stopped.

    Parameters
    ----------
    files, labels, columns, layer, use_raw, gene_column, min_overlap, max_length, on_error, **options
        As in :func:`scfm_hf.load_corpus`.
    tokenizer
        Goes into the folder too.
    output
        The folder.
    shard_size
        Cells a shard, about; a worker holds one of them in memory.
    workers
        Processes.
    order
        Of the rows: ``files`` as they are stored, file after file; ``mixed`` as a stream mixes them, each shard a
        sample of blocks from all files, so that readers need to mix little.
    seed
        Of the order ``mixed``.
    licence
        Of the cells, for the card, such as ``cc-by-4.0``.
    overwrite
        Replace shards that are there.
    progress
        Show a bar.
    map_shards
        What calls a function for each of some numbers, as they are done, in place of processes here; such as
        :func:`scfm_hf.data.ray_data.map_on_ray`. Function and results pickle.

    Returns
    -------
    What the folder holds.

    Raises
    ------
    FileExistsError
        If there is something at ``output``.
    ValueError
        If the tokenizer must see all cells of a file before it encodes one.
    CorpusError
        If a file cannot be used, the disk is full, or shards were begun there with other files, options or another
        tokenizer.
    """
    from tqdm.auto import tqdm

    from scfm_hf.data.corpus import load_corpus

    if "length" in columns:
        raise ValueError("Shards have a column 'length' of their own: rename the column of obs.")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}.")
    stream = load_corpus(
        files,
        tokenizer=tokenizer,
        labels=labels,
        columns=columns,
        cell_ids=True,
        layer=layer,
        use_raw=use_raw,
        gene_column=gene_column,
        min_overlap=min_overlap,
        max_length=max_length,
        seed=seed,
        block_size=min(64, shard_size),
        window_size=shard_size,
        on_error=on_error,
        **options,
    )
    described = {
        "labels": labels,
        "columns": list(columns),
        "layer": layer,
        "use_raw": use_raw,
        "gene_column": gene_column,
        "max_length": max_length,
        **({"seed": seed} if order == "mixed" else {}),
        **options,
    }
    plan = ShardPlan(stream, tokenizer, options=described, order=order, shard_size=shard_size)
    writer = ShardWriter(plan, output, overwrite=overwrite)
    todo = writer.missing()
    done = map_shards(writer.write, todo) if map_shards else _in_processes(writer, todo, workers)
    for _ in tqdm(done, total=len(plan), initial=len(plan) - len(todo), unit="shard", disable=not progress):
        pass
    return writer.finish(licence=licence, skipped=stream.report.skipped)


def _in_processes(writer: ShardWriter, numbers: Sequence[int], workers: int) -> Iterator[ShardRecord]:
    """Write shards in so many processes; as they are done."""
    if workers == 1 or len(numbers) < 2:
        yield from map(writer.write, numbers)
        return
    from sklearn.utils.parallel import Parallel, delayed

    n_tasks = min(len(numbers), workers * _TASKS_A_WORKER)
    parts = [numbers[task::n_tasks] for task in range(n_tasks)]
    run = Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch=workers)
    for records in run(delayed(_write_all)(writer, part) for part in parts):
        yield from records


def _write_all(writer: ShardWriter, numbers: Sequence[int]) -> list[ShardRecord]:
    return [writer.write(number) for number in numbers]
