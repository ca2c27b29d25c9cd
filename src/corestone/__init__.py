"""Corestone: the workbench with which a small team pretrains its own foundation models."""

__version__ = "0.1.0"
