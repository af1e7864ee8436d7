"""scfm families."""

from __future__ import annotations

from typing import Annotated

import typer

from scfm_hf.cli.failures import readable_failures


@readable_failures
def run(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """List the families: species, tokenizer scheme, heads, licences."""
    from scfm_hf.models.registry import families

    specs = list(families().values())
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(
            json.dumps([{**asdict(spec), "model_classes": dict(spec.model_classes)} for spec in specs], default=dict)
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("family", "species", "genes", "scheme", "heads", "code", "weights"):
        table.add_column(title, overflow="fold", no_wrap=title in ("family", "heads"))
    for spec in specs:
        heads = "\n".join(name.removeprefix("AutoModelFor") for name in spec.model_classes if name != "AutoModel")
        row = (spec.name, ", ".join(spec.species), spec.gene_ids.replace("_", " "), spec.scheme, heads)
        table.add_row(*row, spec.code_licence, spec.weights_licence)
    Console().print(table)
