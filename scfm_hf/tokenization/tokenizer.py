"""CellTokenizer: a Hugging Face tokenizer whose text is a cell.

One class serves every family. What differs is data (vocabulary, gene statistics, other identifiers of genes) and the
scheme, all of which ``save_pretrained`` writes and ``AutoTokenizer.from_pretrained`` reads. Strings of gene names
("cell sentences") go through the ordinary tokenizer of transformers, cells through the scheme.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BatchEncoding, PreTrainedTokenizerFast
from transformers.utils import PaddingStrategy

from scfm_hf.genes import GeneMapper, GeneVocabulary
from scfm_hf.tokenization.encoding import EncodedCells, encode_cells
from scfm_hf.tokenization.scheme import Scheme, scheme_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import datasets
    from anndata import AnnData
    from numpy.typing import NDArray

#: Roles of special tokens that transformers has attributes for.
_ROLES = ("pad", "mask", "cls", "eos", "bos", "sep", "unk")


class CellTokenizer(PreTrainedTokenizerFast):
    """Turns cells into the inputs of a model.

    Make one with :meth:`from_vocabulary`, or load it with ``AutoTokenizer.from_pretrained``.

    Call it with an AnnData of the values that the scheme wants (raw counts, unless it says otherwise), or with strings
    of gene names.
    """

    # No __init__ here: transformers 5 rebuilds a fast tokenizer whose class has one, and loses the WordLevel model on
    # the way.
    vocab_files_names = {  # noqa: RUF012 - transformers reads it from the class
        "tokenizer_file": "tokenizer.json",
        "statistics_file": "gene_statistics.safetensors",
        "identifiers_file": "gene_identifiers.json",
    }
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    padding_side = "right"

    @classmethod
    def from_vocabulary(
        cls,
        vocabulary: GeneVocabulary,
        *,
        scheme: str,
        statistics: Mapping[str, NDArray[Any]] | None = None,
        identifiers: Mapping[str, str] | None = None,
        max_length: int | None = None,
        case_sensitive: bool = True,
        strip_versions: bool = True,
        use_gene_tables: bool = True,
        **options: Any,
    ) -> Self:
        """Make a tokenizer.

        Parameters
        ----------
        vocabulary
            Genes and special tokens, in the order of their ids.
        scheme
            ``rank``, ``bin``, or the name of a family that brings its own.
        statistics
            Numbers a vocabulary entry, each (n_vocabulary,), NaN where there is none: ``median`` and the like.
        identifiers
            Other identifiers of the vocabulary's genes -> token.
        max_length
            Most tokens a cell, special ones included; None for no limit.
        case_sensitive, strip_versions, use_gene_tables
            How names of a file are matched, see :class:`scfm_hf.genes.GeneMapper`.
        **options
            Options of the scheme.

        Raises
        ------
        ValueError
            If the scheme has no such option, or lacks a statistic that it needs.
        """
        statistics = {name: np.asarray(values, np.float64) for name, values in (statistics or {}).items()}
        for name, values in statistics.items():
            if values.shape != (len(vocabulary),):
                raise ValueError(
                    f"statistics[{name!r}] has the shape {values.shape}, the vocabulary {len(vocabulary)} entries."
                )
        _refuse_unknown_options(scheme_class(scheme), options)
        made = scheme_class(scheme)(vocabulary, statistics, **options)
        special = dict(vocabulary.special_tokens)
        backend = Tokenizer(models.WordLevel(vocabulary.token_to_id, unk_token=special.get("unk", "<unk>")))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        before, after = made.surrounding_tokens
        if before or after:
            backend.post_processor = processors.TemplateProcessing(
                single=" ".join([*before, "$A", *after]),
                special_tokens=[(token, vocabulary.token_to_id[token]) for token in {*before, *after}],
            )
        tokenizer = cls(
            tokenizer_object=backend,
            cell_options={
                "scheme": scheme,
                "options": options,
                "gene_ids": vocabulary.id_kind,
                "species": list(vocabulary.species),
                "vocabulary_digest": vocabulary.digest,
            },
            matching={
                "case_sensitive": case_sensitive,
                "strip_versions": strip_versions,
                "use_tables": use_gene_tables,
            },
            model_input_names=_input_names(made),
            **({"model_max_length": max_length} if max_length else {}),
            **{f"{role}_token": token for role, token in special.items() if role in _ROLES},
            extra_special_tokens=[token for role, token in special.items() if role not in _ROLES],
        )
        tokenizer.__dict__["statistics"] = statistics
        tokenizer.__dict__["identifiers"] = dict(identifiers or {})
        return tokenizer

    @cached_property
    def statistics(self) -> dict[str, NDArray[np.float64]]:
        """Numbers a vocabulary entry, by name, each float64 (n_vocabulary,)."""
        path = self.init_kwargs.get("statistics_file")
        return load_file(path) if path else {}

    @cached_property
    def identifiers(self) -> dict[str, str]:
        """Other identifiers of the genes -> token, as the model's authors published them."""
        path = self.init_kwargs.get("identifiers_file")
        return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}

    @property
    def vocabulary(self) -> GeneVocabulary:
        """Genes and special tokens in the order of their ids."""
        known: GeneVocabulary | None = self.__dict__.get("_vocabulary")
        if known is None:
            tokens = [token for token, _ in sorted(self.get_vocab().items(), key=lambda item: item[1])]
            roles = {role: str(token) for role in _ROLES if (token := getattr(self, f"{role}_token", None)) is not None}
            named = set(roles.values())
            roles |= {token.strip("<>[]"): token for token in map(str, self.all_special_tokens) if token not in named}
            known = GeneVocabulary(
                tokens,
                special_tokens={role: token for role, token in roles.items() if token in set(tokens)},
                id_kind=self._cell_options.get("gene_ids", "other"),
                species=tuple(self._cell_options.get("species", ())),
            )
            self.__dict__["_vocabulary"] = known
        return known

    @property
    def _cell_options(self) -> dict[str, Any]:
        """What ``tokenizer_config.json`` says about cells: scheme, its options, kind of gene names, species, digest."""
        return self.init_kwargs.get("cell_options", {})

    @property
    def vocabulary_digest(self) -> str:
        """sha256 of the ordered vocabulary; the model that belongs to it carries the same."""
        return self.vocabulary.digest

    @property
    def mapper(self) -> GeneMapper:
        """Matches gene names of a file to the vocabulary."""
        return self.mapper_of(self.scheme().gene_vocabulary)

    def mapper_of(self, genes: GeneVocabulary, *, exact_names: bool = False) -> GeneMapper:
        """Matches gene names to the vocabulary of a scheme, see :attr:`Scheme.gene_vocabulary`; made once.

        With ``exact_names`` as the model's authors do: no version is stripped, no table of other names is used.
        """
        made: dict[tuple[GeneVocabulary, bool], GeneMapper] = self.__dict__.setdefault("_mappers", {})
        if (genes, exact_names) not in made:
            matching = dict(self.init_kwargs.get("matching", {}))
            matching |= {"strip_versions": False, "use_tables": False} if exact_names else {}
            made[genes, exact_names] = GeneMapper(genes, identifiers=self.identifiers, **matching)
        return made[genes, exact_names]

    def scheme(self, **options: Any) -> Scheme:
        """The scheme with the tokenizer's options, some of them replaced.

        Raises
        ------
        ValueError
            If the scheme has no such option.
        """
        made = scheme_class(self._cell_options["scheme"])
        _refuse_unknown_options(made, options)
        return made(self.vocabulary, self.statistics, **{**self._cell_options.get("options", {}), **options})

    def encode_cells(self, adata: AnnData, **options: Any) -> EncodedCells:
        """Encode cells without padding; see :func:`scfm_hf.tokenization.encoding.encode_cells` for the options."""
        return encode_cells(self, adata, **options)

    def __call__(
        self,
        text: AnnData | str | list[str] | None = None,
        *args: Any,
        padding: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        **options: Any,
    ) -> BatchEncoding:
        """Encode cells, or strings of gene names.

        Parameters
        ----------
        text
            An AnnData (in memory or backed), or what any tokenizer of transformers takes.
        padding
            ``True`` or ``"longest"``: to the longest cell; ``"max_length"``: to ``max_length``.
        max_length
            Most tokens a cell; at most the tokenizer's own limit is sensible, but more is not refused.
        return_tensors
            ``"pt"`` or ``"np"``; None gives lists.
        **options
            For an AnnData: the options of :func:`scfm_hf.tokenization.encoding.encode_cells` (``layer``,
            ``gene_column``, ``empty_cells``, ``min_overlap``, ``return_columns``, ...) and of the scheme. For strings:
            those of transformers.

        Returns
        -------
        A BatchEncoding with the model's inputs, (n_cells, n_tokens) each.

        Raises
        ------
        ExpressionError, GeneIdError, VocabularyError
            If the input cannot be what the model needs.
        """
        if not _is_anndata(text):
            if max_length is not None:
                options["max_length"] = max_length
            return super().__call__(text, *args, padding=padding, return_tensors=return_tensors, **options)
        encoded = self.encode_cells(text, max_length=max_length, **options)
        length = None
        if padding == "max_length":
            length = max_length or self.model_max_length
        elif padding in (True, "longest"):
            length = int(encoded.lengths.max(initial=0))
        return encoded.to_batch(self.scheme().columns, length=length, return_tensors=return_tensors)

    def to_dataset(
        self, adata: AnnData, *, labels: str | None = None, columns: Sequence[str] = (), **options: Any
    ) -> datasets.Dataset:
        """Encode cells into a ``datasets.Dataset`` for the stock Trainer.

        Parameters
        ----------
        adata
            The cells.
        labels
            A column of obs that becomes the ClassLabel column ``labels``; its classes are in the order of its
            categories.
        columns
            Further columns of obs to take along.
        **options
            As for a call.

        Returns
        -------
        One line a cell, in the order of the cells: the model's inputs, ``length``, ``cell_id``, ``labels`` and
        ``columns``.

        Raises
        ------
        KeyError
            If obs has no such column.
        ValueError
            If a cell has no label.
        """
        from scfm_hf.tokenization.dataset import to_dataset

        return to_dataset(self.encode_cells(adata, **options), adata.obs, labels=labels, columns=columns)

    def _pad(
        self,
        encoded_inputs: dict[str, Any] | BatchEncoding,
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> dict[str, Any]:
        """Pad one cell as transformers does, and the scheme's own columns too."""
        before = len(encoded_inputs[self.model_input_names[0]])
        columns = self.scheme().columns.items()
        own = {n: column.pad for n, column in columns if n != self.model_input_names[0] and not column.per_cell}
        padded = super()._pad(
            encoded_inputs, max_length, padding_strategy, pad_to_multiple_of, padding_side, return_attention_mask
        )
        missing = len(padded[self.model_input_names[0]]) - before
        left = (padding_side or self.padding_side) == "left"
        for name, pad in own.items():
            # transformers pads token_type_ids itself.
            short = len(padded[self.model_input_names[0]]) - len(padded[name]) if name in padded else 0
            if missing and short == missing:
                filling = [pad] * missing
                padded[name] = filling + list(padded[name]) if left else list(padded[name]) + filling
        return padded

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        added = super()._add_tokens(new_tokens, special_tokens)
        for made in ("_vocabulary", "_mappers"):  # of the genes until now
            self.__dict__.pop(made, None)
        if added:
            size = len(self)
            for name, values in self.statistics.items():
                if len(values) < size:
                    self.statistics[name] = np.concatenate([values, np.full(size - len(values), np.nan)])
        return added

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> tuple[str, ...]:
        """Save as transformers does, with the gene statistics and identifiers beside ``tokenizer.json``."""
        # The digest in the file must be that of the vocabulary as it is now, genes that were added included.
        self.init_kwargs["cell_options"] = {**self._cell_options, "vocabulary_digest": self.vocabulary_digest}
        return super().save_pretrained(save_directory, **kwargs)

    def _save_pretrained(self, save_directory: Any, file_names: Any, **kwargs: Any) -> tuple[str, ...]:
        folder, written = Path(save_directory), []
        if self.statistics:
            written.append(folder / self.vocab_files_names["statistics_file"])
            save_file({name: np.ascontiguousarray(values) for name, values in self.statistics.items()}, written[-1])
            umask = os.umask(0)
            os.umask(umask)
            written[-1].chmod(0o666 & ~umask)
        if self.identifiers:
            written.append(folder / self.vocab_files_names["identifiers_file"])
            written[-1].write_text(
                json.dumps(self.identifiers, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
            )
        return tuple(super()._save_pretrained(save_directory, file_names, **kwargs)) + tuple(map(str, written))


def _input_names(scheme: Scheme) -> list[str]:
    names = list(scheme.columns)
    return [names[0], *(["attention_mask"] if names[0] == "input_ids" else []), *names[1:]]


def _refuse_unknown_options(scheme: type[Scheme], options: Iterable[str]) -> None:
    known = scheme.option_names()
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"The tokenizer has no option {', '.join(map(repr, unknown))}. {scheme.__name__} has: {', '.join(known)}."
        )


def _is_anndata(value: Any) -> bool:
    """Whether a value is an AnnData, without importing anndata where no one has."""
    return hasattr(value, "obs") and hasattr(value, "var") and hasattr(value, "X")
