"""The autoencoder: record, encoding, decoding, losses, initial weights."""
