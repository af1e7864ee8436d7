"""Writes shards so that each appears whole or not at all, and what is written need not be written again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_hf.data.shard_card import shard_card
from scfm_hf.data.shard_manifest import MANIFEST, ShardManifest, ShardRecord
from scfm_hf.errors import CorpusError
from scfm_hf.folders import refuse_taken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from scfm_hf.data.shard_plan import ShardPlan

#: Rows that are compressed, and can be read, together.
_ROW_GROUP = 1024
_PLAN, _PARTIAL = "plan.json", ".partial"


def write_shard(table: pa.Table, path: str | os.PathLike[str]) -> ShardRecord:
    """Write a table as a Parquet file (zstd), whole or not at all, on disk for good when this returns.

    Equal tables give equal files, byte by byte, with one version of pyarrow. Two processes may write the same shard.

    Parameters
    ----------
    table
        Rows; ``length``, if there is such a column, is the number of tokens of each.
    path
        Where to; a file that is there is replaced.

    Raises
    ------
    OSError
        If it cannot be written, such as on a full disk; nothing is there then.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = Path(path)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_ROW_GROUP)
    content = memoryview(buffer.getvalue())
    _write_whole(path, content)
    tokens = pc.sum(table["length"]).as_py() if "length" in table.column_names else 0
    return ShardRecord(
        file=path.name, rows=len(table), tokens=tokens or 0, bytes=len(content), sha256=sha256(content).hexdigest()
    )


class ShardWriter:
    """Makes a folder of shards in a hidden one beside it, which it becomes once all of it is there.

    It pickles: :meth:`write` can be called by any process of any machine that sees the folder.

    Parameters
    ----------
    plan
        What each shard holds.
    output
        The folder. One that was begun with an equal plan is gone on with.
    overwrite
        Replace shards that are there already.

    Raises
    ------
    FileExistsError
        If there is something at ``output``.
    CorpusError
        If shards of another plan were begun there.
    """

    def __init__(self, plan: ShardPlan, output: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.plan, self.output = plan, Path(output).absolute()
        self._overwrite = overwrite
        refuse_taken(self.output, replaceable=(MANIFEST,) if overwrite else ())
        #: Where shards are until all are there.
        self.unfinished = self.output.parent / f".{self.output.name}.unfinished"
        with _full_disk_named(self.unfinished):
            (self.unfinished / "data").mkdir(parents=True, exist_ok=True)
            self._keep_plan()

    def path(self, number: int) -> Path:
        """Where a shard goes."""
        return self.unfinished / "data" / f"train-{number:05d}-of-{len(self.plan):05d}.parquet"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there as they were written."""
        return [number for number in range(len(self.plan)) if self.written(number) is None]

    def written(self, number: int) -> ShardRecord | None:
        """What was written as a shard, if it is there and has not changed since."""
        path = self.path(number)
        try:
            record = ShardRecord(**json.loads(_record_of(path).read_text(encoding="utf-8")))
            with path.open("rb") as file:
                unchanged = file_digest(file, "sha256").hexdigest() == record.sha256
        except (OSError, ValueError, TypeError):
            return None
        return record if unchanged else None

    def write(self, number: int) -> ShardRecord:
        """Make one shard.

        Raises
        ------
        CorpusError
            If a file of the corpus is damaged or was changed, or the disk is full.
        """
        table, path = self.plan.table(number), self.path(number)
        with _full_disk_named(self.unfinished):
            record = replace(write_shard(table, path), file=f"data/{path.name}")
            _write_whole(_record_of(path), json.dumps(asdict(record)).encode())
        return record

    def finish(self, *, licence: str | None = None, skipped: Mapping[str, str]) -> ShardManifest:
        """Put card, tokenizer and, last, the manifest beside the shards, and the folder in its place.

        Parameters
        ----------
        licence
            Of the cells, for the card.
        skipped
            File that was not used -> why.

        Raises
        ------
        CorpusError
            If shards are missing, or the disk is full.
        """
        found = {number: record for number in range(len(self.plan)) if (record := self.written(number)) is not None}
        if absent := [number for number in range(len(self.plan)) if number not in found]:
            raise CorpusError(
                f"{len(absent)} of {len(self.plan)} shards of {self.output} are missing (first: {absent[:5]}). Run it "
                "again to go on."
            )
        description = self.plan.description
        manifest = ShardManifest(
            shards=tuple(found.values()),
            tokenizer=description["tokenizer"],
            files=tuple(description["files"]),
            order=description["order"],
            options=description["options"],
            skipped=dict(skipped),
        )
        with _full_disk_named(self.unfinished):
            self.plan.tokenizer.save_pretrained(self.unfinished / "tokenizer")
            card = shard_card(self.plan, manifest, name=self.output.name, licence=licence)
            _write_whole(self.unfinished / "README.md", card.encode())
            _write_whole(self.unfinished / MANIFEST, manifest.to_json().encode())
        for left in [*self.unfinished.rglob(f"*{_PARTIAL}"), *self.unfinished.glob("data/*.json")]:
            left.unlink()
        (self.unfinished / _PLAN).unlink()
        if self._overwrite and self.output.exists():
            shutil.rmtree(self.output)
        self.unfinished.rename(self.output)
        return manifest

    def _keep_plan(self) -> None:
        """Note the plan, or compare it with that of the shards that were begun."""
        place, now = self.unfinished / _PLAN, json.loads(json.dumps(self.plan.description))
        if not place.exists():
            _write_whole(place, json.dumps(now, indent=1).encode())
            return
        before = json.loads(place.read_text(encoding="utf-8"))
        if [file["digest"] for file in before["files"]] != [file["digest"] for file in now["files"]]:
            known = {file["digest"] for file in now["files"]}
            gone = [file["file"] for file in before["files"] if file["digest"] not in known]
            raise CorpusError(
                f"Shards of {self.output} were begun with other files (missing or changed: "
                f"{', '.join(gone[:3]) or 'none, their order is another'}). {self._ways_out}"
            )
        different = [name for name in now if name != "files" and before.get(name) != now[name]]
        if different:
            shown = "; ".join(f"{name}: {before.get(name)} before, {now[name]} now" for name in different)
            raise CorpusError(f"Shards of {self.output} were begun otherwise ({shown}). {self._ways_out}")

    @property
    def _ways_out(self) -> str:
        return f"Call it as before to go on, or remove {self.unfinished} to begin anew."


def _record_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _write_whole(path: Path, content: Any) -> None:
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _full_disk_named(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CorpusError(
            f"The disk is full: {place} could not be written to. All shards in it are whole. Make room, and call it as "
            "before to go on."
        ) from error
