class Misfit(ValueError):
    """Data or settings that do not fit the network. It ends a fit also where other errors are findings, as in a check."""
