"""pretrain: from a configuration to a model that opens, bit by bit the same after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from processes import in_a_process
from safetensors.torch import load_file
from tasks.pretraining import CELLS, config, losses, run
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from scfm_hf import embed, pretrain
from scfm_hf.errors import ConfigurationError, CorpusError, TrainingError
from scfm_hf.tasks.pretraining_config import PretrainingConfig

EPOCH = 7


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("finished")
    assert in_a_process(run, config(folder)) == 0
    return folder


def test_the_result_is_an_ordinary_model_with_its_tokenizer(finished: Path) -> None:
    model = AutoModel.from_pretrained(finished / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    assert model.config.vocabulary_digest == tokenizer.vocabulary_digest
    assert type(AutoModelForMaskedLM.from_pretrained(finished / "model")).__name__ == "GeneformerForMaskedLM"
    cells = embed(
        anndata.read_h5ad(CELLS), str(finished / "model"), gene_column="ensembl_id", min_overlap=0.1, progress=False
    )
    (embedding,) = (value for name, value in cells.obsm.items() if name.startswith("X_"))
    assert embedding.shape == (72, 8)
    assert np.isfinite(embedding).all()


def test_held_out_cells_are_looked_at_and_their_loss_falls(finished: Path) -> None:
    held_out = [entry["eval_loss"] for entry in losses(finished) if "eval_loss" in entry]
    assert len(held_out) == 3 * EPOCH // 4 + 1  # every four steps, and at the end
    assert held_out[-1] < held_out[0]


def test_the_card_tells_of_the_run(finished: Path) -> None:
    card = (finished / "model" / "README.md").read_text()
    assert "human_pbmc.h5ad | 72 |" in card
    assert "| Steps | 21 (epochs: 3.00) |" in card
    assert "masked_gene:\n    share: 0.15" in card
    for figure in ("Loss on held-out cells", "Tokens a second", "Share of time waiting for data", "Machine", "torch 2"):
        assert figure in card
    assert "losses.png" in card
    assert (finished / "model" / "losses.png").stat().st_size > 5_000


@pytest.mark.parametrize("kill_at", [EPOCH - 2, 2 * EPOCH + 4])
def test_a_killed_run_ends_with_the_same_losses_and_weights(kill_at: int, finished: Path, tmp_path: Path) -> None:
    """In epoch 1 and in epoch 3; bit by bit."""
    values = config(tmp_path)
    assert in_a_process(run, values, kill_at=kill_at) == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    assert in_a_process(run, values, resume=True) == 0
    check_same(finished, tmp_path)


def check_same(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.full
def test_a_run_killed_at_any_of_twenty_steps_goes_on(finished: Path, tmp_path: Path) -> None:
    for number, kill_at in enumerate(np.random.default_rng().integers(0, 3 * EPOCH, 20).tolist()):
        values = config(tmp_path / f"{number}-{kill_at}")
        assert in_a_process(run, values, kill_at=kill_at) == -signal.SIGKILL
        assert in_a_process(run, values, resume=True) == 0
        check_same(finished, tmp_path / f"{number}-{kill_at}")


@pytest.mark.parametrize(
    "objectives", [{"masked_value": {}}, {"masked_value": {"likelihood": "nb"}, "masked_gene": {"own_head": False}}]
)
@pytest.mark.full
def test_other_objectives_go_on_too(objectives: dict[str, Any], tmp_path: Path) -> None:
    scgpt = {"family": "scgpt", "config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}}
    options = {
        "objectives": objectives,
        "tokenizer": {"scheme": "bin", "min_cells": 8, "max_length": 24},
        "model": scgpt,
        "corpus__bucket_batches": 3,
    }
    for name, kill_at in (("whole", None), ("killed", 17)):
        values = config(tmp_path / name, **options)
        assert in_a_process(run, values, kill_at=kill_at) == (0 if kill_at is None else -signal.SIGKILL)
    assert in_a_process(run, config(tmp_path / "killed", **options), resume=True) == 0
    check_same(tmp_path / "whole", tmp_path / "killed")


def test_an_interrupted_run_is_neither_overwritten_nor_gone_on_with_by_another_configuration(tmp_path: Path) -> None:
    values = config(tmp_path)
    assert in_a_process(run, values, kill_at=5) == -signal.SIGKILL
    with pytest.raises(FileExistsError, match="--resume"):
        pretrain(values)
    changed = config(tmp_path, model__config=values["model"]["config"] | {"hidden_size": 4}, corpus__block_size=8)
    with pytest.raises(ConfigurationError, match=r"corpus\.block_size, model\.config differ"):
        pretrain(changed, resume=True)
    result = pretrain(config(tmp_path, training__max_steps=6), resume=True)
    assert result.log[-1]["step"] == 6
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        pretrain(values, resume=True)


def test_a_resumed_run_without_a_checkpoint_begins(tmp_path: Path) -> None:
    values = config(tmp_path, training__max_steps=2)
    assert pretrain(values, resume=True).log[-1]["step"] == 2


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scfm_hf.training.trainer import CellTrainer

    original = CellTrainer.compute_loss

    def compute_loss(self: CellTrainer, model: Any, inputs: Any, return_outputs: bool = False, **options: Any) -> Any:
        loss, outputs = original(self, model, inputs, return_outputs=True, **options)
        loss = loss * float("nan") if self.state.global_step == 9 else loss
        return (loss, outputs) if return_outputs else loss

    with monkeypatch.context() as patched:
        patched.setattr(CellTrainer, "compute_loss", compute_loss)
        with pytest.raises(TrainingError, match="loss of step 10 is not finite.*checkpoint-8"):
            pretrain(config(tmp_path))
    assert not (tmp_path / "model").exists()
    assert pretrain(config(tmp_path, training__max_steps=10), resume=True).log[-1]["step"] == 10


def test_files_can_be_held_out(tmp_path: Path) -> None:
    whole = anndata.read_h5ad(CELLS)
    whole[:48].write_h5ad(tmp_path / "a.h5ad")
    whole[48:].write_h5ad(tmp_path / "b.h5ad")
    values = config(
        tmp_path,
        corpus__files=str(tmp_path / "a.h5ad"),
        corpus__validation=[str(tmp_path / "b.h5ad")],
        corpus__validation_share=None,
        training__max_steps=2,
    )
    result = pretrain(values)
    assert "48 cells an epoch" in (result.output / "README.md").read_text()
    assert result.metrics["eval_loss"] > 0


def test_training_goes_on_from_a_saved_model(finished: Path, tmp_path: Path) -> None:
    """The head of the pretraining is kept: the loss begins where it was."""
    before = [entry["eval_loss"] for entry in losses(finished) if "eval_loss" in entry][-1]
    values = config(
        tmp_path,
        tokenizer=None,
        model={"from": str(finished / "model")},
        training__max_steps=1,
        training__learning_rate=1e-9,
    )
    result = pretrain(values)
    assert result.metrics["eval_loss"] == pytest.approx(before, abs=0.1)
    card = (result.output / "README.md").read_text()
    assert "Trained further from" in card
    assert json.loads((result.output / "scfm_manifest.json").read_text())["base_model"]


def test_statistics_of_all_cells_make_the_tokenizer_where_its_scheme_needs_them(tmp_path: Path) -> None:
    result = pretrain(
        config(
            tmp_path,
            tokenizer={"scheme": "cellprofile", "min_cells": 8, "max_length": None, "counting": {"accuracy": None}},
            model={"family": "cellprofile", "config": {"hidden_size": 16, "output_size": 12, "factor_size": 8}},
            objectives={"contrastive": {}},
            training__max_steps=2,
        )
    )
    assert np.isfinite(result.tokenizer.statistics["deviation"]).sum() > 1000
    assert np.isfinite(result.metrics["eval_loss"])


@pytest.mark.parametrize("init", [pytest.param("mean", marks=pytest.mark.full), "neighbours"])
def test_a_model_learns_genes_of_the_corpus_that_it_does_not_know(init: str, finished: Path, tmp_path: Path) -> None:
    known = AutoTokenizer.from_pretrained(finished / "model").vocabulary
    values = config(
        tmp_path,
        tokenizer=None,
        model={"from": str(finished / "model"), "new_genes": {"init": init, "min_cells": 6}},
        training__max_steps=1,
        training__learning_rate=1e-9,
        training__weight_decay=0.0,
    )
    result = pretrain(values)
    model, tokenizer = AutoModel.from_pretrained(result.output), AutoTokenizer.from_pretrained(result.output)
    assert tokenizer.vocabulary.tokens[: len(known)] == known.tokens
    assert len(tokenizer) > len(known) + 100
    before = AutoModel.from_pretrained(finished / "model").get_input_embeddings().weight
    after = model.get_input_embeddings().weight
    torch.testing.assert_close(after[: len(known)], before, atol=1e-6, rtol=0)
    assert np.isfinite(tokenizer.statistics["median"][len(known) :]).all()
    assert (after[len(known) :] - before.mean(0)).abs().mean() < 2 * before.std()


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"model": {"from": "x", "new_genes": "near"}}, ["model.new_genes.init must be mean or neighbours"]),
        ({"model": {"from": "x", "new_genes": "mean"}}, ["leave tokenizer out"]),
        ({"corpsu": {}}, ["corpsu: there is no such key. Did you mean corpus?", "There are: output, corpus"]),
        ({"output": None}, ["output is missing"]),
        (
            {"corpus__file": "x", "corpus__files": None},
            ["corpus.file:", "Did you mean files", "corpus.files is missing"],
        ),
        ({"corpus__validation": "x"}, ["corpus.validation and corpus.validation_share"]),
        ({"corpus__validation_share": 2}, ["between 0 and 1, not 2"]),
        ({"tokenizer": None}, ["tokenizer is missing"]),
        ({"tokenizer__min_cell": 3}, ["tokenizer.min_cell:", "min_cells"]),
        ({"model__family": "genefromer"}, ["there is no 'genefromer'. There are: celllm,"]),
        ({"model__config": {"hiden_size": 3}}, ["model.config.hiden_size:", "Did you mean hidden_size"]),
        ({"model__from": "x"}, ["model.family and model.from: give one of them"]),
        ({"training__lerning_rate": 3}, ["training.lerning_rate:", "learning_rate"]),
        ({"training__output_dir": "x"}, ["training.output_dir is decided by the run"]),
        ({"objectives": {"masked_genes": {}}}, ["objectives.masked_genes:", "There are:"]),
        ({"objectives": {"masked_gene": {"shar": 0.1}}}, ["objectives.masked_gene:", "no option 'shar'"]),
        ({"seed": "x"}, ["seed must be a whole number"]),
        ({"corpus": ["x"]}, ["corpus must be a mapping"]),
        ({"corpus__columns": "donor"}, ["corpus.columns must be a list of texts, not 'donor'"]),
        ({"corpus__block_size": "big"}, ["corpus.block_size must be a whole number, not 'big'"]),
        ({"corpus__use_raw": "yes please"}, ["corpus.use_raw must be true or false"]),
        ({"tokenizer__min_cells": "few"}, ["tokenizer.min_cells must be a whole number"]),
        ({"tokenizer__scheme": "rnak"}, ["tokenizer.scheme: There is no tokenizer scheme 'rnak'"]),
        ({"training__learning_rate": "fast"}, ["training.learning_rate must be a number, not 'fast'"]),
        ({"training__max_steps": 2.5}, ["training.max_steps must be a whole number, not 2.5"]),
        ({"objectives": {"masked_gene": {"share": "x"}}}, ["masked_gene cannot be made with {'share': 'x'}"]),
    ],
)
def test_a_mistake_in_the_configuration_is_named_before_anything_starts(
    changes: dict[str, Any], messages: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        pretrain(config(tmp_path, **changes))
    for message in messages:
        assert message in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        pretrain(config(tmp_path, training__lerning_rate=3, tokenizer__min_cell=3))
    assert str(raised.value).count("\n- ") == 2


def test_values_that_only_the_parts_can_judge_are_named_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="training: .*bogus"):
        pretrain(config(tmp_path, training__lr_scheduler_type="bogus"))
    with pytest.raises(ConfigurationError, match=r"model\.config: .*hidden"):
        pretrain(config(tmp_path, model__config={"hidden_size": 7, "num_attention_heads": 2}))
    with pytest.raises(ConfigurationError, match="tokenizer: .*chromosome, start"):
        pretrain(config(tmp_path / "b", tokenizer={"scheme": "uce", "counting": {"accuracy": None}}))
    with pytest.raises(CorpusError, match=r"nowhere\.h5ad"):
        pretrain(config(tmp_path / "c", corpus__files="nowhere.h5ad"))


def test_the_recipe_for_many_cells_is_a_valid_configuration(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pretraining-at-scale.md").read_text()
    (tmp_path / "config.yaml").write_text(page.partition("```yaml")[2].partition("```")[0])
    read = PretrainingConfig.read(tmp_path / "config.yaml")
    assert read.training["learning_rate"] == 5e-4
    assert read.corpus_options["balance"] == ["tissue", "cell_type"]


def test_yaml_is_read_and_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "output: model\ncorpus: {files: [a.h5ad, b.h5ad]}\ntokenizer: {scheme: rank}\nmodel: {family: geneformer}\n"
        "objectives: [masked_gene]\ntraining: {learning_rate: 1e-4, weight_decay: 2.5E-2}\n"
    )
    read = PretrainingConfig.read(tmp_path / "config.yaml")
    assert read.training == {"learning_rate": 1e-4, "weight_decay": 0.025}
    assert read.objectives == {"masked_gene": {}}
    assert read.files == ["a.h5ad", "b.h5ad"]
    (tmp_path / "config.yaml").write_text("output: [")
    with pytest.raises(ConfigurationError, match="is no YAML"):
        PretrainingConfig.read(tmp_path / "config.yaml")


@pytest.mark.full
@pytest.mark.parametrize(
    "objectives",
    [
        {"metadata_tokens": {"columns": ["cell_type"]}},
        {"masked_gene": {}, "adversarial_batch": {"column": "cell_type", "weight": 0.1}},
        {"contrastive": {}},
        {"next_gene": {}, "multi_task": {"columns": ["cell_type"]}},
    ],
    ids=lambda objectives: "+".join(objectives),
)
def test_mixtures_run_from_a_configuration(objectives: dict[str, Any], tmp_path: Path) -> None:
    result = pretrain(config(tmp_path, objectives=objectives, training__max_steps=3))
    for name in objectives:
        assert np.isfinite(result.metrics[f"eval_loss_{name}"])
    assert AutoModel.from_pretrained(result.output).config.vocab_size == len(
        AutoTokenizer.from_pretrained(result.output)
    )
