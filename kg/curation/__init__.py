"""What people add, change, retire and share: documents, checks, differences, contradictions, templates."""
