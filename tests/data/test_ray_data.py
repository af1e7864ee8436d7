"""A corpus on Ray Data has the rows of the corpus itself, on one machine and on a cluster of two nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from scfm_hf.data import ray_data
from scfm_hf.data.corpus import load_corpus
from scfm_hf.data.order import Window
from scfm_hf.data.ray_data import map_on_ray, ray_session, start_ray
from scfm_hf.errors import CorpusError, MissingExtraError
from scfm_hf.models.released import released_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_hf.data.stream import CellStream

# Ray Data warns of its own settings, and leaves files open.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning")
]

OPTIONS: dict[str, Any] = {"labels": "cell_type", "columns": ["cell"], "cell_ids": True, "block_size": 4}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_data, "find_spec", lambda name: None)


def test_without_ray_the_extra_is_named(corpus_folder: Path, no_ray: None) -> None:
    with pytest.raises(MissingExtraError, match=r"scfm_hf\[ray\]"):
        load_corpus(corpus_folder).to_ray()


def check_rows(ray: Any, stream: CellStream) -> None:
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    data = stream.to_ray(rows_per_task=16)
    rows = data.take_all()
    blocks = stream.stored_blocks
    cells = stream.read(Window(blocks, 0, np.arange(blocks.sizes.sum())))
    expected = [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]
    assert len(rows) == len(expected) == 72
    for row, cell in zip(rows, expected, strict=True):
        assert row.keys() == cell.keys()
        for name, value in cell.items():
            np.testing.assert_array_equal(row[name], value)


@pytest.mark.extras
@pytest.mark.parametrize("tokenized", [False, True])
def test_rows_are_those_of_the_corpus(ray: Any, corpus_folder: Path, tokenized: bool) -> None:
    tokenizer = released_tokenizer("geneformer-v2") if tokenized else None
    check_rows(ray, load_corpus(corpus_folder, tokenizer=tokenizer, **OPTIONS))


@pytest.mark.extras
def test_a_function_is_called_for_each_item_wherever_a_processor_is_free(ray: Any) -> None:
    def work(number: int) -> tuple[int, str]:
        import ray

        return number**2, ray.get_runtime_context().get_node_id()

    results = list(map_on_ray(work, range(12)))
    assert sorted(square for square, _ in results) == [number**2 for number in range(12)]
    assert {node for _, node in results} <= {node["NodeID"] for node in ray.nodes()}
    assert ray.is_initialized()


@pytest.mark.extras
def test_errors_come_as_they_were_raised(ray: Any) -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise CorpusError("cells.h5ad is damaged.")
        return number

    with pytest.raises(CorpusError, match=r"cells\.h5ad is damaged"):
        list(map_on_ray(fail, range(5)))


@pytest.mark.extras
def test_what_is_started_here_is_stopped(ray: Any) -> None:
    with ray_session():
        assert ray.is_initialized()
    assert ray.is_initialized()
    assert not start_ray()
