"""OrchQueue: one queue in front of the language-model engines you already run."""

__version__ = "0.1.0"
