"""dome-bridge: a running DPM site becomes a dCache site, live and without copying a byte."""

__version__ = "0.1.0"
