"""The HTTP edge: what clients and operators talk to."""
