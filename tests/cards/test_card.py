"""Model cards say what is known, hold metadata that the hub accepts, and nothing that is unfilled."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from scfm_hf.cards.card import renew_card
from scfm_hf.hub import Manifest, SourceFile, model_card
from scfm_hf.models.registry import families

SOURCE = SourceFile(name="original.ckpt", sha256="a" * 64, size=123)


@pytest.mark.parametrize("name", sorted(families()))
def test_card_of_every_family_says_what_its_spec_says(name: str) -> None:
    spec = families()[name]
    manifest = Manifest(
        model_id="owner/model",
        sources=(SOURCE,),
        parity={"cell_embedding": 3.4e-7},
        weights_licence=spec.weights_licence,
    )
    card = model_card(spec, config={"hidden_size": 16, "architectures": [spec.class_names[0]]}, manifest=manifest)
    assert card.data.library_name == "transformers"
    assert {"single-cell", spec.name, *spec.species} <= set(card.data.tags)
    for fact in (spec.paper, spec.citation, spec.weights_licence, spec.code_licence, spec.weights_url, "3.4e-07"):
        assert fact in card.text
    assert "| original.ckpt | 123 |" in card.text
    assert "None" not in card.text
    assert "{{" not in card.text


@pytest.mark.parametrize(
    ("licence", "metadata"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        ("BSD-3-Clause", {"license": "bsd-3-clause"}),
        ("none stated", {"license": "other", "license_name": "none stated"}),
    ],
)
def test_licence_is_named_as_the_hub_does(licence: str, metadata: dict[str, str]) -> None:
    data = model_card(config={}, manifest=Manifest(weights_licence=licence)).data.to_dict()
    assert {name: data[name] for name in data if name.startswith("license")} == metadata


def test_model_trained_further_names_its_base() -> None:
    card = model_card(config={}, manifest=Manifest(model_id="me/tuned", base_model="me/base", base_revision="c" * 40))
    assert card.data.base_model == "me/base"
    assert "Trained further from [me/base]" in card.text
    assert "converted" not in card.text


def test_adapter_is_loaded_as_one() -> None:
    card = model_card(config={}, manifest=Manifest(model_id="me/adapter", base_model="me/base"), adapter=True)
    assert card.data.library_name == "peft"
    assert 'load_adapter("me/adapter")' in card.text


@pytest.mark.parametrize(
    ("auto_class", "line"),
    [
        ("AutoModelForMaskedLM", "from transformers import AutoTokenizer, AutoModelForMaskedLM"),
        ("AutoModelForPerturbation", "from scfm_hf import AutoModelForPerturbation"),
    ],
)
def test_example_imports_the_auto_class_from_where_it_is(auto_class: str, line: str) -> None:
    spec: dict[str, Any] = {"model_classes": {"AutoModel": "XModel", auto_class: ("XHead", "module:XOther")}}
    card = model_card(spec, config={"architectures": ["XOther"]}, manifest=Manifest(model_id="me/model"))
    assert line in card.text
    assert f'{auto_class}.from_pretrained("me/model")' in card.text


def test_figures_of_a_run_are_listed() -> None:
    card = model_card(config={}, manifest=Manifest(), report={"Macro-F1": 0.91234, "Cells": 700})
    assert "| Macro-F1 | 0.9123 |" in card.text
    assert "| Cells | 700 |" in card.text


def test_renewed_card_keeps_what_people_wrote() -> None:
    old = model_card(config={"hidden_size": 8}, manifest=Manifest())
    written = ModelCard(
        str(old).replace("<!-- scfm_hf: facts -->", "Our cells.\n\n<!-- scfm_hf: facts -->") + "\nThanks.\n"
    )
    written.data.tags.append("liver")
    renewed = renew_card(written, model_card(config={"hidden_size": 16}, manifest=Manifest()))
    assert "Our cells." in renewed.text
    assert renewed.text.rstrip().endswith("Thanks.")
    assert "| Hidden size | 16 |" in renewed.text
    assert "| Hidden size | 8 |" not in renewed.text
    assert "liver" in renewed.data.tags


def test_card_of_another_origin_gets_the_facts_at_its_end() -> None:
    renewed = renew_card(ModelCard("---\nlicense: mit\n---\n# Ours\n"), model_card(config={}, manifest=Manifest()))
    assert renewed.text.index("# Ours") < renewed.text.index("## Facts")
    assert renewed.data.license == "mit"


def test_unfilled_form_is_replaced() -> None:
    form = ModelCard("---\n{}\n---\n# Model Card for Model ID\n[More Information Needed]\n")
    assert "More Information Needed" not in renew_card(form, model_card(config={}, manifest=Manifest())).text
