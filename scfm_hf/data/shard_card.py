"""The card of a folder of shards: README.md with the metadata that ``datasets`` and the hub read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfm_hf.data.shard_manifest import ShardManifest
    from scfm_hf.data.shard_plan import ShardPlan

_TEXT = """# {name}

{n_cells:,} cells of {n_files} files, tokenised by scfm_hf ({scheme}, {n_genes:,} genes{species}), \
{mean_length:,.0f} tokens a cell.

```python
from scfm_hf.data.open_shards import open_shards

cells = open_shards({name!r}, streaming=True)     # folder, or name on the hub; refuses what is missing or was changed
```

`datasets.load_dataset` reads them as well, without that check. The tokenizer is in `tokenizer/`; `manifest.json` has \
every shard with its sha256, the files that the cells come from, and the versions of the libraries that wrote it.

| column | type |
|---|---|
{columns}

Rows are {order}.
"""
_ORDERS = {"files": "in the order of the files", "mixed": "mixed: each shard is a sample of blocks of all files"}


def shard_card(plan: ShardPlan, manifest: ShardManifest, *, name: str, licence: str | None = None) -> str:
    """Text of README.md, metadata included.

    Parameters
    ----------
    plan, manifest
        What the folder holds.
    name
        Title.
    licence
        Of the cells; the card names none if not given.
    """
    from huggingface_hub import DatasetCardData

    vocabulary = plan.tokenizer.vocabulary
    features: Any = plan.features
    sizes = {"num_bytes": manifest.n_bytes, "num_examples": manifest.n_rows}
    metadata = DatasetCardData(
        license=licence,
        tags=["single-cell", "scfm_hf"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
        dataset_info={
            "features": features._to_yaml_list(),
            "splits": [{"name": "train", **sizes}],
            "download_size": sizes["num_bytes"],
            "dataset_size": sizes["num_bytes"],
        },
        scfm_tokenizer=manifest.tokenizer,
    )
    text = _TEXT.format(
        name=name,
        n_cells=manifest.n_rows,
        n_files=len(manifest.files),
        scheme=plan.tokenizer.init_kwargs["cell_options"]["scheme"],
        n_genes=len(vocabulary.gene_tokens),
        species=f", {', '.join(vocabulary.species)}" if vocabulary.species else "",
        mean_length=manifest.n_tokens / max(1, manifest.n_rows),
        columns="\n".join(f"| `{name}` | {_type_name(feature)} |" for name, feature in features.items()),
        order=_ORDERS[plan.order],
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{text}"


def _type_name(feature: Any) -> str:
    from datasets import ClassLabel, List

    if isinstance(feature, List):
        return f"list of {feature.feature.dtype}"
    return f"class of {feature.num_classes}" if isinstance(feature, ClassLabel) else str(feature.dtype)
