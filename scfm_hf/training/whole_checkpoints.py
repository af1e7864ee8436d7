"""Which checkpoints of Trainer are whole: a process may be killed, and a disk be full, while one is written."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from scfm_hf.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: File of a checkpoint that lists all others with their sizes; the last to be written.
FILE_NAME = "checkpoint_files.json"

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
#: How the files with the weights of a model, of an adapter or of shards of FSDP and DeepSpeed are named.
_WEIGHTS = ("*.safetensors", "pytorch_model*", "adapter_model*", "global_step*")


def checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Folders of a run that are named as checkpoints are, whole or not, the last step first."""
    found = [(int(match[1]), path) for path in Path(folder).glob("*") if (match := _CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True) if path.is_dir()]


def last_whole_checkpoint(folder: str | os.PathLike[str]) -> tuple[Path | None, dict[Path, str]]:
    """The last checkpoint to go on from, and the later ones that are damaged, each with what is wrong with it.

    Parameters
    ----------
    folder
        Output folder of a run, of :class:`~scfm_hf.training.trainer.CellTrainer` or the stock Trainer.
    """
    damaged: dict[Path, str] = {}
    for checkpoint in checkpoints(folder):
        found = damage(checkpoint)
        if found is None:
            return checkpoint, damaged
        damaged[checkpoint] = found
    return None, damaged


def refuse_damaged(checkpoint: str | os.PathLike[str]) -> None:
    """Raise CheckpointError if a checkpoint is not whole."""
    found = damage(Path(checkpoint))
    if found is not None:
        raise CheckpointError(
            f"{checkpoint} is not whole: {found}. Go on from an earlier checkpoint (resume_from_checkpoint=True finds "
            "the last whole one)."
        )


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole.

    Checkpoints of CellTrainer list their files. Those of the stock Trainer are whole if their state, which it writes
    last, can be read, the weights and the optimizer are there, and no file was cut off.
    """
    return next(_damages(checkpoint), None)


def list_files(checkpoint: Path) -> None:
    """Write the list of a checkpoint's files, after all of them have reached the disk."""
    sizes = {}
    for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    with (checkpoint / FILE_NAME).open("w", encoding="utf-8") as file:
        json.dump({"files": sizes}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _damages(checkpoint: Path) -> Iterator[str]:
    try:
        step = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    except FileNotFoundError:
        yield "trainer_state.json is missing"
        return
    except (ValueError, KeyError, TypeError, OSError) as error:
        yield f"trainer_state.json cannot be read ({error})"
        return
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    if match and int(match[1]) != step:
        yield f"its state is that of step {step}"
    yield from _listed_files(checkpoint)
    if not any(path for pattern in _WEIGHTS for path in checkpoint.glob(pattern)):
        yield "it has no weights"
    if not any(checkpoint.rglob("*optim*")):
        yield "it has no state of the optimizer (save_only_model)"
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not _is_intact(path):
            yield f"{path.relative_to(checkpoint)} is cut off or damaged"


def _listed_files(checkpoint: Path) -> Iterator[str]:
    """What does not agree with the list of a checkpoint of CellTrainer, or the index of weights in several files."""
    for name, of in ((FILE_NAME, "files"), ("model.safetensors.index.json", "weight_map")):
        path = checkpoint / name
        if not path.is_file():
            continue
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))[of]
        except (ValueError, KeyError, TypeError) as error:
            yield f"{name} cannot be read ({error})"
            continue
        sizes = listed if of == "files" else dict.fromkeys(listed.values())
        for file, size in sizes.items():
            if not (checkpoint / file).is_file():
                yield f"{file} is missing"
            elif size is not None and (checkpoint / file).stat().st_size != size:
                yield f"{file} has {(checkpoint / file).stat().st_size:,} bytes instead of {size:,}"


def _is_intact(path: Path) -> bool:
    """Whether a file reaches to its end, as far as its kind tells."""
    if path.suffix in (".pt", ".pth"):
        return zipfile.is_zipfile(path)  # the table of a zip file, which torch writes, stands at its end
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "np"):
                return True
        except (SafetensorError, OSError):
            return False
    return True
