"""The simulator: OrchQueue's own core and runtime under virtual time, with faults and an auditor."""
