"""Text to windows of token ids, batches in a fixed order, stored activations."""
