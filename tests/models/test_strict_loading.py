"""What does not fit is refused with its name: transformers alone would fill the hole with fresh numbers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from models.examples import fill_side_tables, forward_parameters
from safetensors.torch import load_file, save_file

from scfm_hf.errors import CheckpointError, CompatibilityError

if TYPE_CHECKING:
    from pathlib import Path

    from models.examples import Case
    from torch import Tensor

WEIGHTS = "model.safetensors"


def write(folder: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def one_of_each(names: list[str]) -> list[str]:
    """One tensor of each place, whatever the number of its layer."""
    return list({re.sub(r"\.\d+\.", ".0.", name): name for name in names}.values())


def heads(case: Case, weights: dict[str, Tensor]) -> dict[str, list[str]]:
    """Tensors of the file by head."""
    found: dict[str, list[str]] = {}
    if not case.is_base:
        for name in weights:
            if not name.startswith(f"{case.model_class.base_model_prefix}."):
                found.setdefault(name.split(".", 1)[0], []).append(name)
    return found


def sample(case: Case, weights: dict[str, Tensor]) -> list[str]:
    """Every tensor of the heads, and a dozen of the body."""
    of_heads = [name for names in heads(case, weights).values() for name in names]
    body = one_of_each([name for name in weights if name not in of_heads])
    return one_of_each(of_heads) + body[:: max(1, len(body) // 12)]


def test_a_missing_tensor_is_named(case: Case, saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    alone = [names[0] for names in heads(case, weights).values() if len(names) == 1]
    for name in sample(case, weights):
        write(saved, {other: value for other, value in weights.items() if other != name})
        if name not in alone:
            with pytest.raises(CheckpointError, match=rf"missing tensor {re.escape(name)}\b"):
                case.model_class.from_pretrained(saved)


def test_an_unexpected_tensor_is_named(case: Case, saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    for name in sample(case, weights):
        write(saved, {**weights, f"{name}_old": weights[name].clone()})
        with pytest.raises(CheckpointError, match=rf"unexpected tensor {re.escape(name)}_old"):
            case.model_class.from_pretrained(saved)


def test_a_renamed_tensor_is_named(case: Case, saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    for name in sample(case, weights):
        write(saved, {(f"{other}_old" if other == name else other): value for other, value in weights.items()})
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)}_old"):
            case.model_class.from_pretrained(saved)


def test_another_shape_is_named_with_both_shapes(case: Case, saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    for name in sample(case, weights):
        value = (
            torch.stack([weights[name]]) if weights[name].ndim == 0 else torch.cat([weights[name], weights[name][:1]])
        )
        write(saved, {**weights, name: value})
        found, wanted = (re.escape(str(tuple(tensor.shape))) for tensor in (value, weights[name]))
        both = f"{re.escape(name)} has the shape {found}, .*{wanted}"
        with pytest.raises(CheckpointError, match=both):
            case.model_class.from_pretrained(saved)


def test_the_body_is_never_resized(case: Case, saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    of_heads = {name for names in heads(case, weights).values() for name in names}
    name = next(name for name, value in weights.items() if name not in of_heads and value.ndim)
    write(saved, {**weights, name: torch.cat([weights[name], weights[name][:1]])})
    for resize in ({"ignore_mismatched_sizes": True}, {"num_labels": 5}):
        with pytest.raises(CheckpointError, match=re.escape(name)):
            case.model_class.from_pretrained(saved, **resize)


def test_a_head_that_is_there_in_part_is_refused(case: Case, saved: Path) -> None:
    weights = load_file(saved / WEIGHTS)
    for names in heads(case, weights).values():
        if len(names) > 1:
            write(saved, {other: value for other, value in weights.items() if other not in names[1:]})
            with pytest.raises(CheckpointError, match="missing tensor"):
                case.model_class.from_pretrained(saved)


def test_a_head_that_is_not_there_at_all_starts_fresh_with_a_warning(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(caplog, monkeypatch)
    encoder = case.base_class(case.config())
    fill_side_tables(encoder)
    encoder.save_pretrained(tmp_path)
    model = case.model_class.from_pretrained(tmp_path)
    if case.is_base or not list(case.model_class(case.config()).named_children())[1:]:
        assert "fresh" not in caplog.text
    else:
        tied = model.all_tied_weights_keys
        fresh = [
            name
            for name, child in model.named_children()
            if name != model.base_model_prefix
            and any(f"{name}.{part}" not in tied for part, _ in child.named_parameters())
        ]
        for name in fresh:
            assert re.search(rf"\b{name}\b.*starts? fresh", caplog.text), name


def test_another_number_of_labels_resizes_the_head(
    case: Case, saved: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case.class_name.partition("For")[2] not in ("SequenceClassification", "TokenClassification"):
        model = case.model_class.from_pretrained(saved, num_labels=case.config().num_labels)
        assert model.config.num_labels == case.config().num_labels
        return
    with pytest.raises(CheckpointError, match="num_labels"):
        case.model_class.from_pretrained(saved, config=case.config(num_labels=5))
    listen(caplog, monkeypatch)
    for resize in (
        {"num_labels": 5},
        {"id2label": dict(enumerate("abcde")), "label2id": {name: i for i, name in enumerate("abcde")}},
    ):
        caplog.clear()
        model = case.model_class.from_pretrained(saved, **resize)
        with torch.no_grad():
            assert model(**case.inputs())["logits"].shape[-1] == 5
        assert "fresh" in caplog.text


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused(case: Case, share: float, saved: Path) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match="missing, truncated or damaged"):
        case.model_class.from_pretrained(saved)


def test_a_damaged_header_is_refused(case: Case, saved: Path) -> None:
    whole = bytearray((saved / WEIGHTS).read_bytes())
    end = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(8), *range(8, end, end // 16)]:
        if whole[place] in b" ":
            continue
        damaged = bytearray(whole)
        damaged[place] ^= 0x11
        (saved / WEIGHTS).write_bytes(damaged)
        with pytest.raises(CheckpointError):
            case.model_class.from_pretrained(saved)


def test_a_missing_shard_is_refused(case: Case, tmp_path: Path) -> None:
    case.model().save_pretrained(tmp_path, max_shard_size="4KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=shards[0].name):
        case.model_class.from_pretrained(tmp_path)


def test_a_damaged_index_of_shards_is_refused(case: Case, tmp_path: Path) -> None:
    case.model().save_pretrained(tmp_path, max_shard_size="4KB")
    index = next(tmp_path.glob("*.index.json"))
    index.write_text(index.read_text()[:40])
    with pytest.raises(CheckpointError, match="damaged"):
        case.model_class.from_pretrained(tmp_path)


def test_a_damaged_configuration_is_refused(case: Case, saved: Path) -> None:
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text[: len(text) // 2])
    with pytest.raises((CheckpointError, OSError), match=r"config\.json"):
        case.model_class.from_pretrained(saved)


def test_another_model_type_is_refused(case: Case, saved: Path) -> None:
    change_config(saved, model_type="bert")
    with pytest.raises(CompatibilityError, match="'bert'.*scfm convert"):
        case.model_class.from_pretrained(saved)
    change_config(saved, model_type=None)
    with pytest.raises(CheckpointError, match="no model_type"):
        case.model_class.from_pretrained(saved)


def test_an_unknown_field_of_the_configuration_is_refused(case: Case, saved: Path) -> None:
    with pytest.raises(ValueError, match="hiden_size"):
        case.config(hiden_size=3)
    change_config(saved, hiden_size=3)
    with pytest.raises(ValueError, match="hiden_size"):
        case.model_class.from_pretrained(saved)


def test_an_unknown_pooling_or_layer_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="pooling='nonsense'"):
        case.config(pooling="nonsense")
    with pytest.raises(ValueError, match="embedding_layer=99"):
        case.config(embedding_layer=99)


def test_an_unknown_input_is_refused(case: Case) -> None:
    """A ``forward`` that swallowed any keyword would ignore ``values`` without a word."""
    parameters = forward_parameters(case.model_class)
    assert not [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    with pytest.raises(TypeError, match="nonsense"):
        case.model()(**case.inputs(), nonsense=torch.zeros(1))


def test_only_labels_are_called_labels(case: Case) -> None:
    """Trainer takes every input with "label" in its name for one without which there is no loss."""
    named = {name for name in forward_parameters(case.model_class) if "label" in name}
    assert named <= {"labels"}


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def listen(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers' loggers, which keep to themselves, reach the test."""
    import logging

    monkeypatch.setattr(logging.getLogger("scfm_hf"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level("WARNING")
