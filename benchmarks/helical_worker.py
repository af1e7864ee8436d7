"""helical's Geneformer tokenizer as a worker of ``tokenize.py``, run by a Python that has helical.

Only the tokenizer's file is loaded, so that neither torch nor the models are needed. Requests come by standard input,
a line each; answers go to standard output as JSON.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, load_npz


def load_tokenizer_class() -> type:
    """Take the tokenizer's class from its file in the installed package."""
    package = importlib.util.find_spec("helical")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "models" / "geneformer" / "geneformer_tokenizer.py"
    spec = importlib.util.spec_from_file_location("helical_geneformer_tokenizer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TranscriptomeTokenizer


def main() -> None:
    """Answer requests until standard input ends."""
    folder = Path(sys.argv[1])
    answers = sys.stdout
    sys.stdout = sys.stderr  # what helical prints must not mix with the answers
    genes = json.loads((folder / "genes.json").read_text())
    counts = csr_matrix(load_npz(folder / "counts.npz"))
    adata = anndata.AnnData(counts, var=pd.DataFrame({"ensembl_id": genes}, index=[str(i) for i in range(len(genes))]))
    adata.obs["n_counts"] = adata.obs["total_counts"] = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    tokenizer = load_tokenizer_class()(
        model_input_size=2048,
        special_token=False,
        gene_median_file=str(folder / "medians.json"),
        token_dictionary_file=str(folder / "tokens.json"),
        gene_mapping_file=None,
    )
    for request in sys.stdin:
        if request.strip() == "versions":
            packages = ("helical", "numpy", "scipy", "anndata")
            helical, *others = (f"{name} {importlib.metadata.version(name)}" for name in packages)
            answer: dict[str, object] = {"name": f"{helical} ({', '.join(others)}, Python {platform.python_version()})"}
        else:
            start = time.process_time()
            tokens = tokenizer.tokenize_anndata(adata)[0]
            answer = {"seconds": time.process_time() - start}
            lengths = [len(cell) for cell in tokens]
            np.savez(folder / "tokens.npz", values=np.concatenate(tokens), lengths=lengths)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
