"""Engine processes: launched under a small owner-watching parent, or found at a URL."""
