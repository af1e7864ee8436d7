"""From files as UCE's authors publish them, strictly: what does not fit is named, and nothing is written."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from scfm_hf import convert_checkpoint
from scfm_hf.errors import CheckpointError, GeneIdError
from scfm_hf.models.uce.species_uce import add_species

if TYPE_CHECKING:
    from pathlib import Path

HUMAN = ["TP53", "GAPDH", "ACTB", "CD3D", "NA"]
MOUSE = ["Trp53", "Gapdh", "Actb", "Cd3d"]
RAT = ["Tp53", "Gapdh", "Lyz2"]
HUMAN_FILE = "Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt"
MOUSE_FILE = "Mus_musculus.GRCm39.gene_symbol_to_embedding_ESM2.pt"
TOKEN_DIM, WIDTH, WIDE, OUTPUT, CONTEXT = 6, 8, 12, 10, 40
HEADS = {"num_attention_heads": 2}


def places(symbols: list[str], species: str) -> pd.DataFrame:
    """Genes on two chromosomes, in turn."""
    return pd.DataFrame(
        {
            "gene_symbol": [symbol.upper() for symbol in symbols],
            "chromosome": ["1", "X"] * (len(symbols) // 2) + ["1"] * (len(symbols) % 2),
            "start": np.arange(len(symbols))[::-1] * 100,
            "species": species,
        }
    )


def tensors() -> dict[str, torch.Tensor]:
    """A checkpoint under the authors' names: 4 special rows, human, mouse, four chromosomes."""
    sizes = {
        "encoder.0": (WIDTH, TOKEN_DIM),
        "transformer_encoder.layers.0.linear1": (WIDE, WIDTH),
        "transformer_encoder.layers.0.linear2": (WIDTH, WIDE),
        "transformer_encoder.layers.0.self_attn.out_proj": (WIDTH, WIDTH),
        "decoder.0.0": (WIDE, WIDTH),
        "decoder.1.0": (OUTPUT, WIDE),
        "decoder.2.0": (OUTPUT, OUTPUT),
        "decoder.3": (OUTPUT, OUTPUT),
        "binary_decoder.0.0": (9, OUTPUT + WIDTH),
        "binary_decoder.1.0": (7, 9),
        "binary_decoder.2.0": (5, 7),
        "binary_decoder.3": (1, 5),
        "gene_embedding_layer.0": (WIDTH, TOKEN_DIM),
    }
    norms = {"encoder.2": WIDTH, "gene_embedding_layer.2": WIDTH}
    norms |= {f"transformer_encoder.layers.0.norm{number}": WIDTH for number in (1, 2)}
    norms |= dict(zip((f"decoder.{i}.1" for i in range(3)), (WIDE, OUTPUT, OUTPUT), strict=True))
    norms |= dict(zip((f"binary_decoder.{i}.1" for i in range(3)), (9, 7, 5), strict=True))
    torch.manual_seed(0)
    attention = "transformer_encoder.layers.0.self_attn.in_proj_"
    made = {f"{attention}weight": torch.randn(3 * WIDTH, WIDTH), f"{attention}bias": torch.randn(3 * WIDTH)}
    made |= {f"{name}.weight": torch.randn(shape) for name, shape in sizes.items()}
    made |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in sizes.items()}
    made |= {f"{name}.{part}": torch.randn(size) for name, size in norms.items() for part in ("weight", "bias")}
    made["pos_encoder.pe"] = torch.randn(CONTEXT, 1, WIDTH)
    made["pe_embedding.weight"] = torch.randn(4 + len(HUMAN) + len(MOUSE) + 4, TOKEN_DIM)
    return made


@pytest.fixture
def original(tmp_path: Path) -> Path:
    folder = tmp_path / "model_files"
    (folder / "protein_embeddings").mkdir(parents=True)
    torch.save(tensors(), folder / "4layer_model.torch")
    (folder / "species_offsets.pkl").write_bytes(pickle.dumps({"human": 4, "mouse": 4 + len(HUMAN)}))
    pd.concat([places(HUMAN, "human"), places(MOUSE, "mouse")]).to_csv(folder / "species_chrom.csv", index=False)
    for name, symbols in ((HUMAN_FILE, HUMAN), (MOUSE_FILE, MOUSE)):
        vectors = {symbol: torch.randn(TOKEN_DIM) for symbol in symbols}
        torch.save(vectors, folder / "protein_embeddings" / name)
    return folder


def counts(symbols: list[str]) -> anndata.AnnData:
    """Three cells."""
    values = np.random.default_rng(0).poisson(3, (3, len(symbols))) + 1
    return anndata.AnnData(csr_matrix(values.astype(np.float32)), var=pd.DataFrame(index=symbols))


def test_a_folder_is_recognised_and_reads_cells_of_each_species(original: Path, tmp_path: Path) -> None:
    report = convert_checkpoint(original, tmp_path / "model", **HEADS)
    assert report.family == "uce"
    assert "takes cells for human" in report.notes[0]
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path / "model"), AutoModel.from_pretrained(tmp_path / "model")
    assert tokenizer.convert_ids_to_tokens([0, 2, 3, 4, 8, 9, 13]) == [
        "<pad>",
        "<chromosome_end>",
        "<cls>",
        "human:TP53",
        "human:NA",
        "mouse:Trp53",
        "<chromosome:human_1>",
    ]
    for species, symbols in (("human", HUMAN), ("mouse", MOUSE)):
        batch = tokenizer(counts(symbols), species=species, sample_size=20, return_tensors="pt", padding=True)
        genes = [token for token in tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) if ":" in token]
        assert all(species in token for token in genes)
        vectors = model(**batch).cell_embedding
        assert vectors.shape == (3, OUTPUT)
        assert torch.allclose(vectors.norm(dim=1), torch.ones(3))


def test_mouse_cells_are_not_taken_for_human(original: Path, tmp_path: Path) -> None:
    convert_checkpoint(original, tmp_path / "model", **HEADS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    genes = ["Trp53", "Gapdh", "Actb", "Cd3d", "Lyz2", "Cd74", "Ptprc", "Ms4a1"]
    with pytest.raises(GeneIdError, match="mouse"):
        tokenizer(counts(genes), sample_size=20)


def test_the_default_species_can_be_chosen(original: Path, tmp_path: Path) -> None:
    convert_checkpoint(original, tmp_path / "model", species="mouse", **HEADS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer(counts(MOUSE), sample_size=20, return_tensors="np", padding=True)["input_ids"]
    assert any(token.startswith("mouse:") for token in tokenizer.convert_ids_to_tokens(ids[0]))


def test_a_species_without_its_protein_file_is_said_to_be_missing(original: Path, tmp_path: Path) -> None:
    (original / "protein_embeddings" / MOUSE_FILE).unlink()
    report = convert_checkpoint(original, tmp_path / "model", **HEADS)
    assert any("No protein files of mouse" in note for note in report.notes)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").vocabulary.species == ("human",)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("species_chrom.csv", r"species_chrom\.csv is missing.*figshare article 24320806"),
        ("species_offsets.pkl", r"species_offsets\.pkl is missing.*figshare article 24320806"),
        ("protein_embeddings", r"protein_embeddings/ is missing.*protein_embeddings\.tar\.gz of the figshare"),
    ],
)
def test_a_missing_file_is_named_with_where_it_is_published(
    original: Path, tmp_path: Path, gone: str, message: str
) -> None:
    (original / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(original, tmp_path / "model", family="uce", **HEADS)
    assert not (tmp_path / "model").exists()


def test_files_that_do_not_belong_together_are_refused(original: Path, tmp_path: Path) -> None:
    torch.save({"TP53": torch.randn(TOKEN_DIM)}, original / "protein_embeddings" / HUMAN_FILE)
    with pytest.raises(CheckpointError, match="lists 1 genes, the table has 5 rows"):
        convert_checkpoint(original, tmp_path / "model", **HEADS)
    places(HUMAN, "human").to_csv(original / "species_chrom.csv", index=False)
    (original / "species_offsets.pkl").write_bytes(pickle.dumps({"human": 4, "mouse": 70}))
    with pytest.raises(CheckpointError, match="do not belong together"):
        convert_checkpoint(original, tmp_path / "model", **HEADS)
    with pytest.raises(CheckpointError, match="num_attention_heads="):
        convert_checkpoint(original, tmp_path / "model")
    content = (original / "4layer_model.torch").read_bytes()
    (original / "4layer_model.torch").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        convert_checkpoint(original, tmp_path / "model", **HEADS)
    assert not (tmp_path / "model").exists()


def test_a_new_species_is_added_without_touching_the_others(original: Path, tmp_path: Path) -> None:
    convert_checkpoint(original, tmp_path / "model", **HEADS)
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    human = tokenizer(counts(HUMAN), sample_size=20, return_tensors="pt", padding=True)
    before = model.uce(**human).cell_embedding
    proteins = {symbol: np.random.default_rng(number).normal(size=TOKEN_DIM) for number, symbol in enumerate(RAT)}
    grown = add_species(model, tokenizer, "rat", proteins=proteins, places=places(RAT, "rat"), seed=10116)
    model.save_pretrained(tmp_path / "grown")
    grown.save_pretrained(tmp_path / "grown")
    loaded, reloaded = AutoModel.from_pretrained(tmp_path / "grown"), AutoTokenizer.from_pretrained(tmp_path / "grown")
    assert loaded.config.vocabulary_digest == reloaded.vocabulary_digest
    assert torch.equal(loaded.eval()(**human).cell_embedding, before)
    rats = reloaded(counts(RAT), sample_size=20, return_tensors="pt", padding=True)
    first = reloaded.convert_tokens_to_ids("rat:Tp53")
    assert first == len(tokenizer)
    vectors = loaded.get_input_embeddings()(torch.arange(first, first + len(RAT)))
    assert np.allclose(vectors, np.stack(list(proteins.values())), atol=1e-6)
    assert loaded(**rats).cell_embedding.isfinite().all()
    with pytest.raises(ValueError, match="cannot be added"):
        add_species(model, grown, "rat", proteins=proteins, places=places(RAT, "rat"))
    with pytest.raises(ValueError, match="The proteins: the model's vectors have the shape"):
        add_species(model, grown, "dog", proteins={"TP53": np.zeros(3)}, places=places(RAT, "dog"))
