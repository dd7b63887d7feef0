"""`orchestratord`: the daemon, and what is done offline on its files."""
