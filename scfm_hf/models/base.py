"""The base class of every model: transformers' own, with loading that is strict and outputs that are a cell's own.

What transformers 5 does silently, and what happens here instead:

- a missing tensor is filled with fresh numbers: here it raises, unless it belongs to a head that the checkpoint does
  not have at all;
- non-persistent buffers hold uninitialised memory after loading: here every module that has some says how they are
  computed;
- weights are saved readable by their writer alone: here they get the same mode as any other file.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import cached_file, logging

from scfm_hf.errors import CheckpointError
from scfm_hf.models.configuration import CellConfig
from scfm_hf.models.shipped import place_of
from scfm_hf.models.side_tables import SideTable

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.get_logger(__name__)

#: Arguments of ``from_pretrained`` by which a caller asks for another number of labels than the checkpoint has.
_RESIZES_THE_HEAD = frozenset({"num_labels", "id2label", "label2id"})

#: Heads of pretraining objectives lie under this name beside any family's weights, and no model takes them for its own.
HEADS_OF_OBJECTIVES = "objective_heads"

#: Arguments of ``from_pretrained`` that say where and how to fetch a file.
_OF_THE_HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class CellPreTrainedModel(PreTrainedModel):
    """Base of all models.

    A family's models set ``config_class`` and ``base_model_prefix``, end every ``__init__`` with ``self.post_init()``,
    take no ``**kwargs`` in ``forward`` (an unknown input then raises), and keep every new head whole in one module
    named ``classifier``. The family's base names the heads of all its classes in
    ``_keys_to_ignore_on_load_unexpected``, as patterns such as ``^cls[.]``. A module with parameters or buffers that
    transformers cannot initialise defines ``initial_tensors()``, which maps their names to the values that a fresh
    model has.
    """

    config_class = CellConfig
    config: CellConfig
    # Trainer must not think that the models divide their loss by the number of items in the accumulated batch.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected: list[str] | set[str] | None = None
    #: Heads that the checkpoint did not have or that were resized: they must be trained, and an adapter must keep them.
    fresh_heads: tuple[str, ...] = ()
    #: Top-level modules that a fresh model may have while the checkpoint lacks them. None: all but the body.
    _heads: ClassVar[tuple[str, ...] | None] = None
    #: Modules of the body that quantisation leaves as they are, such as layers with a single input.
    _never_quantised: ClassVar[tuple[str, ...]] = ()

    def post_init(self) -> None:
        """Finish a model, as the last line of its ``__init__``."""
        super().post_init()
        # Heads of the family's other classes may lie in a checkpoint; those that this model has itself must fit.
        own = "|".join(re.escape(name) for name, _ in self.named_children())
        self._keys_to_ignore_on_load_unexpected = {
            rf"^(?!({own})\.).*({pattern})"
            for pattern in (*(self._keys_to_ignore_on_load_unexpected or ()), rf"^{HEADS_OF_OBJECTIVES}\.")
        }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.PReLU):
            self.fill(module, weight=torch.full_like(module.weight, module.init, device="cpu"))
        initial_tensors = getattr(module, "initial_tensors", None)
        if initial_tensors is not None:
            self.fill(module, **initial_tensors())

    @staticmethod
    def fill(module: nn.Module, **values: Tensor) -> None:
        """Set parameters and buffers of a fresh model; those that a checkpoint has filled already stay."""
        for name, value in values.items():
            init.copy_(getattr(module, name), value)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Load a model as transformers does, and refuse a checkpoint that does not hold all of it.

        Parameters
        ----------
        pretrained_model_name_or_path
            A folder, a hub id, or None with ``config=`` and ``state_dict=``.
        ignore_mismatched_sizes
            Let a head of another size start fresh. ``num_labels=`` (or ``id2label=``) does so too. The body never may.
        output_loading_info
            Return (model, loading information) as transformers does.
        **kwargs
            Everything else that ``PreTrainedModel.from_pretrained`` takes.

        Raises
        ------
        CheckpointError
            If a tensor of the body is missing, unexpected or of another shape, a head is there in part, or the file is
            damaged.
        CompatibilityError
            If the folder holds a model of another type.
        """
        asked_for, pretrained_model_name_or_path = (
            pretrained_model_name_or_path,
            place_of(pretrained_model_name_or_path),
        )
        resized = ignore_mismatched_sizes or not _RESIZES_THE_HEAD.isdisjoint(kwargs)
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = cls._with_whole_heads(kwargs["quantization_config"])
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **kwargs,
            )
        except (SafetensorError, json.JSONDecodeError, FileNotFoundError) as error:
            raise CheckpointError(
                f"The weights in {pretrained_model_name_or_path} cannot be read ({error}). A file is missing, "
                "truncated or damaged: "
                "fetch or convert it again."
            ) from error
        model._refuse_incomplete(info, where=str(pretrained_model_name_or_path), resized=resized)
        if pretrained_model_name_or_path is not None:
            model._open_side_tables(str(pretrained_model_name_or_path), kwargs)
        if asked_for != pretrained_model_name_or_path:
            model.name_or_path = model.config.name_or_path = str(asked_for)
        return (model, info) if output_loading_info else model

    @classmethod
    def _with_whole_heads(cls, quantization: Any) -> Any:
        """A quantisation that leaves the family's heads as they are: a fresh head must train, and is small anyway."""
        if getattr(quantization, "llm_int8_skip_modules", ()) is not None:
            return quantization
        patterns = " ".join(cls._keys_to_ignore_on_load_unexpected or ())
        changed = copy.copy(quantization)
        # transformers matches names from their beginning.
        of_body = {f"{prefix}{name}" for name in cls._never_quantised for prefix in ("", f"{cls.base_model_prefix}.")}
        kept = {"classifier", *re.findall(r"[a-z_]+", patterns), *of_body}
        changed.llm_int8_skip_modules = sorted(kept)
        return changed

    def _refuse_incomplete(self, info: dict[str, Any], *, where: str, resized: bool) -> None:
        """Raise CheckpointError unless what is missing are whole heads; warn of the heads that start fresh."""
        prefix = f"{self.base_model_prefix}."
        is_body = self.base_model_prefix not in dict(self.named_children())
        mismatched = {name: (tuple(found), tuple(wanted)) for name, found, wanted in info["mismatched_keys"]}
        missing = set(info["missing_keys"]) - set(mismatched)

        def of_head(name: str) -> bool:
            head = name.split(".", 1)[0]
            return (not is_body and not name.startswith(prefix)) if self._heads is None else head in self._heads

        problems = [f"unexpected tensor {name}" for name in sorted(info["unexpected_keys"])]
        problems += [
            f"{name} has the shape {found}, the model {wanted}"
            for name, (found, wanted) in sorted(mismatched.items())
            if not (resized and of_head(name))
        ]
        tensors_of_head: dict[str, set[str]] = defaultdict(set)
        for name in self.state_dict():
            if of_head(name):
                tensors_of_head[name.split(".", 1)[0]].add(name)
        tied = set(self.all_tied_weights_keys)
        fresh = {head for head, names in tensors_of_head.items() if names - tied and names - tied <= missing}
        problems += [
            f"missing tensor {name}"
            for name in sorted(missing)
            if not of_head(name) or name.split(".", 1)[0] not in fresh
        ]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise CheckpointError(
                f"{where} does not fit {type(self).__name__}: {shown}. The checkpoint is damaged or of another model. "
                "A head may be resized with num_labels= or ignore_mismatched_sizes=True; the body never."
            )
        fresh |= {name.split(".", 1)[0] for name in mismatched}
        self.fresh_heads = tuple(sorted(fresh))
        if fresh:
            logger.warning(
                f"{type(self).__name__}: {', '.join(self.fresh_heads)} not in {where}, or of another size: it starts "
                "fresh and must be trained."
            )

    def _open_side_tables(self, source: str, options: dict[str, Any]) -> None:
        """Open the tables that lie beside the weights, in a folder or on a hub."""
        for table in (module for module in self.modules() if isinstance(module, SideTable)):
            asked = {name: options[name] for name in _OF_THE_HUB if name in options}
            if getattr(self.config, "_commit_hash", None):
                asked["revision"] = self.config._commit_hash
            found = cached_file(source, table.file_name, _raise_exceptions_for_missing_entries=False, **asked)
            table.open(Path(found or Path(source) / table.file_name))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save as transformers does; the files then have the mode that the umask gives to any file."""
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        if folder.is_dir() and kwargs.get("is_main_process", True):
            for table in (module for module in self.modules() if isinstance(module, SideTable)):
                table.save(folder)
            give_usual_modes(folder)

    @contextmanager
    def eager_while(self, asked: bool) -> Iterator[None]:
        """Run with eager attention inside a ``with`` block, if asked.

        No other implementation returns its probabilities: transformers only warns in that case and returns none.
        """
        before = self.config._attn_implementation
        if not asked or before == "eager":
            yield
            return
        try:
            self.config._attn_implementation = "eager"
            yield
        finally:
            self.config._attn_implementation = before

    @contextmanager
    def embedding_options(self, *, pooling: str | None = None, embedding_layer: int | None = None) -> Iterator[None]:
        """Use another recipe for ``cell_embedding`` inside a ``with`` block.

        Raises
        ------
        ValueError
            If the family has no such pooling, or the model no such layer.
        """
        asked = {"pooling": pooling, "embedding_layer": embedding_layer}
        before = {name: getattr(self.config, name) for name, value in asked.items() if value is not None}
        try:
            for name in before:
                setattr(self.config, name, asked[name])
            self.config.check()
            yield
        finally:
            for name, value in before.items():
                setattr(self.config, name, value)


def give_usual_modes(folder: Path) -> None:
    """Give every safetensors file of a folder the mode that the umask gives (safetensors writes 0600)."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~umask)
