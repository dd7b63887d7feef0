"""The wire contract: generated types, and the contract itself for validation at run time."""

from __future__ import annotations

from orchqueue.schema.contract import DeclaredOperation, declared_operations

__all__ = ["DeclaredOperation", "declared_operations"]
