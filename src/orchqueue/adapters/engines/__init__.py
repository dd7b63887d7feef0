"""Adapters that speak an engine's own protocol."""
