"""What touches the world: one package for each port."""
