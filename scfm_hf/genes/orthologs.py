"""Carries gene names from one species to the other by orthology, never by changing their case."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from scfm_hf.errors import GeneIdError
from scfm_hf.genes.identifiers import is_ensembl_id, recognise_id_kind, strip_version
from scfm_hf.genes.nomenclature import nomenclature
from scfm_hf.genes.tables import SPECIES, ortholog_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scfm_hf.genes.identifiers import IdKind

OrthologPolicy = Literal["one2one", "highest_goc"]
"""Which pairs count: one-to-one only, or else the pair with the best conserved gene order."""


class Ortholog(NamedTuple):
    """One ortholog of a gene."""

    ensembl_id: str
    type: str
    confidence: int
    goc: float


@dataclass(frozen=True, kw_only=True)
class OrthologReport:
    """What became of the names.

    Parameters
    ----------
    n_genes, n_mapped
        Distinct names, and how many of them have an ortholog by the policy.
    types
        Kind of pair (``one2one``, ``one2many``, ``many2many``) -> names mapped by such a pair.
    low_confidence
        Names mapped by a pair that Ensembl has little confidence in.
    shared
        Target -> the names (at least two) that lead to it. Their counts have to be summed, or one of them chosen.
    ambiguous
        Name -> the genes of its own species, or the equally good targets, that it may stand for; not mapped.
    unmapped
        Names without an ortholog by the policy.
    """

    n_genes: int
    n_mapped: int
    types: Mapping[str, int] = field(default_factory=dict)
    low_confidence: tuple[str, ...] = ()
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ambiguous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmapped: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in self.types.items()) or "none"
        return (
            f"{self.n_mapped:,} of {self.n_genes:,} genes have an ortholog "
            f"({kinds}; {len(self.low_confidence):,} of low confidence). "
            f"{len(self.shared):,} targets are shared by several genes, "
            f"{len(self.ambiguous):,} genes are ambiguous and {len(self.unmapped):,} have no ortholog."
        )


def map_orthologs(
    names: Sequence[str],
    *,
    source: str,
    target: str,
    policy: OrthologPolicy = "one2one",
    id_kind: Literal["ensembl_id", "symbol"] | None = None,
) -> tuple[dict[str, str], OrthologReport]:
    """Find the ortholog of every gene.

    Parameters
    ----------
    names
        Ensembl ids (with or without version), symbols, previous symbols or aliases of the source species.
    source, target
        ``"human"`` and ``"mouse"``, or the reverse.
    policy
        ``"one2one"`` takes one-to-one pairs only; ``"highest_goc"`` takes, where a gene has several orthologs, the
        one with the highest gene-order conservation (then confidence). Equally good ones are ambiguous.
    id_kind
        What the targets are to be; None gives what most of the names are. A target without a symbol keeps its id.

    Returns
    -------
    Name as given -> its ortholog, for the names that have one, and the report.

    Raises
    ------
    GeneIdError
        If there is no ortholog table for the two species.
    ValueError
        If there is no such policy.
    """
    if {source, target} != set(SPECIES):
        raise GeneIdError(f"Orthologs go between {' and '.join(SPECIES)}, not from {source!r} to {target!r}.")
    if policy not in get_args(OrthologPolicy):
        raise ValueError(f"policy must be one of {', '.join(get_args(OrthologPolicy))}, not {policy!r}.")
    names = list(dict.fromkeys(names))
    kind: IdKind = id_kind or recognise_id_kind(names)
    symbol_of = nomenclature(target).symbol_of
    mapping: dict[str, str] = {}
    chosen: dict[str, Ortholog] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    for name in names:
        ids = _ensembl_ids(name, source)
        best = _best(_orthologs(source).get(ids[0], ()), policy) if len(ids) == 1 else ()
        if len(ids) > 1:
            ambiguous[name] = ids
        elif len(best) > 1:
            ambiguous[name] = tuple(one.ensembl_id for one in best)
        elif best:
            chosen[name] = best[0]
            found = best[0].ensembl_id
            mapping[name] = found if kind == "ensembl_id" else symbol_of.get(found, found)
    return mapping, _report(names, mapping, chosen, ambiguous)


def _ensembl_ids(name: str, species: str) -> tuple[str, ...]:
    """Ensembl ids of the source species that a name may stand for."""
    if is_ensembl_id(name):
        return (strip_version(name),)
    genes = nomenclature(species)
    approved = genes.approved_symbols(name)
    return tuple(i for symbol in approved for i in genes.ensembl_ids(symbol))


def _best(orthologs: Sequence[Ortholog], policy: OrthologPolicy) -> tuple[Ortholog, ...]:
    """The ortholog that the policy takes; several where they are equally good."""
    if policy == "one2one":
        return tuple(one for one in orthologs if one.type == "one2one")
    rank = [(one.goc, one.confidence) for one in orthologs]
    return tuple(one for one, score in zip(orthologs, rank, strict=True) if score == max(rank))


def _report(
    names: Sequence[str],
    mapping: Mapping[str, str],
    chosen: Mapping[str, Ortholog],
    ambiguous: Mapping[str, tuple[str, ...]],
) -> OrthologReport:
    names_of: dict[str, list[str]] = {}
    for name, ortholog in mapping.items():
        names_of.setdefault(ortholog, []).append(name)
    return OrthologReport(
        n_genes=len(names),
        n_mapped=len(mapping),
        types=dict(Counter(one.type for one in chosen.values()).most_common()),
        low_confidence=tuple(name for name, one in chosen.items() if one.confidence == 0),
        shared={ortholog: tuple(group) for ortholog, group in names_of.items() if len(group) > 1},
        ambiguous=dict(ambiguous),
        unmapped=tuple(name for name in names if name not in mapping and name not in ambiguous),
    )


@cache
def _orthologs(source: str) -> dict[str, tuple[Ortholog, ...]]:
    """Ensembl id of the source species -> its orthologs; an unknown gene order counts as not conserved at all."""
    target = next(species for species in SPECIES if species != source)
    table = ortholog_table()
    columns = [table[name] for name in (f"{source}_ensembl_id", f"{target}_ensembl_id", "type", "confidence")]
    orthologs: dict[str, list[Ortholog]] = {}
    for gene, other, kind, confidence, goc in zip(*columns, table["goc"].fillna(-1.0), strict=True):
        orthologs.setdefault(gene, []).append(Ortholog(other, kind, int(confidence), float(goc)))
    return {gene: tuple(group) for gene, group in orthologs.items()}
