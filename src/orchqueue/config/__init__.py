"""The daemon's configuration file: typed, checked as a whole, told about with line numbers."""
