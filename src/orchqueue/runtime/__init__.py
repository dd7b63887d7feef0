"""The asyncio shell around the core; it acts."""
