"""The wire contract: generated types, and validation against the contract itself."""
