"""Latent-variable models as pure Haiku transforms, one signature for all."""
