"""Language models in JAX and the capture of their activations."""
