"""A folder is a family: what it says of itself holds, and nothing else needs to know it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from models.examples import Case, FamilyExample, largest_difference, results
from peft import get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import scfm_hf.models
from scfm_hf.errors import CheckpointError, CompatibilityError
from scfm_hf.models.auto import auto_class, register
from scfm_hf.models.registry import FamilySpec, families, family_of
from scfm_hf.tokenization import CellTokenizer
from scfm_hf.training import lora_config
from scfm_hf.training.objectives.objective import make_objective, objective_names

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDED = Path(__file__).parent / "added_families"
TASKS = (
    "Model",
    "ForMaskedLM",
    "ForCausalLM",
    "ForExpressionPrediction",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForMultiTaskClassification",
    "ForPerturbation",
    "ForPreTraining",
    "ForDrugResponse",
)


@pytest.fixture(params=families().values(), ids=lambda spec: spec.name)
def spec(request: pytest.FixtureRequest) -> FamilySpec:
    return request.param


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FamilySpec]:
    """A family that is added by its folder alone."""
    monkeypatch.setattr(scfm_hf.models, "__path__", [*scfm_hf.models.__path__, str(ADDED)])
    families.cache_clear()
    register(families()["toy"])
    yield families()["toy"]
    monkeypatch.undo()
    families.cache_clear()


def test_a_family_says_what_it_is(spec: FamilySpec) -> None:
    for field in ("title", "code_licence", "weights_licence", "paper", "citation", "code_url", "weights_url"):
        assert getattr(spec, field), field
    assert spec.gene_ids in ("ensembl_id", "symbol")
    assert spec.lora_targets or not spec.classes_of("AutoModel")
    assert "AutoModel" in spec.model_classes


def test_own_pretraining_objectives_are_objectives_and_their_classes_are_the_family_s(spec: FamilySpec) -> None:
    for objective, class_name in spec.own_objectives.items():
        assert objective in objective_names()
        assert spec.load_class(class_name)
        assert make_objective(objective, {"own_head": False}).own_class(spec.name, spec.load_config_class()()) is None


def test_configuration_and_tokenizer_are_registered(spec: FamilySpec) -> None:
    config_class = spec.load_config_class()
    assert config_class.model_type == spec.model_type
    assert type(AutoConfig.for_model(spec.model_type)) is config_class
    assert family_of(config_class()) is spec
    assert family_of({"model_type": spec.model_type}) is spec


def test_every_auto_class_leads_to_its_classes(spec: FamilySpec) -> None:
    for auto_name in spec.model_classes:
        assert hasattr(transformers, auto_name) or auto_class(auto_name).__module__.startswith("scfm_hf")
        mapped = auto_class(auto_name)._model_mapping[spec.load_config_class()]
        found = mapped if isinstance(mapped, tuple) else (mapped,)
        assert [made.__name__ for made in found] == [spec.locate(name)[1] for name in spec.classes_of(auto_name)]


def test_classes_are_named_by_the_task_and_small_on_request(case: Case) -> None:
    assert case.class_name.endswith(TASKS)
    assert case.model_class.config_class is case.spec.load_config_class()
    assert sum(parameter.numel() for parameter in case.model().parameters()) < 100_000


def test_an_unknown_model_belongs_to_no_family() -> None:
    with pytest.raises(CompatibilityError, match="'bert' belongs to no family.*scfm-geneformer"):
        family_of(transformers.BertConfig())
    with pytest.raises(KeyError, match="GeneformerModel"):
        families()["geneformer"].load_class("NoSuchModel")


def test_registering_imports_no_model() -> None:
    """A dozen families must not slow down ``import scfm_hf``."""
    seen = "import sys, scfm_hf; print([name for name in sys.modules if '.modeling_' in name and 'scfm_hf' in name])"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_without_family_is_no_family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "__init__.py").touch()
    monkeypatch.setattr(scfm_hf.models, "__path__", [*scfm_hf.models.__path__, str(tmp_path)])
    families.cache_clear()
    assert "unfinished" not in families()
    families.cache_clear()


def test_a_family_is_added_by_its_folder_alone(toy: FamilySpec, tmp_path: Path) -> None:
    example = FamilyExample(toy)
    case = Case(example, "ToyForSequenceClassification")
    model, batch = case.model(), case.inputs()
    model.save_pretrained(tmp_path)
    example.tokenizer.save_pretrained(tmp_path)

    assert type(AutoTokenizer.from_pretrained(tmp_path)) is CellTokenizer
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "ToyForSequenceClassification"
    assert largest_difference(results(loaded, batch), results(model, batch)) == 0
    encoder = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(results(encoder, batch)["cell_embedding"], results(model, batch)["cell_embedding"])

    adapted = get_peft_model(loaded, lora_config(loaded))
    assert family_of(adapted) is toy
    adapted(**case.labelled()).loss.backward()
    assert adapted.get_base_model().classifier.modules_to_save["default"].weight.grad.abs().max() > 0


def test_tables_beside_the_weights_come_along(toy: FamilySpec, tmp_path: Path) -> None:
    case = Case(FamilyExample(toy), "ToyModel")
    model, table = case.model(), tmp_path / "gene_vectors.safetensors"
    model.save_pretrained(tmp_path)
    assert not [name for name in model.state_dict() if "genes" in name]
    AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / table.name).read_bytes() == table.read_bytes()
    whole = table.read_bytes()
    table.write_bytes(whole[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        AutoModel.from_pretrained(tmp_path)
    table.unlink()
    with pytest.raises(CheckpointError, match=r"gene_vectors\.safetensors is missing.*table of 80 rows"):
        AutoModel.from_pretrained(tmp_path)
