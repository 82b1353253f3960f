"""How long a network takes that nobody has run: kernels measured here, and sums of what they are predicted to take."""
