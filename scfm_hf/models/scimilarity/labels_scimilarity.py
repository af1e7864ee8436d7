"""Labels of a training corpus, made coarse enough that several studies share them, as the authors did."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scfm_hf.models.scimilarity.triplets_scimilarity import UNLABELLED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scfm_hf.models.scimilarity.ontology_scimilarity import CellOntology

#: Terms of the Cell Ontology that the authors merge into others before anything else.
MERGED_TERMS = {
    "CL:0000792": "CL:0000815",
    "CL:0001043": "CL:0000896",
    "CL:0001056": "CL:0000451",
    "CL:0001057": "CL:0000782",
    "CL:0001058": "CL:0000784",
}


def shared_terms(
    terms: Sequence[str], studies: Sequence[str], ontology: CellOntology, *, min_studies: int = 2
) -> list[str | None]:
    """Terms that enough studies use; triplets across studies need two of a label.

    Parameters
    ----------
    terms, studies
        Cell Ontology id and study of each cell.
    ontology
        For the way up from a term.
    min_studies
        Studies that must use a term.

    Returns
    -------
    The term of each cell; of too few studies, the nearest one above it that enough of them use; None where there is no
    single such: leave the cell out.
    """
    merged = [MERGED_TERMS.get(term, term) for term in terms]
    seen: dict[str, set[str]] = defaultdict(set)
    for term, study in zip(merged, studies, strict=True):
        seen[term].add(study)
    shared = {term for term, of_term in seen.items() if len(of_term) >= min_studies}
    coarse = {term: term if term in shared else ontology.nearest_ancestor(term, shared) for term in seen}
    return [coarse[term] for term in merged]


def blur_labels(
    labels: Tensor,
    names: Sequence[str],
    parents: Mapping[str, Sequence[str]],
    *,
    share: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Give some cells of a batch the label of a parent that is in the batch too (the original's ``perturb_labels``).

    Parameters
    ----------
    labels
        Class numbers, int64, (n_cells,); -100 stays.
    names
        The labels by number.
    parents
        Name of a label -> names of the labels directly above it.
    share
        Draws, as a share of the cells; a cell may be drawn twice.
    generator
        Of the draws; None: torch's own.

    Returns
    -------
    New class numbers, int64, (n_cells,).
    """
    numbers = {name: number for number, name in enumerate(names)}
    present = set(labels.tolist()) - {UNLABELLED}
    above = {
        number: [numbers[parent] for parent in parents.get(names[number], ()) if numbers.get(parent) in present]
        for number in present
    }
    blurred = labels.clone()
    for cell in torch.randint(len(labels), (int(share * len(labels)),), generator=generator).tolist():
        if options := above.get(int(labels[cell]), []):
            blurred[cell] = options[int(torch.randint(len(options), (), generator=generator))]
    return blurred
