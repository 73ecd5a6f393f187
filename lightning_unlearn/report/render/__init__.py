"""A report as a page, as plots and as a table in the terminal."""

from lightning_unlearn.report.render._model_card import to_model_card
from lightning_unlearn.report.render._page import to_page
from lightning_unlearn.report.render._save import save
from lightning_unlearn.report.render._terminal import print_table

__all__ = ["print_table", "save", "to_model_card", "to_page"]
