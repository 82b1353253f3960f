"""What is known: methods, strategies, experience, schemes and trials, as a graph."""
