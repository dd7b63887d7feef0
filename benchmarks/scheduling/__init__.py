"""Load tests of the scheduling core in virtual time: a day of bursty traffic, played against every policy."""
