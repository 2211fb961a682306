"""The exceptions of this package.

```
Rank1Error
├── ConfigurationError (ValueError)   an argument can't work: the caller can mend it
├── EngineError                       a model or server failed
└── MissingExtraError (ImportError)   a library of an optional extra is not installed
```
"""

from __future__ import annotations


class Rank1Error(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(Rank1Error, ValueError):
    """An argument can't work as given; the message says what to do."""


class EngineError(Rank1Error):
    """A model or server gave no answer, or one that can't be used."""


class MissingExtraError(Rank1Error, ImportError):
    """A library of an optional extra is not installed; the message names the extra."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: pip install 'rank1-integrations[{extra}]'")
