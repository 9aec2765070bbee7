"""A trained run made fit for others: its card, its check, its upload."""
