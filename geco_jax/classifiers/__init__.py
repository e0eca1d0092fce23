"""Networks that constraints look through."""
