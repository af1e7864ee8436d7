"""Model cards: filled from what the family, the configuration and the manifest say.

The facts stand between two comments. What a person writes around them stays when the model is pushed again.
"""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import transformers
from huggingface_hub import ModelCard, ModelCardData, constants

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scfm_hf.cards.manifest import Manifest

_BEGIN, _END = "<!-- scfm_hf: facts -->", "<!-- scfm_hf: end of facts -->"

#: Licences that the hub has a name for, by the beginning of their SPDX name.
_LICENCES = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "gpl-2.0",
    "gpl-3.0",
    "agpl-3.0",
    "lgpl-3.0",
    "mpl-2.0",
    "cc0-1.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-4.0",
    "cc-by-4.0",
    "unlicense",
)

#: Field of the configuration -> what the card calls it.
_SIZES = {
    "hidden_size": "Hidden size",
    "num_hidden_layers": "Layers",
    "num_attention_heads": "Attention heads",
    "vocab_size": "Vocabulary entries",
    "max_position_embeddings": "Longest input",
}


def model_card(
    family: Any = None,
    *,
    config: Mapping[str, Any],
    manifest: Manifest,
    adapter: bool = False,
    report: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Write the card of a model or an adapter.

    Parameters
    ----------
    family
        A :class:`~scfm_hf.models.registry.FamilySpec`, a mapping of the same fields, or None for a model of no family.
    config
        The model's ``config.json``.
    manifest
        Where it comes from, and the licence of its weights.
    adapter
        Whether this is an adapter alone.
    report
        Further figures to be listed, such as the metrics of a training run: name -> number or text.

    Returns
    -------
    The card, with the metadata that the hub reads at its head.
    """
    spec: Mapping[str, Any] = asdict(family) if is_dataclass(family) and not isinstance(family, type) else family or {}
    auto_class = _auto_class(spec, config)
    data = ModelCardData(
        **_licence(manifest.weights_licence),
        library_name="peft" if adapter else "transformers",
        base_model=manifest.base_model,
        tags=_tags(spec, adapter=adapter),
    )
    # The hub client checks the template as a file.
    with as_file(files("scfm_hf.cards") / "model_card_template.md") as template:
        return ModelCard.from_template(
            data,
            template_path=str(template),
            title=(manifest.model_id or spec.get("title") or "Single-cell model").rsplit("/", 1)[-1],
            model_id=manifest.model_id or "path/to/the/folder",
            adapter=adapter,
            base_model=manifest.base_model,
            endpoint=constants.ENDPOINT,
            base_revision=manifest.base_revision,
            sources=manifest.sources,
            family_title=spec.get("title", "the original"),
            auto_class=auto_class,
            auto_module="transformers" if hasattr(transformers, auto_class) else "scfm_hf",
            facts=list(_facts(spec, config, manifest)),
            parity=[(name, f"{value:.1e}") for name, value in sorted(manifest.parity.items())],
            report=[
                (name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in (report or {}).items()
            ],
            paper=spec.get("paper"),
            citation=spec.get("citation"),
        )


def renew_card(written: ModelCard, facts: ModelCard) -> ModelCard:
    """Bring the facts of a card up to date, and leave what a person wrote.

    Parameters
    ----------
    written
        The card as it stands on the hub or in a folder.
    facts
        The card as :func:`model_card` makes it now.

    Returns
    -------
    The card with the text of ``written`` around the facts. The person's metadata win over ours, except for the base
    model and the library; tags are joined.
    """
    old, new = written.data.to_dict(), facts.data.to_dict()
    merged = {**new, **old, **{name: new[name] for name in ("base_model", "library_name") if name in new}}
    if "base_model" not in new:
        merged.pop("base_model", None)
    merged["tags"] = list(dict.fromkeys([*(old.get("tags") or []), *(new.get("tags") or [])]))
    card = ModelCard("---\n" + ModelCardData(**merged).to_yaml() + "\n---\n" + _with_facts(written.text, facts.text))
    return card


def _with_facts(written: str, fresh: str) -> str:
    """The written text with fresh facts in the place of the old ones or at its end; an unfilled form is replaced."""
    facts = fresh[fresh.index(_BEGIN) : fresh.index(_END) + len(_END)]
    if _BEGIN in written and _END in written:
        return written[: written.index(_BEGIN)] + facts + written[written.index(_END) + len(_END) :]
    if not written.strip() or "[More Information Needed]" in written:
        return fresh
    return f"{written.rstrip()}\n\n{facts}\n"


def _licence(name: str | None) -> dict[str, str]:
    """Metadata of a licence: one that the hub knows, or ``other`` with its name."""
    if not name:
        return {}
    known = next((licence for licence in _LICENCES if name.lower().startswith(licence)), None)
    return {"license": known} if known else {"license": "other", "license_name": name}


def _tags(spec: Mapping[str, Any], *, adapter: bool) -> list[str]:
    """Words by which the hub's search finds it."""
    tags = ["single-cell", "biology", "scfm_hf"]
    tags += [spec["name"]] if "name" in spec else []
    tags += [*spec.get("species", ()), *spec.get("modalities", ())]
    return [*tags, "adapter"] if adapter else tags


def _auto_class(spec: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The Auto class that leads to the saved class."""
    saved = (config.get("architectures") or [None])[0]
    for auto, written in spec.get("model_classes", {}).items():
        names = (written,) if isinstance(written, str) else written
        if saved in {name.rpartition(":")[2] for name in names}:
            return auto
    return "AutoModel"


def _facts(spec: Mapping[str, Any], config: Mapping[str, Any], manifest: Manifest) -> Iterable[tuple[str, str]]:
    """Rows of the table of facts; what is not known has no row."""
    rows: list[tuple[str, Any]] = [
        ("Family", spec.get("title") or manifest.family),
        ("Species", ", ".join(spec.get("species", ()))),
        ("Modalities", ", ".join(spec.get("modalities", ()))),
        ("Genes are named by", str(spec.get("gene_ids", "")).replace("_", " ")),
        ("Tokens are made by the scheme", spec.get("scheme")),
        *((title, config.get(name)) for name, title in _SIZES.items()),
        ("Labels", ", ".join((config.get("id2label") or {}).values())),
        ("Licence of the weights", manifest.weights_licence),
        ("Licence of the original's code", spec.get("code_licence") or manifest.code_licence),
        ("The original's code", spec.get("code_url")),
        ("The original's weights", spec.get("weights_url")),
        ("Vocabulary (sha256)", manifest.vocabulary_digest),
        ("Written with", ", ".join(f"{name} {version}" for name, version in sorted(manifest.libraries.items()))),
    ]
    return ((name, str(value)) for name, value in rows if value not in (None, ""))
