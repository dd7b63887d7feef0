"""The command `orchq`: a pure HTTP client, one file for each command or small group."""
