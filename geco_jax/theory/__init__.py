"""Exact answers: what a well-trained model must reach."""
