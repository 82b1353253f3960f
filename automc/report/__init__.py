"""What a study found, for people: pages and plots."""
