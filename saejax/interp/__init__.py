"""Explaining latents in words, and scoring the explanations."""
