"""What a cell is: reading AnnData in blocks, the checks of every input, and quality figures."""

from scfm_hf.cells.checks import Expects, check_expression
from scfm_hf.cells.expression import ExpressionReport, measure_expression
from scfm_hf.cells.gene_names import check_identifiers, choose_gene_column
from scfm_hf.cells.matrix import CellBlock, CellMatrix
from scfm_hf.cells.quality import CellsReport, inspect_cells

__all__ = [
    "CellBlock",
    "CellMatrix",
    "CellsReport",
    "Expects",
    "ExpressionReport",
    "check_expression",
    "check_identifiers",
    "choose_gene_column",
    "inspect_cells",
    "measure_expression",
]
