"""From UCE's own files: one of its two checkpoints, protein lists, offsets of the species, places of the genes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import Tensor

from scfm_hf.conversion import ConvertedCheckpoint, Drop, Rename, SourceFolder, apply_rules
from scfm_hf.errors import CheckpointError
from scfm_hf.genes import GeneVocabulary
from scfm_hf.models.uce.configuration_uce import UceConfig
from scfm_hf.models.uce.genes_uce import (
    SPECIAL_TOKENS,
    Places,
    chromosome_tokens,
    distinct_symbols,
    gene_places,
    gene_tokens,
    place_statistics,
)
from scfm_hf.tokenization import CellTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_WEIGHTS = ("4layer_model.torch", "33l_*.torch", "*layer*.torch")
_SUFFIX = ".gene_symbol_to_embedding_ESM2.pt"
#: Species -> its protein file.
_PROTEINS = {
    "frog": "Xenopus_tropicalis.Xenopus_tropicalis_v9.1",
    "human": "Homo_sapiens.GRCh38",
    "macaca_fascicularis": "Macaca_fascicularis.Macaca_fascicularis_6.0",
    "macaca_mulatta": "Macaca_mulatta.Mmul_10",
    "mouse": "Mus_musculus.GRCm39",
    "mouse_lemur": "Microcebus_murinus.Mmur_3.0",
    "pig": "Sus_scrofa.Sscrofa11.1",
    "zebrafish": "Danio_rerio.GRCz11",
}
_FIGSHARE = "of the figshare article 24320806, where the model's files are published"
#: Width of a head of the released models.
_HEAD_SIZE = 64

_TABLE = "pe_embedding.weight"
_WB = r"(weight|bias)"
_LAYER = r"transformer_encoder\.layers\.(\d+)\."
_TO = r"uce.layers.\1."
_RULES: tuple[Rename | Drop, ...] = (
    Drop(r"pe_embedding\.weight", "kept as a table beside the weights"),
    Drop(r"pos_encoder\.pe", "positions are computed, not stored"),
    Rename(rf"encoder\.0\.{_WB}", r"uce.embeddings.encoder.linear.\1"),
    Rename(rf"encoder\.2\.{_WB}", r"uce.embeddings.encoder.norm.\1"),
    Rename(_LAYER + rf"self_attn\.in_proj_{_WB}", _TO + r"self_attn.qkv.\2"),
    Rename(_LAYER + rf"self_attn\.out_proj\.{_WB}", _TO + r"self_attn.out_proj.\2"),
    Rename(_LAYER + rf"(linear1|linear2|norm1|norm2)\.{_WB}", _TO + r"\2.\3"),
    Rename(rf"decoder\.3\.{_WB}", r"uce.decoder.last.\1"),
    Rename(rf"decoder\.(\d)\.0\.{_WB}", r"uce.decoder.linears.\1.\2"),
    Rename(rf"decoder\.(\d)\.1\.{_WB}", r"uce.decoder.norms.\1.\2"),
    Rename(rf"binary_decoder\.3\.{_WB}", r"expression.network.last.\1"),
    Rename(rf"binary_decoder\.(\d)\.0\.{_WB}", r"expression.network.linears.\1.\2"),
    Rename(rf"binary_decoder\.(\d)\.1\.{_WB}", r"expression.network.norms.\1.\2"),
    Rename(rf"gene_embedding_layer\.0\.{_WB}", r"expression.encoder.linear.\1"),
    Rename(rf"gene_embedding_layer\.2\.{_WB}", r"expression.encoder.norm.\1"),
)


def recognise(source: SourceFolder) -> bool:
    """Whether a folder looks like a UCE: a ``.torch`` file with the places of genes or the offsets of species."""
    home = source.home
    beside = ("species_chrom.csv", "species_offsets.pkl", "protein_embeddings")
    return any(home.glob("*.torch")) and any((home / name).exists() for name in beside)


def convert(
    source: SourceFolder, *, species: str | None = None, num_attention_heads: int | None = None
) -> ConvertedCheckpoint:
    """Convert a UCE, with all species whose protein lists are at hand.

    Parameters
    ----------
    source
        Its files. Roles: ``protein_embeddings`` (the protein file of one species, which the tokenizer then takes by
        default), ``species_chrom``, ``offsets``, and ``tokens`` (a table of vectors, such as that of a novel species:
        one of another length replaces the checkpoint's, as in the original).
    species
        That the tokenizer takes if a call names none; human, or the only one that there is, if left out.
    num_attention_heads
        Heads, where they are not 64 wide as those of the released models.
    """
    weights = source.weights(*_WEIGHTS)
    tensors = {name.removeprefix("module."): tensor for name, tensor in source.tensors(weights).items()}
    if _TABLE not in tensors:
        raise CheckpointError(f"{weights} holds no table of proteins ({_TABLE}): it is no UCE.")
    table, notes = _table(source, tensors[_TABLE])
    config = _config(tensors, table, num_attention_heads)
    tokenizer, more = _tokenizer(source, len(table), species)
    tokenizer.model_max_length = config.max_position_embeddings
    renamed, records = apply_rules(tensors, _RULES, where=weights.name)
    return ConvertedCheckpoint(
        config=config,
        architecture="UceForPreTraining",
        tensors=renamed,
        records=records,
        tokenizer=tokenizer,
        side_tables={"uce.embeddings.table.parts.0": table},
        notes=(*notes, *more),
    )


def _table(source: SourceFolder, stored: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """The vectors: the checkpoint's, or those of a token file that was named and has another length."""
    path = source.find(role="tokens")
    if path is None:
        return stored, ()
    found = source.checkpoint(path)
    if not isinstance(found, Tensor) or found.ndim != 2 or found.shape[1] != stored.shape[1]:
        raise CheckpointError(f"{path} holds no table of vectors with {stored.shape[1]} numbers each.")
    places = _places(source)[1]
    if len(stored) in (len(found), len(found) + len(places.chromosomes)):
        return stored, ()
    return found, (f"The vectors are those of {path.name}; the checkpoint's own {len(stored):,} are left out.",)


def _config(tensors: Mapping[str, Tensor], table: Tensor, num_attention_heads: int | None) -> UceConfig:
    """Sizes, read off the tensors."""
    width, token_dim = tensors["encoder.0.weight"].shape
    layers = {int(found[1]) for name in tensors if (found := re.match(_LAYER, name))}
    heads = num_attention_heads or (width // _HEAD_SIZE if width % _HEAD_SIZE == 0 else None)
    if heads is None:
        raise CheckpointError(
            f"The checkpoint does not say how many heads its {width} numbers make. Give num_attention_heads=."
        )
    return UceConfig(
        table_size=len(table),
        token_dim=token_dim,
        hidden_size=width,
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        intermediate_size=tensors["transformer_encoder.layers.0.linear1.weight"].shape[0],
        output_dim=tensors["decoder.3.weight"].shape[0],
        decoder_hidden_size=tensors["decoder.0.0.weight"].shape[0],
        expression_hidden_sizes=[tensors[f"binary_decoder.{number}.0.weight"].shape[0] for number in range(3)],
        max_position_embeddings=tensors["pos_encoder.pe"].shape[0],
        cls_token_id=list(SPECIAL_TOKENS).index("cls"),
    )


def _places(source: SourceFolder) -> tuple[Path, Places]:
    """Where the genes lie."""
    path = source.need("species_chrom.csv", role="species_chrom", what=f"the places of the genes, {_FIGSHARE}")
    # A gene may be called NA or NAN.
    return path, gene_places(source.table(path, dtype=str, keep_default_na=False), where=path.name)


def _tokenizer(source: SourceFolder, n_rows: int, species: str | None) -> tuple[CellTokenizer, tuple[str, ...]]:
    """The tokenizer of all species, and what is to be said about it."""
    csv, places = _places(source)
    path = source.need("species_offsets.pkl", role="offsets", what=f"the first row of each species, {_FIGSHARE}")
    offsets = {str(name): int(first) for name, first in source.dictionary(path).items()}
    first_chromosome = n_rows - len(places.chromosomes)
    files = _protein_files(source, offsets)
    if not files:
        raise CheckpointError(
            f"protein_embeddings/ is missing beside {source.home}, with the files *{_SUFFIX}: the genes of each "
            f"species, from protein_embeddings.tar.gz {_FIGSHARE}. Put it into that folder, or name one species' file "
            "with files={'protein_embeddings': ...}."
        )
    ordered = sorted(offsets, key=offsets.__getitem__)
    bounds = [*(offsets[name] for name in ordered), first_chromosome]
    tokens = list(SPECIAL_TOKENS.values())
    if bounds[0] != len(tokens) or sorted(bounds) != bounds:
        raise CheckpointError(
            f"{path.name}, {csv.name} and the table of {n_rows:,} rows do not belong together: the species begin at "
            f"{bounds[:-1]}, the {len(places.chromosomes):,} chromosomes at {first_chromosome}."
        )
    for name, first, end in zip(ordered, bounds[:-1], bounds[1:], strict=True):
        tokens += gene_tokens(name, _symbols(source, files[name], end - first) if name in files else [], end - first)
    tokens += chromosome_tokens(places.chromosomes)
    known = [name for name in ordered if name in files]
    default = species or _named_species(source, files) or ("human" if "human" in files else known[0])
    vocabulary = GeneVocabulary(tokens, special_tokens=SPECIAL_TOKENS, id_kind="symbol", species=tuple(known))
    statistics = place_statistics(tokens, places, first_chromosome)
    tokenizer = CellTokenizer.from_vocabulary(
        vocabulary, scheme="uce", statistics=statistics, case_sensitive=False, species=default
    )
    return tokenizer, _notes(ordered, known, default, tokens, statistics["start"])


def _notes(ordered: list[str], known: list[str], default: str, tokens: list[str], starts: Any) -> tuple[str, ...]:
    notes = [f"The tokenizer takes cells for {default} unless species= says otherwise; it knows {', '.join(known)}."]
    if absent := [name for name in ordered if name not in known]:
        notes.append(f"No protein files of {', '.join(absent)}: their genes have no names, so they cannot be used.")
    lost = sum(":" in token and token[0] != "<" and start != start for token, start in zip(tokens, starts, strict=True))
    if lost:
        notes.append(f"{lost:,} genes have no place on a chromosome, so they are left out of sentences.")
    return tuple(notes)


def _protein_files(source: SourceFolder, offsets: Mapping[str, int]) -> dict[str, Path]:
    """The protein file of each species that has one."""
    names = {**{name: f"{file}{_SUFFIX}" for name, file in _PROTEINS.items()}, **_new_species(source)}
    found = {name: source.find(f"protein_embeddings/{names[name]}", names[name]) for name in offsets if name in names}
    named = source.find(role="protein_embeddings")
    if named is not None:
        owner = next((name for name, file in names.items() if file == named.name and name in offsets), None)
        if owner is None and len(offsets) == 1:
            owner = next(iter(offsets))
        if owner is None:
            raise CheckpointError(f"{named.name} is the protein file of no species that the offsets name.")
        found[owner] = named
    return {name: file for name, file in found.items() if file is not None}


def _new_species(source: SourceFolder) -> dict[str, str]:
    """Protein files of the species that were added to the original's list."""
    path = source.find("new_species_protein_embeddings.csv")
    if path is None:
        return {}
    listed = source.table(path, dtype=str, keep_default_na=False)
    # The paths are those of the original's own working folder.
    return {str(name): re.split(r"[/\\]", str(file))[-1] for name, file in listed[["species", "path"]].to_numpy()}


def _named_species(source: SourceFolder, files: Mapping[str, Path]) -> str | None:
    """The species whose protein file was named."""
    named = source.find(role="protein_embeddings")
    return next((name for name, file in files.items() if file == named), None)


def _symbols(source: SourceFolder, path: Path, n_rows: int) -> list[str]:
    """Genes of a protein file, in the order of their rows."""
    content = source.checkpoint(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no vectors by gene symbol.")
    if len(content) != n_rows:
        raise CheckpointError(
            f"{path.name} lists {len(content):,} genes, the table has {n_rows:,} rows for them: they do not belong "
            "together."
        )
    return distinct_symbols(map(str, content))
