"""tGPT: from counts or text to ranked tokens, the padding embedding that is always added, and continued cells."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
import torch
from models.examples import Case, example_of
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError
from scfm_hf.models.tgpt.configuration_tgpt import TGPTConfig
from scfm_hf.models.tgpt.modeling_tgpt import TGPTForCausalLM, TGPTModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scfm_hf.tokenization import CellTokenizer

GENES = ("TMSB4X", "FTL", "HLA_B", "B2M", "RPL13A", "RPS6KA1", "MALAT1", "NKX2_1", "AC012345_1", "HLA_DRB1")
WORDS = {word: number for number, word in enumerate(("<pad>", "</b>", "</s>", "<unk>", *GENES, "extra_id_0"))}
CASE = Case(example_of("tgpt"), "TGPTForCausalLM")


def write_original(folder: Path) -> GPT2LMHeadModel:
    """Config and tokenizer as the authors publish them; returns the model, whose weights each test writes."""
    folder.mkdir()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=2, n_head=2, n_positions=80, bos_token_id=1)
    model = GPT2LMHeadModel(config).eval()
    config.save_pretrained(folder)
    backend = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(folder / "tokenizer.json"))
    return model


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    model = write_original(tmp_path / "original")
    torch.save(model.state_dict(), tmp_path / "original" / "pytorch_model.bin")
    convert_checkpoint(tmp_path / "original", tmp_path / "converted")
    return tmp_path / "converted"


@pytest.fixture
def tokenizer(converted: Path) -> CellTokenizer:
    return AutoTokenizer.from_pretrained(converted)


def cells(names: list[str], *counts: list[int]) -> anndata.AnnData:
    made = anndata.AnnData(np.array(counts, np.float32))
    made.var_names = names
    return made


# --------------------------------------------------------------------------------------------------------------- tokens


def test_genes_stand_by_count_between_start_and_end(tokenizer: CellTokenizer) -> None:
    made = cells(["FTL", "TMSB4X", "HLA-B", "B2M"], [3, 9, 0, 5], [2, 2, 0, 2])
    encoded = tokenizer(made, return_columns=("token_type_ids", "counts"))
    assert encoded["input_ids"] == [[1, 4, 7, 5, 2], [1, 4, 5, 7, 2]], "equal counts: in the vocabulary's order"
    assert tokenizer(made, gene_order="file")["input_ids"][1] == [1, 5, 4, 7, 2], "or in the file's"
    assert encoded["token_type_ids"] == [[0] * 5] * 2
    assert encoded["counts"][0] == [0, 9, 5, 3, 0]


def test_the_end_token_survives_the_cut(tokenizer: CellTokenizer) -> None:
    assert tokenizer.model_max_length == 64
    made = cells(["FTL", "TMSB4X", "B2M"], [3, 9, 5])
    assert tokenizer(made, max_length=4)["input_ids"] == [[1, 4, 7, 2]]
    assert tokenizer(["TMSB4X B2M FTL"], truncation=True, max_length=4)["input_ids"] == [[1, 4, 7, 2]]


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("HLA-B", "HLA_B"),
        ("HLA_B", "HLA_B"),
        ("ENSG00000234745", "HLA_B"),
        ("ENSG00000205542", "TMSB4X"),
        ("NKX2-1", "NKX2_1"),
        ("AC012345.1", "AC012345_1"),
        ("HLA-DRB1", "HLA_DRB1"),
    ],
)
def test_symbols_are_found_with_their_hyphens_and_dots(tokenizer: CellTokenizer, name: str, token: str) -> None:
    assert tokenizer.mapper.map([name, "FTL"]).indices[0] == WORDS[token]


def test_text_gives_the_same_tokens_as_cells(tokenizer: CellTokenizer) -> None:
    made = cells(["FTL", "HLA-B", "B2M"], [3, 9, 5])
    assert tokenizer(["HLA-B B2M FTL"])["input_ids"] == tokenizer(made)["input_ids"]
    assert tokenizer(["FTL XYZZY", ""])["input_ids"] == [[1, 5, 3, 2], [1, 2]]


def test_housekeeping_genes_can_be_left_out(tokenizer: CellTokenizer) -> None:
    made = cells(["RPL13A", "RPS6KA1", "MALAT1", "FTL"], [9, 8, 7, 6])
    kept = tokenizer(made, exclude_ribosomal=True, exclude_malat1=True, exclude_mitochondrial=True)["input_ids"]
    assert kept == [[1, WORDS["RPS6KA1"], WORDS["FTL"], 2]], "RPS6KA1 is a kinase"


# ---------------------------------------------------------------------------------------------------------------- model


def test_the_padding_embedding_is_added_as_by_zero_token_types(tmp_path: Path, converted: Path) -> None:
    ids = torch.tensor([[1, 4, 7, 5, 2]])
    original = write_original(tmp_path / "again")
    model = AutoModelForCausalLM.from_pretrained(converted).eval()
    without = AutoModelForCausalLM.from_pretrained(converted, add_pad_embedding=False).eval()
    with torch.no_grad():
        expected = original(ids, token_type_ids=torch.zeros_like(ids)).logits
        torch.testing.assert_close(model(ids).logits, expected)
        torch.testing.assert_close(without(ids, token_type_ids=torch.zeros_like(ids)).logits, expected)
        torch.testing.assert_close(without(ids).logits, original(ids).logits)
        assert (without(ids).logits - expected).abs().max() > 1e-3


def test_the_embedding_is_the_mean_over_the_genes_or_the_last_token() -> None:
    model, batch = CASE.model(), CASE.inputs()
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
        with model.embedding_options(pooling="last"):
            last = model(**batch).cell_embedding
    for row, length in enumerate(batch["attention_mask"].sum(1)):
        states = output.hidden_states[-1][row]
        torch.testing.assert_close(output.cell_embedding[row], states[1 : length - 1].mean(0))
        torch.testing.assert_close(last[row], states[length - 1])


def test_a_cell_without_genes_has_an_embedding_of_zeros() -> None:
    model = CASE.model()
    with torch.no_grad():
        assert not model(torch.tensor([[1, 2]])).cell_embedding.any()


def test_a_gene_sees_only_those_before_it() -> None:
    model, ids = CASE.model(), torch.tensor([[1, 10, 11, 12, 13, 2]])
    changed = ids.clone()
    changed[0, 3] = 50
    with torch.no_grad():
        one, other = model(ids).logits, model(changed).logits
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert (one[:, 3:] - other[:, 3:]).abs().amax((0, 2)).min() > 1e-4


def test_longer_cells_than_the_trained_ones_warn_and_longer_than_the_context_raise(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scfm_hf.models.tgpt import modeling_tgpt

    said: list[str] = []
    monkeypatch.setattr(modeling_tgpt.logger, "warning_once", said.append)
    model = TGPTModel(TGPTConfig(**{**CASE.spec.tiny, "trained_length": 6})).eval()
    model(torch.tensor([[1, 5, 6, 7, 8, 2]]))
    assert not said
    model(torch.tensor([[1, 5, 6, 7, 8, 9, 2]]))
    assert "trained on 6" in said[0]
    with pytest.raises(ValueError, match="context is 64"):
        model(torch.ones(1, 65, dtype=torch.long))


@pytest.mark.parametrize("options", [{"trained_length": 65}, {"hidden_size": 15}, {"pad_token_id": None}])
def test_impossible_configurations_are_refused(options: dict[str, int | None]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TGPTConfig(**{**CASE.spec.tiny, **options})


def test_a_cell_is_continued_greedily_and_no_gene_comes_twice() -> None:
    model, start = CASE.model(), torch.tensor([[1, 10, 11], [1, 30, 31]])
    made = model.generate(start, max_new_tokens=8, do_sample=False, no_repeat_ngram_size=1, eos_token_id=None)
    expected = start
    with torch.no_grad():
        for _ in range(8):
            logits = model(expected).logits[:, -1].scatter(1, expected, -torch.inf)
            expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], 1)
    assert torch.equal(made, expected)
    assert all(len(set(cell.tolist())) == len(cell) for cell in made)


def test_padding_on_the_left_of_a_beginning_changes_no_continuation() -> None:
    model = CASE.model()
    padded, mask = torch.tensor([[0, 1, 10], [1, 30, 31]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    together = model.generate(padded, attention_mask=mask, **options)
    assert torch.equal(together[:1, 1:], model.generate(padded[:1, 1:], **options))


# ----------------------------------------------------------------------------------------------------------- conversion


def by_save_pretrained(model: GPT2LMHeadModel, folder: Path) -> None:
    masks = {f"transformer.h.{n}.attn.bias": torch.ones(1, 1, 80, 80, dtype=torch.uint8) for n in range(2)}
    torch.save({**model.state_dict(), **masks}, folder / "pytorch_model.bin")


def by_epoch(model: GPT2LMHeadModel, folder: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, folder / "model_3.pth")


def by_training_state(model: GPT2LMHeadModel, folder: Path) -> None:
    state = {"model": model.state_dict(), "optimizer": {}, "epoch": 3, "args": argparse.Namespace(lr=0.003)}
    torch.save(state, folder / "checkpoint.pth")


def body_alone(model: GPT2LMHeadModel, folder: Path) -> None:
    torch.save(model.transformer.state_dict(), folder / "pytorch_model.bin")


@pytest.mark.parametrize("write", [by_save_pretrained, by_epoch, by_training_state, body_alone])
def test_every_file_of_the_authors_is_read(tmp_path: Path, write: Callable[[GPT2LMHeadModel, Path], None]) -> None:
    original = write_original(tmp_path / "original")
    write(original, tmp_path / "original")
    report = convert_checkpoint(tmp_path / "original", tmp_path / "converted", trained_length=70)
    assert report.family == "tgpt"
    model = AutoModel.from_pretrained(tmp_path / "converted").eval()
    ids = torch.tensor([[1, 4, 7, 5, 2]])
    with torch.no_grad():
        expected = original.transformer(ids, token_type_ids=torch.zeros_like(ids)).last_hidden_state
        torch.testing.assert_close(model(ids).last_hidden_state, expected)
    assert model.config.trained_length == AutoTokenizer.from_pretrained(tmp_path / "converted").model_max_length == 70
    if write is not body_alone:
        assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "converted")) is TGPTForCausalLM


def test_a_tokenizer_of_another_gpt2_is_refused(tmp_path: Path) -> None:
    by_save_pretrained(write_original(tmp_path / "original"), tmp_path / "original")
    path = tmp_path / "original" / "tokenizer.json"
    described = json.loads(path.read_text())
    described["model"]["vocab"]["<s>"] = described["model"]["vocab"].pop("</b>")
    path.write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="is of no family"):
        convert_checkpoint(tmp_path / "original", tmp_path / "converted")
    with pytest.raises(CheckpointError, match="lacks the special tokens </b>"):
        convert_checkpoint(tmp_path / "original", tmp_path / "converted", family="tgpt")
    assert not (tmp_path / "converted").exists()


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    by_save_pretrained(write_original(tmp_path / "original"), tmp_path / "original")
    (tmp_path / "original" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.* is missing"):
        convert_checkpoint(tmp_path / "original", tmp_path / "converted", family="tgpt")
