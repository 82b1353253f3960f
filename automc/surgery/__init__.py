"""How a model is cut: channel groups, low rank, activations; each cut is proved by numbers before it is used."""
