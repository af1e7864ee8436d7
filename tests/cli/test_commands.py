"""``scfm``: each command does what the function of the same name does, and fails readably."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from datasets import load_from_disk

import scfm_hf
from scfm_hf.models.registry import families

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import Scfm
    from hub_server.server import HubServer

COMMANDS = (
    "families",
    "inspect",
    "curate",
    "convert",
    "tokenize",
    "vocabulary",
    "shards",
    "embed",
    "pretrain",
    "finetune",
    "annotate",
    "integrate",
    "push",
    "pull",
    "doctor",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_how_it_is_called(command: str, scfm: Scfm) -> None:
    assert command in scfm("--help").stdout
    done = scfm(command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_a_process_of_its_own_gives_the_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scfm_hf.cli", "embed", "nothing.h5ad", "--model", "x", "-o", "y.h5ad"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "error: nothing.h5ad does not exist.\n"
    assert done.stdout == ""


def test_importing_the_commands_imports_none_of_what_they_use() -> None:
    code = "import sys, scfm_hf.cli; print([name for name in ('anndata', 'datasets', 'peft') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_families_lists_all(scfm: Scfm) -> None:
    shown = scfm("families")
    listed = json.loads(scfm("families", "--json").stdout)
    assert [entry["name"] for entry in listed] == list(families())
    assert all(name in shown.stdout for name in families())


def test_inspect_says_what_is_in_a_file_and_how_much_a_model_knows(scfm: Scfm, cells: Path, model: Path) -> None:
    assert "raw counts" in scfm("inspect", cells).stdout
    found = json.loads(scfm("inspect", cells, "--model", model, "--json").stdout)
    assert (found["n_cells"], found["species"], found["id_kind"]) == (72, "human", "symbol")
    assert found["vocabulary"]["share_of_counts"] == pytest.approx(1, abs=0.01)
    assert "vocabulary" in scfm("inspect", cells, "--model", "geneformer-v2").stdout


def test_embed_writes_what_embed_gives(scfm: Scfm, cells: Path, model: Path, tmp_path: Path) -> None:
    done = scfm("embed", cells, "--model", model, "-o", tmp_path / "out.h5ad")
    assert done.exit_code == 0, done.stderr
    expected = scfm_hf.embed(anndata.read_h5ad(cells), str(model), progress=False)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(written.obsm["X_geneformer"], expected.obsm["X_geneformer"])
    assert written.uns["scfm"]["embed"]["family"] == "geneformer"


def test_annotate_labels_by_a_reference(scfm: Scfm, cells: Path, model: Path, tmp_path: Path) -> None:
    done = scfm("annotate", cells, "--model", model, "--reference", cells, "-o", tmp_path / "out.h5ad")
    assert done.exit_code == 0, done.stderr
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    expected = scfm_hf.annotate(
        anndata.read_h5ad(cells), str(model), reference=anndata.read_h5ad(cells), progress=False
    )
    assert list(written.obs["cell_type_predicted"]) == list(expected.obs["cell_type_predicted"])


def test_joined_features_are_named_on_the_command_line(scfm: Scfm, cells: Path, model: Path, tmp_path: Path) -> None:
    done = scfm("integrate", cells, "--model", model, "--mode", "joined", "-o", tmp_path / "space.h5ad")
    assert done.exit_code == 0, done.stderr
    written = anndata.read_h5ad(tmp_path / "space.h5ad")
    assert written.uns["scfm"]["integrate"]["options"]["mode"] == "joined"
    given = ["--reference", cells, "--features", "joined", "-o", tmp_path / "labels.h5ad"]
    assert scfm("annotate", cells, "--model", model, *given).exit_code == 0
    written = anndata.read_h5ad(tmp_path / "labels.h5ad")
    assert written.uns["scfm"]["annotate"]["options"]["features"] == "joined"


def test_a_fine_tuned_adapter_labels_cells(scfm: Scfm, cells: Path, model: Path, tmp_path: Path) -> None:
    options = ["--labels", "cell_type", "--epochs", 1, "--validation-share", 0.2]
    done = scfm("finetune", cells, "--model", model, "-o", tmp_path / "adapter", *options)
    assert done.exit_code == 0, done.stderr
    assert "macro-F1" in done.stdout
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    adapted = ["--model", tmp_path / "adapter", "--base", model]
    assert scfm("annotate", cells, *adapted, "-o", tmp_path / "labels.h5ad").exit_code == 0
    assert "cell_type_predicted" in anndata.read_h5ad(tmp_path / "labels.h5ad").obs
    assert scfm("embed", cells, *adapted, "-o", tmp_path / "vectors.h5ad").exit_code == 0
    again = scfm("finetune", cells, "--model", model, "-o", tmp_path / "adapter", *options)
    assert again.exit_code == 1
    assert "exists" in again.stderr


def test_tokenize_writes_a_data_set(scfm: Scfm, cells: Path, model: Path, tmp_path: Path) -> None:
    call = ["tokenize", cells, "--model", model, "-o", tmp_path / "set", "--labels", "cell_type"]
    assert scfm(*call).exit_code == 0
    dataset = load_from_disk(str(tmp_path / "set"))
    assert len(dataset) == 72
    assert dataset.features["labels"].num_classes == 9
    assert scfm(*call).exit_code == 1
    assert scfm(*call, "--overwrite").exit_code == 0


@pytest.mark.parametrize("family", [["geneformer"], []], ids=["named", "recognised"])
def test_convert_makes_a_model_of_the_original_files(
    family: list[str], scfm: Scfm, cells: Path, golden_dir: Path, tmp_path: Path
) -> None:
    original = next(path.parent for path in sorted(golden_dir.glob("geneformer/*/checkpoint/model.safetensors")))
    done = scfm("convert", *family, original, tmp_path / "converted")
    assert done.exit_code == 0, done.stderr
    assert "tensors were taken over" in done.stdout
    done = scfm("embed", cells, "--model", tmp_path / "converted", "--min-overlap", 0, "-o", tmp_path / "out.h5ad")
    assert done.exit_code == 0, done.stderr
    assert "X_geneformer" in anndata.read_h5ad(tmp_path / "out.h5ad").obsm
    refused = scfm("convert", "geneformer", original, tmp_path / "other", "--option", "nothing=1")
    assert refused.exit_code == 2
    assert not (tmp_path / "other").exists()


def test_push_and_pull_bring_back_the_same_model(
    scfm: Scfm, hub: HubServer, repo_id: str, model: Path, tmp_path: Path
) -> None:
    pushed = scfm("push", model, repo_id)
    assert pushed.exit_code == 0, pushed.stderr
    assert hub.url in pushed.stdout
    assert scfm("pull", repo_id, "--to", tmp_path / "back").exit_code == 0
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (model / name).read_bytes()
    missing = scfm("pull", f"{repo_id}-not")
    assert missing.exit_code == 1
    assert "What to do: " in missing.stderr


def test_doctor_finds_this_installation_well(scfm: Scfm) -> None:
    done = scfm("doctor")
    assert done.exit_code == 0, done.stdout
    for what in ("torch", "accelerator", "hub cache", "extra [plots]", "gene tables", "tokenizers"):
        assert what in done.stdout


def test_doctor_finds_damaged_data(scfm: Scfm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scfm_hf.diagnosis._sha256", lambda package, name: None)
    done = scfm("doctor")
    assert done.exit_code == 1
    assert "BAD example cells: damaged: pbmc3k.h5ad" in done.stdout


class TestFailures:
    """1 with a paragraph for what is refused, 2 for wrong usage; nothing is written in either case."""

    @pytest.fixture
    def nothing_new(self, tmp_path: Path, cells: Path, model: Path) -> set[Path]:
        return set(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["annotate", "cells.h5ad", "--reference", "cells.h5ad", "--labels", "nothing"], "has no column 'nothing'"),
            (["embed", "cells.h5ad", "--layer", "nothing"], "no layer 'nothing'"),
            (["embed", "model/config.json"], "cannot be read as an AnnData"),
            (["embed", "cells.h5ad", "--gene-column", "nothing"], "no column 'nothing'"),
        ],
    )
    def test_what_is_refused_is_said_in_a_paragraph(
        self,
        arguments: list[str],
        message: str,
        scfm: Scfm,
        tmp_path: Path,
        nothing_new: set[Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        done = scfm(*arguments, "--model", "model", "-o", "out.h5ad")
        assert done.exit_code == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert set(tmp_path.iterdir()) == nothing_new

    def test_an_output_that_is_there_stays(self, scfm: Scfm, cells: Path, model: Path, tmp_path: Path) -> None:
        (tmp_path / "out.h5ad").write_text("mine")
        done = scfm("embed", cells, "--model", model, "-o", tmp_path / "out.h5ad")
        assert done.exit_code == 1
        assert "--overwrite" in done.stderr
        assert (tmp_path / "out.h5ad").read_text() == "mine"
        assert scfm("embed", cells, "--model", model, "-o", tmp_path / "out.h5ad", "--overwrite").exit_code == 0
        assert "X_geneformer" in anndata.read_h5ad(tmp_path / "out.h5ad").obsm

    @pytest.mark.parametrize(
        "arguments",
        [
            ["nothing"],
            ["embed", "cells.h5ad"],
            ["convert", "one"],
            ["convert", "one", "two", "--file", "nothing"],
            ["annotate", "cells.h5ad", "--model", "model", "-o", "out.h5ad", "--method", "linear"],
            ["finetune", "cells.h5ad", "--model", "m", "--labels", "l", "-o", "o", "--method", "nothing"],
        ],
    )
    def test_wrong_usage_gives_two(self, arguments: list[str], scfm: Scfm) -> None:
        done = scfm(*arguments)
        assert done.exit_code == 2
        assert "Traceback" not in done.stderr


def test_curate_writes_columns_and_a_report_and_applies_them_on_request(
    scfm: Scfm, cells: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    (tmp_path / "again").mkdir()
    anndata.read_h5ad(cells)[:5].write_h5ad(tmp_path / "again" / "copies.h5ad")
    before = cells.read_bytes()
    done = scfm("curate", cells, tmp_path / "again", "-o", tmp_path / "out", "--apply", tmp_path / "kept")
    assert done.exit_code == 0, done.stderr
    assert "77 cells in 2 files" in done.stdout
    assert "- duplicate: 5" in done.stdout
    assert cells.read_bytes() == before
    assert {"cells.parquet", "pairs.parquet", "report.md", "flags.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert not any((tmp_path / "kept" / "copies.h5ad").parent.glob("copies*"))
    failed = scfm("curate", cells, "-o", tmp_path / "out")
    assert failed.exit_code == 1
    assert "--overwrite" in failed.stderr
