"""Nicheformer's 30 special tokens, and the names by which species, assays and modalities are asked for."""

from __future__ import annotations

from typing import Literal

#: What a context token tells.
Kind = Literal["species", "assay", "modality"]

#: Tokens of the ids 0 to 29; the last eleven were never used.
SPECIAL_TOKENS = (
    "<mask>",
    "<pad>",
    "<cls>",
    "<dissociated>",
    "<spatial>",
    "<human>",
    "<mouse>",
    "<MERFISH>",
    "<CosMx>",
    "<Xenium>",
    "<10x-5'-v2>",
    "<10x-3'-v3>",
    "<10x-3'-v2>",
    "<10x-5'-v1>",
    "<10x-3'-v1>",
    "<10x-3'-transcription-profiling>",
    "<10x-5'-transcription-profiling>",
    "<CITE-seq>",
    "<Smart-seq-v4>",
    *(f"<unused-{number}>" for number in range(19, 30)),
)

#: Names in lower case -> token. Assays have the names that CELLxGENE gives them.
_NAMES: dict[Kind, dict[str, str]] = {
    "species": {
        "human": "<human>",
        "homo sapiens": "<human>",
        "mouse": "<mouse>",
        "mus musculus": "<mouse>",
    },
    "modality": {"dissociated": "<dissociated>", "spatial": "<spatial>"},
    "assay": {
        "merfish": "<MERFISH>",
        "cosmx": "<CosMx>",
        "nanostring digital spatial profiling": "<CosMx>",
        "xenium": "<Xenium>",
        "10x transcription profiling": "<10x-3'-transcription-profiling>",
        **{token.strip("<>").lower().replace("-", " "): token for token in SPECIAL_TOKENS if token.startswith("<10x")},
        "cite-seq": "<CITE-seq>",
        "smart-seq v4": "<Smart-seq-v4>",
    },
}
#: Technology whose mean expression the genes of an assay are measured against, where it is not that of dissociated
#: cells.
_TECHNOLOGIES = {"<MERFISH>": "merfish", "<CosMx>": "cosmx", "<Xenium>": "xenium"}


def context_token(kind: Kind, name: str) -> str:
    """The token of a name, whatever its letter case.

    Raises
    ------
    ValueError
        If Nicheformer does not know the name.
    """
    known = _NAMES[kind]
    token = known.get(str(name).strip().lower())
    if token is None:
        raise ValueError(f"Nicheformer knows no {kind} {name!r}. It knows: {', '.join(known)}.")
    return token


def technology_of(assay: str | None) -> str:
    """Technology of an assay's token; None is that of dissociated cells."""
    return _TECHNOLOGIES.get(assay or "", "dissociated")
