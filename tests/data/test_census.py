"""The cells of a Census, here a small SOMA store on disk, are a corpus and a data set like those of files."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scfm_hf.data.census import CensusQuery
from scfm_hf.data.corpus import load_corpus
from scfm_hf.errors import CorpusError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anndata

SMALL: dict[str, Any] = {"block_size": 4, "window_size": 24, "batch_size": 5, "cell_ids": True}


@pytest.fixture(scope="module")
def census(tmp_path_factory: pytest.TempPathFactory, corpus_cells: anndata.AnnData) -> Iterator[str]:
    """The cells of the corpus, laid out as Census is; ids of cells have gaps, as after a query."""
    somas = pytest.importorskip("tiledbsoma", reason="tiledbsoma is not installed (the extra census)")
    import pyarrow as pa

    uri = str(tmp_path_factory.mktemp("census") / "soma")
    cells = corpus_cells
    genes = cells.var["ensembl_id"].astype(str).tolist()
    obs = pa.table(
        {
            "soma_joinid": pa.array(np.arange(72) * 3, pa.int64()),
            "cell_type": pa.array(cells.obs["cell_type"].astype(str)).dictionary_encode(),
            "is_primary_data": pa.array(np.arange(72) % 4 > 0),
            "cell": pa.array(np.arange(72)),
        }
    )
    var = pa.table(
        {
            "soma_joinid": pa.array(np.arange(len(genes)), pa.int64()),
            "feature_id": genes,
            "feature_name": cells.var_names.tolist(),
        }
    )
    counts = cells.X.tocoo()
    values = {"soma_dim_0": counts.row.astype(np.int64) * 3, "soma_dim_1": counts.col.astype(np.int64)}
    values["soma_data"] = counts.data.astype(np.float32)
    with somas.Collection.create(uri) as root:
        experiment = root.add_new_collection("census_data").add_new_collection("homo_sapiens", somas.Experiment)
        experiment.add_new_dataframe("obs", schema=obs.schema, domain=[[0, 214]])
        measured = experiment.add_new_collection("ms").add_new_collection("RNA", somas.Measurement)
        measured.add_new_dataframe("var", schema=var.schema, domain=[[0, len(genes) - 1]])
        layers = measured.add_new_collection("X", somas.Collection)
        layers.add_new_sparse_ndarray("raw", type=pa.float32(), shape=(215, len(genes)))
    organism = f"{uri}/census_data/homo_sapiens"
    # Opened anew: a store has one time for all that is written to it at once, and categories come after the schema.
    for place, table in (("obs", obs), ("ms/RNA/var", var), ("ms/RNA/X/raw", pa.table(values))):
        with somas.open(f"{organism}/{place}", "w") as array:
            array.write(table)
    yield uri


@pytest.fixture
def releases(census: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on loopback that lists releases as Census does; the client asks it. Gives the name of the release."""
    directory = pytest.importorskip("cellxgene_census", reason="the extra census is not installed")._release_directory
    version = "2025-01-30"
    release = {"release_build": version, "soma": {"relative_uri": "soma/"}, "flags": {"lts": True, "retracted": False}}
    lists = {
        "/release.json": {version: release, "stable": version},
        "/mirrors.json": {
            "default": "here",
            "here": {"provider": "unknown", "base_uri": f"{Path(census).parent.as_uri()}/", "region": None},
        },
    }

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(lists[self.path]).encode())

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(directory, "CELL_CENSUS_RELEASE_DIRECTORY_URL", f"{address}/release.json")
        monkeypatch.setattr(directory, "CELL_CENSUS_MIRRORS_DIRECTORY_URL", f"{address}/mirrors.json")
        yield version
        server.shutdown()


def test_a_query_is_a_url_and_back() -> None:
    query = CensusQuery(
        organism="mus_musculus", obs_value_filter="tissue == 'a&b' and x > 1", uri="s3://bucket/soma?a=1"
    )
    assert CensusQuery.from_url(str(query)) == query
    assert CensusQuery.from_url("census://homo_sapiens") == CensusQuery()
    with pytest.raises(CorpusError, match="no query of Census"):
        CensusQuery.from_url("census://homo_sapiens?tissue=lung")


def test_without_the_client_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tiledbsoma", None)
    with pytest.raises(MissingExtraError, match=r"scfm_hf\[census\]"):
        load_corpus(CensusQuery(uri="nowhere"), on_error="skip")


@pytest.mark.extras
def test_cells_come_as_they_are_in_the_store(census: str, corpus_cells: anndata.AnnData) -> None:
    stream = load_corpus(CensusQuery(uri=census), labels="cell_type", columns=["cell"], **SMALL)
    assert stream.vocabulary.id_kind == "ensembl_id"
    ids = stream.vocabulary.ids(corpus_cells.var["ensembl_id"].astype(str).to_numpy())
    seen = []
    for cell in stream:
        row = np.zeros(len(stream.vocabulary), np.float32)
        stored = corpus_cells.X[[cell["cell"]]].toarray()[0]
        np.add.at(row, ids[ids >= 0], stored[ids >= 0])
        assert np.array_equal(cell["counts"], row[row > 0])
        assert np.array_equal(cell["gene_ids"], np.flatnonzero(row))
        assert cell["cell_id"] == str(cell["cell"] * 3)
        names = stream.annotation["labels"].names
        assert names[cell["labels"]] == corpus_cells.obs["cell_type"].iloc[cell["cell"]]
        seen.append(cell["cell"])
    assert sorted(seen) == list(range(72))


@pytest.mark.extras
def test_a_filter_chooses_cells_and_the_stream_goes_on_with_the_same_query_only(
    census: str, corpus_folder: Path
) -> None:
    query = CensusQuery(uri=census, obs_value_filter="is_primary_data == True")
    stream = load_corpus([query, corpus_folder], **SMALL)
    whole = [cell["cell_id"] for cell in stream]
    assert len(whole) == 54 + 72
    other = load_corpus([query, corpus_folder], **SMALL)
    other.load_state_dict(stream.state_dict(taken=50))
    assert [cell["cell_id"] for cell in other] == whole[50:]
    state = stream.state_dict(taken=50)
    changed = CensusQuery(uri=census, obs_value_filter="is_primary_data == True and cell != 1")
    with pytest.raises(CorpusError, match="1 of 4 files are not those of the state"):
        load_corpus([changed, corpus_folder], **SMALL).load_state_dict(state)


@pytest.mark.extras
def test_datasets_reads_a_query_too(census: str, tmp_path: Path, corpus_cells: anndata.AnnData) -> None:
    import datasets

    import scfm_hf.data.anndata_builder  # noqa: F401

    stores = [str(CensusQuery(uri=census, obs_value_filter="cell < 10"))]
    cells = datasets.load_dataset(
        "anndata", stores=stores, split="train", streaming=True, block_size=4, cache_dir=str(tmp_path)
    )
    assert isinstance(cells.features["cell_type"], datasets.ClassLabel)
    found = list(cells)
    assert [cell["cell"] for cell in found] == list(range(10))
    assert [len(cell["counts"]) for cell in found] == np.diff(corpus_cells.X.indptr)[:10].tolist()


@pytest.mark.extras
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"organism": "mus_musculus"}, r"no organism 'mus_musculus'; it has 'homo_sapiens'"),
        ({"obs_value_filter": "tissue == 'lung'"}, r"cannot be read"),
        ({"obs_value_filter": "cell == 1000"}, r"is empty"),
    ],
)
def test_a_query_that_gives_nothing_says_why(census: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=rf"census://.*{message}"):
        load_corpus(CensusQuery(uri=census, **options))


@pytest.mark.extras
def test_a_layer_and_a_store_that_are_not_there_are_named(census: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no layer 'normalized'; it has 'raw'"):
        load_corpus(CensusQuery(uri=census), layer="normalized")
    with pytest.raises(CorpusError, match="cannot be read"):
        load_corpus(CensusQuery(uri=str(tmp_path / "nothing")))


@pytest.mark.extras
def test_a_release_is_opened_by_its_name_and_holds_the_same_cells(census: str, releases: str) -> None:
    wanted = [cell["cell_id"] for cell in load_corpus(CensusQuery(uri=census), **SMALL)]
    for version in (releases, "stable"):
        found = load_corpus(CensusQuery(version=version, obs_value_filter="is_primary_data == True"), **SMALL)
        assert {cell["cell_id"] for cell in found} < set(wanted)
    assert [cell["cell_id"] for cell in load_corpus(CensusQuery(version=releases), **SMALL)] == wanted


@pytest.mark.extras
def test_a_release_that_does_not_exist_and_a_list_out_of_reach_are_told_apart(
    releases: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CorpusError, match=r"no release '1999-01-01'"):
        load_corpus(CensusQuery(version="1999-01-01"))
    import cellxgene_census

    nowhere = "http://127.0.0.1:9/mirrors.json"
    monkeypatch.setattr(cellxgene_census._release_directory, "CELL_CENSUS_MIRRORS_DIRECTORY_URL", nowhere)
    with pytest.raises(CorpusError, match=r"cannot be reached .*give uri="):
        load_corpus(CensusQuery(version=releases))
