"""Every tensor of an original is renamed, cut or left out by a rule, and the records say which."""

from __future__ import annotations

import pytest
import torch

from scfm_hf.conversion import Drop, Rename, Split, TensorRecord, apply_rules, strip_prefix
from scfm_hf.errors import CheckpointError

RULES = (
    Drop(r"loss\..*", "used in training alone"),
    Rename(r"layers\.(\d+)\.fc\.(weight|bias)", r"layers.\1.linear.\2"),
    Rename(r"pool", "pool.weight", lambda tensor: tensor.T),
    Split(r"layers\.(\d+)\.Wqkv", (r"layers.\1.query", r"layers.\1.key", r"layers.\1.value")),
)


def test_the_first_rule_that_fits_the_whole_name_counts() -> None:
    weight, pool = torch.ones(2, 3), torch.arange(3.0).reshape(3, 1)
    renamed, records = apply_rules(
        {"layers.11.fc.weight": weight, "pool": pool, "loss.weight": weight}, RULES, where="best_model.pt"
    )
    assert set(renamed) == {"layers.11.linear.weight", "pool.weight"}
    assert renamed["layers.11.linear.weight"] is weight
    assert renamed["pool.weight"].shape == (1, 3)
    assert records == [
        TensorRecord("layers.11.fc.weight", "layers.11.linear.weight"),
        TensorRecord("pool", "pool.weight", "changed in form"),
        TensorRecord("loss.weight", None, "used in training alone"),
    ]


def test_queries_keys_and_values_are_cut_apart() -> None:
    qkv = torch.arange(12.0).reshape(6, 2)
    renamed, records = apply_rules({"layers.0.Wqkv": qkv}, RULES, where="best_model.pt")
    torch.testing.assert_close(torch.cat([renamed[f"layers.0.{part}"] for part in ("query", "key", "value")]), qkv)
    assert {record.source for record in records} == {"layers.0.Wqkv"}
    assert len(records) == 3


def test_parts_may_have_sizes_of_their_own() -> None:
    rule = Split("Wqkv", ("query", "key", "value"), sizes=lambda tensor: [4, 1, 1])
    renamed, _ = apply_rules({"Wqkv": torch.ones(6, 2)}, (rule,), where="best_model.pt")
    assert [len(renamed[name]) for name in rule.replacements] == [4, 1, 1]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"layers.0.fc.weights": 2, "decoder.bias": 2}, r"does not have: layers\.0\.fc\.weights, decoder\.bias\."),
        ({f"strange.{number}": 1 for number in range(8)}, r"strange\.4 and 3 more"),
        ({"layers.0.Wqkv": 7}, r"layers\.0\.Wqkv of the shape \(7,\).*7 rows do not make 3 parts"),
    ],
)
def test_tensors_that_no_rule_fits_are_named(tensors: dict[str, int], message: str) -> None:
    with pytest.raises(CheckpointError, match=r"best_model\.pt.*" + message):
        apply_rules({name: torch.ones(size) for name, size in tensors.items()}, RULES, where="best_model.pt")


def test_two_tensors_never_get_one_name() -> None:
    rules = (Rename(r"(?:encoder|gene_encoder)\.weight", "genes.weight"),)
    with pytest.raises(CheckpointError, match=r"two tensors would be called genes\.weight, the second is gene_encoder"):
        apply_rules({"encoder.weight": torch.ones(1), "gene_encoder.weight": torch.ones(1)}, rules, where="x.pt")


def test_a_body_without_heads_loses_its_prefix_in_the_records_too() -> None:
    records = [TensorRecord("bert.a", "bert.a"), TensorRecord("loss", None, "training")]
    tensors, bare = strip_prefix({"bert.a": torch.ones(1)}, records, "bert.")
    assert set(tensors) == {"a"}
    assert bare == [TensorRecord("bert.a", "a"), TensorRecord("loss", None, "training")]
