"""The pure decision maker: no I/O, no clock, no randomness."""
