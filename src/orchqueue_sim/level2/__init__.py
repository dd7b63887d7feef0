"""Level 2: the whole runtime and HTTP edge on a virtual clock, against simulated engines, disks, networks and clients."""
