"""What the `torch` engine is made of; imported only where that engine is asked for, as it needs torch."""
