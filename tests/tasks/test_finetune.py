"""finetune: labels learned with the stock Trainer, whole results, interrupted runs that go on, equal seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from scfm_hf.errors import CompatibilityError, ScfmError
from scfm_hf.models.registry import families
from scfm_hf.tasks.annotate import annotate
from scfm_hf.tasks.finetune import finetune
from scfm_hf.tokenization.statistics import rank_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import anndata

QUICK = {"labels": "cell_type", "epochs": 1, "validation_share": 0.2, "min_overlap": 0.1, "progress": False}


@pytest.fixture
def base(tmp_path: Path, human_pbmc: anndata.AnnData) -> Path:
    """An encoder of a few thousand parameters, never trained, with its tokenizer."""
    tokenizer = rank_tokenizer(human_pbmc, gene_column="ensembl_id", min_cells=8, max_length=32)
    spec = families()["geneformer"]
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "mask", "cls", "eos")}
    options = dict(spec.tiny) | {"vocab_size": len(tokenizer), "vocabulary_digest": tokenizer.vocabulary_digest}
    torch.manual_seed(0)
    model = spec.load_class("GeneformerModel")(spec.load_config_class()(version="V2", **options, **special))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def state(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: values.detach().numpy().copy() for name, values in model.state_dict().items()}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_saved_labels_cells_as_the_trained_model_does(
    method: str, base: Path, human_pbmc: anndata.AnnData, tmp_path: Path
) -> None:
    result = finetune(human_pbmc, str(base), output=tmp_path / "out", method=method, **QUICK)
    options = {"method": "classifier", "min_overlap": 0.1, "progress": False}
    trained = annotate(human_pbmc, result.model, tokenizer=result.tokenizer, **options)
    saved = {} if method == "full" else {"base": str(base)}
    reloaded = annotate(human_pbmc, str(tmp_path / "out"), **saved, **options)
    for adata in (trained, reloaded):
        assert set(adata.obs["cell_type_predicted"].cat.categories) == set(human_pbmc.obs["cell_type"])
    np.testing.assert_allclose(
        trained.obsm["cell_type_probabilities"], reloaded.obsm["cell_type_probabilities"], atol=1e-6
    )


def test_equal_seeds_give_equal_weights_whatever_was_drawn_before(
    base: Path, human_pbmc: anndata.AnnData, tmp_path: Path
) -> None:
    models = []
    for number in range(2):
        torch.manual_seed(100 + number)
        models.append(finetune(human_pbmc, str(base), output=tmp_path / f"out{number}", seed=3, **QUICK).model)
    first, second = map(state, models)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_cells_without_a_label_are_left_out(base: Path, human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    human_pbmc.obs["cell_type"] = human_pbmc.obs["cell_type"].where(np.arange(human_pbmc.n_obs) % 4 > 0)
    result = finetune(human_pbmc, str(base), output=tmp_path / "out", **QUICK)
    assert result.n_train + result.n_validation == human_pbmc.obs["cell_type"].notna().sum()


def test_the_checkpoints_of_a_run_are_gone_when_it_has_ended(
    base: Path, human_pbmc: anndata.AnnData, tmp_path: Path
) -> None:
    finetune(human_pbmc, str(base), output=tmp_path / "out", **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]


def test_an_interrupted_run_leaves_no_result_and_goes_on_when_asked(
    base: Path, human_pbmc: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**QUICK, "epochs": 2, "output": tmp_path / "out"}
    with monkeypatch.context() as interrupted:
        interrupted.setattr("transformers.Trainer.evaluate", interrupt_second_call())
        with pytest.raises(KeyboardInterrupt):
            finetune(human_pbmc, str(base), **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError, match="interrupted run.*resume=True"):
        finetune(human_pbmc, str(base), **options)
    resumed = finetune(human_pbmc, str(base), resume=True, **options)
    whole = finetune(human_pbmc, str(base), **{**options, "output": tmp_path / "whole"})
    assert resumed.metrics["accuracy"] == whole.metrics["accuracy"]
    expected, found = state(whole.model), state(resumed.model)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def interrupt_second_call():  # noqa: ANN201 - a method of Trainer
    """``Trainer.evaluate`` that is interrupted the second time, which is after the first epoch was saved."""
    from transformers import Trainer

    original, calls = Trainer.evaluate, []

    def evaluate(self: Trainer, *args: object, **kwargs: object) -> dict[str, float]:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    return evaluate


@pytest.mark.parametrize("options", [{"class_weighting": True}, {"balanced": True}, {"method": "ia3"}])
def test_other_ways_to_train_give_finite_weights(
    options: dict[str, object], base: Path, human_pbmc: anndata.AnnData, tmp_path: Path
) -> None:
    result = finetune(human_pbmc, str(base), output=tmp_path / "out", **QUICK, **options)
    assert all(np.isfinite(values).all() for values in state(result.model).values())


def test_frozen_parts_do_not_move(base: Path, human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    from transformers import AutoModel

    before = state(AutoModel.from_pretrained(base))
    result = finetune(
        human_pbmc, str(base), output=tmp_path / "out", method="full", freeze_embeddings=True, freeze_layers=1, **QUICK
    )
    after = state(result.model.base_model)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert not [name for name in moved if "embeddings" in name or ".layer.0." in name]


def test_an_earlier_result_is_replaced_only_when_asked(base: Path, human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    options = {**QUICK, "output": tmp_path / "out"}
    finetune(human_pbmc, str(base), **options)
    with pytest.raises(FileExistsError):
        finetune(human_pbmc, str(base), **options)
    finetune(human_pbmc, str(base), overwrite=True, **options)


def test_a_folder_of_something_else_is_never_replaced(base: Path, human_pbmc: anndata.AnnData, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        finetune(human_pbmc, str(base), output=tmp_path / "out", overwrite=True, **QUICK)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_labels_that_cannot_be_learned_are_refused_before_anything_is_written(
    base: Path, human_pbmc: anndata.AnnData, tmp_path: Path
) -> None:
    human_pbmc.obs["one"] = "same"
    human_pbmc.obs["rare"] = ["a", *["b"] * (human_pbmc.n_obs - 1)]
    for labels, error, message in [
        ("nothing", KeyError, "cell_type"),
        ("one", ScfmError, "at least two"),
        ("rare", ScfmError, "fewer than two cells: |held out: a"),
    ]:
        with pytest.raises(error, match=message):
            finetune(human_pbmc, str(base), output=tmp_path / "out", **{**QUICK, "labels": labels})
    with pytest.raises(ScfmError, match="too few to hold out"):
        finetune(human_pbmc, str(base), output=tmp_path / "out", **{**QUICK, "validation_share": 0.05})
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_loaded_model_must_have_a_head_for_the_classes(
    base: Path, human_pbmc: anndata.AnnData, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    with pytest.raises(CompatibilityError, match="head has 2 classes, the cells have 9"):
        finetune(human_pbmc, model, output=tmp_path / "out", **QUICK)
