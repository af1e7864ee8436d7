"""Cell types and what stands above them, from an obo file such as the Cell Ontology's ``cl-basic.obo``."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_RELATIONSHIP = re.compile(r"relationship:\s*\S+\s+(\S+)")
_IS_A = re.compile(r"is_a:\s*(\S+)")


class CellOntology:
    """Terms and the edges between them.

    Every relation is an edge (``is_a``, ``develops_from``, ``part_of`` ...), as in the original: ancestors are those by
    any of them.

    Parameters
    ----------
    names
        Id of a term -> its name, ``CL:0000084`` -> ``T cell``.
    parents
        Id of a term -> ids that it points to.
    """

    def __init__(self, names: Mapping[str, str], parents: Mapping[str, Iterable[str]]) -> None:
        self.names = dict(names)
        self._parents = {term: set(above) for term, above in parents.items()}
        self._children: dict[str, set[str]] = defaultdict(set)
        for term, above in self._parents.items():
            for parent in above:
                self._children[parent].add(term)

    @classmethod
    def from_obo(cls, text: str) -> Self:
        """Read the content of an obo file; obsolete terms are left out.

        Raises
        ------
        ValueError
            If it holds no term.
        """
        names: dict[str, str] = {}
        parents: dict[str, set[str]] = {}
        for stanza in re.split(r"\n\s*\n(?=\[)", text):
            lines = [line.strip() for line in stanza.strip().splitlines()]
            fields = dict(line.split(": ", 1) for line in lines if line.startswith(("id: ", "name: ")))
            if not lines or lines[0] != "[Term]" or "id" not in fields or "is_obsolete: true" in lines:
                continue
            names[fields["id"]] = fields.get("name", fields["id"])
            found = (_IS_A.match(line) or _RELATIONSHIP.match(line) for line in lines)
            parents[fields["id"]] = {match.group(1) for match in found if match}
        if not names:
            raise ValueError("The text holds no [Term]; it is no obo file.")
        return cls(names, parents)

    def parents(self, term: str) -> set[str]:
        """Terms that a term points to."""
        return set(self._parents.get(term, ()))

    def children(self, term: str) -> set[str]:
        """Terms that point to a term."""
        return set(self._children.get(term, ()))

    def siblings(self, term: str) -> set[str]:
        """Other terms with a parent of this one."""
        return {child for parent in self.parents(term) for child in self.children(parent)} - {term}

    def ancestors(self, term: str) -> set[str]:
        """All terms above a term, itself left out."""
        return _reached(term, self._parents)

    def descendants(self, term: str) -> set[str]:
        """All terms below a term, itself left out."""
        return _reached(term, self._children)

    def similarity(self, one: str, other: str) -> int:
        """Number of ancestors that two terms share."""
        return len(self.ancestors(one) & self.ancestors(other))

    def nearest_ancestor(self, term: str, among: Iterable[str]) -> str | None:
        """The nearest ancestor of a term among some, level by level; None if there is none, or several are as near.

        By it the authors merge labels that only one study has into coarser ones.
        """
        wanted, level, seen = set(among), {term}, {term}
        while level:
            level = {parent for one in level for parent in self.parents(one)} - seen
            seen |= level
            if found := level & wanted:
                return found.pop() if len(found) == 1 else None
        return None

    def label_ancestors(self, labels: Iterable[str]) -> dict[str, list[str]]:
        """Which labels stand above which: ``label_ancestors`` of the configuration.

        Labels are matched by the names of the terms, exactly; one that is no term has no relatives.
        """
        ids = {name: term for term, name in self.names.items()}
        known = {ids[label]: label for label in labels if label in ids}
        above = {
            label: sorted(known[term] for term in self.ancestors(ids[label]) & known.keys()) for label in known.values()
        }
        return {label: found for label, found in above.items() if found}


def _reached(term: str, edges: Mapping[str, Iterable[str]]) -> set[str]:
    """All terms that can be reached from a term."""
    reached: set[str] = set()
    waiting = [term]
    while waiting:
        new = set(edges.get(waiting.pop(), ())) - reached
        reached |= new
        waiting += new
    return reached - {term}
