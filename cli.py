from lightning_unlearn.cli import script

script()
